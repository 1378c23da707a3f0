"""Learned weights: how uncertain the model is at a timestep, learned beside what it predicts there."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lora_train.draws import drawn


class Uncertainty(nn.Module):
    """u, the logarithm of the loss to be expected at a timestep; 0 to begin with, which changes no loss.

    A sum of waves of random frequency, as in EDM2 (Karras et al. 2023, arXiv:2312.02696), but
    - in the timestep's number, not in ln(sigma) / 4, which leaves the first steps so far from the others that
      they are hardly learned;
    - divided by the waves' number: so a learning rate is about how far u moves in a step, and its gradient is
      small beside that of the adapters, with which it is clipped.
    """

    def __init__(self, channels: int):
        super().__init__()
        rng = drawn("uncertainty", channels)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels, generator=rng))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=rng))
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, share: Tensor) -> Tensor:
        """[B] float32, at timesteps [B] as shares of all: 0..1."""
        place = (share - 0.5) / 2  # of ranges from 0.2 to 3.5 the one that is learned fastest
        waves = torch.cos(self.frequencies * place[:, None] + self.phases) * math.sqrt(2)
        return (waves * self.weight).mean(1)

    def weighed(self, losses: Tensor, share: Tensor) -> Tensor:
        """Losses [B] over what is expected of them, and u, which keeps that from growing: exp(-u) L + u,
        which is least where exp(u) is the mean of L (Kendall et al. 2017, arXiv:1705.07115, eq. 5, as
        EDM2 has it)."""
        u = self(share)
        return losses * torch.exp(-u) + u
