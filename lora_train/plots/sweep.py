"""Sweep: settings of a training on the axes of a sheet; each value makes a run with a file of its own."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import pathlib
import re
import typing
from collections.abc import Mapping, Sequence

from lora_train.data.batches import numbers as pace
from lora_train.data.memory import Memory, usual
from lora_train.errors import Mistake
from lora_train.job import ROOMS, Job, assemble, declared
from lora_train.knobs import Setting
from lora_train.plots.axes import Value, named, numbers, words
from lora_train.run.refusals import refusals
from lora_train.run.store import RunStore
from lora_train.values import plain, shown, unwrapped

LONG = 60  # characters of a run's name, before what tells it from all others
WITHOUT, LAST = "none", "last"  # in place of a file; of a run's files that of its end
OF_RUNS = "expected, beside a training's setting, which of each run's files: epoch 1, 2, last"
SEED = 1  # of runs whose settings have none, so that they differ in nothing but what is varied


@dataclasses.dataclass(frozen=True)
class Swept:
    """A setting as an axis."""

    setting: Setting

    @property
    def path(self) -> str:
        return self.setting.path

    def values(self, text: str) -> list[Value]:
        """Raises Mistake: naming the axis and the value."""
        inner, _ = unwrapped(self.setting.type)
        if not text:
            raise Mistake(f"{self.path}: expected its values, each {self.setting.expected}")
        try:
            each = [*map(_short, numbers(text))] if inner in (int, float) else _words(inner, text)
        except Mistake:  # a word such as none
            each = named(text)
        try:
            return [_shown(plain(self.setting.parse(value)), value) for value in each]
        except ValueError as e:
            raise Mistake(str(e)) from e


def _short(number: float) -> float:
    """A whole number without its point."""
    return int(number) if number == int(number) else number


def _shown(value: object, given: Value) -> Value:
    """Lists as they were written, and nothing as a word for it."""
    return given if value is None or isinstance(value, list) else value


def _words(inner: object, text: str) -> list[str]:
    simple = inner is bool or inner is str
    return named(text) if simple and typing.get_origin(inner) is not tuple else words(text)


@functools.cache
def _known() -> dict[str, Setting]:
    every = [s for s in declared() if ".N." not in s.path]
    own = [s for s in every if s.path.partition(".")[0] not in ROOMS and not s.place]
    names = {name: s for s in reversed(own) for name in (*s.aka, s.path)}
    return {name: s for name, s in names.items() if not s.path.startswith("model.")}


def setting(name: str) -> Swept | None:
    """The setting of this path or flat name; None where there is none that changes what is learned."""
    found = _known().get(name)
    return None if found is None else Swept(found)


@dataclasses.dataclass(frozen=True)
class Bred:
    """One run of a sweep."""

    settings: Mapping[str, object]
    files: Mapping[str, pathlib.Path]  # what the sheet shows of it: "last", "epoch 2" -> its file


def epochs(text: str) -> list[str]:
    """Values of an axis of files beside settings: which of each run's files.

    >>> epochs("epoch 1, 2-4:2, last")
    ['epoch 1', 'epoch 2', 'epoch 4', 'last']

    Raises:
        Mistake: something else stands there.
    """
    found: list[str] = []
    for word in (word.lower() for word in named(text)):
        try:
            if word not in (LAST, WITHOUT):
                found += [f"epoch {_whole(number)}" for number in numbers(word.removeprefix("epoch"))]
            else:
                found.append(word)
        except Mistake:
            raise Mistake(f"file = {shown(word)}: {OF_RUNS}") from None
    if not found:
        raise Mistake(f"file: {OF_RUNS}")
    return found


def _whole(number: float) -> int:
    if number != int(number) or number < 1:
        raise Mistake(OF_RUNS)
    return int(number)


def swept(
    sides: Mapping[str, Sequence[Value]], job: Mapping[str, object] | None, outdir: pathlib.Path,
    files: Sequence[str] = (LAST,),
) -> dict[pathlib.Path, Bred]:  # fmt: skip
    """Result of each run -> the run.

    Args:
        files: of each run those that are shown, see `epochs`.

    Raises:
        Mistake: what a run would be refused for.
    """
    if not job:
        raise Mistake(
            f"{', '.join(sides)}: expected the settings of the run that is varied; give those of lora-train "
            "train, such as --config_file"
        )
    found, complaints = {}, []
    for values in itertools.product(*sides.values()):
        varied = dict(zip(sides, values, strict=True))
        made = _job(job, varied, outdir) | _saves(files)
        try:
            parts = assemble(made, tolerant=True)
            if lines := refusals(*parts):
                complaints += lines
                continue
            run = Bred(made, _files(parts[0], RunStore(parts[1].output_dir, parts[1].output_name), files))
        except Mistake as e:
            complaints += str(e).splitlines()
            continue
        found[run.files[LAST]] = run
    if complaints:
        raise Mistake("\n".join(dict.fromkeys(complaints)))
    return found


def _job(job: Mapping[str, object], varied: Mapping[str, Value], outdir: pathlib.Path) -> dict[str, object]:
    kept = {p: v for p, v in job.items() if not p.startswith("output.") and p != "place.resume"}
    if kept.get("training.seed") is None:
        kept["training.seed"] = SEED
    full = {**kept, **varied}
    told = json.dumps(full, sort_keys=True, default=str)
    lead = "_".join(f"{path.rpartition('.')[2]}-{value}" for path, value in varied.items())
    name = f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', lead)[:LONG]}-{hashlib.sha256(told.encode()).hexdigest()[:6]}"
    return {**full, "output.output_dir": str(outdir / "runs"), "output.output_name": name}


def _saves(files: Sequence[str]) -> dict[str, object]:
    """Settings by which a run saves them."""
    numbers = [int(value.partition(" ")[2]) for value in files if value.startswith("epoch ")]
    return {"output.save_every_n_epochs": math.gcd(*numbers)} if numbers else {}


def _files(job: Job, store: RunStore, files: Sequence[str]) -> dict[str, pathlib.Path]:
    """Raises Mistake: the run has not as many epochs."""
    found = {LAST: store.result}
    numbers = {value: int(value.partition(" ")[2]) for value in files if value.startswith("epoch ")}
    if not numbers:
        return found
    planned, _ = job.objective.survey(job.data, decode=False, memory=Memory(usual()))
    an_epoch = pace(planned, job.training.gradient_accumulation_steps).steps
    steps = job.training.steps(an_epoch)
    for value, number in numbers.items():
        if number * an_epoch > steps:
            raise Mistake(
                f"file = {value}: expected an epoch that the run comes to; it ends after {steps} steps, and "
                f"an epoch has {an_epoch}; set training.max_train_epochs"
            )
        found[value] = store.result if number * an_epoch == steps else store.at_epoch(number)
    return found
