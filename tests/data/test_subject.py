"""DreamBooth's prompts: the four kinds of captions, and pictures of the class that lack."""

from __future__ import annotations

import pytest

from lora_train.data.captions import Moment
from lora_train.data.classes import lacking, mark, placed, strange
from lora_train.data.folder import Data, Subset
from lora_train.data.plan import plan
from lora_train.data.subject import SubjectRules
from lora_train.errors import Mistake
from lora_train.knobs import build, flat

# Written by hand after the issue: (1) and (3) the instance token before the class token, the class prompt
# stays; (2) the class token behind the instance token, in the class prompt in its place; (4) unchanged, the
# class prompt without the instance token.
TABLE = [  # contents, caption, of the subject, of the class
    ("description", "a dog on grass", "a sks dog on grass", "a dog on grass"),
    ("description", "on grass", "sks dog, on grass", "on grass"),
    ("class", "a dog, grass", "a sks dog, grass", "a dog, grass"),
    ("class", "Dog and another dog", "sks dog and another sks dog", "Dog and another dog"),
    ("instance", "a sks on grass", "a sks dog on grass", "a dog on grass"),
    ("instance", "photo of SKS, SKS", "photo of sks dog, sks dog", "photo of dog, dog"),
    ("both", "a sks dog on grass", "a sks dog on grass", "a dog on grass"),
    ("both", "dog, sks, grass", "dog, sks, grass", "dog, grass"),
    ("both", "sks, dog", "sks, dog", "dog"),
    ("both", "on grass", "on grass", "on grass"),
]


def rules(contents: str = "auto", **how: object) -> SubjectRules:
    return SubjectRules(instance_token="sks", class_token="dog", file_prompt_contents=contents, **how)


@pytest.mark.parametrize(("contents", "caption", "subject", "of_class"), TABLE)
def test_the_four_kinds_of_captions(contents, caption, subject, of_class):
    told = rules(contents)
    assert told.of_subject(caption) == subject
    assert told.of_class(caption) == of_class
    assert told.of_subject(told.of_subject(caption)) == subject  # what is put in once is not again


@pytest.mark.parametrize(("caption", "subject", "of_class"), [
    ("a dog on grass", "a sks dog on grass", "a dog on grass"),
    ("a sks on grass", "a sks dog on grass", "a dog on grass"),
    ("a sks dog on grass", "a sks dog on grass", "a dog on grass"),
    ("on grass", "sks dog, on grass", "on grass"),
    ("hotdogs", "sks dog, hotdogs", "hotdogs"),
])  # fmt: skip
def test_what_a_caption_holds_is_told_from_it(caption, subject, of_class):
    assert (rules().of_subject(caption), rules().of_class(caption)) == (subject, of_class)


def test_prompts_take_in_the_own_caption():
    told = rules(instance_prompt="photo, [filewords]", class_prompt="picture of [filewords]")
    assert told.of_subject("a dog") == "photo, a sks dog"
    assert told.of_class("a sks dog") == "picture of a dog"
    plain = SubjectRules(instance_prompt="a photo of sks dog", class_prompt="a dog")
    assert (plain.of_subject("x"), plain.of_class("x"), plain.fixed_prompt) == (
        "a photo of sks dog", "a dog", "a photo of sks dog")  # fmt: skip
    alone = SubjectRules(instance_token="sks")
    assert (alone.of_subject("a cat"), alone.of_subject("sks cat")) == ("sks, a cat", "sks cat")


def test_every_line_of_a_caption_is_told_and_regularisation_is_not():
    subset = Subset(instance_token="sks", class_token="dog")
    assert subset.told("a dog\nred") == "a sks dog\nsks dog, red"
    assert Subset(instance_token="sks", class_token="dog", is_reg=True).told("a dog") == "a dog"


def test_what_classes_need_is_said():
    for how, said in (
        ({"num_class_images": 3}, "class_prompt: expected what the class"),
        ({"num_class_images": 3, "num_class_images_per": 3, "class_prompt": "a"}, "leave one out"),
        ({"class_token": "dog"}, "instance_token: expected a word"),
    ):
        with pytest.raises(Mistake, match=said):
            build(Data, {**how, "train_data_dir": "x"})
    data = build(Data, {
        "num_class_images": 3, "datasets.0.subsets.0.class_prompt": "a",
        "datasets.0.subsets.0.image_dir": "x", "datasets.0.subsets.1.is_reg": True,
        "datasets.0.subsets.1.image_dir": "y"})  # fmt: skip
    assert data.datasets[0].subsets[0].makes_class


