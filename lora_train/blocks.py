"""Blocks of the model: their ids, their indices, and a weight for each."""

from __future__ import annotations

import dataclasses
import math
import re

INS, OUTS = [f"IN{i:02d}" for i in range(12)], [f"OUT{i:02d}" for i in range(12)]
BLOCKS = ("BASE", *INS, "M00", *OUTS)  # BASE is the text encoder

LISTS = {  # how many values name which blocks, as sd-webui-lora-block-weight reads them
    12: ("BASE", "IN04", "IN05", "IN07", "IN08", "M00", *OUTS[:6]),
    17: ("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *OUTS[3:]),
    20: ("BASE", *INS[:9], "M00", *OUTS[:9]),
    26: BLOCKS,
}

PRESETS = {  # that extension's; ALL and ALL0.5 are of 26 values here, so that convolutions are in them too
    "NONE": "0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "ALL": ",".join(["1"] * 26),
    "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
    "ALL0.5": ",".join(["0.5"] * 26),
}


def block_id(part: str, path: str) -> str | None:
    """One of BLOCKS; None for what is in no block (time_embed, out)."""
    if part != "unet":
        return "BASE"
    found = re.match(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.", path)
    if not found:
        return None
    if found[1] == "middle_block":
        return "M00"
    return f"{'IN' if found[1] == 'input_blocks' else 'OUT'}{int(found[2]):02d}"


INDICES = (25, 23)  # of blocks, in sd-scripts' lists: those of SD 1.x and 2.x, and those of SDXL
ROWS = {"sdxl": (9, 3, 9)}  # blocks down, in the middle, up; all others have PLAIN_ROWS
PLAIN_ROWS = (12, 1, 12)
STARTS = {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}  # in a list of 23
AROUND = {"time_embed": 0, "label_emb": 0, "out": 22}


def block_index(path: str, count: int = 25) -> int | None:
    """Place of a UNet layer in sd-scripts' lists (`block_dims`); None for what is in none of their blocks.

    Of 25 values 0 to 11 are down, 12 the middle, 13 to 24 up. Of SDXL's 23 the first is what embeds time and
    size, 1 to 9 down, 10 to 12 the middle's three parts, 13 to 21 up, and the last what is behind them.
    """
    if count == 23:
        lead, _, rest = path.partition(".")
        return STARTS[lead] + int(rest.partition(".")[0]) if lead in STARTS else AROUND.get(lead)
    block = block_id("unet", path)
    return None if block is None else BLOCKS.index(block) - 1


def row_index(path: str, arch: str) -> tuple[int, int] | None:
    """Which of the three lists of sd-scripts' block learning rates a UNet layer is in (0 down, 1 the middle,
    2 up), and its place there; None for what is in no block."""
    found = re.match(r"(input_blocks|middle_block|output_blocks)\.(\d+)\.", path)
    if not found:
        return None
    row = [*STARTS].index(found[1])
    return row, int(found[2]) if rows(arch)[row] > 1 else 0


def row_id(path: str, arch: str) -> str:
    """As `block_id`, but of SDXL's middle each of its three parts: M00 to M02."""
    row, index = row_index(path, arch)
    return f"{('IN', 'M', 'OUT')[row]}{index:02d}"


def region(part: str, path: str, arch: str) -> str:
    """As `row_id`; of what is in no block the first word of its path, of text encoders their part."""
    if part != "unet":
        return part
    return path.partition(".")[0] if row_index(path, arch) is None else row_id(path, arch)


def rows(arch: str) -> tuple[int, int, int]:
    """How many values those lists have."""
    return ROWS.get(arch, PLAIN_ROWS)


CURVES = {  # sd-scripts' (`networks/lora.py`), over 0 to 1 from a list's first value to its last
    "sine": lambda x: math.sin(math.pi * x / 2),
    "cosine": lambda x: math.sin(math.pi * (1 - x) / 2),
    "linear": lambda x: x,
    "reverse_linear": lambda x: 1 - x,
    "zeros": lambda x: 0.0,
}


FASTEST = 100  # times the learning rate


@dataclasses.dataclass(frozen=True)
class BlockRates:
    """What the learning rate is multiplied with, for each block of a row: numbers, or a curve."""

    values: tuple[float, ...] = ()
    curve: str = ""
    base: float = 0.0  # added to the curve

    @classmethod
    def parse(cls, text: str) -> BlockRates:
        """Raises ValueError: neither numbers nor a curve's name."""
        name, plus, base = text.strip().lower().partition("+")
        try:
            if name in CURVES:
                return cls((), name, _number(base) if plus else 0.0)
            return cls(tuple(_number(word) for word in text.strip(" []()").split(",")))
        except ValueError:
            pass
        raise ValueError(
            f"expected numbers from 0 to {FASTEST} with commas between, or one of {', '.join(CURVES)}, and "
            "+0.25 behind it to add that"
        )

    def __str__(self) -> str:
        if self.curve:
            return self.curve + (f"+{self.base!r}" if self.base else "")
        return ",".join(map(repr, self.values))

    def of(self, count: int) -> list[float]:
        """As many as there are blocks. As in sd-scripts a list that is too short goes on with 1, and what is
        too much of a longer one is left out."""
        if self.curve:
            return [CURVES[self.curve](i / (count - 1)) + self.base for i in range(count)]
        return [*self.values, *[1.0] * count][:count]


def _number(word: str) -> float:
    """sd-scripts takes an empty place for 0."""
    value = float(word or 0)
    if not 0 <= value <= FASTEST:
        raise ValueError(word)
    return value


@dataclasses.dataclass(frozen=True)
class BlockWeights:
    """A strength for each block.

    Written as a preset's name or as 12, 17, 20 or 26 values; blocks that a shorter list does not name get 0.
    (Those lists name the blocks with attention; what else a model has there is then left alone too.)
    """

    values: tuple[float, ...] = (1.0,) * len(BLOCKS)  # in the order of BLOCKS

    @classmethod
    def parse(cls, text: str) -> BlockWeights:
        """Raises ValueError: neither a preset's name nor a list of a known length."""
        words = PRESETS.get(text.strip().upper(), text).strip(" []()").split(",")
        try:
            given = [float(word) for word in words]
        except ValueError:
            given = []
        if len(given) not in LISTS or not all(abs(value) < float("inf") for value in given):
            raise ValueError(f"expected 12, 17, 20 or 26 numbers, or one of {', '.join(PRESETS)}")
        named = dict(zip(LISTS[len(given)], given, strict=True))
        return cls(tuple(named.get(block, 0.0) for block in BLOCKS))

    def __str__(self) -> str:
        if self == BlockWeights():
            return "ALL"
        return ",".join(str(value).removesuffix(".0") for value in self.values)

    def strength(self, part: str, path: str) -> float:
        """Of a layer; 1 for what is in no block."""
        block = block_id(part, path)
        return 1.0 if block is None else self.values[BLOCKS.index(block)]
