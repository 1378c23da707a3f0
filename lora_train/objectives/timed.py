"""Timesteps: which of them a sample is noised to, and how often each is drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from lora_train.knobs import knob
from lora_train.timesteps import HEAVIEST, SHARES, cumulative, picked
from lora_train.values import numeral

WEIGHED = ("sigmoid", "logit_normal", "heavy_tail", "inverted_parabola", "beta")
BIASED = ("sigmoid", "logit_normal", "inverted_parabola", "beta")


@dataclasses.dataclass(frozen=True)
class Timed:
    """Which timesteps are drawn."""

    min_timestep: int = knob(
        0, "The least noisy step that is drawn; small steps are about detail.", group="loss", low=0,
        high=999)  # fmt: skip
    max_timestep: int = knob(
        1000, "Steps are drawn below this one; large steps are about composition.", group="loss", low=1,
        high=1000)  # fmt: skip
    timestep_distribution: str = knob(
        "uniform", "How often each step of the range is drawn. logit_normal and inverted_parabola prefer the "
        "middle, heavy_tail the ends; sigmoid and content prefer noisy steps, style those with little noise.",
        group="loss", choices=tuple(SHARES))  # fmt: skip
    noising_weight: float = knob(
        0.0, "How far timestep_distribution is from uniform; of logit_normal, 1 less than its spread; of "
        "beta, its alpha.", group="loss", low=-1000, high=1000)  # fmt: skip
    noising_bias: float = knob(
        0.0, "Moves timestep_distribution to noisier steps, below 0 to others; of beta, its beta.",
        group="loss", low=-1000, high=1000)  # fmt: skip
    timestep_shift: float = knob(
        1.0, "Above 1 noisier steps are drawn more often, below 1 less noisy ones; 1 changes nothing.",
        group="loss", low=0.01, high=100)  # fmt: skip
    fixed_timesteps_in_batch: bool = knob(
        False, "Noise all samples of a batch to the same step.", group="loss")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.min_timestep >= self.max_timestep:
            yield f"min_timestep = {self.min_timestep}: expected less than max_timestep = {self.max_timestep}"
            return
        kind, weight, bias = self.timestep_distribution, self.noising_weight, self.noising_bias
        given, lead = numeral(weight), f"with timestep_distribution = {self.timestep_distribution}"
        if kind == "logit_normal" and weight <= -1:
            yield f"noising_weight = {given}: expected above -1 {lead}"
        elif kind == "heavy_tail" and not -1 <= weight <= HEAVIEST:
            yield f"noising_weight = {given}: expected -1 to 1.75 {lead}"
        elif kind == "beta" and min(weight, bias) <= 0:
            yield f"noising_weight = {given}, noising_bias = {numeral(bias)}: expected both above 0 {lead}"
        else:
            try:
                self.shares(1000)
            except ValueError:
                yield f"noising_weight = {given}, noising_bias = {numeral(bias)}: no step is left {lead}"

    def shares(self, steps: int) -> Tensor | None:
        """Of the steps of the range, see `timesteps.cumulative`; None: each is drawn as often.

        Args:
            steps: of the model.
        """
        if self.timestep_distribution == "uniform" and self.timestep_shift == 1:
            return None
        count = min(self.max_timestep, steps) - self.min_timestep
        kind, weight, bias = self.timestep_distribution, self.noising_weight, self.noising_bias
        return cumulative(kind, count, weight, bias, self.timestep_shift)

    def step(self, steps: int, shares: Tensor | None, rng: torch.Generator) -> Tensor:
        """A sample's timestep, []."""
        if shares is None:
            return torch.randint(self.min_timestep, min(self.max_timestep, steps), (), generator=rng)
        u = torch.rand((), generator=rng, dtype=torch.float64)
        return self.min_timestep + picked(shares, u)

    def steps_at(self, steps: int, shares: Tensor | None, lots: Tensor) -> Tensor:
        """The timesteps of numbers in 0..1, uniform; [B] float64 both."""
        if shares is None:
            count = min(self.max_timestep, steps) - self.min_timestep
            return self.min_timestep + (lots * count).long()
        return self.min_timestep + picked(shares, lots)
