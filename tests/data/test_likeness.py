import itertools
import pathlib
import random

import pytest
from PIL import Image, ImageEnhance

from lora_train.data.likeness import NEAR, cells, copies, groups, hashed, seen, turned

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


def test_groups_are_those_of_comparing_every_pair():
    rng = random.Random(3)
    numbers = [rng.getrandbits(64) for _ in range(60)]
    for n in list(numbers[:30]):
        for _ in range(2):
            numbers.append(n ^ sum(1 << b for b in rng.sample(range(64), rng.randint(0, 9))))
    hashes = {pathlib.Path(str(i)): n - (1 << 64 if n >> 63 else 0) for i, n in enumerate(numbers)}
    parent = {path: path for path in hashes}
    changed = True
    while changed:  # the slow way
        changed = False
        for a, b in itertools.combinations(hashes, 2):
            if apart(hashes[a], hashes[b]) <= NEAR and parent[a] != parent[b]:
                parent[a] = parent[b] = min(parent[a], parent[b], key=lambda p: int(p.name))
                changed = True
    slow = {}
    for path, first in parent.items():
        slow.setdefault(first, []).append(path)
    wanted = sorted(sorted(map(str, group)) for group in slow.values() if len(group) > 1)
    assert sorted(sorted(map(str, group)) for group in groups(hashes)) == wanted


def test_equal_hashes_of_many_pictures_are_one_group_at_once():
    same = {pathlib.Path(str(i)): -7 for i in range(20_000)}
    assert [len(group) for group in groups(same)] == [20_000]


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
    assert [*map(set, groups({name: hashed(own) for name, own in several.items()}))] == [{*several}]
    assert copies(several) == [["tall", "copy"]]
