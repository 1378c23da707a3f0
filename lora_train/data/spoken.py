"""Prompts in place of pictures, as what a run learns from."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import torch
from torch import Tensor

from lora_train.data.buckets import GRAIN, Fit, Resolution, Size
from lora_train.data.cache import Sample
from lora_train.data.folder import Dataset, Item, Planned, Share, Source, Subset

ROUNDS = 960  # batches of each prompt in an epoch: many, so that those of a step seldom end with it
CHANNELS = 4


@dataclasses.dataclass(frozen=True)
class Spoken:
    """A prompt, which makes batches of its own."""

    name: str  # for messages
    text: str
    sizes: tuple[Size, ...]  # a batch has one of them, each as often as the others
    count: int  # samples of a batch


def spoken(prompts: Sequence[Spoken]) -> Planned:
    """What a run learns from that has no pictures: each prompt as often as the others."""
    return Planned(tuple(map(_source, prompts)), folders=True, pictures=False)


def _source(prompt: Spoken) -> Source:
    width, height = max(prompt.sizes)
    subset = Subset()
    dataset = Dataset(resolution=Resolution(width, height), batch_size=prompt.count, subsets=(subset,))
    items = [
        Item(
            pathlib.Path(prompt.name), prompt.name, size, Fit(size, size), caption=prompt.text, subset=subset
        )
        for size in prompt.sizes
    ]
    count = prompt.count * math.ceil(ROUNDS / len(items))
    return Source(dataset, tuple(items), tuple(Share(s, (i,), count) for i, s in enumerate(prompt.sizes)))


class Blank:
    """In place of latents of pictures; only their shape says something."""

    slow = False

    def fetch(self, samples: Sequence[Sample]) -> Tensor:
        width, height = samples[0].picture.fit.bucket
        return torch.zeros(len(samples), CHANNELS, height // GRAIN, width // GRAIN)

    def finish(self, fetched: Tensor, samples: Sequence[Sample]) -> Tensor:
        return fetched

    def masks(self, samples: Sequence[Sample]) -> Tensor | None:
        return None
