"""Batches: the order in which samples come, and what is drawn for each of them."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from lora_train.data import pictures
from lora_train.data.cache import Latents, Sample
from lora_train.data.captions import Moment
from lora_train.data.folder import Item, Planned, Source
from lora_train.data.held import caption
from lora_train.data.holes import Holes
from lora_train.data.looks import Look
from lora_train.draws import key
from lora_train.host import Cond
from lora_train.values import numeral

A, B = TypeVar("A"), TypeVar("B")


@dataclasses.dataclass(eq=False)
class Batch:
    """Samples that go through the model together."""

    latents: Tensor  # [B, C, h, w] float32, scaled
    captions: list[str]
    conds: Cond | None  # of the captions, where they were computed before
    ordinals: list[int]  # running numbers of the samples in the run
    names: list[str]
    weights: Tensor | None = None  # [B] float32, of their losses; None: 1
    sizes: Tensor | None = None  # [B, 6] float32, as in Cond
    kept: Tensor | None = None  # [B] bool: those that are to stay as the model without adapters has them
    classes: list[str | None] | None = None  # [B], captions with the class's word for the trigger word
    class_conds: Cond | None = None  # of those, as `conds`; of samples that have none whatever it is
    lots: Tensor | None = None  # [B] float64 in 0..1, the same for all that were drawn as one batch
    inpaint: Tensor | None = None  # [B, 5, h, w] float32, as in Cond
    masks: Tensor | None = None  # [B, 1, h, w] float32 in 0..1: how much a place counts; None: all counts
    twins: Batch | None = None  # the other pictures of their pairs, as they are seen here
    strengths: Tensor | None = None  # [B] of the adapter while they are learned from, all the same; None: 1
    paths: list[str] | None = None  # of the pictures' files; of prompts, their names

    def pieces(self, most: int) -> list[Batch]:
        """Its samples in batches of at most so many; itself where it has no more."""
        count = len(self.ordinals)
        return [self] if count <= most else [self._of(slice(i, i + most)) for i in range(0, count, most)]

    def _of(self, which: slice) -> Batch:
        every = {field.name: vars(self)[field.name] for field in dataclasses.fields(self)}
        some = {
            name: value.part(which) if isinstance(value, Cond) else None if value is None else value[which]
            for name, value in every.items()
            if name != "twins"
        }
        return type(self)(**some, twins=self.twins and self.twins._of(which))


@dataclasses.dataclass(frozen=True)
class Fetched:
    """What can be made ready of a batch without the autoencoder."""

    latents: Tensor
    masks: Tensor | None
    holes: list[tuple[Tensor, Tensor] | None] | None
    twins: Fetched | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """What makes one optimizer step: of its batches, those of this process."""

    batches: list[Batch]
    images: int  # in the step, of all processes


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
        for share in source.shares:
            counts[number, share.bucket] += share.count
    batches = sum(
        math.ceil(count / planned.sources[number].dataset.batch_size) for (number, _), count in counts.items()
    )
    return Numbers(
        pictures=len(planned.items) if planned.pictures else 0,
        samples=counts.total(),
        buckets=len(counts),
        batches=batches,
        steps=math.ceil(batches / accumulation),
    )


def arithmetic(planned: Planned, steps: int, accumulation: int = 1) -> str:
    """How the run's `steps` come about, for people."""
    n = numbers(planned, accumulation)
    if not planned.pictures:
        return _told(planned, steps, accumulation)
    repeats = {share.count / len(share.items) for source in planned.sources for share in source.shares}
    sizes = {source.dataset.batch_size for source in planned.sources}
    same = len(repeats) == 1 and n.samples == n.pictures * min(repeats)
    shown = f" x {_counted(numeral(repeats.pop()), 'repeat')}" if same else ", with their repeats"
    of = f" of {max(sizes)}" if n.samples == n.batches * max(sizes) else f" of up to {max(sizes)}"
    grouped = "" if accumulation == 1 else f", {accumulation} to a step"
    epochs, rest = divmod(steps, n.steps)
    ends = [_counted(epochs, "epoch")] * (epochs > 0) + [_counted(rest, "step")] * (rest > 0)
    return (
        f"{_counted(n.pictures, 'picture')}{shown} = {_counted(n.samples, 'sample')}"
        f" in {_counted(n.buckets, 'bucket')} -> {_counted(n.batches, 'batch')}{of}{grouped}"
        f" -> {_counted(n.steps, 'step')} an epoch; {_counted(steps, 'step')} = {' and '.join(ends)}"
        f"{_cut(planned)}"
    )


