"""ReLoRA: every so often what was learned is kept, and fresh adapters start, so that low ranks add up to a
high one (Lialin et al. 2023, arXiv:2307.05695)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_train.adapters.family import Adapter, Family
from lora_train.adapters.layer import Layer
from lora_train.adapters.network import Network
from lora_train.draws import key
from lora_train.knobs import flat, knob
from lora_train.train.ema import Ema

if TYPE_CHECKING:
    from lora_train.train.lr import Constant

MOMENTS = (  # as libraries call them; the last two are bitsandbytes'
    "exp_avg", "exp_avg_sq", "exp_avg_diff", "exp_avg_slow", "momentum_buffer", "max_exp_avg_sq", "state1",
    "state2",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Relora:
    """When, and what becomes of the rate and of the optimizer's state."""

    steps: int | None = knob(
        None, "Keep what was learned after every so many steps, and go on with fresh adapters beside it, so "
        "that more is learned than one of their rank could. Empty: one adapter for all of the run.",
        group="relora", low=1, high=10_000_000, unit="steps", aka="relora_steps")  # fmt: skip
    warmup_steps: int = knob(
        10, "Steps in which the learning rate rises again after each restart.", group="relora", low=0,
        high=1_000_000, unit="steps", aka="relora_warmup_steps")  # fmt: skip
    prune_ratio: float = knob(
        0.9, "Share of the optimizer's moments that are forgotten at a restart, the smallest.",
        group="relora", low=0, high=1, aka="relora_prune_ratio")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.steps is not None and self.warmup_steps >= self.steps:
            yield f"warmup_steps = {self.warmup_steps}: expected fewer than steps, {self.steps}"

    def restarts(self, steps: int) -> int:
        """Of a run of so many steps. None after the last of them: nothing would be learned any more."""
        return 0 if self.steps is None else (steps - 1) // self.steps

    def due(self, step: int, steps: int) -> bool:
        """Whether fresh adapters start after a step, counted from 1."""
        return self.steps is not None and step < steps and step % self.steps == 0

    def factor(self, step: int) -> float:
        """Times the learning rate of a step, counted from 0 (section 3, the jagged schedule)."""
        if self.steps is None or step < self.steps:
            return 1.0
        return min(1.0, (step % self.steps + 1) / (self.warmup_steps + 1))


@dataclasses.dataclass(frozen=True)
class Jagged:
    """A schedule with the restarts' rises in it."""

    relora: Relora
    lr: Constant

    def factor(self, step: int, steps: int) -> float:
        return self.relora.factor(step) * self.lr.factor(step, steps)

    def at(self, step: int, steps: int, base: float) -> float:
        return self.relora.factor(step) * self.lr.at(step, steps, base)


@torch.no_grad()
def restart(  # noqa: PLR0913 (what there is to a restart)
    network: Network,
    optimizer: torch.optim.Optimizer,
    ratio: float,
    seed: int,
    step: int,
    make: Callable[[Layer], Adapter | None] | None = None,
) -> None:
    """Keep what the adapters add, and put fresh ones in their place, which depend on seed and step alone.

    Args:
        ratio: share of the optimizer's moments that is forgotten.
        make: as Network's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "relora", step))
        fresh = Network(network.family, network.layers.values(), make)
    network.restart(fresh)
    for parameter in (p for adapter in network.adapters.values() for p in adapter.parameters()):
        state = optimizer.state.get(parameter, {})
        for name in MOMENTS:
            if not isinstance(state.get(name), Tensor):
                continue
            if state[name].is_floating_point():
                prune(state[name], ratio)
            elif (table := state.get(name.replace("state", "qmap"))) is not None:
                prune_codes(state[name], table, state.get(name.replace("state", "absmax")), ratio)


def prune(values: Tensor, ratio: float) -> None:
    """Zero for all but the largest; appendix A of the paper takes 0.9 to 0.999 of them."""
    values.view(-1)[_smallest(values, ratio)] = 0


def prune_codes(codes: Tensor, table: Tensor, scales: Tensor | None, ratio: float) -> None:
    """The same of moments in 8 bits, as bitsandbytes holds them (arXiv:2110.02861, section 2).

    Args:
        codes: uint8, what stands for each moment.
        table: [256], what a code stands for.
        scales: of each block of them, as many in each as a power of two says; None: they have one together.
    """
    values = table[codes.flatten().long()].abs()
    if scales is not None and scales.numel() > 1:
        block = next(2**n for n in range(31) if -(-len(values) // 2**n) == scales.numel())
        values = values * scales.repeat_interleave(block)[: len(values)]
    codes.view(-1)[_smallest(values, ratio)] = int(table.abs().argmin())


def _smallest(values: Tensor, ratio: float) -> Tensor:
    """Where in the flat tensor this share of them is, the nearest to zero."""
    return values.abs().flatten().topk(round(ratio * values.numel()), largest=False).indices


def unfit(relora: Relora, family: Family, ema: Ema) -> Iterator[str]:
    """What of a job cannot go with restarts."""
    reasons = {
        "network.scale_weight_norms": "which would shrink only the newest of the adapters",
        "network.dim_from_weights": "for fresh adapters have the dims of the settings",
        "network.train_norm": "for norms have no rank that could grow",
        "ema.decay": "which would be a mean over adapters that have nothing to do with each other",
    }
    given = {f"network.{name}": value for name, value in flat(family).items()}
    given["ema.decay"] = ema.decay
    for path in reasons if relora.steps is not None else ():
        if given.get(path):
            yield f"relora.steps = {relora.steps}: cannot go with {path}, {reasons[path]}; leave one out"
    if relora.steps is not None and (family.linear or given.get("network.init") == "pissa"):
        yield (
            f"relora.steps = {relora.steps}: expected nothing; a fresh adapter of this kind starts in the "
            "same place as the one before, and could learn nothing that one could not"
        )


def unable(optimizer: torch.optim.Optimizer) -> str:
    """Why fresh adapters cannot start under an optimizer, as a clause; "" where they can."""
    name = type(optimizer).__name__
    if all(callable(getattr(optimizer, word, None)) for word in ("train", "eval")):
        return f"{name} averages weights over the whole run"
    if any("d" in group for group in optimizer.param_groups):
        return f"{name} finds its rate from how far weights are from where they began"
    return ""
