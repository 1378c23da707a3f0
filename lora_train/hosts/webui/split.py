"""Which part of a picture is whose: columns, rows, or what has a colour in another picture."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
import zlib
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lora_train.values import numeral, shown

if TYPE_CHECKING:
    from PIL import Image

KINDS = ("columns", "rows", "colours")
COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255),
    "yellow": (255, 255, 0), "cyan": (0, 255, 255), "magenta": (255, 0, 255),
}  # fmt: skip
NOBODYS = ((0, 0, 0), (255, 255, 255))
SIDE = 128  # cells of a map's longer side: what infotexts can hold
MANY = 12  # regions


@dataclasses.dataclass(frozen=True)
class Split:
    """A picture in regions, counted from left to right, from above, or as COLOURS are named there."""

    kind: str
    shares: tuple[float, ...] = ()  # of columns and rows
    width: int = 0  # of a map, in cells
    cells: bytes = b""  # row by row: 0 is nobody's, others are numbers of COLOURS

    @classmethod
    def read(cls, text: str) -> Split:
        """Of an infotext: "columns 1,2", "rows 1,1" or "colours 64 …".

        Raises:
            ValueError: it cannot be read.
        """
        kind, _, rest = text.strip().partition(" ")
        if kind not in KINDS:
            raise ValueError(f"regions = {shown(text)}: expected {', '.join(KINDS)}")
        return cls._mapped(rest) if kind == "colours" else cls(kind, _shares(rest))

    @classmethod
    def _mapped(cls, text: str) -> Split:
        width, _, packed = text.partition(" ")
        unpack = zlib.decompressobj()
        try:
            cells = unpack.decompress(base64.b64decode(packed.encode(), validate=True), SIDE * SIDE + 1)
        except (ValueError, binascii.Error, zlib.error):
            cells = b""
        whole = width.isdecimal() and 0 < int(width) <= SIDE and 0 < len(cells) <= SIDE * SIDE
        if not whole or len(cells) % int(width) or max(cells) > len(COLOURS):
            raise ValueError("regions = colours: expected a map as an infotext holds it; choose a picture")
        return cls("colours", (), int(width), cells)

    @classmethod
    def painted(cls, picture: Image.Image) -> Split:
        """What is nearest to a colour has it; black and white are nobody's."""
        by = SIDE / max(picture.size)
        if by < 1:
            picture = picture.resize([max(1, round(side * by)) for side in picture.size], resample=0)
        pixels = np.asarray(picture.convert("RGB"), np.int32)
        known = np.array([*COLOURS.values(), *NOBODYS])
        nearest = np.square(pixels[:, :, None] - known).sum(-1).argmin(-1) + 1
        nearest[nearest > len(COLOURS)] = 0
        return cls("colours", (), pixels.shape[1], nearest.astype(np.uint8).tobytes())

    def __str__(self) -> str:
        if self.kind != "colours":
            return f"{self.kind} {','.join(map(numeral, self.shares))}"
        return f"{self.kind} {self.width} {base64.b64encode(zlib.compress(self.cells, 9)).decode()}"

    @property
    def numbers(self) -> list[int]:
        """Of the COLOURS that are there."""
        return sorted({*self.cells} - {0})

    def __len__(self) -> int:
        """Regions, without what is nobody's."""
        return len(self.shares) if self.kind != "colours" else len(self.numbers)

    @property
    def regions(self) -> range:
        """The numbers of those that are there; 0 is what is nobody's."""
        return range(int(0 not in self.cells), 1 + len(self))

    def parts(self, height: int, width: int) -> Tensor:
        """How much of a cell is nobody's and each region's: [1 + regions, height, width], together 1."""
        if self.kind == "colours":
            cells = torch.frombuffer(bytearray(self.cells), dtype=torch.uint8).view(-1, self.width)
            each = torch.stack([cells == number for number in (0, *self.numbers)]).float()
            return F.adaptive_avg_pool2d(each, (height, width))
        side = width if self.kind == "columns" else height
        ends = torch.tensor([0.0, *self.shares], dtype=torch.float64).cumsum(0)
        ends = (ends * side / ends[-1])[:, None]
        cells = torch.arange(side)
        covered = (torch.minimum(ends[1:], cells + 1) - torch.maximum(ends[:-1], cells)).clamp(0, 1).float()
        whole = torch.cat([torch.zeros(1, side), covered])
        return (whole[:, None] if self.kind == "columns" else whole[:, :, None]).expand(-1, height, width)

    def picture(self) -> Image.Image:
        """A map, as one could have painted it."""
        from PIL import Image

        cells = np.frombuffer(self.cells, np.uint8).reshape(-1, self.width)
        return Image.fromarray(np.array([(0, 0, 0), *COLOURS.values()], np.uint8)[cells])


def _shares(text: str) -> tuple[float, ...]:
    words = [word for word in re.split(r"[\s,;:]+", text) if word]
    try:
        found = tuple(map(float, words))
    except ValueError:
        found = ()
    if not (1 <= len(found) <= MANY and all(0 < share < 1e6 for share in found)):
        raise ValueError(f"shares = {shown(text)}: expected up to {MANY} numbers above 0, such as 1,1 or 2,1")
    return found
