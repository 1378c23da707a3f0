import dataclasses
import logging

import pytest
from PIL import Image

from lora_train.data.buckets import Fit, Resolution
from lora_train.data.folder import Data, Dataset, Subset
from lora_train.data.plan import plan
from lora_train.errors import Mistake
from lora_train.knobs import build, flat


def folder(path, **settings) -> Data:
    return Data(train_data_dir=path, **{"resolution": Resolution(64, 64), **settings})


def told(data: Data, **kwargs) -> list[str]:
    with pytest.raises(Mistake) as e:
        plan(data, **kwargs)
    return str(e.value).splitlines()


def test_numbered_folders_give_repeats_and_class_tokens(make, tmp_path):
    make("10_a cat/b.png", caption="sitting, striped")
    make("10_a cat/a.png")
    make("3_dog_big/c.png")
    make("7/d.png")
    planned = plan(folder(tmp_path))
    assert [(i.name, i.caption, i.subset.num_repeats) for i in planned.items] == [
        ("10_a cat/a.png", "a cat", 10),
        ("10_a cat/b.png", "sitting, striped", 10),
        ("3_dog_big/c.png", "dog_big", 3),
        ("7/d.png", "", 7),
    ]
    assert len(planned.sources) == 1
    assert planned.folders


def test_a_plain_folder_is_one_subset(make, tmp_path):
    make("a.png", caption="x")
    make("b.png")
    make("not seen/c.png")
    planned = plan(folder(tmp_path, num_repeats=4, class_tokens="thing"))
    assert [(i.caption, i.subset.num_repeats) for i in planned.items] == [("x", 4), ("thing", 4)]
    assert planned.sources[0].dataset.subsets[0].image_dir == tmp_path


def test_folders_without_repeats_are_told_of_once(make, tmp_path, caplog):
    make("10_cat/a.png", caption="")
    make("dog/b.png")
    make("0_bird/c.png")
    make("loose.png")
    (tmp_path / ".hidden").mkdir()
    assert len(plan(folder(tmp_path)).items) == 1
    lines = [r.getMessage() for r in caplog.records if "ignored" in r.getMessage()]
    assert len(lines) == 1
    assert "3 folders and pictures are ignored" in lines[0]
    assert "0_bird" in lines[0]


def test_all_kinds_and_cases_of_endings_are_found_and_hidden_files_are_not(make, tmp_path):
    for name in ("a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp", "f.JPEG"):
        make(name)
    (tmp_path / "._a.png").write_bytes(b"written by macOS beside the real one")
    (tmp_path / "g.mp4").write_bytes(b"")
    assert [i.path.name for i in plan(folder(tmp_path)).items] == [
        "a.png", "b.JPG", "c.jpeg", "d.WebP", "e.bmp", "f.JPEG"]  # fmt: skip


def test_captions_are_looked_for_in_the_order_of_their_endings(make, tmp_path):
    path = make("a.b.png", caption="from txt\nsecond line")
    path.with_suffix(".caption").write_text("from caption")
    make("c.png").with_suffix(".caption").write_text("alone")
    assert [i.caption for i in plan(folder(tmp_path)).items] == ["from txt", "alone"]
    only = folder(tmp_path, caption_extension=("caption",))
    assert [i.caption for i in plan(only).items] == ["from caption", "alone"]


def test_what_is_odd_about_captions_is_one_line_each_with_a_count(make, tmp_path, caplog):
    for n in range(3):
        make(f"10_cat/bare{n}.png")
        make(f"10/mute{n}.png")
        make(f"10/empty{n}.png", caption=" \n")
        make(f"10/long{n}.png", caption="\none\ntwo")
    caplog.set_level(logging.WARNING)
    planned = plan(folder(tmp_path))
    lines = sorted(r.getMessage() for r in caplog.records)
    assert len(lines) == 4
    assert all(line.startswith("3 of 12 pictures have") for line in lines)
    assert "class tokens of their folder; the first: " in "".join(lines)
    assert {i.caption for i in planned.items if "long" in i.name} == {"one"}
    assert {i.caption for i in planned.items if "empty" in i.name} == {""}


def test_a_phone_picture_lying_on_its_side_goes_to_an_upright_bucket(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 427)).save(tmp_path / "a.jpg", exif=exif)
    item = plan(folder(tmp_path, resolution=Resolution(512, 512), enable_bucket=True)).items[0]
    assert item.size == (427, 640)
    assert item.fit == Fit((384, 640), (427, 640))


def test_the_reference_photos_come_to_the_reference_trainers_buckets(reference):
    data = Data(
        train_data_dir=reference / "data",
        resolution=Resolution(256, 256),
        enable_bucket=True,
        min_bucket_reso=128,
        max_bucket_reso=512,
    )
    items = plan(data).items
    assert len(items) == 8
    assert {i.path.stem for i in items if i.fit.bucket == (256, 256)} == {"astronaut", "hubble"}
    assert {i.fit.bucket for i in items} == {(256, 256), (320, 192)}
    assert items[0].caption == "photo of an astronaut, woman, orange suit, flag"


def test_datasets_one_by_one(make, tmp_path):
    make("x/a.png", (100, 100))
    make("y/b.png", (100, 100))
    data = build(Data, {
        "num_repeats": 3,
        "datasets.0.resolution": 32,
        "datasets.0.subsets.0.image_dir": str(tmp_path / "x"),
        "datasets.0.subsets.0.num_repeats": 2,
        "datasets.0.subsets.1.image_dir": str(tmp_path / "y"),
        "datasets.0.subsets.1.flip_aug": True,
        "datasets.1.resolution": [64, 64],
        "datasets.1.batch_size": 3,
        "datasets.1.subsets.0.image_dir": str(tmp_path / "x"),
    })  # fmt: skip
    planned = plan(data)
    assert [(i.name, i.fit.bucket) for i in planned.items] == [
        ("x/a.png", (32, 32)), ("y/b.png", (32, 32)), ("x/a.png", (64, 64))]  # fmt: skip
    assert [i.subset.num_repeats for i in planned.items] == [2, 3, 3]
    assert not planned.folders
    assert [(item.name, flip) for item, flip in planned.views()] == [
        ("x/a.png", False), ("y/b.png", False), ("y/b.png", True), ("x/a.png", False)]  # fmt: skip


