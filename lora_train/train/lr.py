"""Schedules: the course of a learning rate over a run, as a closed form of its progress."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import ClassVar

from lora_train.train.rates import Constant
from lora_train.values import either, shown


@dataclasses.dataclass(frozen=True)
class ConstantWithWarmup(Constant):
    """Up in a straight line, then the same rate."""

    def complaints(self) -> Iterable[str]:
        return ()

    def warmup(self, steps: int) -> int:
        return _count(self.lr_warmup_steps, steps)

    def factor(self, step: int, steps: int) -> float:
        rising = self.warmup(steps)
        if step < rising:
            return step / max(1, rising)
        return self.course((step - rising) / max(1, steps - rising))

    def course(self, done: float) -> float:
        """The factor after the warm-up, `done` of the way: 0 to 1."""
        return 1.0


def _count(given: float, steps: int) -> int:
    """Steps, or below 1 a share of them."""
    return int(given if given >= 1 else given * steps)


class Moving(ConstantWithWarmup):
    """Those that go on after the warm-up."""

    STEADY = False


@dataclasses.dataclass(frozen=True)
class Linear(Moving):
    """Up, then down to 0 in a straight line."""

    def course(self, done: float) -> float:
        return max(0.0, 1 - done)


@dataclasses.dataclass(frozen=True)
class Cosine(Moving):
    """Up, then down to 0 along half a cosine (Loshchilov and Hutter 2016, arXiv:1608.03983, one cycle)."""

    def course(self, done: float) -> float:
        return max(0.0, 0.5 * (1 + math.cos(math.pi * done)))


@dataclasses.dataclass(frozen=True)
class CosineWithRestarts(Moving):
    """Up, then down to 0 along half a cosine, num_cycles times from the top (the same paper)."""

    def course(self, done: float) -> float:
        cycles = self.lr_scheduler_num_cycles
        return 0.0 if done >= 1 else max(0.0, 0.5 * (1 + math.cos(math.pi * (cycles * done % 1))))


@dataclasses.dataclass(frozen=True)
class CosineWithMinLr(Moving):
    """Up, then along a cosine to a share of the rate."""

    FLOOR: ClassVar[float] = 0.1

    def course(self, done: float) -> float:
        given = self.lr_scheduler_min_lr_ratio
        low = self.FLOOR if given is None else given
        wave = 0.5 * (1 + math.cos(math.pi * self.lr_scheduler_num_cycles * done))
        return max(0.0, wave * (1 - low) + low)


@dataclasses.dataclass(frozen=True)
class Polynomial(Moving):
    """Up, then down along (1 - p) to a power, to a rate that diffusers puts at 1e-7."""

    ARGUMENTS: ClassVar[dict[str, object]] = {"lr_end": 1e-7}

    def complaints(self) -> Iterable[str]:
        end = self.argument("lr_end")
        if not isinstance(end, int | float) or isinstance(end, bool) or end < 0:
            yield f"lr_scheduler_args = lr_end={shown(end)}: expected a rate"
        elif self.learning_rate is not None and not end < self.learning_rate:
            yield f"lr_scheduler_args = lr_end={end}: expected less than learning_rate, {self.learning_rate}"

    def at(self, step: int, steps: int, base: float) -> float:
        if self.lr_scheduler_type is None and self.learning_rate is None:
            return dataclasses.replace(self, learning_rate=base).at(step, steps, base)
        return super().at(step, steps, base)

    def course(self, done: float) -> float:
        end = self.argument("lr_end") / self.learning_rate
        return (1 - end) * max(0.0, 1 - done) ** self.lr_scheduler_power + end


@dataclasses.dataclass(frozen=True)
class InverseSqrt(Moving):
    """Up, then down with the square root of time (Raffel et al. 2019, arXiv:1910.10683, section 3.1.2)."""

    def factor(self, step: int, steps: int) -> float:
        rising = self.warmup(steps)
        scale = self.lr_scheduler_timescale or rising or 10_000
        return step / max(1, rising) if step < rising else math.sqrt(scale / (step - rising + scale))


DECAYS = {
    "linear": lambda p: 1 - p,
    "cosine": lambda p: 0.5 * (1 + math.cos(math.pi * p)),
    "1-sqrt": lambda p: 1 - math.sqrt(p),
}


@dataclasses.dataclass(frozen=True)
class WarmupStableDecay(Moving):
    """Up, level, and down over the last lr_decay_steps (Hu et al. 2024, arXiv:2404.06395, section 4)."""

    ARGUMENTS: ClassVar[dict[str, object]] = {"warmup_type": "linear", "decay_type": "cosine"}

    def complaints(self) -> Iterable[str]:
        for name in self.ARGUMENTS:
            if self.argument(name) not in DECAYS:
                yield f"lr_scheduler_args = {name}={shown(self.argument(name))}: expected {either(DECAYS)}"
        if not self.lr_decay_steps:
            yield "lr_decay_steps = 0: expected the steps in which warmup_stable_decay falls, such as 0.2"

    def factor(self, step: int, steps: int) -> float:
        rising, falling = self.warmup(steps), _count(self.lr_decay_steps, steps)
        low = self.lr_scheduler_min_lr_ratio or 0.0
        if step < rising:
            return DECAYS[self.argument("warmup_type")](1 - step / max(1, rising)) * (1 - low) + low
        if step < steps - falling:
            return 1.0
        done = min(1.0, (step - (steps - falling)) / max(1, falling))
        kind = self.argument("decay_type")
        bend = done * self.lr_scheduler_num_cycles if kind == "cosine" else done
        return max(0.0, DECAYS[kind](bend) * (1 - low) + low)


@dataclasses.dataclass(frozen=True)
class PiecewiseConstant(Constant):
    """Levels: `step_rules=1:100,0.1:200,0.01` is the rate up to step 100, a tenth of it up to 200, and then
    a hundredth."""

    STEADY = False
    ARGUMENTS: ClassVar[dict[str, object]] = {"step_rules": ""}

    def complaints(self) -> Iterable[str]:
        if self.lr_warmup_steps:
            yield "lr_warmup_steps: piecewise_constant has no warm-up; begin step_rules with a low level"
        try:
            self.levels()
        except ValueError:
            rules = shown(str(self.argument("step_rules")))
            yield f"lr_scheduler_args = step_rules={rules}: expected such as step_rules=1:100,0.1:200,0.01"

    def levels(self) -> list[tuple[float, float]]:
        """(steps up to which it holds, factor), in order.

        Raises:
            ValueError: they cannot be read.
        """
        rules = self.argument("step_rules")
        *most, last = (",".join(map(str, rules)) if isinstance(rules, tuple) else str(rules)).split(",")
        found = sorted((int(end), float(factor)) for factor, _, end in (rule.partition(":") for rule in most))
        found.append((math.inf, float(last)))
        if not all(math.isfinite(factor) and factor >= 0 for _, factor in found):
            raise ValueError(rules)
        return found

    def factor(self, step: int, steps: int) -> float:
        return next(factor for end, factor in self.levels() if step < end)


@dataclasses.dataclass(frozen=True)
class Rex(Moving):
    """Up, then down late: (1 - p)/((1 - d) + d(1 - p)) (Chen et al. 2021, arXiv:2107.04197, with d = 1/2)."""

    ARGUMENTS: ClassVar[dict[str, object]] = {"d": 0.9}

    def complaints(self) -> Iterable[str]:
        d = self.argument("d")
        if not isinstance(d, int | float) or not 0 <= d < 1:
            yield f"lr_scheduler_args = d={shown(d)}: expected 0 or more and less than 1"

    def course(self, done: float) -> float:
        d, left = self.argument("d"), max(0.0, 1 - done)
        return left / ((1 - d) + d * left)


@dataclasses.dataclass(frozen=True)
class OneCycle(Moving):
    """From 1/25 of the rate up along a cosine, then down to nearly nothing (Smith and Topin 2017,
    arXiv:1708.07120; the shape is torch's OneCycleLR). It rises for 0.3 of the run where nothing is set."""

    ARGUMENTS: ClassVar[dict[str, object]] = {"div_factor": 25.0, "final_div_factor": 1e4}

    def complaints(self) -> Iterable[str]:
        for name in self.ARGUMENTS:
            number = self.argument(name)
            if not isinstance(number, int | float) or number < 1:
                yield f"lr_scheduler_args = {name}={shown(number)}: expected 1 or more"

    def factor(self, step: int, steps: int) -> float:
        given = self.lr_warmup_steps or 0.3
        peak = (given if given >= 1 else given * steps) - 1
        low = 1 / self.argument("div_factor")
        if step <= peak:
            return _swing(low, 1.0, step / peak if peak else 1.0)
        return _swing(1.0, low / self.argument("final_div_factor"), (step - peak) / max(1, steps - 1 - peak))


def _swing(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclasses.dataclass(frozen=True)
class OfAdafactor(Constant):
    """The rate that Adafactor with relative_step chooses by itself (arXiv:1804.04235, section 8)."""

    def complaints(self) -> Iterable[str]:
        if self.lr_warmup_steps:
            yield "lr_warmup_steps: Adafactor's own schedule has none of ours; set optimizer.warmup_init"

    def at(self, step: int, steps: int, base: float) -> float:
        """Before it is scaled by the size of the weights; the optimizer computes the same for itself."""
        return min(1e-2, 1 / math.sqrt(step + 1))


SCHEDULERS = {
    "constant": Constant,
    "constant_with_warmup": ConstantWithWarmup,
    "linear": Linear,
    "cosine": Cosine,
    "cosine_with_restarts": CosineWithRestarts,
    "cosine_with_min_lr": CosineWithMinLr,
    "polynomial": Polynomial,
    "inverse_sqrt": InverseSqrt,
    "warmup_stable_decay": WarmupStableDecay,
    "piecewise_constant": PiecewiseConstant,
    "rex": Rex,
    "one_cycle": OneCycle,
    "adafactor": OfAdafactor,
}
