"""Ema: a running mean of what the adapters were, which is saved and looked at in their place."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from lora_train.knobs import knob


@dataclasses.dataclass(frozen=True)
class Ema:
    """How the mean runs."""

    decay: float | None = knob(
        None, "Share of the running mean of the adapters' weights that stays at each update; 0.999 is usual. "
        "The mean is saved and sampled in place of the weights themselves. Empty: no mean.",
        group="optimizer", low=0, high=0.999999, aka="ema_decay")  # fmt: skip
    update_step_interval: int = knob(
        5, "Steps between two updates of the mean.", group="optimizer", low=1, high=10000, unit="steps",
        aka="ema_update_step_interval")  # fmt: skip
    warmup: bool = knob(
        True, "Let the mean follow faster at first: after n steps no more than (1+n)/(10+n) of it stays.",
        group="optimizer", aka="ema_warmup")  # fmt: skip

    def of(self, learned: nn.Module) -> Average | None:
        """The mean of a module's parameters, which begins as they are; None without one."""
        return None if self.decay is None else Average(self, learned)

    def share(self, step: int) -> float:
        """Of the mean, that stays after `step` steps. The warm-up is OneTrainer's."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def check(self) -> Iterable[str]:
        if self.decay == 0:
            yield "decay = 0: expected more than 0; to have no mean, leave it empty"


class Average:
    """A running mean of a module's parameters, beside them."""

    def __init__(self, settings: Ema, learned: nn.Module):
        self.settings, self.learned = settings, learned
        self.mean = {name: p.detach().clone() for name, p in learned.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After `step` steps of training. Parameters that did not move stay in it to the bit."""
        if step % self.settings.update_step_interval:
            return
        for name, p in self.learned.named_parameters():
            self.mean[name].lerp_(p, 1 - self.settings.share(step))

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """The mean in the parameters' place; after it they are what they were, to the bit."""
        kept = {name: p.detach().clone() for name, p in self.learned.named_parameters()}
        try:
            self._put(self.mean)
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, p in self.learned.named_parameters():
            p.copy_(values[name])

    def state_dict(self) -> dict[str, Tensor]:
        return self.mean

    @torch.no_grad()
    def load_state_dict(self, found: Mapping[str, Tensor]) -> None:
        """Raises KeyError, or RuntimeError for another shape: it is not of these parameters."""
        for name, mean in self.mean.items():
            mean.copy_(found[name])
