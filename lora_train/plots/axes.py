"""What can vary along the side of a sheet, and how its values are written: "strength: 0, 0.5-1.0:0.25"."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence

from lora_train.blocks import BLOCKS, LISTS, some
from lora_train.errors import Mistake
from lora_train.prompts import SAMPLERS, sampler
from lora_train.spelling import Book
from lora_train.values import either, numeral, parted, quoted, shown

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
SPAN = re.compile(rf"^({NUMBER})\s*-\s*({NUMBER})\s*:\s*({NUMBER})$")
MOST = 1000  # values of one axis; more is a slip of the hand
STRONGEST = 100  # of a strength, either way
LONG = 60  # characters of a label


def numbers(text: str) -> list[float]:
    """Numbers and spans, separated by commas; a span is first-last:step and includes its last value.

    >>> numbers("0, 0.5-1.0:0.25")
    [0.0, 0.5, 0.75, 1.0]

    Raises:
        Mistake: something else stands there.
    """
    values: list[float] = []
    for word in (w.strip() for w in text.split(",")):
        span = SPAN.match(word)
        if span:
            values += _between(word, *map(float, span.groups()))
        elif re.fullmatch(NUMBER, word):
            values.append(float(word))
        else:
            raise Mistake(
                f"{word or text!r}: expected numbers such as 0, 0.5, 1 or a span such as 0.5-1.0:0.25"
            )
    return values


def _between(word: str, first: float, last: float, step: float) -> list[float]:
    if step <= 0 or last < first:
        raise Mistake(f"{word}: expected a span from a smaller to a larger number by a step above 0")
    steps = (last - first) / step + 1e-9
    if not steps < MOST:  # nor infinitely many
        raise Mistake(f"{word}: expected at most {MOST} values; this span has more")
    return [round(first + i * step, 10) for i in range(math.floor(steps) + 1)]


# ── what one kind of axis takes ─────────────────────────────────────────────────────────────────────────────

Value = float | int | str


COMMAS = ",;\n"


def words(text: str) -> list[str]:
    """Values that may have commas in them: one a line, or with ; between."""
    return parted(text, "\n" if "\n" in text.strip() else ";")


def named(text: str) -> list[str]:
    """Values with commas between; one that has commas itself stands in "quotes"."""
    return parted(text, COMMAS)


def listed(values: Iterable[object]) -> str:
    """What `named` reads as these."""
    return ", ".join(quoted(str(value), COMMAS) for value in values)


def _strengths(text: str) -> list[float]:
    return _within(numbers(text), -STRONGEST, STRONGEST)


def _guidances(text: str) -> list[float]:
    return _within(numbers(text), 0, STRONGEST)


def _within(values: list[float], low: float, high: float) -> list[float]:
    for value in values:
        if not low <= value <= high:
            raise Mistake(f"{numeral(value)}: expected {numeral(low)} to {numeral(high)}")
    return values


def _wholes(low: int, high: int) -> Callable[[str], list[int]]:
    def read(text: str) -> list[int]:
        for value in _within(numbers(text), low, high):
            if value != int(value):
                raise Mistake(f"{numeral(value)}: expected a whole number")
        return [int(value) for value in numbers(text)]

    return read


def _samplers(text: str) -> list[str]:
    try:
        return [sampler(word) for word in named(text)]
    except ValueError as e:
        raise Mistake(str(e)) from e


def _weights(text: str, book: Book | None = None) -> list[str]:
    """Presets' names and lists; several lists have ; or line ends between."""
    book = book or Book()
    presets = all(word.upper() in book.presets for word in named(text))
    found = named(text) if presets else words(text)
    for word in found:
        try:
            book.weights(word)
        except ValueError as e:
            raise Mistake(f"{shown(word)}: {e}") from None
    return found


def _blocks(text: str) -> list[str]:
    """Each value is one block or several, with blanks between: IN04, "IN05-OUT05", "NOT M00"; 17ALL is each
    of the blocks that a list of 17 values names."""
    found: list[str] = []
    for word in named(text):
        every = re.fullmatch(r"(\d+)ALL", word.upper())
        if every and int(every[1]) in LISTS:
            found += LISTS[int(every[1])]
        else:
            blocks_of(word)
            found.append(word.upper())
    return found


def blocks_of(value: str) -> frozenset[str]:
    """The blocks that a value of a Block ID axis stands for.

    Raises:
        Mistake: a word is no block.
    """
    try:
        chosen, all_but = some(value.upper())
    except ValueError as e:
        lists = either(f"{count}ALL" for count in LISTS)
        raise Mistake(f"{e}; or {lists} for each of them") from None
    return frozenset(BLOCKS) - chosen if all_but else frozenset(chosen)


@dataclasses.dataclass(frozen=True)
class Kind:
    """One thing that can vary."""

    title: str
    said: str  # what its values are, for people
    read: Callable[[str], Sequence[Value]]
    usual: str | None = None  # its values where none are given


