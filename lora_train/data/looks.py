"""Looks: how a picture is shown this time, and how it may be."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

from PIL import ImageColor

from lora_train.knobs import knob
from lora_train.values import shown

CHANCE = 1 / 3  # of each change of colours; sd-scripts' 0.33
HUE, SATURATION, BRIGHTNESS, GAMMA = 16.0, 0.1, 0.05, 0.05  # degrees, and shares: the most of each
INTERPOLATIONS = ("lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "area", "box")


@dataclasses.dataclass(frozen=True)
class Colour:
    """Changes of colours."""

    hue: float = 0.0  # degrees around the wheel
    saturation: float = 1.0  # factors
    brightness: float = 1.0
    gamma: float = 1.0  # exponent of values between 0 and 1


@dataclasses.dataclass(frozen=True)
class Face:
    """How a crop around a face was drawn; see pictures.around."""

    range: tuple[float, float]  # of the crop's shorter side, in sizes of the face
    scale: float  # 0 to 1: where between them
    shift: tuple[float, float]  # -1 to 1: how far the face is off the middle
    free: bool  # shifted as far as the picture goes, and not just a little


@dataclasses.dataclass(frozen=True)
class Look:
    """What was drawn for one showing. What it says nothing of is as without any rule."""

    flip: bool = False
    crop: tuple[float, float] | None = None  # 0 to 1: where between the left and right, top and bottom ends
    angle: float = 0.0  # degrees, against the clock
    colour: Colour | None = None
    face: Face | None = None  # acts on pictures whose name says where a face is


@dataclasses.dataclass(frozen=True)
class LookRules:
    """How a picture may be changed from one showing to the next."""

    flip_aug: bool = knob(
        False, "Show each picture mirrored half of the time; not for what has a left and a right, like text.",
        group="augmentation")  # fmt: skip
    color_aug: bool = knob(
        False, "Change colours a little each time: hue by up to 16 degrees, saturation by a tenth, "
        "brightness and gamma by a twentieth, each in one of three showings.",
        group="augmentation")  # fmt: skip
    random_crop: bool = knob(
        False, "Cut what does not fit into the bucket at another place each time, and not around the middle.",
        group="augmentation")  # fmt: skip
    rotate_aug: float = knob(
        0.0, "Turn each picture by up to so many degrees either way, and cut it so that no corner is empty.",
        group="augmentation", low=0, high=180, unit="degrees")  # fmt: skip
    face_crop_aug_range: tuple[float, ...] | None = knob(
        None, "Cut around the face in pictures named like x_320_200_96_128.png (middle and size of the "
        "face): the crop's shorter side is between these two times the face's longer one, such as 1.0,3.0.",
        group="augmentation", low=0.1, high=100)  # fmt: skip
    transparent_color: str = knob(
        "white", "Colour under transparent pixels: a name or #rrggbb.", group="data")  # fmt: skip
    resize_interpolation: str | None = knob(
        None, "How pictures are resized. Empty: area to make them smaller, Lanczos to make them larger.",
        group="buckets", choices=INTERPOLATIONS)  # fmt: skip

    def check(self) -> Iterable[str]:
        try:
            ImageColor.getrgb(self.transparent_color)
        except ValueError:
            given = shown(self.transparent_color)
            yield f"transparent_color = {given}: expected a colour, such as grey or #808080"
        span = self.face_crop_aug_range
        if span is not None and (len(span) != 2 or span[0] > span[1]):
            given = ",".join(map(str, span))
            yield f"face_crop_aug_range = {given}: expected two numbers, the smaller first, such as 1.0,3.0"
        if span is not None and self.rotate_aug:
            yield "rotate_aug: expected none beside face_crop_aug_range, which needs faces where names say"

    @property
    def fixed(self) -> bool:
        """Whether every view of a picture can be kept: it is as it is, or mirrored."""
        return not (self.color_aug or self.random_crop or self.rotate_aug or self.face_crop_aug_range)

    def draw(self, rng: random.Random) -> Look:
        """The flip is drawn always and first, the rest only where its rule is on."""
        flip = rng.random() < 0.5 and self.flip_aug
        crop = (rng.random(), rng.random()) if self.random_crop else None
        angle = rng.uniform(-self.rotate_aug, self.rotate_aug) if self.rotate_aug else 0.0
        colour = _colour(rng) if self.color_aug else None
        return Look(flip, crop, angle, colour, self._face(rng))

    def _face(self, rng: random.Random) -> Face | None:
        if self.face_crop_aug_range is None:
            return None
        low, high = self.face_crop_aug_range
        # the sum of two draws: off the middle, but more often near it, as in sd-scripts
        shift = [rng.random() + rng.random() - 1 if self.random_crop else 2 * rng.random() - 1 for _ in "xy"]
        return Face((low, high), rng.random(), (shift[0], shift[1]), self.random_crop)


def _colour(rng: random.Random) -> Colour:
    def near(middle: float, most: float) -> float:
        changed = rng.random() < CHANCE
        return middle + most * rng.uniform(-1, 1) if changed else middle

    return Colour(near(0.0, HUE), near(1.0, SATURATION), near(1.0, BRIGHTNESS), near(1.0, GAMMA))
