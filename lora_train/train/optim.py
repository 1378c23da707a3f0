"""Optimizers, each with its own settings. The arithmetic is their libraries'."""

from __future__ import annotations

import dataclasses

import torch

from lora_train.knobs import knob


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101), torch's own."""

    betas: tuple[float, ...] = knob(
        (0.9, 0.999), "Decay of the running means of the gradient and of its square.", group="optimizer",
        low=0, high=0.9999999)  # fmt: skip
    eps: float = knob(1e-8, "Added to the denominator.", group="optimizer", low=0, high=1)
    weight_decay: float = knob(
        0.01, "Share of the learning rate by which weights shrink at every step.", group="optimizer", low=0,
        high=10)  # fmt: skip

    def check(self) -> list[str]:
        return (
            [] if len(self.betas) == 2 else [f"betas = {self.betas}: expected two numbers, such as 0.9,0.999"]
        )

    def make(self, groups: list[dict]) -> torch.optim.Optimizer:
        # the fused kind leaves a step out where a GPU finds it not finite, and nobody has to wait to say so
        on_gpu = all(p.is_cuda for group in groups for p in group["params"])
        return torch.optim.AdamW(
            groups, betas=tuple(self.betas), eps=self.eps, weight_decay=self.weight_decay,
            fused=on_gpu or None)  # fmt: skip


OPTIMIZERS = {"adamw": AdamW}
