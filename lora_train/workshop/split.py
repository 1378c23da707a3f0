"""Split: sheets of several pictures, such as a character from all sides, cut along what is empty between."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from PIL import Image

from lora_train.data import pixels
from lora_train.data.buckets import Size
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.workshop.beside import OfPictures, One
from lora_train.workshop.focus import Box
from lora_train.workshop.work import Touched

DEPTH = 6  # cuts within cuts


@dataclasses.dataclass(frozen=True)
class Split(OfPictures):
    """Cut sheets of several pictures into these: NAME_1, NAME_2 and so on, each with the sheet's caption."""

    rows: int = knob(
        0, "Rows of equal height. 0, with columns 0: the sheet is cut along lines of one colour that go from "
        "end to end, and again within what that gives.", group="split", low=0, high=100,
        basic=True)  # fmt: skip
    columns: int = knob(
        0, "Columns of equal width.", group="split", low=0, high=100, basic=True)  # fmt: skip
    gutter: int = knob(
        8, "Where the sheet is cut by itself, lines that have to be of one colour between two pictures.",
        group="split", low=1, high=1000, unit="pixels")  # fmt: skip
    tolerance: int = knob(
        16, "How far colours of a line may be apart and it still be of one, of 255.", group="split", low=0,
        high=128)  # fmt: skip
    least: int = knob(
        64, "Parts with a shorter side, such as words, are left out.", group="split", low=1, high=4096,
        unit="pixels")  # fmt: skip
    remove: bool = knob(
        False, "Take the sheet away, with its caption and mask; undo brings it back.", group="output",
        basic=True)  # fmt: skip

    title = "split"

    def check(self) -> Iterator[str]:
        yield from super().check()
        if bool(self.rows) != bool(self.columns):
            other, given = ("columns", "rows") if self.rows else ("rows", "columns")
            yield f"{other} = 0: expected a number beside {given}, 1 or more"

    def one(self, one: One) -> Iterator[Touched]:
        shot = one.shot()
        parts = self._parts(shot.image)
        if len(parts) < 2:
            return
        names = []
        for number, box in enumerate(parts, 1):

            def turn(image: Image.Image, box: Box = box) -> Image.Image:
                return image.crop(box)

            made = one.copy(shot, turn, f"_{number}")
            if made is None:
                raise Mistake(f"{one.named(f'_{number}').name} is there already; rename or remove it")
            names.append(made)
        if self.remove:
            one.away()
        yield Touched(one.entry.name, f"{len(parts)} pictures: {names[0]} to {names[-1]}")

    def _parts(self, image: Image.Image) -> list[Box]:
        """By rows, from left to right."""
        if self.rows and self.columns:
            return grid(image.size, self.rows, self.columns)
        clear = pixels.rgb(image, (255, 255, 255))
        found = divided(np.asarray(clear), self.gutter, self.tolerance)
        return [box for box in found if min(box[2] - box[0], box[3] - box[1]) >= self.least]


def grid(size: Size, rows: int, columns: int) -> list[Box]:
    """Parts of equal size, to a pixel."""
    across = [round(i * size[0] / columns) for i in range(columns + 1)]
    down = [round(i * size[1] / rows) for i in range(rows + 1)]
    return [
        (left, top, right, bottom)
        for top, bottom in zip(down, down[1:], strict=False)
        for left, right in zip(across, across[1:], strict=False)
        if left < right and top < bottom
    ]


def divided(seen: np.ndarray, gutter: int, tolerance: int) -> list[Box]:
    """What lies between empty lines, by rows: first across, then down, and so on within each part.

    Args:
        seen: [H, W, 3] uint8.
        gutter: lines, at least, that are empty between two parts.
    """
    return _within(seen, (0, 0, seen.shape[1], seen.shape[0]), gutter, tolerance, DEPTH)


def _within(seen: np.ndarray, box: Box, gutter: int, tolerance: int, depth: int) -> list[Box]:
    left, top, right, bottom = box
    part = seen[top:bottom, left:right]
    rows = _bands(_empty(part, 1, tolerance), gutter)
    columns = _bands(_empty(part, 0, tolerance), gutter)
    if not rows or not columns:
        return []
    if depth == 0 or (len(rows) == 1 and len(columns) == 1):
        (y, to_y), (x, to_x) = (rows[0][0], rows[-1][1]), (columns[0][0], columns[-1][1])
        return [(left + x, top + y, left + to_x, top + to_y)]
    if len(rows) > 1:
        inner = [(left, top + y, right, top + to_y) for y, to_y in rows]
    else:
        inner = [(left + x, top + rows[0][0], left + to_x, top + rows[0][1]) for x, to_x in columns]
    return [found for part in inner for found in _within(seen, part, gutter, tolerance, depth - 1)]


def _empty(part: np.ndarray, axis: int, tolerance: int) -> np.ndarray:
    """Which lines are of one colour; along `axis` they run."""
    return (part.max(axis).astype(int) - part.min(axis)).max(-1) <= tolerance


def _bands(empty: np.ndarray, gutter: int) -> list[tuple[int, int]]:
    """(begin, end) of what is not empty; less than `gutter` empty lines do not part it."""
    full = np.flatnonzero(~empty)
    if not len(full):
        return []
    gaps = np.flatnonzero(np.diff(full) > gutter)
    begins = [full[0], *full[gaps + 1]]
    ends = [*full[gaps], full[-1]]
    return [(int(a), int(b) + 1) for a, b in zip(begins, ends, strict=True)]
