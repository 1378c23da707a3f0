"""Learning rates: one for each part, and what a schedule is given; by itself the rate stays as it is."""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterable
from typing import ClassVar

import torch

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.train.library import loaded, refused, told
from lora_train.values import either, shown


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same rate at every step."""

    learning_rate: float | None = knob(
        None, "Learning rate of every part that has none of its own. Empty: the optimizer's usual one.",
        group="rates", low=0, high=100, aka="learning_rate", basic=True)  # fmt: skip
    unet_lr: float | None = knob(
        None, "Learning rate of the UNet's adapters; overrides learning_rate.", group="rates", low=0, high=100
    )
    text_encoder_lr: float | None = knob(
        None, "Learning rate of the text encoder's adapters; overrides learning_rate.", group="rates", low=0,
        high=100)  # fmt: skip
    text_encoder_lr2: float | None = knob(
        None, "Learning rate of the second text encoder's adapters (SDXL). Empty: as text_encoder_lr.",
        group="rates", low=0, high=100)  # fmt: skip
    scale_lr: bool = knob(
        False, "Multiply the rates with how many pictures a step has: batch size, gradient accumulation and "
        "processes together. The file names the rates that came of it.", group="rates")  # fmt: skip
    lr_warmup_steps: float = knob(
        0.0, "Steps in which the rate rises from 0; below 1 it is a share of the run's steps.",
        group="rates", low=0, high=1e6)  # fmt: skip
    lr_decay_steps: float = knob(
        0.0, "Steps at the end in which warmup_stable_decay falls; below 1 a share of the run's steps.",
        group="rates", low=0, high=1e6)  # fmt: skip
    lr_scheduler_num_cycles: int = knob(
        1, "Times that cosine_with_restarts falls to 0, and that other cosines with a floor do.",
        group="rates", low=1, high=1_000_000)  # fmt: skip
    lr_scheduler_power: float = knob(
        1.0, "Bend of the polynomial schedule; 1 is a straight line.", group="rates", low=0, high=100
    )
    lr_scheduler_timescale: int | None = knob(
        None, "Steps by which inverse_sqrt measures time. Empty: those of the warm-up, or 10000.",
        group="rates", low=1, high=10_000_000, unit="steps")  # fmt: skip
    lr_scheduler_min_lr_ratio: float | None = knob(
        None, "Share of the rate at which cosine_with_min_lr and warmup_stable_decay end. Empty: 0.1 and 0.",
        group="rates", low=0, high=1)  # fmt: skip
    lr_scheduler_type: str | None = knob(
        None, "Class of a schedule, as module.Class; without a module it is torch's. Overrides lr.kind.",
        group="rates")  # fmt: skip
    lr_scheduler_args: tuple[str, ...] = knob(
        (), "More arguments of the schedule, each name=value, such as step_rules=1:100,0.1:200,0.01.",
        group="rates")  # fmt: skip

    STEADY: ClassVar[bool] = True  # whether it stays as it is after a warm-up
    ARGUMENTS: ClassVar[dict[str, object]] = {}  # what lr_scheduler_args may say, and what is so otherwise

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
        try:
            given = told(self.lr_scheduler_args)
        except Mistake as e:
            yield f"lr_scheduler_args: {e}"
            return
        if self.lr_scheduler_type is None:
            lost = [name for name in given if name not in self.ARGUMENTS]
            hint = f"expected {either(self.ARGUMENTS)}" if self.ARGUMENTS else "this schedule has none"
            yield from (f"lr_scheduler_args = {name}: {hint}" for name in lost)
            yield from () if lost else self.complaints()
            return
        if self.lr_warmup_steps:
            yield "lr_warmup_steps: a schedule by its class has no warm-up of ours; leave it out"
        try:
            cls = loaded(self._path, _bases(), "a schedule of torch's kind")
        except Mistake as e:
            yield f"lr_scheduler_type = {e}"
        else:
            yield from (f"lr_scheduler_args = {line}" for line in refused(cls, given))

    def complaints(self) -> Iterable[str]:
        if self.lr_warmup_steps:
            yield "lr_warmup_steps: the constant schedule has no warm-up; choose constant_with_warmup"

    @property
    def steady(self) -> bool:
        """Whether the rate stays as it is after a warm-up."""
        return self.STEADY and self.lr_scheduler_type is None

    @property
    def _path(self) -> str:
        name = self.lr_scheduler_type or ""
        return name if "." in name else f"torch.optim.lr_scheduler.{name}"

    def argument(self, name: str) -> object:
        """One of ARGUMENTS."""
        return told(self.lr_scheduler_args).get(name, self.ARGUMENTS[name])

    def filled(self, usual: float | None) -> Constant:
        """With the rate that is used where none is given.

        Args:
            usual: the optimizer's.
        """
        return self if self.learning_rate is not None else dataclasses.replace(self, learning_rate=usual)

    def scaled(self, times: int) -> Constant:
        """With the rates that `scale_lr` comes to, where it is asked for.

        Args:
            times: pictures to a step.
        """
        if not self.scale_lr:
            return self
        names = ("learning_rate", "unet_lr", "text_encoder_lr", "text_encoder_lr2")
        found = {name: vars(self)[name] * times for name in names if vars(self)[name] is not None}
        return dataclasses.replace(self, **found, scale_lr=False)

    def rate(self, part: str) -> float:
        """The rate that `factor` is multiplied with, of part "unet", "te1" or "te2"; `filled` comes first."""
        own = self.unet_lr if part == "unet" else self.text_encoder_lr
        if part == "te2" and self.text_encoder_lr2 is not None:
            own = self.text_encoder_lr2
        return self.learning_rate if own is None else own

    def at(self, step: int, steps: int, base: float) -> float:
        """The rate at `step`, counted from 0, of a run of `steps`, for parameters whose own rate is `base`.

        Raises:
            Mistake: a class by lr_scheduler_type cannot tell.
        """
        if self.lr_scheduler_type is None:
            return base * self.factor(step, steps)
        return played(self._path, self.lr_scheduler_args, base, steps)[step]

    def factor(self, step: int, steps: int) -> float:
        """What the rates are multiplied with at `step`, counted from 0, of a run of `steps`."""
        return 1.0


def _bases() -> tuple[type, ...]:
    return (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


@functools.lru_cache(maxsize=256)
def played(path: str, words: tuple[str, ...], base: float, steps: int) -> tuple[float, ...]:
    """The rates that a class of torch's kind gives over a run, played through first: so the curve is known
    before the start, and a resumed run has nothing of it to restore.

    Raises:
        Mistake: it does not come through, or follows something else than steps.
    """
    cls = loaded(path, _bases(), "a schedule of torch's kind")
    lead = f"lr.lr_scheduler_type = {shown(path)}"
    if issubclass(cls, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise Mistake(f"{lead}: it follows the loss, and rates here follow the step alone; choose another")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    group, rates = optimizer.param_groups[0], []
    before = {name: value for name, value in group.items() if name not in ("lr", "params")}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            schedule = cls(optimizer, **told(words))
            for _ in range(steps):
                rates.append(float(group["lr"]))
                if any(group[name] != value for name, value in before.items()):
                    raise ValueError("it sets momentum too, and only rates follow a schedule here")
                if len(rates) < steps:  # the order torch warns about is of no matter without weights
                    schedule.step()
    except Exception as e:  # noqa: BLE001 (whatever a class of others raises at its arguments)
        why = "".join(str(e).splitlines()[:1]) or type(e).__name__
        more = "; set cycle_momentum=False in lr_scheduler_args" if "momentum" in why else ""
        raise Mistake(f"{lead}: it stops at step {len(rates)} of {steps} ({why}){more}") from e
    bad = next((i for i, rate in enumerate(rates) if not (math.isfinite(rate) and rate >= 0)), None)
    if bad is not None:
        raise Mistake(f"{lead}: its rate at step {bad} is {rates[bad]}; expected 0 or more")
    return tuple(rates)