AXES: dict[str, Kind] = {
    "file": Kind(
        "LoRA file",
        "names of files among network_weights, in quotes where there is a comma in one, and none for no "
        "LoRA; all of them if not given. Beside a setting of a training: epoch 1, 2, last",
        named, ""),
    "strength": Kind("Strength", "numbers and spans", _strengths, "0, 0.5-1.0:0.25"),
    "te_strength": Kind("TE strength", "numbers and spans", _strengths, "0, 0.5-1.0:0.25"),
    "unet_strength": Kind("UNet strength", "numbers and spans", _strengths, "0, 0.5-1.0:0.25"),
    "block_weights": Kind(
        "Block weights", "presets' names, also of lbwpresets.txt beside the files, or lists with ; between",
        _weights,
        "ALL, INS, IND, INALL, MIDD, OUTD, OUTS, OUTALL"),
    "block_id": Kind(
        "Block", "blocks' ids, IN05-OUT05, NOT IN05-OUT05, or 17ALL for each of them", _blocks, "17ALL"),
    "block_strength": Kind(
        "Block strength", "numbers and spans; of the blocks on the axis block_id", _strengths, "0, 0.5"),
    "prompt": Kind("Prompt", "prompts, one a line or with ; between", words),
    "negative_prompt": Kind("Negative prompt", "texts, one a line or with ; between", words),
    "seed": Kind("Seed", "whole numbers and spans", _wholes(0, 2**53), "1-4:1"),
    "sampler": Kind("Sampler", f"among {', '.join(SAMPLERS)}", _samplers, "ddim, euler_a, dpm++_2m"),
    "steps": Kind("Steps", "whole numbers and spans", _wholes(1, 1000), "10-30:10"),
    "cfg": Kind("CFG scale", "numbers and spans", _guidances, "3, 5, 7.5, 10"),
    "start": Kind("Start step", "steps of the sampler from which on the LoRA is on", _wholes(0, 1000)),
    "stop": Kind("Stop step", "steps of the sampler from which on it is off again", _wholes(0, 1000)),
}  # fmt: skip
OTHERS = {  # names that people have for them
    "lora": "file", "checkpoint": "file", "epoch": "file", "files": "file", "weight": "strength",
    "network_mul": "strength", "te": "te_strength", "unet": "unet_strength", "lbw": "block_weights",
    "preset": "block_weights", "block": "block_id", "blocks": "block_id", "prompts": "prompt",
    "negative": "negative_prompt", "cfg_scale": "cfg", "scale": "cfg", "start_step": "start",
    "stop_step": "stop", "sample_sampler": "sampler", "sample_steps": "steps",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Axis:
    """One side of a sheet as it is asked for: "strength: 0-1.2:0.2", or "strength" alone."""

    name: str
    words: str = ""

    @classmethod
    def parse(cls, text: str) -> Axis:
        """Raises ValueError: there is no name. Whether there is such an axis is said when all is known."""
        name, _, given = text.partition(":")
        plain = re.sub(r"[\s-]+", "_", name.strip()) if "." not in name else name.strip()
        if not plain:
            raise ValueError("expected an axis and its values, such as strength: 0-1.2:0.2")
        return cls(
            OTHERS.get(plain.lower(), plain.lower() if plain.lower() in AXES else plain), given.strip()
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.words}" if self.words else self.name

    @property
    def kind(self) -> Kind | None:
        """None for a setting of a training."""
        return AXES.get(self.name)

    def values(self, book: Book | None = None) -> list[Value]:
        """Of an axis that is not a setting's.

        Args:
            book: presets of block weights, where a person has some.

        Raises:
            Mistake: naming the axis and the value.
        """
        given = self.words or self.kind.usual
        if given is None:
            raise Mistake(f"{self.name}: expected its values: {self.kind.said}")
        try:
            found = _weights(given, book) if self.name == "block_weights" else self.kind.read(given)
            return sure(self.name, [*found]) if given else []
        except Mistake as e:
            raise Mistake(f"{self.name} = {e}") from e


def sure(name: str, values: Sequence[Value]) -> list[Value]:
    """Values of an axis, none of them twice.

    Raises:
        Mistake: none, or too many.
    """
    found = list(dict.fromkeys(values))
    if not 0 < len(found) <= MOST:
        raise Mistake(f"{name}: expected 1 to {MOST} values; these are {len(found)}")
    return found


def labelled(name: str, value: Value) -> str:
    """What stands beside a row or above a column."""
    text = numeral(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
    text = text if len(text) <= LONG else f"{text[:LONG]}…"
    alone = name in ("file", "prompt", "negative_prompt", "sampler", "block_weights", "block_id")
    if alone:
        return text
    title = AXES[name].title.lower() if name in AXES else name.rpartition(".")[2]
    return f"{title} {text}"