def _cut(planned: Planned) -> str:
    """Of datasets without buckets whose resolution no latents have, what pictures are cut to."""
    odd = {s.dataset.whole: s.dataset.resolution for s in planned.sources if not s.dataset.enable_bucket}
    said = [f"{w}x{h} for {r}" for (w, h), r in odd.items() if (w, h) != (r.width, r.height)]
    return f"; pictures are cut to {', '.join(said)}, multiples of 8" if said else ""


def _told(planned: Planned, steps: int, accumulation: int) -> str:
    """`arithmetic` of prompts, whose epochs mean nothing to people."""
    sizes = {source.dataset.batch_size for source in planned.sources}
    each = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else _counted(min(sizes), "sample")
    grouped = "" if accumulation == 1 else f", {accumulation} to a step"
    prompts = _counted(len(planned.sources), "prompt")
    return f"{prompts} in batches of {each}{grouped} -> {_counted(steps, 'step')}"


def _counted(count: int | str, of: str) -> str:
    return f"{count} {of}" if str(count) == "1" else f"{count} {'batche' if of == 'batch' else of}s"


def every_caption(planned: Planned) -> list[str] | None:
    """All texts that the run will ever need, each once; None where they are made anew for each sample."""
    if any(item.subset.random for item in planned.items):
        return None
    unused = random.Random(0)
    out = [caption(item) for source in planned.held for item in source.items]
    every = [*planned.items, *(item.twin for item in planned.items if item.twin is not None)]
    said = [(item.subset.apply(item.caption, unused), item.subset) for item in every]
    classes = [subset.classed(text, subset.call) for text, subset in said]
    return list(dict.fromkeys([*(text for text, _ in said), *(c for c in classes if c is not None), *out]))


