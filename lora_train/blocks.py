"""Blocks of the model: their ids, their indices, and a weight for each."""

from __future__ import annotations

import dataclasses
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


def block_index(path: str) -> int | None:
    """Place of a UNet layer in sd-scripts' lists of 25 values (`block_dims`): 0 to 11 down, 12 the middle, 13
    to 24 up; None for what is in no block."""
    block = block_id("unet", path)
    return None if block is None else BLOCKS.index(block) - 1


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
