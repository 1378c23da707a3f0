"""Sweep: settings of a training on the axes of a sheet; each value makes a run with a file of its own."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re
import typing
from collections.abc import Mapping, Sequence

from lora_train.errors import Mistake
from lora_train.job import ROOMS, assemble, declared
from lora_train.knobs import Setting
from lora_train.plots.axes import Value, named, numbers, words
from lora_train.run.refusals import refusals
from lora_train.values import plain, unwrapped

LONG = 60  # characters of a run's name, before what tells it from all others
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


def swept(
    sides: Mapping[str, Sequence[Value]], job: Mapping[str, object] | None, outdir: pathlib.Path
) -> dict[pathlib.Path, dict[str, object]]:
    """Result of each run -> its settings.

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
        made = _job(job, varied, outdir)
        try:
            parts = assemble(made, tolerant=True)
            complaints += refusals(*parts)
        except Mistake as e:
            complaints += str(e).splitlines()
            continue
        found[parts[1].output_dir / f"{parts[1].output_name}.safetensors"] = made
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
