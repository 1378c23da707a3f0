"""Noise: what a sample's is made of, beyond one normal number for each element."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from lora_train.draws import drawn
from lora_train.knobs import knob
from lora_train.noise import pyramid


@dataclasses.dataclass(frozen=True)
class Noised:
    """What noise a sample gets."""

    noise_offset: float = knob(
        0.0, "Strength of one random constant for each channel, added to the noise; 0.05 to 0.1 frees the "
        "overall brightness.", group="loss", low=0, high=1)  # fmt: skip
    noise_offset_random_strength: bool = knob(
        False, "Take a strength between 0 and noise_offset for each sample.", group="loss")  # fmt: skip
    adaptive_noise_scale: float | None = knob(
        None, "For each channel, this times the mean of the latent, without its sign, is added to "
        "noise_offset.", group="loss", low=-10, high=10)  # fmt: skip
    multires_noise_iterations: int | None = knob(
        None, "Levels of coarser noise that are added to the noise, 6 to 10 where it is used; frees large "
        "areas as noise_offset does. Empty: none.", group="loss", low=1, high=64)  # fmt: skip
    multires_noise_discount: float = knob(
        0.3, "Strength of each level of coarser noise, times that of the level before.", group="loss", low=0,
        high=1)  # fmt: skip
    ip_noise_gamma: float | None = knob(
        None, "Strength of more noise in what the model sees, of which its target knows nothing; about 0.1. "
        "It makes up for errors that sampling adds up. Empty: none.", group="loss", low=0,
        high=10)  # fmt: skip
    ip_noise_gamma_random_strength: bool = knob(
        False, "Take a strength between 0 and ip_noise_gamma for each sample.", group="loss")  # fmt: skip
    force_consistent_noise: bool = knob(
        False, "Give a picture the same noise each time that it is shown.", group="loss")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.adaptive_noise_scale is not None and not self.noise_offset:
            yield "adaptive_noise_scale: is added to noise_offset; expected that above 0"

    def noise(self, latent: Tensor, name: str, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Noise that is to be predicted, and where there is some the noise that is only seen: [C, h, w] each,
        on the CPU.

        What is switched off draws nothing, so that other runs keep their numbers.

        Args:
            latent: [C, h, w].
            name: of the picture.
        """
        rng = drawn("noise", name) if self.force_consistent_noise else rng
        noise = torch.randn(latent.shape, generator=rng)
        if self.noise_offset:
            strength = self.noise_offset
            if self.noise_offset_random_strength:
                strength = strength * torch.rand((), generator=rng)
            if self.adaptive_noise_scale is not None:
                mean = latent.float().mean((1, 2), keepdim=True).abs().cpu()
                strength = (strength + self.adaptive_noise_scale * mean).clamp(min=0)
            noise = noise + strength * torch.randn(latent.shape[0], 1, 1, generator=rng)
        if self.multires_noise_iterations:
            noise = pyramid(noise, self.multires_noise_iterations, self.multires_noise_discount, rng)
        if not self.ip_noise_gamma:
            return (noise,)
        gamma = self.ip_noise_gamma
        if self.ip_noise_gamma_random_strength:
            gamma = gamma * torch.rand((), generator=rng)
        return noise, gamma * torch.randn(latent.shape, generator=rng)
