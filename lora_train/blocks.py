"""Blocks of the model: their ids, their indices, and a weight for each."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

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
    found = re.match(r"(input_blocks|middle_block|output_blocks)[._](\d+)[._]", path)  # _ as in keys of files
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
class Element:
    """Another strength than their block's for layers of some blocks whose paths have one of some words.

    Written as in sd-webui-lora-block-weight: BLOCKS:WORDS:RATIO, with blanks between several, NOT before
    those that it is not for, and nothing for all; IN05-OUT05 is a span. Words are parts of the layer's path:
    IN05-OUT05:attn:0, :proj:0.5, NOT BASE:NOT attn1 attn2:0.
    """

    blocks: str  # as it is written
    words: str
    ratio: float

    @classmethod
    def parse(cls, text: str) -> Element:
        """Raises ValueError: it is not written so."""
        parts = text.split(":")
        try:
            ratio = float(parts[2]) if len(parts) == 3 else math.nan
        except ValueError:
            ratio = math.nan
        if not abs(ratio) < math.inf:
            raise ValueError(f"{text.strip()}: expected BLOCKS:WORDS:RATIO, such as IN05-OUT05:attn:0")
        blocks, words = " ".join(parts[0].upper().split()), " ".join(parts[1].split())
        some(blocks)
        return cls(blocks, words, ratio)

    def __str__(self) -> str:
        return f"{self.blocks}:{self.words}:{str(self.ratio).removesuffix('.0')}"

    def means(self, part: str, path: str) -> bool:
        """Whether it is for a layer."""
        block, own = block_id(part, path), path.replace(".", "_")
        chosen, all_but = some(self.blocks)
        no, *rest = self.words.split() or [""]
        words = rest if no == "NOT" else [no, *rest]
        named = any(word in own for word in words)
        return ((block in chosen) != all_but) and (named != (no == "NOT"))


def some(text: str) -> tuple[frozenset[str | None], bool]:
    """Blocks by their ids, as "IN04", "IN05-OUT05", "BASE M00" or "NOT IN00-IN11"; nothing means all.

    Returns:
        Those that are named, and whether all but them are meant.

    Raises:
        ValueError: a word is no block.
    """
    no, *rest = text.split() or [""]
    if not no:
        return frozenset(), True
    found: set[str] = set()
    for word in rest if no == "NOT" else [no, *rest]:
        first, _, last = word.partition("-")
        if not {first, last or first} <= {*BLOCKS}:
            raise ValueError(
                f"{word}: expected a block's id, BASE, IN00 to IN11, M00, OUT00 to OUT11, or a span such as "
                "IN05-OUT05"
            )
        found |= {*BLOCKS[BLOCKS.index(first) : BLOCKS.index(last or first) + 1]}
    return frozenset(found), no == "NOT"


ELEMENTS = {  # presets of them; that extension's
    "ATTNDEEPON": "IN05-OUT05:attn:1",
    "ATTNDEEPOFF": "IN05-OUT05:attn:0",
    "PROJDEEPOFF": "IN05-OUT05:proj:0",
}


@dataclasses.dataclass(frozen=True)
class BlockWeights:
    """A strength for each block.

    Written as a preset's name or as 12, 17, 20 or 26 values; blocks that a shorter list does not name get 0.
    (Those lists name the blocks with attention; what else a model has there is then left alone too.)
    Elements, or their presets' names, follow with | before each: OUTALL|IN05-OUT05:attn:0.5.
    """

    values: tuple[float, ...] = (1.0,) * len(BLOCKS)  # in the order of BLOCKS
    elements: tuple[Element, ...] = ()  # the last that means a layer counts

    @classmethod
    def parse(cls, text: str) -> BlockWeights:
        """Raises ValueError: neither a preset's name nor a list of a known length; or no element."""
        first, *rest = text.split("|")
        words = PRESETS.get(first.strip().upper(), first).strip(" []()").split(",")
        try:
            given = [float(word) for word in words]
        except ValueError:
            given = []
        elements = [Element.parse(e) for word in rest for e in elements_of(word)]
        return cls.of(given, elements, PRESETS)

    @classmethod
    def of(
        cls, given: Sequence[float], elements: Iterable[Element] = (), presets: Iterable[str] = ()
    ) -> BlockWeights:
        """Of a list of a known length.

        Args:
            presets: names for the complaint.

        Raises:
            ValueError: it is none.
        """
        if len(given) not in LISTS or not all(abs(value) < float("inf") for value in given):
            raise ValueError(f"expected 12, 17, 20 or 26 numbers, or one of {', '.join(presets)}")
        named = dict(zip(LISTS[len(given)], given, strict=True))
        return cls(tuple(named.get(block, 0.0) for block in BLOCKS), tuple(elements))

    def __str__(self) -> str:
        values = ",".join(str(value).removesuffix(".0") for value in self.values)
        first = "ALL" if self.values == BlockWeights.values else values
        return "|".join([first, *map(str, self.elements)])

    def strength(self, part: str, path: str) -> float:
        """Of a layer; 1 for what is in no block. The path may have _ in place of its dots."""
        for element in reversed(self.elements):
            if element.means(part, path):
                return element.ratio
        block = block_id(part, path)
        return 1.0 if block is None else self.values[BLOCKS.index(block)]


def elements_of(text: str, presets: Mapping[str, str] = ELEMENTS) -> list[str]:
    """What one word means: an element, several with commas or line ends between, or a preset's name."""
    whole = presets.get(text.strip().upper(), text)
    return [word.strip() for word in re.split(r"[,\n]", whole) if word.strip()]