def test_the_folder_of_the_class_is_filled_in_where_none_is_said(tmp_path):
    data = build(Data, {
        "datasets.0.subsets.0.num_class_images": 1, "datasets.0.subsets.0.class_prompt": "a",
        "datasets.0.subsets.1.num_class_images": 1, "datasets.0.subsets.1.class_prompt": "b",
        "datasets.0.subsets.1.class_data_dir": tmp_path / "own", "datasets.0.subsets.2.image_dir": "x",
    })  # fmt: skip
    found = placed(data, tmp_path / "home")
    assert [s.class_data_dir for s in found.datasets[0].subsets] == [
        tmp_path / "home",
        tmp_path / "own",
        None,
    ]
    assert flat(found, places=False) == flat(data, places=False)


@pytest.fixture
def subject(tmp_path, pixels):
    """A folder of three pictures, each with its caption."""
    folder = tmp_path / "subject"
    folder.mkdir()
    for name, caption in {"a": "sks sitting", "b": "sks running", "c": "sks sitting"}.items():
        pixels(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(caption, encoding="utf-8")
    return folder


@pytest.fixture
def pixels():
    from PIL import Image

    return lambda path, size=(64, 64): Image.new("RGB", size, "red").save(path)


def planned(folder, home, **how):
    return plan(placed(build(Data, {"train_data_dir": folder, "resolution": 64, **how}), home))


def test_a_count_is_shared_out_among_the_prompts(subject, tmp_path):
    how = {"instance_token": "sks", "class_token": "dog", "class_prompt": "[filewords]"}
    total = lacking(planned(subject, tmp_path / "class", num_class_images=4, **how))
    assert [lack.prompt for lack in total] == ["dog sitting"] * 3 + ["dog running"]
    each = lacking(planned(subject, tmp_path / "class", num_class_images_per=2, **how))
    assert sorted(lack.prompt for lack in each) == ["dog running"] * 2 + ["dog sitting"] * 4
    assert len({(lack.folder, lack.stem) for lack in each}) == 6
    assert {lack.size for lack in each} == {(64, 64)}


def test_what_is_there_already_is_not_drawn_again(subject, tmp_path, pixels):
    home, how = tmp_path / "class", {"num_class_images": 3, "class_prompt": "a dog"}
    home.mkdir()
    first = lacking(planned(subject, home, **how))
    pixels(home / f"{first[0].stem}.png")
    (home / f"{first[0].stem}.txt").write_text("a dog", encoding="utf-8")
    pixels(home / "mine.jpg")  # a person's own, without a caption
    pixels(home / f"class-{mark('a cat')}-00000.png")  # of a prompt that is not asked for now
    (home / f"class-{mark('a cat')}-00000.txt").write_text("a cat", encoding="utf-8")
    there = planned(subject, home, **how)
    assert [lack.stem for lack in lacking(there)] == [first[1].stem]
    assert strange(there) == {home: 1}
    reg = [item for item in there.items if item.subset.is_reg]
    assert sorted(item.caption for item in reg) == ["a cat", "a dog", "a dog"]
    assert all(item.subset.call is None and not item.subset.makes_class or item.subset.is_reg for item in reg)
    assert lacking(planned(subject, home, **{**how, "num_class_images": 2})) == []


def test_captions_of_a_run_are_told(subject, tmp_path):
    found = planned(subject, tmp_path, instance_prompt="photo of [filewords]", instance_token="sks",
                    class_token="dog")  # fmt: skip
    assert [item.caption for item in found.items] == [
        "photo of sks dog sitting", "photo of sks dog running", "photo of sks dog sitting"]  # fmt: skip
    assert [item.own for item in found.items] == ["sks sitting", "sks running", "sks sitting"]
    fixed = planned(subject, tmp_path, instance_prompt="a photo of sks dog")
    assert {item.subset.apply(item.caption, None, Moment()) for item in fixed.items} == {"a photo of sks dog"}
