"""Looks: how a picture is shown this time."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable

from lora_train.knobs import knob


@dataclasses.dataclass(frozen=True)
class Look:
    """What was drawn for one showing."""

    flip: bool = False


@dataclasses.dataclass(frozen=True)
class LookRules:
    """How a picture may be changed from one showing to the next."""

    flip_aug: bool = knob(
        False, "Show each picture mirrored half of the time; not for what has a left and a right, like text.",
        group="augmentation")  # fmt: skip
    color_aug: bool = knob(False, "Change colours a little each time.", group="augmentation")
    random_crop: bool = knob(False, "Cut at another place each time.", group="augmentation")
    rotate_aug: float = knob(0.0, "Largest angle.", group="augmentation", low=0, high=180)
    face_crop_aug_range: tuple[float, ...] | None = knob(None, "Faces.", group="augmentation")
    transparent_color: str = knob("white", "Laid under transparent pixels.", group="data")
    resize_interpolation: str | None = knob(None, "How pictures are resized.", group="data")

    def check(self) -> Iterable[str]:
        return ()

    @property
    def fixed(self) -> bool:
        return True

    def draw(self, rng: random.Random) -> Look:
        return Look(flip=rng.random() < 0.5 and self.flip_aug)
