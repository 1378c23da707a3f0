"""Captions go out into files of other programs and come back, and training reads what was written."""

from __future__ import annotations

import json
import os
import pathlib

import pytest
from PIL import Image

from lora_train import configs
from lora_train.data.folder import Data
from lora_train.data.plan import plan
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.run import foreign
from lora_train.workshop.exported import Export
from lora_train.workshop.imported import Import
from lora_train.workshop.journal import Journal

CAPTIONS = {"a 1": 'cat, "ears"', "ü": "A cat sits.\nAnother line.", "c": "dog"}


@pytest.fixture
def folder(tmp_path):
    make(tmp_path / "pictures", CAPTIONS)
    return tmp_path / "pictures"


def make(folder, captions):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in captions.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64)).save(path)
        if text is not None:
            path.with_suffix(".txt").write_text(text, encoding="utf-8")


def texts(folder):
    return {p.relative_to(folder).with_suffix("").as_posix(): p.read_text(encoding="utf-8")
            for p in folder.rglob("*.txt")}  # fmt: skip


def exported(folder, path, **values):
    build(Export, {"folder": folder, "save_to": path, **values}).run()
    return path


def imported(folder, path, **values):
    build(Import, {"folder": folder, "source": path, **values}).run()
    return texts(folder)


@pytest.mark.parametrize(
    ("name", "values"),
    [("a.json", {}), ("a.json", {"full_path": True}), ("a.json", {"into": "tags"}),
     ("a.jsonl", {"format": "jsonl"})],
)  # fmt: skip
def test_there_and_back_in_another_folder(folder, tmp_path, name, values):
    path, other = exported(folder, tmp_path / name, **values), tmp_path / "other"
    make(other, dict.fromkeys(CAPTIONS))
    assert imported(other, path) == CAPTIONS
    Journal(other).undo()
    assert texts(other) == {}


@pytest.mark.parametrize("full_path", [False, True])
def test_training_reads_the_metadata(folder, tmp_path, full_path):
    path = exported(folder, tmp_path / "meta.json", full_path=full_path)
    data = build(Data, {"train_data_dir": folder, "resolution": "64"})
    with_json = build(Data, {"train_data_dir": folder, "resolution": "64", "in_json": path})
    # of several lines a caption file's first is read, and those of a metadata file are joined
    assert [i.caption for i in plan(data).items] == ['cat, "ears"', "dog", "A cat sits."]
    assert [i.caption for i in plan(with_json).items] == ['cat, "ears"', "dog", "A cat sits. Another line."]


def test_training_reads_the_toml_as_it_reads_the_folders(tmp_path):
    root = tmp_path / "root"
    make(root / "3_cat", {"a": "cat, ears", "b": None})
    make(root / "1_dog's", {"c": "dog"})
    path = exported(root, tmp_path / "set.toml", format="toml", resolution="256,320", batch_size=2)
    values = {n.removeprefix("data."): v for n, v in configs.read_dataset_config(path).items()}
    own = {"train_data_dir": root, "resolution": "256,320", "batch_size": 2, "enable_bucket": True}
    one, two = plan(build(Data, values)), plan(build(Data, own))
    assert [(i.path, i.caption, i.fit) for i in one.items] == [(i.path, i.caption, i.fit) for i in two.items]
    assert [s.count for s in one.sources[0].shares] == [s.count for s in two.sources[0].shares]