class Batches:
    """The batches of a run, epoch by epoch; any step of any epoch can be begun at.

    An epoch shuffles all samples, walks through them, and hands out a batch whenever a bucket of a dataset
    has its number together; what is left comes at the end. So with one bucket a batch of four is the same
    samples as four of one. Flip and caption are drawn for each sample from (seed, ordinal) alone.

    Args:
        latents: `cache.Cache` or `cache.Fresh`.
        accumulation: batches to a step.
        conds: caption -> its cond, batch of one; see `every_caption`.
        steps: of the run; what a share of them is counted from.
        rank, world: this process's number, and how many there are. A step is made of `accumulation` batches
            for each; a process may have none at an epoch's end.
        holes: of a model made for inpainting.
    """

    def __init__(  # noqa: PLR0913 (what a sample depends on)
        self,
        planned: Planned,
        latents: Latents,
        *,
        seed: int,
        accumulation: int = 1,
        conds: Mapping[str, Cond] | None = None,
        steps: int = 0,
        rank: int = 0,
        world: int = 1,
        holes: Holes | None = None,
    ):
        self.planned, self.latents, self.seed, self.conds = planned, latents, seed, conds
        self.holes = holes
        self.accumulation, self.rank, self.world = accumulation * world, rank, world
        self.numbers = numbers(planned, self.accumulation)
        self.total = steps

    @property
    def samples_per_epoch(self) -> int:
        return self.numbers.samples

    @property
    def batches_per_epoch(self) -> int:
        return self.numbers.batches

    @property
    def steps_per_epoch(self) -> int:
        return self.numbers.steps

    def steps(self, epoch: int, skip: int = 0) -> Iterator[Group]:
        """The batches of each step of an epoch (from 0), without its first `skip` steps.

        Raises:
            Mistake: a picture can no longer be read.
        """
        order, size = self.order(epoch), self.accumulation
        groups = [order[first : first + size] for first in range(skip * size, len(order), size)]
        images = [sum(map(len, group)) for group in groups]
        mine = [group[self.rank :: self.world] for group in groups]
        run = ahead if self.latents.slow or self.holes else map
        ready = run(self._fetch, mine)
        for step, (group, fetched, count) in enumerate(zip(mine, ready, images, strict=True), skip):
            moment = Moment(epoch, epoch * self.steps_per_epoch + step, self.total)
            batches = [self._batch(e, f, moment) for e, f in zip(group, fetched, strict=True)]
            yield Group(batches, count)

    def order(self, epoch: int) -> list[list[tuple[int, Item]]]:
        """The epoch's batches, as ordinals and items."""
        drawn = [
            (number, source.items[i])
            for number, source in enumerate(self.planned.sources)
            for i, times in self._shown(number, source, epoch)
            for _ in range(times)
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

    def _shown(self, number: int, source: Source, epoch: int) -> Iterator[tuple[int, int]]:
        """(place of an item, times that it is shown in an epoch), by place."""
        times = collections.Counter()
        for which, share in enumerate(source.shares):
            each, more, first = share.times(epoch)
            for i in share.items:
                times[i] += each
            if more:  # taken in turn, in an order that does not follow the files' names
                turn = list(share.items)
                random.Random(key(self.seed, "turn", number, which)).shuffle(turn)
                times.update((turn + turn)[first : first + more])
        return iter(sorted(times.items()))

    def _sample(self, ordinal: int, item: Item, moment: Moment) -> tuple[Sample, str]:
        """What is drawn for a sample: how it looks, and its caption."""
        rng = random.Random(key(self.seed, "look", ordinal))
        look = item.subset.draw(rng)
        return Sample(item, look, ordinal), item.subset.apply(item.caption, rng, moment)

    def _fetch(self, group: Sequence[Sequence[tuple[int, Item]]]) -> list[Fetched]:
        every = [[self._sample(*entry, Moment())[0] for entry in entries] for entries in group]
        return [self._fetched(samples) for samples in every]

    def _fetched(self, samples: Sequence[Sample]) -> Fetched:
        masks, holes = self.latents.masks(samples), self.holes and self.holes.fetch(samples)
        twins = [dataclasses.replace(s, picture=s.picture.twin) for s in samples if s.picture.twin]
        return Fetched(self.latents.fetch(samples), masks, holes, self._fetched(twins) if twins else None)

    def _batch(self, entries: Sequence[tuple[int, Item]], fetched: Fetched, moment: Moment) -> Batch:
        samples, captions = zip(*(self._sample(*entry, moment) for entry in entries), strict=True)
        items, first = [item for _, item in entries], samples[0].ordinal
        classes, class_conds = self._classes(items, captions)
        kept = [item.subset.diff_output_preservation for item in items]
        lot = random.Random(key(self.seed, "batch", first)).random()
        return Batch(
            latents=self.latents.finish(fetched.latents, samples),
            captions=list(captions),
            conds=None if self.conds is None else Cond.stack([self.conds[c] for c in captions]),
            ordinals=[s.ordinal for s in samples],
            names=[s.picture.name for s in samples],
            weights=self._weights(items, moment.epoch),
            sizes=torch.tensor([pictures.sizes(s.picture, s.look) for s in samples]),
            kept=torch.tensor(kept) if any(kept) else None,
            classes=classes,
            class_conds=class_conds,
            lots=torch.full([len(items)], lot, dtype=torch.float64),
            inpaint=self.holes and self.holes.finish(fetched.holes, samples),
            masks=fetched.masks,
            twins=fetched.twins and self._batch([(o, i.twin) for o, i in entries], fetched.twins, moment),
            strengths=torch.tensor([item.strength for item in items]),
            paths=[str(item.path) for item in items],
        )

    def _classes(
        self, items: Sequence[Item], captions: Sequence[str]
    ) -> tuple[list[str | None] | None, Cond | None]:
        """Captions with the class's word, and their conds where they were computed before."""
        each = zip(items, captions, strict=True)
        classes = [item.subset.classed(text, item.subset.call) for item, text in each]
        if not any(classes):
            return None, None
        if self.conds is None:
            return classes, None
        texts = [text if of is None else of for text, of in zip(captions, classes, strict=True)]
        return classes, Cond.stack([self.conds[text] for text in texts])

    def held(self) -> list[list[tuple[int, Item]]]:
        """Batches of the pictures that are held out, always the same; ordinals that no sample has."""
        found, ordinal = [], 0
        for source in self.planned.held:
            waiting = collections.defaultdict(list)
            for item in source.items:
                ordinal -= 1
                waiting[item.fit.bucket].append((ordinal, item))
            size = source.dataset.batch_size
            found += [of[i : i + size] for of in waiting.values() for i in range(0, len(of), size)]
        return found

    def whole(self, entries: Sequence[tuple[int, Item]]) -> Batch:
        """Pictures as they are, with all of their captions."""
        samples = [Sample(item, Look(), ordinal) for ordinal, item in entries]
        captions, fetched = [caption(item) for _, item in entries], self._fetched(samples)
        return Batch(
            latents=self.latents.finish(fetched.latents, samples),
            captions=captions,
            conds=None if self.conds is None else Cond.stack([self.conds[c] for c in captions]),
            ordinals=[s.ordinal for s in samples],
            names=[s.picture.name for s in samples],
            sizes=torch.tensor([pictures.sizes(s.picture, s.look) for s in samples]),
            inpaint=self.holes and self.holes.finish(fetched.holes, samples),
            masks=fetched.masks,
        )

    def _weights(self, items: Sequence[Item], epoch: int) -> Tensor | None:
        prior = self.planned.prior.prior(epoch)
        if prior == 1 or not any(item.subset.is_reg for item in items):
            return None
        return torch.tensor([prior if item.subset.is_reg else 1.0 for item in items])


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
