"""Learning rates: one for each part, and their course over a run as a closed form of its progress."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from lora_train.knobs import knob


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same rate at every step."""

    learning_rate: float = knob(
        1e-4, "Learning rate of every part that has none of its own.", group="rates", low=0, high=100,
        aka="learning_rate", basic=True)  # fmt: skip
    unet_lr: float | None = knob(
        None, "Learning rate of the UNet's adapters; overrides learning_rate.", group="rates", low=0, high=100
    )
    text_encoder_lr: float | None = knob(
        None, "Learning rate of the text encoder's adapters; overrides learning_rate.", group="rates", low=0,
        high=100)  # fmt: skip
    text_encoder_lr2: float | None = knob(
        None, "Learning rate of the second text encoder's adapters (SDXL). Empty: as text_encoder_lr.",
        group="rates", low=0, high=100)  # fmt: skip
    lr_warmup_steps: float = knob(
        0.0, "Steps in which the rate rises from 0; below 1 it is a share of the run's steps.",
        group="rates", low=0, high=1e6)  # fmt: skip

    def check(self) -> Iterable[str]:
        text, unet = "network_train_text_encoder_only", "network_train_unet_only"
        for name, value in (("learning_rate", self.learning_rate), ("unet_lr", self.unet_lr)):
            if value == 0:
                yield f"{name} = 0: expected more than 0; to leave the UNet as it is, set {text}"
        for name, value in (
            ("text_encoder_lr", self.text_encoder_lr),
            ("text_encoder_lr2", self.text_encoder_lr2),
        ):
            if value == 0:
                yield f"{name} = 0: expected more than 0; to leave text encoders as they are, set {unet}"
        yield from self.complaints()

    def complaints(self) -> Iterable[str]:
        if self.lr_warmup_steps:
            yield "lr_warmup_steps: the constant schedule has no warm-up; choose constant_with_warmup"

    def rate(self, part: str) -> float:
        """The rate that `factor` is multiplied with, of part "unet", "te1" or "te2"."""
        own = self.unet_lr if part == "unet" else self.text_encoder_lr
        if part == "te2" and self.text_encoder_lr2 is not None:
            own = self.text_encoder_lr2
        return self.learning_rate if own is None else own

    def factor(self, step: int, steps: int) -> float:
        """What the rates are multiplied with at `step`, counted from 0, of a run of `steps`."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class ConstantWithWarmup(Constant):
    """Up in a straight line, then the same rate."""

    def complaints(self) -> Iterable[str]:
        return ()

    def warmup(self, steps: int) -> int:
        return int(self.lr_warmup_steps if self.lr_warmup_steps >= 1 else self.lr_warmup_steps * steps)

    def factor(self, step: int, steps: int) -> float:
        rising = self.warmup(steps)
        if step < rising:
            return step / max(1, rising)
        return self.course((step - rising) / max(1, steps - rising))

    def course(self, done: float) -> float:
        """The factor after the warm-up, `done` of the way: 0 to 1."""
        return 1.0


@dataclasses.dataclass(frozen=True)
class Linear(ConstantWithWarmup):
    """Up, then down to 0 in a straight line."""

    def course(self, done: float) -> float:
        return max(0.0, 1 - done)


@dataclasses.dataclass(frozen=True)
class Cosine(ConstantWithWarmup):
    """Up, then down to 0 along half a cosine (Loshchilov and Hutter 2016, arXiv:1608.03983, one cycle)."""

    def course(self, done: float) -> float:
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))


SCHEDULERS = {
    "constant": Constant,
    "constant_with_warmup": ConstantWithWarmup,
    "linear": Linear,
    "cosine": Cosine,
}
