"""How people write block weights in prompts: with presets of their own, values that are drawn, and X.

The grammar is sd-webui-lora-block-weight's, and so are its two files of presets.
"""

from __future__ import annotations

import dataclasses
import pathlib
import random
import re
from collections.abc import Iterable, Mapping

from lora_train.blocks import ELEMENTS, LISTS, PRESETS, BlockWeights, Element, elements_of
from lora_train.values import shown

PRESETS_FILE, ELEMENTS_FILE = "lbwpresets.txt", "elempresets.txt"
FLUX = 61  # values of a list for another model
FOLLOWS = re.compile(r"[xX](?:([+-])(\d*\.?\d+))?")


@dataclasses.dataclass(frozen=True)
class Book:
    """Presets by their names, which are in capitals."""

    presets: Mapping[str, str] = dataclasses.field(default_factory=PRESETS.copy)
    elements: Mapping[str, str] = dataclasses.field(default_factory=ELEMENTS.copy)

    @classmethod
    def read(cls, folders: Iterable[pathlib.Path]) -> Book:
        """Those that there are always, and those of `lbwpresets.txt` and `elempresets.txt` in these folders;
        the last of a name counts."""
        book = cls()
        for folder in dict.fromkeys(folders):
            presets, elements = _text(folder / PRESETS_FILE), _text(folder / ELEMENTS_FILE)
            book = cls({**book.presets, **_presets(presets)}, {**book.elements, **_elements(elements)})
        return book

    def weights(
        self, text: str, elements: str = "", *, x: float = 1.0, draw: random.Random | None = None
    ) -> BlockWeights:
        """What `lbw=` and `lbwe=` say.

        Args:
            x: what X stands for.
            draw: what R (0 to 1) and U (-0.5 to 1.5) are drawn from; a fresh one if not given.

        Raises:
            ValueError: no preset and no list of a known length, or no elements.
        """
        first, *rest = text.split("|")
        words = self.presets.get(first.strip().upper(), first).strip(" []()").split(",")
        if len(words) == FLUX:
            raise ValueError("61 values are for Flux; expected 12, 17, 20 or 26")
        if len(words) not in LISTS:
            known = f"expected 12, 17, 20 or 26 values, or one of {', '.join(self.presets)}"
            raise ValueError(known if len(words) > 1 else f"{shown(first)}: {known}")
        draw = draw or random.Random()  # noqa: S311 (nobody's secret)
        given = [_value(word.strip(), x, draw) for word in words]
        more = [*rest, *filter(None, elements.split("+"))]
        found = [Element.parse(e) for word in more for e in elements_of(word, self.elements)]
        return BlockWeights.of(given, found, self.presets)


def _value(word: str, x: float, draw: random.Random) -> float:
    if word in ("R", "r"):
        return round(draw.random(), 3)
    if word in ("U", "u"):
        return round(draw.uniform(-0.5, 1.5), 3)
    if follows := FOLLOWS.fullmatch(word):
        return x + float(f"{follows[1]}{follows[2]}") if follows[1] else x
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"{shown(word)}: expected a number, R, U, X, or X with +0.1 or -0.1") from None


def _text(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig", errors="replace")
    except OSError:
        return ""


def _presets(text: str) -> dict[str, str]:
    """Lines NAME:values; such with # anywhere do not count."""
    found = {}
    for line in text.splitlines():
        name, colon, values = line.partition(":")
        if colon and name.strip() and "#" not in line:
            found[name.strip().upper()] = values.strip()
    return found


def _elements(text: str) -> dict[str, str]:
    """Entries NAME:BLOCKS:WORDS:RATIO, with more of BLOCKS:WORDS:RATIO behind commas or on further lines, and
    empty lines between entries."""
    found = {}
    for entry in re.split(r"\n\s*\n", text):
        lines = [line for line in entry.splitlines() if "#" not in line]
        name, colon, rest = "\n".join(lines).strip().partition(":")
        if colon and name.strip():
            found[name.strip().upper()] = rest.strip()
    return found
