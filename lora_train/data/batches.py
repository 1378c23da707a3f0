"""Batches: the order in which samples come, and what is drawn for each of them."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from lora_train.data.cache import Latents, Sample
from lora_train.data.folder import Item, Planned
from lora_train.draws import key
from lora_train.host import Cond

A, B = TypeVar("A"), TypeVar("B")


@dataclasses.dataclass(eq=False)
class Batch:
    """Samples that go through the model together."""

    latents: Tensor  # [B, C, h, w] float32, scaled
    captions: list[str]
    conds: Cond | None  # of the captions, where they were computed before
    ordinals: list[int]  # running numbers of the samples in the run
    names: list[str]


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What an epoch comes to."""

    pictures: int
    samples: int  # pictures with their repeats
    buckets: int  # of all datasets
    batches: int  # each bucket fills its own, so the last of each may be smaller
    steps: int  # of so many batches as are accumulated; the last may be smaller


def numbers(planned: Planned, accumulation: int = 1) -> Numbers:
    """Exact, and known before a picture is read."""
    counts = collections.Counter()
    for number, source in enumerate(planned.sources):
        for item in source.items:
            counts[number, item.fit.bucket] += item.subset.num_repeats
    batches = sum(
        math.ceil(count / planned.sources[number].dataset.batch_size) for (number, _), count in counts.items()
    )
    return Numbers(
        pictures=len(planned.items),
        samples=counts.total(),
        buckets=len(counts),
        batches=batches,
        steps=math.ceil(batches / accumulation),
    )


def arithmetic(planned: Planned, steps: int, accumulation: int = 1) -> str:
    """How the run's `steps` come about, for people."""
    n = numbers(planned, accumulation)
    repeats = {item.subset.num_repeats for item in planned.items}
    sizes = {source.dataset.batch_size for source in planned.sources}
    shown = f" x {_counted(repeats.pop(), 'repeat')}" if len(repeats) == 1 else ", with their repeats"
    of = f" of {max(sizes)}" if n.samples == n.batches * max(sizes) else f" of up to {max(sizes)}"
    grouped = "" if accumulation == 1 else f", {accumulation} to a step"
    epochs, rest = divmod(steps, n.steps)
    ends = [_counted(epochs, "epoch")] * (epochs > 0) + [_counted(rest, "step")] * (rest > 0)
    return (
        f"{_counted(n.pictures, 'picture')}{shown} = {_counted(n.samples, 'sample')}"
        f" in {_counted(n.buckets, 'bucket')} -> {_counted(n.batches, 'batch')}{of}{grouped}"
        f" -> {_counted(n.steps, 'step')} an epoch; {_counted(steps, 'step')} = {' and '.join(ends)}"
    )


def _counted(count: int, of: str) -> str:
    return f"{count} {of}" if count == 1 else f"{count} {'batche' if of == 'batch' else of}s"


def every_caption(planned: Planned) -> list[str] | None:
    """All texts that the run will ever need, each once; None where they are made anew for each sample."""
    if any(item.subset.random for item in planned.items):
        return None
    unused = random.Random(0)
    return list(dict.fromkeys(item.subset.apply(item.caption, unused) for item in planned.items))


class Batches:
    """The batches of a run, epoch by epoch; any step of any epoch can be begun at.

    An epoch shuffles all samples, walks through them, and hands out a batch whenever a bucket of a dataset
    has its number together; what is left comes at the end. So with one bucket a batch of four is the same
    samples as four of one. Flip and caption are drawn for each sample from (seed, ordinal) alone.

    Args:
        latents: `cache.Cache` or `cache.Fresh`.
        accumulation: batches to a step.
        conds: caption -> its cond, batch of one; see `every_caption`.
    """

    def __init__(
        self,
        planned: Planned,
        latents: Latents,
        *,
        seed: int,
        accumulation: int = 1,
        conds: Mapping[str, Cond] | None = None,
    ):
        self.planned, self.latents, self.seed, self.accumulation, self.conds = (
            planned, latents, seed, accumulation, conds)  # fmt: skip
        self.numbers = numbers(planned, accumulation)

    @property
    def samples_per_epoch(self) -> int:
        return self.numbers.samples

    @property
    def batches_per_epoch(self) -> int:
        return self.numbers.batches

    @property
    def steps_per_epoch(self) -> int:
        return self.numbers.steps

    def steps(self, epoch: int, skip: int = 0) -> Iterator[list[Batch]]:
        """The batches of each step of an epoch (from 0), without its first `skip` steps.

        Raises:
            Mistake: a picture can no longer be read.
        """
        order, size = self.order(epoch), self.accumulation
        groups = [order[first : first + size] for first in range(skip * size, len(order), size)]
        run = ahead if self.latents.slow else map
        for group, ready in zip(groups, run(self._fetch, groups), strict=True):
            yield [self._batch(entries, fetched) for entries, fetched in zip(group, ready, strict=True)]

    def order(self, epoch: int) -> list[list[tuple[int, Item]]]:
        """The epoch's batches, as ordinals and items."""
        drawn = [
            (number, item)
            for number, source in enumerate(self.planned.sources)
            for item in source.items
            for _ in range(item.subset.num_repeats)
        ]
        random.Random(key(self.seed, "order", epoch)).shuffle(drawn)
        waiting = collections.defaultdict(list)
        batches = []
        for ordinal, (number, item) in enumerate(drawn, start=epoch * len(drawn)):
            bucket = waiting[number, item.fit.bucket]
            bucket.append((ordinal, item))
            if len(bucket) == self.planned.sources[number].dataset.batch_size:
                batches.append(waiting.pop((number, item.fit.bucket)))
        return batches + [waiting[left] for left in sorted(waiting)]

    def _sample(self, ordinal: int, item: Item) -> tuple[Sample, str]:
        """What is drawn for a sample: mirrored or not, and its caption."""
        rng = random.Random(key(self.seed, "look", ordinal))
        flip = rng.random() < 0.5 and item.subset.flip_aug
        return Sample(item, flip, ordinal), item.subset.apply(item.caption, rng)

    def _fetch(self, group: Sequence[Sequence[tuple[int, Item]]]) -> list[Tensor]:
        return [self.latents.fetch([self._sample(*entry)[0] for entry in entries]) for entries in group]

    def _batch(self, entries: Sequence[tuple[int, Item]], fetched: Tensor) -> Batch:
        samples, captions = zip(*(self._sample(*entry) for entry in entries), strict=True)
        return Batch(
            latents=self.latents.finish(fetched, samples),
            captions=list(captions),
            conds=None if self.conds is None else Cond.stack([self.conds[c] for c in captions]),
            ordinals=[s.ordinal for s in samples],
            names=[s.picture.name for s in samples],
        )


def ahead(work: Callable[[A], B], over: Iterable[A]) -> Iterator[B]:
    """`map`, with the next one worked on in a thread while the last one is used."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = collections.deque()
        for one in over:
            coming.append(pool.submit(work, one))
            if len(coming) > 1:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
