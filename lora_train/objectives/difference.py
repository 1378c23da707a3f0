"""Difference: one adapter draws the first picture of a pair, and what is missing of the second is learned."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.file import load, network_of
from lora_train.data.pairs import Pair
from lora_train.knobs import knob
from lora_train.objectives.denoise import Denoise, Denoising
from lora_train.objectives.paired import Paired

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.data.folder import Item, Planned
    from lora_train.host import Lent


@dataclasses.dataclass(frozen=True)
class Difference(Denoise, Paired):
    """Learn the second picture of a pair on top of an adapter, the copier, that draws the first one."""

    validates = False

    copier: pathlib.Path | None = knob(
        None, "File of an adapter that draws the original picture, such as an earlier run's. Empty: it is "
        "learned first, and kept beside the run.", group="pairs", place=True,
        aka="diff_load_1st_pass")  # fmt: skip
    copier_steps: int = knob(
        500, "Steps in which the copier learns the original picture.", group="pairs", low=1, high=1_000_000,
        unit="steps")  # fmt: skip
    copier_dim: int = knob(16, "Rank of the copier, a LoRA.", group="pairs", low=1, high=512)
    copier_alpha: float = knob(16.0, "Its alpha.", group="pairs", low=0.001, high=512)
    copier_learning_rate: float | None = knob(
        None, "Its learning rate. Empty: as what is learned after it.", group="pairs", low=0,
        high=10)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from Denoise.check(self)

    def shown(self, pair: Pair) -> Sequence[Item]:
        first, second = pair
        return [dataclasses.replace(second, twin=first)]

    def alone(self) -> Denoise:
        """What the copier learns, as."""
        return Denoise(**{field.name: vars(self)[field.name] for field in dataclasses.fields(Denoise)})

    def begin(self, lent: Lent, network: Network) -> Adding:
        """Raises Mistake: undefined for what the model predicts, or the copier is not of this model."""
        super().begin(lent, network)
        below = None
        if self.copier is not None:
            tensors, _ = load(self.copier)
            with torch.random.fork_rng(devices=[]):  # adapters draw numbers before they hold what is read
                below = network_of(tensors, lent.layers(), name=f"objective.copier = {self.copier}")
            below.requires_grad_(False).eval()
        return Adding(self, network, lent, below)


def originals(planned: Planned) -> Planned:
    """The first pictures of the pairs alone."""
    sources = [
        dataclasses.replace(source, items=tuple(item.twin for item in source.items))
        for source in planned.sources
    ]
    return dataclasses.replace(planned, sources=tuple(sources))


class Adding(Denoising):
    """One run of it.

    Args:
        below: the copier; None: there is none yet.
    """

    def __init__(self, settings: Difference, network: Network, lent: Lent, below: Network | None):
        super().__init__(settings, network, lent)
        self.below, self.on = below, False

    def networks(self) -> list[Network]:
        return [] if self.below is None else [self.below]

    @contextlib.contextmanager
    def during(self, batch: Batch) -> Iterator[None]:
        """With the copier on the model, and only then: samples are of what is learned alone."""
        if self.below is None or self.on:
            yield
            return
        self.on = True
        try:
            with self.below.attached():
                yield
        finally:
            self.on = False
