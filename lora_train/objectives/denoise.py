"""Denoise: learn what pictures and their captions look like."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_train.knobs import knob
from lora_train.noise import min_snr_weight
from lora_train.objectives.masked import Masked
from lora_train.objectives.objective import Pass
from lora_train.transfer import sent

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.host import Cond, Lent


@dataclasses.dataclass(frozen=True)
class Denoise(Masked):
    """Predict, from a noised latent and its caption, what the model was trained to predict."""

    min_snr_gamma: float | None = knob(
        None, "Cap on a step's signal-to-noise ratio in its loss weight, 5 in the paper. Empty: every step "
        "counts the same.", group="loss", low=0.1, high=1000)  # fmt: skip
    noise_offset: float = knob(
        0.0, "Strength of one random constant for each channel, added to the noise; 0.05 to 0.1 frees the "
        "overall brightness.", group="loss", low=0, high=1)  # fmt: skip
    min_timestep: int = knob(
        0, "The least noisy step that is drawn; small steps are about detail.", group="loss", low=0,
        high=999)  # fmt: skip
    max_timestep: int = knob(
        1000, "Steps are drawn below this one; large steps are about composition.", group="loss", low=1,
        high=1000)  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.min_timestep >= self.max_timestep:
            yield f"min_timestep = {self.min_timestep}: expected less than max_timestep = {self.max_timestep}"

    def begin(self, lent: Lent, network: Network) -> Denoising:
        return Denoising(self, network)


class Denoising(Pass):
    """One run of it."""

    def __init__(self, settings: Denoise, network: Network):
        self.settings, self.network = settings, network

    def losses(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> Tensor:
        """See `Pass`; step, noise, offset, and at last whether a mask counts are drawn from a sample's
        generator."""
        latents = sent(batch.latents, lent.device)
        draws = [self.drawn(latents.shape[1:], len(lent.schedule), rng) for rng in rngs]
        timesteps, noise = (torch.stack(each) for each in zip(*draws, strict=True))
        masks = self.settings.masks(batch.masks, rngs)
        masks = None if masks is None else sent(masks, lent.device)
        cond, plain = self.cond(lent, batch), None
        if masks is not None and self.settings.preserves:
            with torch.no_grad(), self.network.off():
                plain = self.cond(lent, batch)
        noise = sent(noise, lent.device).to(latents)
        return self.losses_at(lent, latents, noise, timesteps, cond, masks=masks, plain=plain)

    def cond(self, lent: Lent, batch: Batch) -> Cond:
        cond = lent.encode(batch.captions) if batch.conds is None else batch.conds
        return cond if batch.sizes is None else cond.of(sent(batch.sizes, lent.device))

    def timesteps(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> list[int]:
        """Those that `losses` draws."""
        return [int(self.drawn(batch.latents.shape[1:], len(lent.schedule), rng)[0]) for rng in rngs]

    def drawn(self, shape: torch.Size, steps: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """A sample's timestep [] and noise [C, h, w]."""
        s = self.settings
        t = torch.randint(s.min_timestep, min(s.max_timestep, steps), (), generator=rng)
        noise = torch.randn(shape, generator=rng)
        if s.noise_offset:
            noise = noise + s.noise_offset * torch.randn(shape[0], 1, 1, generator=rng)
        return t, noise

    def losses_at(  # noqa: PLR0913 (all that is random)
        self,
        lent: Lent,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        cond: Cond,
        *,
        masks: Tensor | None = None,
        plain: Cond | None = None,
    ) -> Tensor:
        """`losses` with everything random given: latents and noise [B, C, h, w], timesteps [B] long, masks
        [B, 1, h, w].

        Args:
            plain: what the captions are without adapters, where what a mask hides is to stay as it was.
        """
        schedule, gamma = lent.schedule, self.settings.min_snr_gamma
        steps = sent(timesteps, latents.device)
        noisy = schedule.noisy(latents, noise, timesteps)
        guess = lent.denoise(noisy, steps, cond)
        target = schedule.target(latents, noise, timesteps)
        losses = self.settings.mean((guess.float() - target.float()).square(), masks)
        if plain is not None:
            with torch.no_grad(), self.network.off():
                before = lent.denoise(noisy, steps, plain)
            kept = self.settings.mean((guess.float() - before.float()).square(), 1 - masks)
            losses = losses + self.settings.masked_prior_preservation_weight * kept
        if gamma is not None:
            weights = min_snr_weight(schedule.snr(timesteps), gamma, schedule.prediction)
            losses = losses * sent(weights, losses.device).to(losses)
        return losses