@pytest.mark.parametrize("kind", ["onetrainer", "dreambooth"])
def test_concepts_are_those_that_the_other_program_has(tmp_path, kind):
    root = tmp_path / "root"
    make(root / "3_cat", {"a": "cat"})
    make(root / "2_dog", {"b": "dog"})
    path = exported(root, tmp_path / "concepts.json", format=kind)
    found = json.loads(path.read_text(encoding="utf-8"))
    whole = {"concepts_list": found} if kind == "dreambooth" else {
        "training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "concepts": found}  # fmt: skip
    values, _ = foreign.imported("a.json", json.dumps(whole).encode())
    folders = [str(v) for n, v in values.items() if n.endswith("image_dir")]
    assert sorted(folders) == [str(root / "2_dog"), str(root / "3_cat")]
    if kind == "onetrainer":
        assert sorted(v for n, v in values.items() if n.endswith("num_repeats")) == [2, 3]


def test_names_of_another_machine_and_of_folders_within(tmp_path):
    make(tmp_path / "p", {"one/a": None, "two/a": None, "two/b": None})
    said = {
        r"C:\old\b.png": {"caption": "a cat", "tags": "hat, bow"},
        "one/a": "first",
        "/else/two/a.png": "lost",
    }
    (tmp_path / "meta.json").write_text(json.dumps(said), encoding="utf-8")
    assert imported(tmp_path / "p", tmp_path / "meta.json", recursive=True) == {
        "two/b": "a cat, hat, bow", "one/a": "first"}  # fmt: skip


@pytest.mark.parametrize(
    ("existing", "caption"), [("keep", "cat, hat"), ("replace", "bow, cat"), ("append", "cat, hat, bow")]
)
def test_what_becomes_of_captions_that_there_are(tmp_path, existing, caption):
    make(tmp_path / "p", {"a": "cat, hat", "b": None})
    rows = [{"file_name": "a.png", "text": "bow, cat"}, {"image": "b.png", "tags": ["x", "y"]}]
    (tmp_path / "l.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert imported(tmp_path / "p", tmp_path / "l.jsonl", existing=existing) == {"a": caption, "b": "x, y"}


def test_a_toml_says_other_endings_class_tokens_and_metadata(tmp_path):
    make(tmp_path / "p", {"a": None, "b": None, "c": "own"})
    (tmp_path / "p" / "a.caption").write_bytes("été".encode("cp1252"))
    subset = f"[[datasets]]\n[[datasets.subsets]]\nimage_dir = {json.dumps(str(tmp_path / 'p'))}\n"
    path = tmp_path / "set.toml"
    path.write_text(
        f'[general]\ncaption_extension = ".caption"\n{subset}class_tokens = "cat"\n', encoding="utf-8"
    )
    assert imported(tmp_path / "p", path) == {"a": "été", "b": "cat", "c": "own"}
    Journal(tmp_path / "p").undo()
    (tmp_path / "meta.json").write_text('{"b": "said"}', encoding="utf-8")
    path.write_text(f'{subset}metadata_file = "meta.json"\n', encoding="utf-8")
    work = build(Import, {"folder": tmp_path / "p", "source": path})
    assert [*work.named()] == [("source", tmp_path / "meta.json")]
    assert imported(tmp_path / "p", path) == {"b": "said", "c": "own"}


def test_concepts_say_names_prompts_and_files(tmp_path):
    make(tmp_path / "p", {"a cat": None})
    (tmp_path / "lines.txt").write_text("one\ntwo\n", encoding="utf-8")
    path, own = tmp_path / "c.json", str(tmp_path / "p")
    for concept, caption in (
        ({"path": own, "text": {"prompt_source": "filename"}}, "a cat"),
        (
            {"path": own, "text": {"prompt_source": "concept", "prompt_path": str(tmp_path / "lines.txt")}},
            "one\ntwo",
        ),
        ({"instance_data_dir": own, "instance_prompt": "photo of ohwx"}, "photo of ohwx"),
    ):
        path.write_text(json.dumps([{"path": "elsewhere"}, concept]), encoding="utf-8")
        assert imported(tmp_path / "p", path) == {"a cat": caption}
        Journal(tmp_path / "p").undo()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "{", "not JSON"), ("a.json", '{"other": "x"}', "has no caption for any of these 1"),
        ("a.json", '[{"path": "elsewhere"}]', "names no folder that is"), ("a.json", "[{}]", "expected rows"),
        ("a.jsonl", '{"file_name": "a"}', "expected rows with file_name and text"),
        ("a.jsonl", '{"file_name": "a.png", "text": "x"}\n{', "line 2: not JSON"),
        ("a.toml", "[[datasets]]\n", "names no folder that is"), ("a.toml", "=", "not TOML"),
        ("a.csv", "", "expected a file of captions, .json, .jsonl, .toml"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_said(tmp_path, name, text, said):
    make(tmp_path / "p", {"a": None})
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(Mistake, match=said):
        imported(tmp_path / "p", tmp_path / name)
    assert texts(tmp_path / "p") == {}


def test_what_cannot_be_written_is_refused(folder, tmp_path):
    cases = [
        ({"save_to": tmp_path / "a.txt"}, "ends with .json"), ({}, "expected the file to write"),
        ({"save_to": tmp_path / "a.toml", "format": "toml", "only": "cat"}, "expected none beside format"),
        ({"save_to": tmp_path / "a.jsonl", "format": "jsonl", "into": "tags"}, "only with format = metadata"),
        ({"save_to": tmp_path / "a.json", "batch_size": 2}, "only with format = toml"),
        ({"save_to": tmp_path / "a.json", "only": "nothing"}, "no captions to write"),
        ({"save_to": tmp_path / "none" / "a.json"}, "cannot be written"),
    ]  # fmt: skip
    for values, said in cases:
        with pytest.raises(Mistake, match=said):
            build(Export, {"folder": folder, **values}).run()
    Image.new("RGB", (8, 8)).save(folder / "c.jpg")
    with pytest.raises(Mistake, match="is the name of several pictures"):
        exported(folder, tmp_path / "a.json")
    assert not [*tmp_path.glob("a*")]


def test_the_command_writes_and_does_not_replace(folder, tmp_path, capsys):
    path = tmp_path / "meta.json"
    command(["export", str(folder), "--save_to", str(path)])
    assert capsys.readouterr().out == f"{path}: 3 captions\n"
    before = path.read_bytes()
    with pytest.raises(Mistake, match="is there already"):
        command(["export", str(folder), "--save_to", str(path), "--only", "dog"])
    assert path.read_bytes() == before
    command(["export", str(folder), "--save_to", str(path), "--only", "dog", "--overwrite"])
    assert json.loads(pathlib.Path(path).read_text(encoding="utf-8")) == {"c": {"caption": "dog"}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[{"path": "a\\u0000b"}]', "names no folder"),
        ('{"c": {"caption": "\\ud800"}}', "no text in any encoding"),
    ],
)
def test_what_is_no_name_and_no_text(folder, tmp_path, text, complaint):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(Mistake, match=complaint):
        build(Import, {"folder": folder, "source": tmp_path / "c.json", "existing": "replace"}).run()


def test_endings_that_lead_elsewhere(folder, tmp_path):
    (tmp_path / "d.toml").write_text(
        f'[[datasets]]\n[[datasets.subsets]]\nimage_dir = "{folder.as_posix()}"\n'
        'caption_extension = "./../../secret.txt"\n'
    )
    with pytest.raises(Mistake, match="caption_extension"):
        build(Import, {"folder": folder, "source": tmp_path / "d.toml", "existing": "replace"}).run()


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_a_name_that_is_no_text(folder, tmp_path):
    (folder / os.fsdecode(b"\xff.png")).write_bytes((folder / "c.png").read_bytes())
    (folder / os.fsdecode(b"\xff.txt")).write_text("x")
    with pytest.raises(Mistake, match="rename that file"):
        build(Export, {"folder": folder, "save_to": tmp_path / "x.json"}).run()
    assert not [*tmp_path.glob("x.json*")]
