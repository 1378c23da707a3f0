"""What is worth a look: one thing at a time. See tests/test_check.py for all of it at once."""

from __future__ import annotations

import pytest
from PIL import Image

from lora_train.data import health, likeness, pictures
from lora_train.data.folder import Data
from lora_train.data.memory import Memory
from lora_train.data.plan import survey
from lora_train.knobs import build


def seen(folder, memory=None, **values) -> list[health.Found]:
    memory = memory or Memory()
    planned, _ = survey(build(Data, {"resolution": 64, "train_data_dir": folder, **values}), memory=memory)
    return health.health(planned, memory, None, 75)


@pytest.mark.parametrize(
    ("mode", "ending", "how", "traits"),
    [
        ("RGB", ".png", {}, []),
        ("L", ".png", {}, []),
        ("1", ".png", {}, []),
        ("P", ".png", {}, ["palette"]),
        ("P", ".png", {"transparency": 0}, ["palette", "transparent"]),
        ("RGBA", ".png", {}, ["transparent"]),
        ("LA", ".png", {}, ["transparent"]),
        ("I;16", ".png", {}, ["deep"]),
        ("CMYK", ".jpg", {}, ["cmyk"]),
    ],
)
def test_what_is_peculiar_about_a_picture_is_told_from_its_file(tmp_path, mode, ending, how, traits):
    path = tmp_path / f"a{ending}"
    Image.new(mode, (8, 8)).save(path, **how)  # of zeros: all of an alpha channel is transparent
    assert list(health.traits(path)) == traits


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_if_its_exif_data_say_so(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert list(health.traits(path)) == ["turned"] * (orientation > 1)


def test_a_file_that_became_unreadable_since_is_passed_over(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"nothing")
    assert list(health.traits(path)) == []
    assert health.remembered(Memory(), tmp_path / "gone.png") is None


def test_pictures_are_decoded_once_and_then_remembered(make, tmp_path, monkeypatch):
    for name in "abc":
        make(f"p/{name}.png", caption="x")
    (tmp_path / "p" / "b.png").write_bytes((tmp_path / "p" / "a.png").read_bytes())
    base = tmp_path / "memory.sqlite"
    first = seen(tmp_path / "p", Memory(base))
    assert [found.kind for found in first] == ["same"]
    for module, name in ((likeness, "seen"), (pictures, "digest"), (pictures, "size")):
        monkeypatch.setattr(module, name, lambda path: pytest.fail(f"{path} is read again"))
    assert seen(tmp_path / "p", Memory(base)) == first


def test_what_is_remembered_is_written_once(make, tmp_path):
    make("p/a.png", caption="x")
    base = tmp_path / "memory.sqlite"
    seen(tmp_path / "p", Memory(base))
    before = base.read_bytes()
    memory = Memory(base)
    seen(tmp_path / "p", memory)
    assert base.read_bytes() == before
    make("p/b.png", caption="x")
    seen(tmp_path / "p", memory)
    assert base.read_bytes() != before


def test_texts_are_as_long_as_they_can_be(make, tmp_path):
    make("a.png", caption="{x|much longer} cat, dog\nsecond {a|b}")
    rules = {
        "enable_wildcard": True, "trigger_word": "sks", "caption_dropout_rate": 1, "shuffle_caption": True,
        "caption_tag_dropout_rate": 1, "token_warmup_step": 100,
    }  # fmt: skip
    planned, _ = survey(build(Data, {"resolution": 64, "train_data_dir": tmp_path, **rules}))
    assert health.texts(planned.items[0]) == ["sks, much longer cat, dog", "sks, second a"]


def test_a_cut_is_shown_with_a_few_words_around_it():
    assert health.cut_at(80, "a dog", "on grass") == "80 tokens: a dog | on grass"
    assert health.cut_at(200, "x" * 60, "y" * 90) == f"200 tokens: …{'x' * 40} | {'y' * 60}…"
