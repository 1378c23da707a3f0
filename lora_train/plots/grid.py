"""Sheets: pictures in rows and columns under their labels."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

FONT = pathlib.Path(__file__).parent / "DejaVuSans.ttf"  # Pillow before 10.1 has no font of a chosen size
MARGIN, INK, PAPER = 6, (20, 20, 20), (255, 255, 255)

Draw = Callable[[int, int], Image.Image]  # row, column -> cell


def sheet(
    rows: Sequence[str], columns: Sequence[str], cell: Draw, *, title: str = "", enlarge: int = 1
) -> Image.Image:
    """One labelled picture of `len(rows)` x `len(columns)` cells, each drawn once, row by row.

    Args:
        enlarge: whole factor by which small cells are blown up, without smoothing.
    """
    cells = [[cell(r, c) for c in range(len(columns))] for r in range(len(rows))]
    width = max(picture.width for row in cells for picture in row) * enlarge
    height = max(picture.height for row in cells for picture in row) * enlarge
    font = ImageFont.truetype(str(FONT), max(11, min(28, width // 9)))
    side = min(2 * width, max((font.getlength(label) for label in rows), default=0) + 2 * MARGIN)
    labels = [wrapped(label, font, side - 2 * MARGIN) for label in rows]
    heads = [wrapped(label, font, width) for label in columns]
    line = sum(font.getmetrics())
    top = MARGIN + line * ((1 if title else 0) + max(head.count("\n") + 1 for head in heads)) + MARGIN

    paper = Image.new(
        "RGB", (int(side) + len(columns) * (width + MARGIN), top + len(rows) * (height + MARGIN)), PAPER
    )  # fmt: skip
    pen = ImageDraw.Draw(paper)
    if title:
        pen.text((MARGIN, MARGIN // 2), title, INK, font)
    for c, head in enumerate(heads):
        pen.text(
            (side + c * (width + MARGIN) + width / 2, top - MARGIN),
            head,
            INK,
            font,
            anchor="md",
            align="center",
        )
    for r, row in enumerate(cells):
        y = top + r * (height + MARGIN)
        pen.text((side - MARGIN, y + height / 2), labels[r], INK, font, anchor="rm", align="right")
        for c, picture in enumerate(row):
            size = (picture.width * enlarge, picture.height * enlarge)
            paper.paste(picture.resize(size, Image.Resampling.NEAREST), (int(side) + c * (width + MARGIN), y))
    return paper


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text in lines no wider than `width` pixels; longer words go on in the next line."""
    lines = [""]
    for word in (part for whole in text.split() for part in _cut(whole, font, width)):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _cut(word: str, font: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
    """A word, such as a file's name, in parts no wider than that."""
    while font.getlength(word) > width and len(word) > 1:
        count = next((n for n in range(len(word) - 1, 1, -1) if font.getlength(word[:n]) <= width), 1)
        yield word[:count]
        word = word[count:]
    yield word
