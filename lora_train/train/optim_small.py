"""Optimizers that keep their numbers in 8 bits, or in the computer's memory: bitsandbytes' own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from lora_train.train.library import missing, refused, told
from lora_train.train.optim_plain import AdamW, Lion, SGDNesterov
from lora_train.train.optimizer import Dividing, Moments, Optimizer, Rolling


class Small(Optimizer):
    """Of bitsandbytes, which needs a CUDA device. The one at SAME makes the same steps with more memory."""

    SAME: ClassVar[type[Optimizer]]

    def on(self, device: str) -> Optimizer:
        return self._same() if self.instead(device) else self

    def instead(self, device: str) -> str:
        on = "cuda" if device == "auto" and torch.cuda.is_available() else device
        if on == "cuda" and not missing(self.CLASS):
            return ""
        why = "bitsandbytes is not installed (pip install bitsandbytes)"
        if on != "cuda":
            why = "bitsandbytes needs a CUDA device"
        lost = self._lost()
        more = f"; without {', '.join(lost)}, which only bitsandbytes has" if lost else ""
        return (
            f"optimizer.kind = {self.kind()}: {self.SAME.__name__} makes the same steps in its place and "
            f"needs more memory, for {why}{more}"
        )

    def unready(self) -> list[str]:
        """Asked for where it will be used: what is in its place is asked as well."""
        if missing(self.CLASS) or not torch.cuda.is_available():
            return self._same().unready()
        return super().unready()

    def _lost(self) -> list[str]:
        if not self.optimizer_args or missing(self.SAME.CLASS):
            return []
        given = told(self.optimizer_args)
        return [name for name in given if refused(self.SAME().loaded(), [name])]

    def _same(self) -> Optimizer:
        lost = self._lost()
        words = tuple(f"{k}={v!r}" for k, v in told(self.optimizer_args).items() if k not in lost)
        own = {f.name for f in dataclasses.fields(self.SAME)} - {"optimizer_args"}
        kept = {name: value for name, value in vars(self).items() if name in own}
        return self.SAME(**kept, optimizer_args=words)


class AdamW8bit(Small, Dividing):
    """AdamW in 8 bits (Dettmers et al. 2021, arXiv:2110.02861)."""

    CLASS = "bitsandbytes.optim.AdamW8bit"
    SAME, USUAL = AdamW, AdamW.USUAL


class PagedAdamW8bit(AdamW8bit):
    """AdamW in 8 bits, which a full card lays aside in the computer's memory."""

    CLASS = "bitsandbytes.optim.PagedAdamW8bit"


class PagedAdamW(AdamW8bit):
    """AdamW in 32 bits, which a full card lays aside in the computer's memory."""

    CLASS = "bitsandbytes.optim.PagedAdamW"


class PagedAdamW32bit(AdamW8bit):
    """As PagedAdamW."""

    CLASS = "bitsandbytes.optim.PagedAdamW32bit"


class Lion8bit(Small, Moments):
    """Lion in 8 bits."""

    CLASS = "bitsandbytes.optim.Lion8bit"
    RATE, SAME, USUAL = Lion.RATE, Lion, Lion.USUAL


class PagedLion8bit(Lion8bit):
    """Lion in 8 bits, which a full card lays aside in the computer's memory."""

    CLASS = "bitsandbytes.optim.PagedLion8bit"


class SGDNesterov8bit(Small, Rolling):
    """SGD with Nesterov's momentum in 8 bits."""

    CLASS = "bitsandbytes.optim.SGD8bit"
    RATE, SAME, USUAL = SGDNesterov.RATE, SGDNesterov, SGDNesterov.USUAL


class AdEMAMix8bit(Dividing):
    """AdamW with a second, slow momentum (Pagliardini et al. 2024, arXiv:2409.03137), in 8 bits."""

    CLASS = "bitsandbytes.optim.AdEMAMix8bit"
    BETAS = 3

    def unready(self) -> list[str]:
        if not torch.cuda.is_available() and not missing(self.CLASS):
            return [f"optimizer.kind = {self.kind()}: needs a CUDA device; choose ademamix"]
        return super().unready()


class PagedAdEMAMix8bit(AdEMAMix8bit):
    """AdEMAMix in 8 bits, which a full card lays aside in the computer's memory."""

    CLASS = "bitsandbytes.optim.PagedAdEMAMix8bit"
