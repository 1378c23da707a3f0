"""Labelled sheets."""

import numpy
from PIL import Image, ImageFont

from lora_train.plots.grid import FONT, sheet, wrapped


def test_a_name_too_long_for_its_column_goes_on_below():
    font, name = ImageFont.truetype(str(FONT), 14), "my_lora_of_a_cat-step00000100"
    lines = wrapped(f"of {name}", font, 90).split("\n")
    assert "".join(lines).replace(" ", "") == f"of{name}"
    assert all(font.getlength(line) <= 90 for line in lines)
    assert wrapped("ab", font, 1) == "a\nb"


def test_every_cell_stands_whole_in_its_row_and_column():
    colours = {(r, c): (40 + 60 * r, 40 + 60 * c, 200) for r in range(2) for c in range(3)}
    page = sheet(
        ["one", "a prompt that is far too long for a single line beside its picture"],
        ["0", "0.5", "1"],
        lambda r, c: Image.new("RGB", (64, 48), colours[r, c]),
        title="strength",
        enlarge=2,
    )
    counts = {colour: n for n, colour in page.getcolors(10**6)}
    assert all(counts[colour] == 128 * 96 for colour in colours.values())
    pixels = numpy.asarray(page).reshape(-1, 3)
    first = {key: (pixels == colour).all(1).argmax() for key, colour in colours.items()}
    assert list(first) == sorted(first, key=first.get)
