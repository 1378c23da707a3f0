"""Copies and mirrored copies, told apart from each other and from what only happens to be alike."""

from __future__ import annotations

import pathlib

from PIL import Image, ImageOps

from lora_train.data import likeness
from lora_train.workshop import alike
from tests.troubled import scene


def cells(**images) -> dict[str, bytes]:
    return {name: likeness.cells(image) for name, image in images.items()}


def kinds(found) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.kind, finding.names) for finding in found]


def test_a_mirrored_copy_is_no_plain_one():
    one, other = scene(1, (300, 300)), scene(2, (300, 300))
    found = alike.near(cells(a=one, b=ImageOps.mirror(one), c=other))
    assert kinds(found) == [("mirrored", ("a", "b"))]


def test_a_group_may_have_both():
    one = scene(1, (300, 300))
    found = kinds(alike.near(cells(a=one, b=ImageOps.mirror(one), c=one.resize((200, 200)))))
    assert ("near", ("a", "c")) in found
    assert ("mirrored", {"a", "b", "c"}) in [(kind, {*names}) for kind, names in found]
    assert len(found) == 2


def test_what_is_the_same_from_both_sides_is_no_mirrored_copy():
    half = scene(1, (150, 300))
    whole = Image.new("RGB", (300, 300))
    whole.paste(half, (0, 0))
    whole.paste(ImageOps.mirror(half), (150, 0))
    assert kinds(alike.near(cells(a=whole))) == []
    assert kinds(alike.near(cells(a=whole, b=whole.resize((200, 200))))) == [("near", ("a", "b"))]


def test_pictures_of_one_colour_are_not_called_alike_by_chance():
    plain = Image.new("RGB", (64, 64), (9, 9, 9)), Image.new("RGB", (64, 64), (200, 200, 200))
    assert kinds(alike.near(cells(a=plain[0], b=plain[1], c=scene(3, (64, 64))))) == []


def test_drawings_of_one_kind_are_not_called_mirrored():
    """The demo's ducks all look to the left; some are near to others as they are."""
    folder = pathlib.Path(__file__).parents[2] / "demo" / "subject" / "10_duck"
    cells = {path.name: likeness.seen(path) for path in sorted(folder.glob("*.png"))}
    assert [found.kind for found in alike.near(cells)] == ["near"]
