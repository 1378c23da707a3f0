"""Labelled sheets."""

import numpy
from PIL import Image

from lora_train.plots.grid import sheet


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
