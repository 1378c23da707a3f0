"""ADDifT: learn the difference of two pictures from the model's own predictions of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_train.data.pairs import Differences, Pair
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.losses import averaged
from lora_train.objectives.objective import Pass
from lora_train.objectives.paired import Paired, at
from lora_train.objectives.timed import Timed
from lora_train.objectives.weighed import Weighed
from lora_train.transfer import sent

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.data.cache import Latents
    from lora_train.data.folder import Item
    from lora_train.host import Cond, Lent

TENTHS = 10


@dataclasses.dataclass(frozen=True)
class Addift(Timed, Weighed, Paired):
    """Learn, in few steps, what makes one picture of a pair the other, up and down by the strength."""

    pair_strength: float = knob(
        0.25, "Strength of the adapter while it is learned; what is learned then acts as many times more at "
        "1.", group="pairs", low=0.001, high=10)  # fmt: skip
    diff_alt_ratio: float = knob(
        1.0, "Times pair_strength, below zero, when the way back is learned; 0: it is not. Below 0: from "
        "noise alone, at its size.", group="pairs", low=-10, high=10)  # fmt: skip
    diff_use_diff_mask: bool = knob(
        False, "Learn only where the two pictures differ.", group="pairs")  # fmt: skip
    timestep_walk: bool = knob(
        True, "Go through the range of timesteps in tenths, sample by sample, rather than by chance.",
        group="pairs")  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from Timed.check(self)
        yield from Weighed.check(self)
        if self.timestep_walk and self.max_timestep - self.min_timestep < TENTHS:
            yield f"timestep_walk: expected at least {TENTHS} steps from min_timestep to max_timestep"

    @property
    def window(self) -> tuple[int, int]:
        return self.min_timestep, self.max_timestep

    def record(self) -> dict[str, object]:
        return self.costs()

    def shown(self, pair: Pair) -> Sequence[Item]:
        """There at pair_strength, and back below zero."""
        first, second = pair
        there = dataclasses.replace(second, twin=first, strength=self.pair_strength)
        back = -self.pair_strength * abs(self.diff_alt_ratio)
        return [there, dataclasses.replace(first, twin=second, strength=back)] if back else [there]

    def seen(self, latents: Latents) -> Latents:
        return Differences(latents) if self.diff_use_diff_mask else latents

    def begin(self, lent: Lent, network: Network) -> Adding:
        """Raises Mistake: undefined for what the model predicts."""
        schedule = lent.schedule
        if said := self.refusals(schedule.prediction, schedule.last_is_noise):
            raise Mistake("\n".join(f"objective.{line}" for line in said))
        return Adding(self, network, len(schedule))


class Adding(Pass):
    """One run of it."""

    def __init__(self, settings: Addift, network: Network, steps: int):
        self.settings, self.network = settings, network
        self.shares = settings.shares(steps)

    def during(self, batch: Batch) -> contextlib.AbstractContextManager[None]:
        return at(self.network, batch)

    def losses(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> Tensor:
        """See `Pass`; step, then noise are drawn from a sample's generator."""
        t, noise = self.drawn(lent, batch, rngs)
        masks = None if batch.masks is None else sent(batch.masks, lent.device)
        pictures = [sent(of.latents, lent.device) for of in (batch, batch.twins)]
        alone = self.settings.diff_alt_ratio < 0 and float(batch.strengths[0]) < 0
        seen = [sent(noise, lent.device)] * 2 if alone else pictures
        return self.losses_at(lent, batch, seen, sent(noise, lent.device), t, masks=masks, alone=alone)

    def timesteps(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> list[int]:
        return self.drawn(lent, batch, rngs)[0].tolist()

    def drawn(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Timesteps [B] and noise [B, C, h, w]."""
        s, steps = self.settings, len(lent.schedule)
        found, noise = [], []
        for ordinal, rng in zip(batch.ordinals, rngs, strict=True):
            t = s.step(steps, self.shares, rng)
            found.append(self.walked(int(t), ordinal, steps) if s.timestep_walk else t)
            noise.append(torch.randn(batch.latents.shape[1:], generator=rng))
        t = torch.stack(found)
        if s.fixed_timesteps_in_batch and batch.lots is not None:
            t = s.steps_at(steps, self.shares, batch.lots)
        return t, torch.stack(noise)

    def walked(self, t: int, ordinal: int, steps: int) -> Tensor:
        """The step at the same place in the tenth of the range that it is this sample's turn for."""
        low, high = self.settings.min_timestep, min(self.settings.max_timestep, steps)
        place = (t - low) / (high - low)
        return torch.tensor(int(low + (high - low) * (ordinal % TENTHS + place) / TENTHS))

    def losses_at(  # noqa: PLR0913 (all that is random)
        self,
        lent: Lent,
        batch: Batch,
        pictures: Sequence[Tensor],
        noise: Tensor,
        t: Tensor,
        *,
        masks: Tensor | None = None,
        alone: bool = False,
    ) -> Tensor:
        """`losses` with everything random given.

        Args:
            pictures: those that are learned from, and their twins; [B, C, h, w] each.
            alone: they are noise, and nothing is added to it.
        """
        schedule, steps = lent.schedule, sent(t, lent.device)
        own, other = (x if alone else schedule.noisy(x, noise, t) for x in pictures)
        with torch.no_grad(), self.network.off():
            goal = lent.denoise(other, steps, self.cond(lent, batch.twins)).float()
        # as the model's idea of the twin, moved by what the pictures differ in; where noise is predicted, 0
        way = pictures[0] - pictures[1]
        goal = goal + schedule.target(way, torch.zeros_like(way), t)
        guess = lent.denoise(own, steps, self.cond(lent, batch)).float()
        losses = averaged(self.settings.elements(guess - goal, schedule, t), masks)
        weights = self.settings.weights(schedule, t)
        return losses if weights is None else losses * sent(weights, losses.device).to(losses)

    def cond(self, lent: Lent, batch: Batch) -> Cond:
        cond = lent.encode(batch.captions) if batch.conds is None else batch.conds
        return cond if batch.sizes is None else cond.of(sent(batch.sizes, lent.device))
