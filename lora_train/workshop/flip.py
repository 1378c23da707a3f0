"""Flip: mirrored and turned copies of pictures, whose captions say left for right."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from PIL import Image

from lora_train.knobs import knob
from lora_train.workshop.beside import OfPictures, One
from lora_train.workshop.work import Touched

TURNS = {  # what is done, and what stands behind the name; degrees are with the clock
    "mirror": (Image.Transpose.FLIP_LEFT_RIGHT, "_flip"),
    "upside_down": (Image.Transpose.FLIP_TOP_BOTTOM, "_vflip"),
    "90": (Image.Transpose.ROTATE_270, "_r90"),
    "180": (Image.Transpose.ROTATE_180, "_r180"),
    "270": (Image.Transpose.ROTATE_90, "_r270"),
}
SIDES = {"left": "right", "right": "left", "左": "右", "右": "左"}
SIDE = re.compile(r"(?<![^\W_])(left|right)(?![^\W_])|[左右]", re.IGNORECASE)
SPARED = re.compile(
    r"\b(?:all|quite|just)[ _]right\b|\bright[ _](?:now|away|angle)|\bleft[ _](?:over|behind|alone)\b",
    re.IGNORECASE)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Flip(OfPictures):
    """Write mirrored or turned copies of pictures, with their captions."""

    turn: tuple[str, ...] = knob(
        ("mirror",), "What to make: mirror, left for right; upside_down; 90, 180 or 270 degrees with the "
        "clock. A copy for each: NAME_flip, NAME_vflip, NAME_r90 and so on; those that are there are left.",
        group="flip", choices=tuple(TURNS), basic=True)  # fmt: skip
    sides: bool = knob(
        True, "In captions of mirrored pictures, left and right (and 左 and 右) change places.", group="flip",
        basic=True)  # fmt: skip
    in_place: bool = knob(
        False, "Turn the pictures themselves, in place of copies.", group="output")  # fmt: skip

    title = "flip"

    def check(self) -> Iterator[str]:
        yield from super().check()
        if not self.turn:
            yield "turn: expected mirror, upside_down, 90, 180 or 270"
        if self.in_place and len(self.turn) > 1:
            yield f"turn = {','.join(self.turn)}: expected one, for with in_place there are no copies"

    def one(self, one: One) -> Iterator[Touched]:
        if one.copied(f"({'|'.join(end for _, end in TURNS.values())})"):
            return
        text = one.opened.text(one.entry)
        shot = one.shot()
        for name in dict.fromkeys(self.turn):
            way, end = TURNS[name]
            reword = mirrored if name == "mirror" and self.sides else str
            after = reword(text)
            what = self._said(name, text)
            changed = {"before": text, "after": after} if after != text else {}

            def turn(image: Image.Image, way: Image.Transpose = way) -> Image.Image:
                return image.transpose(way)

            if self.in_place:
                one.replace(shot, turn)
                one.rewrite(reword)
                yield Touched(one.entry.name, what or name, **changed)
                continue
            made = one.copy(shot, turn, end, reword)
            if made is None:
                yield Touched(one.entry.name, f"{end} is there already", left=True)
            else:
                yield Touched(one.entry.name, f"as {made}{what and '; '}{what}", **changed)

    def _said(self, name: str, text: str) -> str:
        """What to look at by hand."""
        told = SIDE.search(text) and not (name == "mirror" and self.sides)
        return "its caption says left or right" if told else ""


def mirrored(text: str) -> str:
    """With left and right in each other's place, but where they are plainly no sides.

    >>> mirrored("Left hand up, looking_right, upright, all right")
    'Right hand up, looking_left, upright, all right'
    """
    spared = [match.span() for match in SPARED.finditer(text)]

    def other(match: re.Match) -> str:
        word = match[0]
        if any(start <= match.start() < end for start, end in spared):
            return word
        found = SIDES[word.lower()]
        if word.isupper():
            return found.upper()
        return found.capitalize() if word[0].isupper() else found

    return SIDE.sub(other, text)
