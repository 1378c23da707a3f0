"""Losses of a file at a strength: on pictures held out or learned from, always with the same noise."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from lora_train.data.batches import Batches
from lora_train.data.cache import Fresh
from lora_train.data.folder import Item, Planned, Source
from lora_train.data.memory import Memory, usual
from lora_train.data.plan import plan
from lora_train.draws import drawn
from lora_train.errors import Mistake
from lora_train.job import Job, assemble
from lora_train.records import read_json, unpacked
from lora_train.train.loop import DTYPES, seeded

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.host import Lent

SAVED = re.compile(r"(-\d{6}|-step\d{8}|-best)$")  # behind a run's name, in the names of its files

T = TypeVar("T")


def run_of(file: pathlib.Path) -> pathlib.Path | None:
    """The records of the run that wrote a file, where they lie beside it."""
    names = (file.stem, SAVED.sub("", file.stem))
    there = (file.parent / f"{name}-run" for name in names)
    return next((folder for folder in there if (folder / "job.json").is_file()), None)


def settings_of(file: pathlib.Path) -> dict[str, object] | None:
    """Of that run."""
    if (records := run_of(file)) is not None:
        with contextlib.suppress(Mistake):
            return unpacked(read_json(records / "job.json"), records / "job.json")
    return None


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is measured on: the pictures of a run, of which those that it held out come first."""

    job: Job
    planned: Planned
    most: int  # pictures

    @classmethod
    def of(cls, values: Mapping[str, object], most: int) -> Trial:
        """Raises Mistake: there are no such pictures, or what is learned from them has no loss to compare."""
        known = {path: value for path, value in values.items() if not path.startswith(("output.", "place."))}
        job = assemble(known, tolerant=True)[0]
        if not job.objective.pictures or not job.objective.validates:
            raise Mistake("the objective of the run has no loss on pictures that could be compared")
        return cls(job, plan(job.data, decode=False, memory=Memory(usual())), most)

    @property
    def held(self) -> bool:
        return bool(self.planned.held)

    @property
    def on(self) -> str:
        """The pictures in words."""
        count = sum(len(source.items) for source in self.sources())
        which = "held-out" if self.held else "training"
        return f"{count} {which} picture{'' if count == 1 else 's'}"

    def learned(self) -> list[pathlib.Path]:
        """Files that were learned from."""
        return [item.path for item in self.planned.items if not item.subset.is_reg]

    def sources(self) -> list[Source]:
        """At most so many pictures, evenly from all."""
        found = self.planned.held or tuple(
            Source(s.dataset, tuple(i for i in s.items if not i.subset.is_reg), ())
            for s in self.planned.sources
        )
        items = [(number, item) for number, source in enumerate(found) for item in source.items]
        kept: dict[int, list[Item]] = {}
        for number, item in evenly(items, self.most):
            kept.setdefault(number, []).append(item)
        return [dataclasses.replace(found[n], items=tuple(own), shares=()) for n, own in kept.items()]

    def said(self) -> list[object]:
        """All that the losses depend on of them."""
        items = [item for source in self.sources() for item in source.items]
        files = [(item.path, item.path.stat()) for item in items]
        looks = [(str(p), s.st_size, s.st_mtime_ns) for p, s in files]
        return [looks, [(i.caption, i.fit.bucket) for i in items]]

    @torch.no_grad()
    def batches(self, lent: Lent) -> list[Batch]:
        planned = dataclasses.replace(self.planned, held=tuple(self.sources()))
        latents = self.job.objective.seen(Fresh(lent.encode_images, 0))
        batches = Batches(planned, latents, seed=0)
        return [batches.whole(entries) for entries in batches.held()]


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them."""
    return [items[i * len(items) // most] for i in range(most)] if len(items) > most else [*items]


@dataclasses.dataclass(frozen=True)
class Losses:
    """A trial's pictures on a lent model."""

    trial: Trial
    lent: Lent
    batches: list[Batch]

    @classmethod
    def on(cls, trial: Trial, lent: Lent) -> Losses:
        return cls(trial, lent, trial.batches(lent))

    @torch.no_grad()
    def of(self, network: Network) -> list[float]:
        """Each picture's, the mean over four timesteps; the network is on as it is to be measured."""
        job, lent = self.trial.job, self.lent
        course, found = job.objective.begin(lent, network), []
        dtype = DTYPES[job.training.mixed_precision]
        mixed = dtype is not torch.float32  # which torch 2.1 refuses on a CPU, even where it is off
        device = lent.device
        with seeded(device, 0), torch.autocast(device.type, dtype if mixed else None, enabled=mixed):
            for batch in self.batches:
                read = dataclasses.replace(batch, conds=lent.encode(batch.captions))
                sums = [0.0] * len(batch.names)
                steps = course.tried(lent)
                for t in steps:
                    rngs = [drawn("validation", name, t) for name in batch.names]
                    losses = course.losses_of(lent, read, t, rngs).double().tolist()
                    sums = [a + b for a, b in zip(sums, losses, strict=True)]
                found += [total / len(steps) for total in sums]
        return found
