"""Charts: lines over two axes, and rows of shades, drawn with Pillow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from lora_train.plots.grid import FONT, INK, PAPER

SIZE = (760, 330)
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 34, 46  # pixels around what is drawn in
GREY, SMALL = (222, 222, 222), 12
COLOURS = (
    (217, 115, 13), (42, 122, 176), (46, 125, 79), (138, 79, 181), (120, 120, 120), (179, 38, 30),
    (0, 128, 128), (160, 120, 0),
)  # fmt: skip
STRIP, SIDE, END = 18, 84, 78  # height of a row of shades; its name's room, and its last number's

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Line:
    """Points from left to right; what is between `low` and `high` is shaded."""

    name: str
    points: Sequence[Point]
    low: Sequence[Point] = ()
    high: Sequence[Point] = ()
    wide: bool = True


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within a span, at most so many and at least two: 1, 2 or 5 of a power of ten apart."""
    if not high > low:
        return [low]
    for step in (m * 10.0**p for p in range(math.floor(math.log10(high - low)) - 2, 40) for m in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(i * step, 12) for i in range(first, last + 1)]
    return [low]


def chart(lines: Sequence[Line], *, title: str, across: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """Lines in colours of their own, named below the title; upwards from 0, or from below where they go."""
    image = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.truetype(str(FONT), SMALL)
    pen.text((LEFT, 4), title, INK, ImageFont.truetype(str(FONT), SMALL + 2))
    every = [p for line in lines for p in (*line.points, *line.low, *line.high)]
    if not every:
        return image
    xs, ys = [x for x, _ in every], [y for _, y in every]
    left, right, low, high = min(xs), max(xs), min(0.0, *ys), max(ys)
    right, high = right + (right == left), high + (high == low)
    wide, tall = size[0] - LEFT - RIGHT, size[1] - TOP - BOTTOM

    def at(point: Point) -> Point:
        x, y = point
        return LEFT + wide * (x - left) / (right - left), TOP + tall * (high - y) / (high - low)

    for y in ticks(low, high):
        spot = at((left, y))
        pen.line([spot, (LEFT + wide, spot[1])], GREY)
        pen.text((LEFT - 6, spot[1]), f"{y:g}", INK, font, anchor="rm")
    for x in ticks(left, right, 10):
        spot = at((x, low))
        pen.line([(spot[0], TOP), spot], GREY)
        pen.text((spot[0], TOP + tall + 4), f"{x:g}", INK, font, anchor="ma")
    pen.text((LEFT + wide, size[1] - 4), across, INK, font, anchor="rd")
    for line, colour in zip(lines, COLOURS * (1 + len(lines) // len(COLOURS)), strict=False):
        if line.low:
            pale = tuple((c + 3 * p) // 4 for c, p in zip(colour, PAPER, strict=True))
            pen.polygon([at(p) for p in (*line.low, *reversed(line.high))], fill=pale)
    for line, colour in zip(lines, COLOURS * (1 + len(lines) // len(COLOURS)), strict=False):
        spots = [at(p) for p in line.points]
        if len(spots) > 1:
            pen.line(spots, colour, 3 if line.wide else 1, joint="curve")
        for x, y in spots if len(spots) < 60 else ():  # noqa: PLR2004 (more of them hide the line)
            pen.ellipse([x - 2, y - 2, x + 2, y + 2], fill=colour)
    _named(pen, [line.name for line in lines], font, size)
    return image


def _named(
    pen: ImageDraw.ImageDraw, names: Sequence[str], font: ImageFont.FreeTypeFont, size: tuple[int, int]
) -> None:
    x = float(LEFT)
    for i, name in enumerate(names):
        pen.rectangle([x, size[1] - 15, x + 10, size[1] - 7], fill=COLOURS[i % len(COLOURS)])
        pen.text((x + 14, size[1] - 4), name, INK, font, anchor="ld")
        x += 28 + font.getlength(name)


def strips(rows: Sequence[tuple[str, Sequence[float | None]]], *, title: str) -> Image.Image:
    """A row for each name, darker where its number is higher; the highest of all is black, and the last of
    each stands behind it."""
    font = ImageFont.truetype(str(FONT), SMALL)
    image = Image.new("RGB", (SIZE[0], TOP + STRIP * len(rows) + 8), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((LEFT, 4), title, INK, ImageFont.truetype(str(FONT), SMALL + 2))
    top = max((v for _, values in rows for v in values if v is not None), default=0) or 1.0
    wide = SIZE[0] - SIDE - END
    for i, (name, values) in enumerate(rows):
        y = TOP + STRIP * i
        pen.text((SIDE - 6, y + STRIP / 2), name, INK, font, anchor="rm")
        for k, value in enumerate(values):
            if value is None:
                continue
            shade = tuple(round(p + (c - p) * value / top) for p, c in zip(PAPER, INK, strict=True))
            edges = [SIDE + wide * n / len(values) for n in (k, k + 1)]
            pen.rectangle([edges[0], y + 1, edges[1], y + STRIP - 2], fill=shade)
        pen.rectangle([SIDE, y + 1, SIDE + wide, y + STRIP - 2], outline=GREY)
        last = next((v for v in reversed(values) if v is not None), None)
        pen.text(
            (SIDE + wide + 6, y + STRIP / 2), "" if last is None else f"{last:.4g}", INK, font, anchor="lm"
        )
    return image


def stacked(images: Sequence[Image.Image]) -> Image.Image:
    """One below the other."""
    width, height = max(i.width for i in images), sum(i.height for i in images)
    paper, y = Image.new("RGB", (width, height), PAPER), 0
    for image in images:
        paper.paste(image, (0, y))
        y += image.height
    return paper
