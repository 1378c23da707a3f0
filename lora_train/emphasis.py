"""Emphasis: what people type into the WebUI's prompts, as pieces of text with weights and named LoRAs."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence

from lora_train.values import shown

Piece = tuple[str, float]  # a text, and how much of it

CLOSING = {")": ("(", 1.1), "]": ("[", 1 / 1.1)}  # what opens it, and what is between is multiplied by
BREAK: Piece = ("BREAK", -1.0)  # the text after it begins a new chunk
PARTS = re.compile(
    r"\\[()\[\]\\]?"  # something that is meant as it stands
    r"|[(\[)\]]"
    r"|:\s*([+-]?[.\d]+)\s*\)"
    r"|[^\\()\[\]:]+"
    r"|:"
)
BREAKS = re.compile(r"\s*\bBREAK\b\s*")
TAG = re.compile(r"<(\w+):([^>]+)>")
KINDS = ("lora", "lyco")  # names the WebUI has for LoRAs
OTHERS = ("hypernet",)  # what else it reads in such brackets


def pieces(prompt: str) -> list[Piece]:
    r"""The WebUI's `parse_prompt_attention`: (x) is 1.1 of x, [x] 1/1.1, (x:1.3) 1.3; \( \) \[ \] \\ are the
    characters themselves; brackets that are not closed reach to the end.

    BREAK between round brackets is a word with a negative weight, as it is there. A weight that is no number,
    such as 1.2.3, stops the WebUI; here it is text.

    >>> pieces("a (house:1.3) [on] a hill")
    [('a ', 1.0), ('house', 1.3), (' ', 1.0), ('on', 0.9090909090909091), (' a hill', 1.0)]
    """
    found: list[list] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(start: int, factor: float) -> None:
        for piece in found[start:]:
            piece[1] *= factor

    for part in PARTS.finditer(prompt):
        text, number = part[0], _number(part[1])
        bracket, factor = CLOSING.get(text, ("", 1.0)) if number is None else ("(", number)
        if text.startswith("\\"):
            found.append([text[1:], 1.0])
        elif text in opened:
            opened[text].append(len(found))
        elif opened.get(bracket):
            multiply(opened[bracket].pop(), factor)
        else:
            for i, words in enumerate(BREAKS.split(text)):
                found += [[*BREAK], [words, 1.0]] if i else [[words, 1.0]]
    for bracket, factor in CLOSING.values():
        for start in opened[bracket]:
            multiply(start, factor)
    return _merged(found) or [("", 1.0)]


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        return None if text is None else float(text)
    return None


def _merged(found: Sequence[Sequence]) -> list[Piece]:
    """Neighbours of one weight are one piece: a word's tokens depend on what stands beside it."""
    merged: list[Piece] = []
    for text, weight in found:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged


def literal(text: str) -> str:
    r"""A prompt that reads as the text itself: "a (b)" -> "a \(b\)"."""
    return re.sub(r"[\\()\[\]]", r"\\\g<0>", text)


@dataclasses.dataclass(frozen=True)
class Named:
    """A LoRA that a prompt asks for."""

    name: str  # a file's, without its ending
    te: float = 1.0  # strength on the text encoder
    unet: float = 1.0


def loras(prompt: str) -> tuple[str, list[Named]]:
    """The prompt without its <lora:name:te:unet>, and what they say; the UNet's strength is the text
    encoder's if it is not given. te= and unet= may stand in their places.

    >>> loras("a cat <lora:style:0.8><lora:eyes:1:unet=0.5>")
    ('a cat ', [Named(name='style', te=0.8, unet=0.8), Named(name='eyes', te=1.0, unet=0.5)])

    Raises:
        ValueError: something in such brackets that cannot be done, or read.
    """
    found: list[Named] = []

    def taken(tag: re.Match[str]) -> str:
        if tag[1] in OTHERS:
            raise ValueError(
                f"{tag[0]}: expected <lora:name:strength>; hypernetworks are not in this version"
            )
        if tag[1] not in KINDS:
            return tag[0]
        found.append(_named(tag[0], tag[2].split(":")))
        return ""

    return TAG.sub(taken, prompt), found


def _named(tag: str, words: Sequence[str]) -> Named:
    values: dict[str, str] = {}
    names = iter(("name", "te", "unet", "dyn"))
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in ("te", "unet", "dyn"):
            values[name] = value
        else:
            values.setdefault(next(names, "more"), word)
    if "dyn" in values or "more" in values:
        raise ValueError(f"{tag}: expected <lora:name:te:unet>; a fourth value is not in this version")
    if not values.get("name", "").strip():
        raise ValueError(f"{tag}: expected a file's name, as in <lora:name:1>")
    te = _strength(tag, values.get("te", "1"))
    return Named(values["name"].strip(), te, _strength(tag, values["unet"]) if "unet" in values else te)


def _strength(tag: str, text: str) -> float:
    number = _number(text.strip())
    if number is None or not abs(number) <= 100:  # nan neither
        raise ValueError(f"{tag}: {shown(text)} is no strength; expected a number such as 0.8")
    return number
