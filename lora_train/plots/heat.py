"""Heat map: numbers in rows and columns as colours, with the numbers written into them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lora_train.plots.grid import FONT, INK, PAPER

CELL, MARGIN, SIZE = (92, 34), 10, 14
LOW, HIGH = (33, 102, 172), (253, 219, 199)  # of the lowest and the highest number
FRAME = (200, 30, 30)
NONE = (235, 235, 235)


def heat(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    title: str = "",
    framed: tuple[int, int] | None = None,
    digits: int = 4,
) -> Image.Image:
    """Dark is low. None stays grey.

    Args:
        framed: (row, column) of the cell to point at.
        digits: that count, of the numbers.
    """
    font = ImageFont.truetype(str(FONT), SIZE)
    side = int(max((font.getlength(row) for row in rows), default=0)) + 2 * MARGIN
    width = max(CELL[0], *(int(font.getlength(column)) + MARGIN for column in columns))
    line = sum(font.getmetrics())
    top = 2 * MARGIN + line * (2 if title else 1)
    wide = max(side + len(columns) * width, int(font.getlength(title)) + MARGIN) + MARGIN
    paper = Image.new("RGB", (wide, top + len(rows) * CELL[1] + MARGIN), PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((MARGIN, MARGIN), title, INK, font)
    for c, column in enumerate(columns):
        pen.text((side + (c + 0.5) * width, top - MARGIN // 2), column, INK, font, anchor="md")
    there = [v for row in values for v in row if v is not None]
    low, high = min(there, default=0.0), max(there, default=1.0)
    for r, row in enumerate(rows):
        y = top + r * CELL[1]
        pen.text((side - MARGIN, y + CELL[1] / 2), row, INK, font, anchor="rm")
        for c, value in enumerate(values[r]):
            box = (side + c * width, y, side + (c + 1) * width - 2, y + CELL[1] - 2)
            share = 0.0 if value is None or high == low else (value - low) / (high - low)
            pen.rectangle(box, NONE if value is None else _between(share))
            text = "" if value is None else f"{value:.{digits}g}"
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            pen.text(middle, text, PAPER if value is not None and share < 0.5 else INK, font, anchor="mm")
            if framed == (r, c):
                pen.rectangle(box, outline=FRAME, width=3)
    return paper


def _between(share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(LOW, HIGH, strict=True))