def test_settings_of_the_data_reach_the_folders(make, tmp_path):
    make("10_cat/a.png")
    item = plan(folder(tmp_path, flip_aug=True, shuffle_caption=True, keep_tokens=2, batch_size=5)).items[0]
    assert (item.subset.flip_aug, item.subset.shuffle_caption, item.subset.keep_tokens) == (True, True, 2)
    assert plan(folder(tmp_path, batch_size=5)).sources[0].dataset.batch_size == 5


def test_everything_wrong_is_told_at_once(make, tmp_path):
    make("10_cat/good.png", caption="x")
    (make("10_cat/empty.png")).write_bytes(b"")
    (make("10_cat/text.jpg")).write_bytes(b"no picture")
    make("10_cat/thin.png", (200, 30))
    make("10_cat/latin.png").with_suffix(".txt").write_bytes("café".encode("cp1252"))
    (tmp_path / "5_none").mkdir()
    data = folder(tmp_path, resolution=Resolution(512, 512), enable_bucket=True, bucket_no_upscale=True)
    lines = told(data)
    assert len(lines) == 5
    for part in (
        "empty.png: an empty file", "text.jpg: not a picture", "thin.png: 200x30 pixels",
        "latin.txt: expected UTF-8",
        "5_none: no pictures in it; expected .png .jpg",
    ):  # fmt: skip
        assert any(part in line for line in lines), part


def test_more_than_ten_complaints_are_counted(tmp_path):
    for n in range(14):
        (tmp_path / f"{n}.png").write_bytes(b"")
    lines = told(folder(tmp_path))
    assert len(lines) == 11
    assert lines[-1] == "... and 4 more"


def test_pictures_that_are_cut_off_are_found_when_all_are_decoded(make, tmp_path):
    path = make("a.png")
    path.write_bytes(path.read_bytes()[:3000])
    plan(folder(tmp_path))
    assert "a.png: damaged or cut off" in told(folder(tmp_path), decode=True)[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "expected a folder"),
        ([], "no pictures in it; expected .png"),
        (["cat", "dog"], "rename cat to 10_cat for 10 repeats"),
    ],
)
def test_a_folder_with_nothing_to_learn_says_what_to_do(tmp_path, content, said):
    path = tmp_path / "data"
    if content is not None:
        path.mkdir()
        for name in content:
            (path / name).mkdir()
    (line,) = told(folder(path))
    assert line.startswith(f"data.train_data_dir = {path}: ")
    assert said in line


def test_what_is_not_filled_in_is_told_with_its_path(tmp_path):
    assert told(Data()) == ["data.train_data_dir: expected the folder of the pictures to learn from"]
    data = Data(datasets=(Dataset(subsets=(Subset(), Subset(image_dir=tmp_path / "gone"))), Dataset()))
    assert told(data) == [
        "data.datasets.0.subsets.0.image_dir: expected the folder of its pictures",
        "data.datasets.1.subsets: expected at least one",
        f"{tmp_path / 'gone'}: no such folder",
    ]


def test_a_folder_of_folders_and_datasets_exclude_each_other(tmp_path):
    data = Data(train_data_dir=tmp_path, datasets=(Dataset(),))
    (complaint,) = data.check()
    assert complaint == f"train_data_dir = {tmp_path}: expected none beside datasets; leave one out"


@pytest.mark.parametrize("endings", ["", ".", ".txt,/etc", "..txt"])
def test_endings_that_are_none_are_refused(endings):
    with pytest.raises(Mistake, match="^caption_extension = .*: expected endings such as"):
        build(Data, {"caption_extension": endings})


def test_a_date_is_no_number_of_repeats(make, tmp_path):
    make("20240101_holiday/a.png")
    (line,) = told(folder(tmp_path))
    assert "20240101_holiday: expected 1 to 1000000 repeats in front of the name, not 20240101" in line


def test_only_what_is_used_is_checked():
    odd = {"enable_bucket": True, "bucket_reso_steps": 60}
    assert list(Data(**odd).check())
    assert not list(Data(**odd, datasets=(Dataset(),)).check())
    assert list(Dataset(**odd).check())


def test_data_come_back_from_what_is_written(tmp_path):
    values = {
        "resolution": "768,512", "keep_tokens": 1, "caption_extension": ".cap,.txt", "bucket_reso_steps": 32,
        "datasets.0.batch_size": 2, "datasets.0.subsets.0.image_dir": str(tmp_path),
        "datasets.0.subsets.0.keep_tokens": 3, "datasets.1.subsets.0.class_tokens": "cat",
    }  # fmt: skip
    data = build(Data, values)
    assert data.datasets[0].subsets[0].keep_tokens == 3
    assert data.datasets[1].subsets[0].keep_tokens == 1
    assert data.datasets[1].resolution == Resolution(768, 512)
    assert data.caption_extension == (".cap", ".txt")
    assert build(Data, flat(data)) == data
    assert str(tmp_path) not in str(flat(data, places=False))


def test_plans_can_be_compared(make, tmp_path):
    make("a.png")
    assert plan(folder(tmp_path)) == plan(folder(tmp_path))
    assert dataclasses.replace(folder(tmp_path), batch_size=2) != folder(tmp_path)
