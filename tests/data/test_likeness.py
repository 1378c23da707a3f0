import itertools
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from lora_train.data import likeness
from lora_train.data.likeness import NEAR, SAME, cells, copies, hashed, seen, turned

DRAWINGS = sorted((pathlib.Path(__file__).parents[2] / "demo" / "dataset").rglob("*.png"))


def apart(a: int, b: int) -> int:
    return bin((a ^ b) & (2**64 - 1)).count("1")


CHANGES = {
    "smaller": lambda im: im.resize((im.width // 2, im.height // 2), Image.Resampling.LANCZOS),
    "brighter": lambda im: ImageEnhance.Brightness(im).enhance(1.15),
    "darker": lambda im: ImageEnhance.Brightness(im).enhance(0.9),
    "softer": lambda im: ImageEnhance.Sharpness(im).enhance(0.5),
}


@pytest.mark.parametrize("change", [*CHANGES, "jpeg"])
def test_copies_are_near(tmp_path, change):
    for path in DRAWINGS:
        image = Image.open(path).convert("RGB")
        copy = tmp_path / ("a.jpg" if change == "jpeg" else "a.png")
        CHANGES.get(change, lambda im: im)(image).save(copy, **({"quality": 40} if change == "jpeg" else {}))
        assert copies({path: seen(path), copy: seen(copy)}) == [[path, copy]]


def test_different_pictures_are_far():
    hashes = [hashed(seen(path)) for path in DRAWINGS]
    assert min(apart(a, b) for a, b in itertools.combinations(hashes, 2)) > NEAR


def alike(a: bytes, b: bytes) -> bool:
    one, other = (np.frombuffer(own, np.uint8).astype(float) for own in (a, b))
    return np.corrcoef(one, other)[0, 1] >= SAME and apart(hashed(a), hashed(b)) <= NEAR


def test_groups_are_those_of_comparing_every_pair(monkeypatch):
    rng = np.random.default_rng(3)
    several = {}
    for i in range(40):
        own = rng.integers(0, 256, 72).astype(float)
        for noise in rng.choice([0, 2, 8, 12, 16, 20], rng.integers(1, 6)):
            several[f"{i} {len(several)}"] = (own + noise * rng.normal(size=72)).clip(0, 255).astype(np.uint8)
    names = sorted(several, key=lambda name: hash(several[name].tobytes()))
    several = {name: several[name].tobytes() for name in names}
    parent = {name: name for name in several}
    changed = True
    while changed:  # the slow way
        changed = False
        for a, b in itertools.combinations(several, 2):
            if parent[a] != parent[b] and alike(several[a], several[b]):
                parent[a] = parent[b] = min(parent[a], parent[b])
                changed = True
    slow = {}
    for name, first in parent.items():
        slow.setdefault(first, []).append(name)
    wanted = sorted(sorted(group) for group in slow.values() if len(group) > 1)
    assert 10 < len(wanted) < 40
    for some in (7, 2048):  # so that groups lie in several blocks
        monkeypatch.setattr(likeness, "SOME", some)
        assert sorted(sorted(group) for group in copies(several)) == wanted


def test_many_pictures_that_are_nearly_equal_are_one_group_at_once():
    base = np.random.default_rng(1).integers(20, 230, 72)
    several = {
        i: (base + (np.arange(72) == i % 72) * (i // 72 % 9)).astype(np.uint8).tobytes() for i in range(6000)
    }
    assert [len(group) for group in copies(several)] == [6000]


def test_a_mirrored_copy_has_the_cells_of_its_picture_turned():
    image = Image.open(DRAWINGS[0]).convert("RGB")
    assert turned(cells(image)) == cells(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert turned(turned(cells(image))) == cells(image)


def test_small_drawings_on_white_are_told_apart_though_their_bits_are_few():
    """Where all is white no place is brighter than the next: two small things in the middle share 58 bits."""
    several = {}
    for name, box in {"tall": (44, 20, 52, 80), "copy": (44, 21, 52, 80), "flat": (40, 50, 56, 56)}.items():
        image = Image.new("L", (96, 96), 255)
        image.paste(0, box)
        several[name] = cells(image)
    bits = [hashed(own) for own in several.values()]
    assert max(apart(a, b) for a, b in itertools.combinations(bits, 2)) <= NEAR
    assert copies(several) == [["tall", "copy"]]
