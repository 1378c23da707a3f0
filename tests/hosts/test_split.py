"""Regions of a picture, and which of a prompt's LoRAs act in them."""

import pytest
import torch
from PIL import Image

from lora_train.hosts.webui.split import SIDE, Split
from lora_train.hosts.webui.whose import Said, Wish


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("columns 1,1", (2, 4), [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]]),
        ("columns 1,2", (1, 4), [[0, 0, 0, 0], [1, 1 / 3, 0, 0], [0, 2 / 3, 1, 1]]),
        ("columns 3;1", (1, 4), [[0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]),
    ],
)
def test_columns_cover_cells_by_their_shares(text, size, expected):
    found = Split.read(text).parts(*size)
    assert torch.allclose(found, torch.tensor(expected)[:, None].expand(-1, *size).float(), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (64, 96), (3, 1)])
def test_parts_are_a_whole(size):
    flag = Image.new("RGB", (30, 20), "white")
    flag.paste("blue", (0, 0, 10, 20))
    flag.paste((250, 20, 9), (20, 0, 30, 20))
    for split in (Split.read("columns 1,2,0.7"), Split.read("rows 5,3"), Split.painted(flag)):
        parts = split.parts(*size)
        assert parts.shape == (1 + len(split), *size)
        assert torch.allclose(parts.sum(0), torch.ones(size), atol=1e-6)
        assert parts.min() >= 0
    assert torch.equal(Split.read("rows 5,3").parts(*size), Split.read("columns 5,3").parts(*size[::-1]).mT)


def test_colours_count_in_the_order_of_their_names():
    picture = Image.new("RGB", (300, 200), "white")
    picture.paste((30, 20, 255), (0, 0, 100, 200))
    picture.paste((240, 30, 30), (200, 0, 300, 200))
    split = Split.painted(picture)
    nobody, red, blue = split.parts(2, 3)
    assert red.tolist() == [[0, 0, 1]] * 2 or red[0, 2] > 0.95
    assert blue[0, 0] > 0.95
    assert nobody[0, 1] > 0.95
    assert split.width == SIDE
    assert [*split.regions] == [0, 1, 2]
    assert [*Split.read("rows 1,1").regions] == [1, 2]
    again = Split.read(str(split))
    assert again == split
    assert Split.painted(again.picture()) == split
    assert len(str(split)) < 200


@pytest.mark.parametrize(
    "text", ["columns", "columns 1,0", "columns 1,x", "rows -1", "columns nan,1", "diagonal 1", "colours",
             "colours 4 eJw", "colours 3 " + str(Split("colours", (), 2, b"\0\1")).split()[2],
             str(Split("colours", (), 1, b"\7")), "columns " + "1," * 13])  # fmt: skip
def test_what_cannot_be_read_is_said(text):
    with pytest.raises(ValueError, match=r"(regions|shares) = .*: expected"):
        Split.read(text)


SAID = Said.read("a <lora:a:0.5> x AND b <lora:b:1:0.3> <lyco:c> AND c <lora:a:2>")


def test_a_prompts_loras_are_found_where_they_stand():
    assert [(t.name, t.nth, t.prompt, t.te, t.unet) for t in SAID.tags] == [
        ("a", 0, 0, 0.5, 0.5), ("b", 0, 1, 1.0, 0.3), ("a", 1, 2, 2.0, 2.0), ("c", 0, 1, 1.0, 1.0)
    ]  # fmt: skip
    assert SAID.prompts == 3
    assert Said.read("a cat") == Said((), 1)
    assert Said.read("SAND ANDES <lora:AND:1>").prompts == 1


def acting(wish, region, prompt):
    return sorted(f"{tag.name}{tag.nth}" for tag in wish.acting(SAID, region, prompt))


def test_who_acts_where():
    everyone = ["a0", "a1", "b0", "c0"]
    halves = Wish.read("columns 1,1")
    assert acting(halves, 0, None) == ["c0"]
    assert acting(halves, 1, 0) == acting(halves, 1, None) == ["a0", "a1", "c0"]
    assert acting(halves, 2, 1) == ["b0", "c0"]
    named = Wish.read("rows 1,1", "c, b; b")
    assert acting(named, 1, 0) == everyone
    assert acting(named, 2, 0) == ["a0", "a1", "b0"]
    apart = Wish.read(by_prompt=True)
    assert [acting(apart, 0, i) for i in (0, 1, 2, None)] == [["a0"], ["b0", "c0"], ["a1"], []]
    both = Wish.read("columns 1,1", "; a", by_prompt=True)
    assert [acting(both, 1, i) for i in (0, 1, 2)] == [[], ["b0", "c0"], []]
    assert [acting(both, 2, i) for i in (0, 1, 2)] == [["a0"], ["b0", "c0"], ["a1"]]
    assert acting(Wish.read(bare=True), 0, 0) == everyone
    assert acting(Wish.read(bare=True), 0, None) == []
    assert Wish.read().empty
    assert Wish.read("rows 1,1", "a; d").lost(SAID) == ["d"]


def test_more_owners_than_regions_are_refused():
    with pytest.raises(ValueError, match="expected one for each of 2 regions"):
        Wish.read("rows 1,1", "a; b; c")


def test_without_and_each_lora_acts_as_ever():
    one = Said.read("a cat <lora:a:1>")
    assert len(Wish.read(by_prompt=True).acting(one, 0, None)) == 1
