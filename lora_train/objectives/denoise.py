"""Denoise: learn what pictures and their captions look like."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.losses import averaged
from lora_train.objectives.learned import Uncertainty
from lora_train.objectives.masked import Masked
from lora_train.objectives.noised import Noised
from lora_train.objectives.objective import Pass
from lora_train.objectives.timed import Timed
from lora_train.objectives.weighed import Weighed
from lora_train.train.validation import timesteps
from lora_train.transfer import sent

if TYPE_CHECKING:
    from torch import nn

    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.host import Cond, Lent

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Denoise(Masked, Timed, Noised, Weighed):
    """Predict, from a noised latent and its caption, what the model was trained to predict."""

    validates = True

    edm2_loss_weighting: bool = knob(
        False, "Learn beside the adapters how large the loss is at each step, and divide by it. The loss "
        "that is shown has the logarithm of that added, and may be below 0.", group="loss")  # fmt: skip
    edm2_loss_weighting_optimizer_lr: float = knob(
        0.02, "Learning rate of what edm2_loss_weighting learns, before lr's course.", group="loss", low=0,
        high=10)  # fmt: skip
    edm2_loss_weighting_num_channels: int = knob(
        128, "Numbers that edm2_loss_weighting learns.", group="loss", low=1, high=4096)  # fmt: skip
    dream_detail_preservation: float | None = knob(
        None, "DREAM: learn as if the error that the model makes now were part of the noise, which brings "
        "training closer to sampling; larger keeps more detail, 1 in the paper. A second prediction in each "
        "step. Empty: off.", group="loss", low=0, high=100)  # fmt: skip
    diff_output_preservation_multiplier: float = knob(
        1.0, "Weight of data.diff_output_preservation_class in the loss.", group="regularisation", low=0,
        high=100)  # fmt: skip

    keeps: ClassVar[bool] = True

    def check(self) -> Iterable[str]:
        for part in (Timed, Noised, Weighed):
            yield from part.check(self)

    @property
    def window(self) -> tuple[int, int]:
        return self.min_timestep, self.max_timestep

    def record(self) -> dict[str, object]:
        return recorded(self)

    def refusals(self, prediction: str, last_is_noise: bool) -> list[str]:
        return Weighed.refusals(self, prediction, last_is_noise)

    def begin(self, lent: Lent, network: Network) -> Denoising:
        """Raises Mistake: undefined for what the model predicts."""
        schedule = lent.schedule
        if said := self.refusals(schedule.prediction, schedule.last_is_noise):
            raise Mistake("\n".join(f"objective.{line}" for line in said))
        if schedule.last_is_noise:
            lost = self.weights(schedule, torch.tensor([len(schedule) - 1]))
            if lost is not None and lost == 0:
                log.warning("By its weight the last step, where no signal is left, counts nothing.")
        return Denoising(self, network, lent)


def recorded(settings: Denoise) -> dict[str, object]:
    """As sd-scripts writes it down."""
    s = settings
    return {
        "ss_noise_offset": s.noise_offset or None,
        "ss_noise_offset_random_strength": s.noise_offset_random_strength,
        "ss_adaptive_noise_scale": s.adaptive_noise_scale,
        "ss_multires_noise_iterations": s.multires_noise_iterations,
        "ss_multires_noise_discount": s.multires_noise_discount,
        "ss_ip_noise_gamma": s.ip_noise_gamma,
        "ss_ip_noise_gamma_random_strength": s.ip_noise_gamma_random_strength,
        **s.costs(),
    }


class Denoising(Pass):
    """One run of it."""

    def __init__(self, settings: Denoise, network: Network, lent: Lent):
        self.settings, self.network = settings, network
        self.shares = settings.shares(len(lent.schedule))
        self.learned: Uncertainty | None = None
        if settings.edm2_loss_weighting:
            self.learned = Uncertainty(settings.edm2_loss_weighting_num_channels).to(lent.device)
            self.rate = settings.edm2_loss_weighting_optimizer_lr

    def parameters(self) -> list[nn.Parameter]:
        return [] if self.learned is None else [*self.learned.parameters()]

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.learned is None else self.learned.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if self.learned is not None:
            self.learned.load_state_dict(state)

    def losses(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> Tensor:
        """See `Pass`; step, noise (see `Noised.noise`), and at last whether a mask counts are drawn from a
        sample's generator."""
        latents = sent(batch.latents, lent.device)
        timesteps, *noises = self.draws(lent, batch, rngs)
        noise, added = [*(sent(each, lent.device).to(latents) for each in noises), None][:2]
        masks = self.settings.masks(batch.masks, rngs)
        masks = None if masks is None else sent(masks, lent.device)
        cond, plain = self.cond(lent, batch), None
        if batch.kept is not None or (masks is not None and self.settings.preserves):
            with torch.no_grad(), self.network.off():
                plain = self.cond(lent, batch)
        losses = self.losses_at(
            lent, latents, noise, timesteps, cond, added=added, masks=masks, plain=plain, kept=batch.kept
        )
        if not any(batch.classes or ()) or not self.settings.diff_output_preservation_multiplier:
            return losses
        seen = noise if added is None else noise + added
        moved = self.moved(lent, batch, lent.schedule.noisy(latents, seen, timesteps), timesteps)
        return losses + self.settings.diff_output_preservation_multiplier * moved

    def cond(self, lent: Lent, batch: Batch) -> Cond:
        cond = lent.encode(batch.captions) if batch.conds is None else batch.conds
        cond = cond.around(None if batch.inpaint is None else sent(batch.inpaint, lent.device))
        return cond if batch.sizes is None else cond.of(sent(batch.sizes, lent.device))

    def timesteps(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> list[int]:
        """Those that `losses` draws, without the noise that is drawn behind them."""
        settings, steps = self.settings, len(lent.schedule)
        if settings.fixed_timesteps_in_batch and batch.lots is not None:
            return settings.steps_at(steps, self.shares, batch.lots).tolist()
        return [int(settings.step(steps, self.shares, rng)) for rng in rngs]

    def draws(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> list[Tensor]:
        """`drawn` of a batch's samples: [B] and [B, C, h, w]."""
        steps, samples = len(lent.schedule), zip(batch.latents, batch.names, rngs, strict=True)
        found = [self.drawn(latent, name, steps, rng) for latent, name, rng in samples]
        timesteps, *noises = (torch.stack(each) for each in zip(*found, strict=True))
        if self.settings.fixed_timesteps_in_batch and batch.lots is not None:
            timesteps = self.settings.steps_at(steps, self.shares, batch.lots)
        return [timesteps, *noises]

    def drawn(self, latent: Tensor, name: str, steps: int, rng: torch.Generator) -> tuple[Tensor, ...]:
        """A sample's timestep [], its noise [C, h, w], and where there is some the noise that is only seen.

        Args:
            name: of the picture.
        """
        return self.settings.step(steps, self.shares, rng), *self.settings.noise(latent, name, rng)

    def losses_at(  # noqa: PLR0913 (all that is random)
        self,
        lent: Lent,
        latents: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        cond: Cond,
        *,
        added: Tensor | None = None,
        masks: Tensor | None = None,
        plain: Cond | None = None,
        kept: Tensor | None = None,
    ) -> Tensor:
        """`losses` with everything random given: latents and noise [B, C, h, w], timesteps [B] long, masks
        [B, 1, h, w].

        Args:
            added: noise that is seen and not to be predicted.
            plain: what the captions are without adapters, where something is to stay as it was.
            kept: [B] bool: samples whose target is what the model predicts without adapters.
        """
        settings, schedule = self.settings, lent.schedule
        steps = sent(timesteps, latents.device)
        seen = noise if added is None else noise + added
        if settings.dream_detail_preservation is not None:
            off = self.missed(lent, latents, noise, seen, timesteps, cond)
            noise, seen = noise + off, seen + off
        noisy = schedule.noisy(latents, seen, timesteps)
        guess = lent.denoise(noisy, steps, cond).float()
        target, before = schedule.target(latents, noise, timesteps).float(), None
        if plain is not None:
            with torch.no_grad(), self.network.off():
                before = lent.denoise(noisy, steps, plain).float()
        if kept is not None:
            target = torch.where(sent(kept, target.device).view(-1, 1, 1, 1), before, target)
        losses = settings.mean(settings.elements(guess - target, schedule, timesteps), masks)
        if before is not None and masks is not None and settings.preserves:
            stay = settings.mean(settings.elements(guess - before, schedule, timesteps), 1 - masks)
            losses = losses + settings.masked_prior_preservation_weight * stay
        weights = settings.weights(schedule, timesteps)
        if weights is not None:
            losses = losses * sent(weights, losses.device).to(losses)
        if self.learned is not None:
            losses = self.learned.weighed(losses, steps.float() / len(schedule))
        return losses

    def tried(self, lent: Lent) -> list[int]:
        s = self.settings
        return timesteps(s.min_timestep, min(s.max_timestep, len(lent.schedule)))

    def losses_of(self, lent: Lent, batch: Batch, t: int, rngs: Sequence[torch.Generator]) -> Tensor:
        """Of plain noise, and without what is learned of weights."""
        settings, schedule = self.settings, lent.schedule
        latents, steps = sent(batch.latents, lent.device), torch.full((len(rngs),), t)
        noise = torch.stack([torch.randn(batch.latents.shape[1:], generator=rng) for rng in rngs])
        noise = sent(noise, lent.device).to(latents)
        noisy, seen = schedule.noisy(latents, noise, steps), sent(steps, lent.device)
        guess = lent.denoise(noisy, seen, self.cond(lent, batch)).float()
        error = guess - schedule.target(latents, noise, steps).float()
        masks = None if batch.masks is None else settings.softened(sent(batch.masks, lent.device))
        losses = settings.mean(settings.elements(error, schedule, steps), masks)
        weights = settings.weights(schedule, steps)
        return losses if weights is None else losses * sent(weights, losses.device).to(losses)

    @torch.no_grad()
    def missed(  # noqa: PLR0913 (as `losses_at`)
        self, lent: Lent, latents: Tensor, noise: Tensor, seen: Tensor, timesteps: Tensor, cond: Cond
    ) -> Tensor:
        """What the model misses of the noise, [B, C, h, w], times (1 - a)^(p / 2), p =
        dream_detail_preservation (Zhou et al. 2023, arXiv:2312.00210, eq. 8 and section 3.2).

        The paper predicts noise. A model that predicts v is asked what noise that stands for.
        """
        schedule = lent.schedule
        noisy = schedule.noisy(latents, seen, timesteps)
        guess = lent.denoise(noisy, sent(timesteps, latents.device), cond).to(latents)
        torch.clear_autocast_cache()  # which keeps adapters' weights in half precision, without a gradient
        left = 1 - schedule.alphas_cumprod[timesteps.cpu()]
        part = sent(left ** (self.settings.dream_detail_preservation / 2), latents.device).to(latents)
        return part.view(-1, 1, 1, 1) * (noise - schedule.clean(noisy, guess, timesteps)[1])

    def moved(self, lent: Lent, batch: Batch, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """[B]: how far the adapters move what the model predicts with the class's word in place of the
        trigger word, squared; 0 for samples without such a caption."""
        at = sent(torch.tensor([i for i, text in enumerate(batch.classes) if text is not None]), noisy.device)
        x_t, steps = noisy[at], sent(timesteps, noisy.device)[at]
        with torch.no_grad(), self.network.off():
            before = lent.denoise(x_t, steps, self.class_cond(lent, batch)).float()
        guess = lent.denoise(x_t, steps, self.class_cond(lent, batch)).float()
        losses = averaged((guess - before).square())
        return torch.zeros(len(noisy)).to(losses).index_put((at,), losses)

    def class_cond(self, lent: Lent, batch: Batch) -> Cond:
        which = [i for i, text in enumerate(batch.classes) if text is not None]
        if batch.class_conds is None:
            cond = lent.encode([batch.classes[i] for i in which])
        else:
            cond = batch.class_conds.part(which)
        if batch.inpaint is not None:
            cond = cond.around(sent(batch.inpaint[which], lent.device))
        return cond if batch.sizes is None else cond.of(sent(batch.sizes[which], lent.device))
