"""Pairs: two pictures that differ in what is to be learned."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lora_train.data import pictures
from lora_train.data.buckets import GRAIN
from lora_train.data.cache import Latents, Sample
from lora_train.data.folder import Data, Dataset, Item, Layout, Planned, Subset
from lora_train.data.looks import Look
from lora_train.data.memory import Memory
from lora_train.data.plan import sourced, survey
from lora_train.data.scan import Finding, Scan
from lora_train.errors import Mistake

APART = 10  # of 255 in all colours together, from which pixels are not the same

Pair = tuple[Item, Item]
"""The picture to begin from, and the one that is to come of it."""

Shown = Callable[[Pair], Sequence[Item]]
"""A pair -> what is learned of it, each at its strength; those of one place make batches."""


@dataclasses.dataclass(frozen=True)
class One:
    """A single pair: its files, and their captions where they are not in files beside them."""

    original: pathlib.Path
    target: pathlib.Path
    original_prompt: str | None = None
    target_prompt: str | None = None


def in_files(one: One, data: Data, show: Shown, memory: Memory | None) -> tuple[Planned, list[Finding]]:
    """What a run learns from a single pair."""
    scan = Scan(decode=True, skip=False, memory=memory or Memory())
    subset = _within(Subset, data)
    dataset = _within(Dataset, data, subsets=(subset,))
    prompts = {one.original: one.original_prompt, one.target: one.target_prompt or one.original_prompt}
    found = [scan.one(dataset, subset, path) for path in prompts]
    findings = [finding for finding in scan.findings if finding.fatal]
    if any(item is None for item in found):
        return Planned((), folders=True), findings
    both = [
        dataclasses.replace(item, subset=subset, caption=item.caption if text is None else text)
        for item, text in zip(found, prompts.values(), strict=True)
    ]
    return _planned([(dataset, [(both[0], both[1])])], show), findings + [*_unlike([(both[0], both[1])])]


def in_folders(
    suffix: str, data: Data, show: Shown, *, decode: bool, memory: Memory | None, revert: bool = False
) -> tuple[Planned, list[Finding]]:
    """What a run learns from the folders of `data`, where the second picture of a pair has a suffix behind
    its name.

    Raises:
        Mistake: as `plan.survey`.
    """
    planned, findings = survey(data, decode=decode, memory=memory)
    every, found = [], []
    for source in planned.sources:
        named = {(item.path.parent, item.path.stem): item for item in source.items}
        seconds = {place for place in named if place[1].endswith(suffix) and _first(place, suffix) in named}
        lone = [item for place, item in named.items() if place not in seconds]
        pairs = []
        for item in lone:
            other = named.get((item.path.parent, item.path.stem + suffix))
            if other is None:
                text = f"{item.path}: expected {item.path.stem}{suffix} beside it, the other of its pair"
                found.append(Finding("folder", item.path, text))
            else:
                pairs.append((other, item) if revert else (item, other))
        found += _unlike(pairs)
        every.append((source.dataset, pairs))
    return dataclasses.replace(planned, sources=_planned(every, show).sources), findings + found


def _first(place: tuple[pathlib.Path, str], suffix: str) -> tuple[pathlib.Path, str]:
    return place[0], place[1].removesuffix(suffix)


def _unlike(pairs: Sequence[Pair]) -> list[Finding]:
    """Those whose pictures have not one size."""
    said = []
    for first, second in pairs:
        if first.size != second.size:
            sizes = " and ".join("x".join(map(str, item.size)) for item in (first, second))
            text = f"{second.path}: expected a picture of one size with {first.path.name}; they have {sizes}"
            said.append(Finding("folder", second.path, text))
    return said


def _planned(every: Sequence[tuple[Dataset, Sequence[Pair]]], show: Shown) -> Planned:
    sources = []
    for dataset, pairs in every:
        for items in zip(*map(show, pairs), strict=True):
            sources.append(sourced(dataset, items))
    return Planned(tuple(sources), folders=True)


def _within(cls: type, data: Layout, **own: object) -> Dataset | Subset:
    names = {f.name for f in dataclasses.fields(data)} - own.keys()
    taken = {f.name: vars(data)[f.name] for f in dataclasses.fields(cls) if f.name in names}
    return cls(**taken, **own)


class Differences:
    """Latents of pairs, with masks that show where a picture differs from its twin.

    Args:
        latents: what they come from.
    """

    def __init__(self, latents: Latents):
        self.latents, self.slow = latents, latents.slow
        self.kept: dict[tuple[pathlib.Path, bool], Tensor] = {}

    def fetch(self, samples: Sequence[Sample]) -> Tensor:
        return self.latents.fetch(samples)

    def finish(self, fetched: Tensor, samples: Sequence[Sample]) -> Tensor:
        return self.latents.finish(fetched, samples)

    def masks(self, samples: Sequence[Sample]) -> Tensor | None:
        """[B, 1, h, w] float32: the part of each latent's area that is another colour in the twin."""
        return (
            torch.stack([self._mask(s.picture, s.look) for s in samples]) if samples[0].picture.twin else None
        )

    def _mask(self, item: Item, look: Look) -> Tensor:
        key = item.path, look.flip
        if look != Look(look.flip):  # which hardly comes again
            return _apart(item, look)
        if key not in self.kept:
            self.kept[key] = _apart(item, look)
        return self.kept[key]


def _apart(item: Item, look: Look) -> Tensor:
    """[1, h, w]."""
    apart = (pictures.load(item, look) - pictures.load(item.twin, look)).abs().sum(0, keepdim=True)
    return functional.avg_pool2d((apart * 127.5 > APART).float(), GRAIN)


def wanted(one: tuple[pathlib.Path | None, pathlib.Path | None], suffix: str | None) -> None:
    """Raises Mistake: neither two files nor a suffix, or both."""
    given = [path for path in one if path is not None]
    if len(given) == 1:
        raise Mistake("objective.original_image, objective.target_image: expected both of a pair")
    if bool(given) == bool(suffix):
        raise Mistake(
            "objective.original_image, objective.target_image: expected the two pictures of a pair; or "
            "objective.pair_suffix for the pairs in data.train_data_dir" + ", not both" * bool(given)
        )
