"""The curves of a run: what `metrics.jsonl` holds of each step, as columns that a plot takes."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_train.job import Job

POINTS = 1000  # of the curves, that are shown
FIRST = ("step", "loss", "average", "lr", "norm", "megabytes")  # lr: the highest of the parts
LEFT_OUT = ("epoch", "images_per_second")
ASIDE = "block/"  # begins what is seldom there and is shown by itself, see `insight`


class Curve:
    """Rows of numbers. Columns are added as they are met: rows before that are shorter."""

    def __init__(self, columns: tuple[str, ...] = FIRST):
        self.columns, self.rows = [*columns], []

    @classmethod
    def read(cls, records: pathlib.Path) -> Curve:
        """Of a run's folder."""
        made = cls()
        for line in lines(records / "metrics.jsonl"):
            made.add(line)
        return made

    def add(self, line: Mapping[str, object]) -> None:
        """One line of the metrics."""
        line = {name: value for name, value in line.items() if not name.startswith(ASIDE)}
        if self.rows and "loss" not in line and line["step"] == self.rows[-1][0]:  # beside those of a step
            self.columns += [k for k in line if k not in self.columns and k not in LEFT_OUT]
            row = self.rows[-1] + [None] * (len(self.columns) - len(self.rows[-1]))
            self.rows[-1] = [line.get(name, row[i]) for i, name in enumerate(self.columns)]
            return
        parts = {k for k in line if k.startswith("lr/")}
        parts -= {k.replace("d*lr/", "") for k in parts if k.startswith("lr/d*lr/")}  # a factor of these
        others = {k: v for k, v in line.items() if k in parts or not k.startswith("lr/")}
        found = {"lr": max((line[k] for k in parts), default=None), **others}
        self.columns += [k for k in found if k not in self.columns and k not in LEFT_OUT]
        self.rows.append([found.get(name) for name in self.columns])

    def upto(self, step: int) -> Curve:
        kept = Curve(tuple(self.columns))
        kept.rows = [row for row in self.rows if row[0] <= step]
        return kept

    def after(self, step: int) -> list[list]:
        """Rows behind a step, as many as are shown."""
        return thinned([row for row in self.rows if row[0] > step])


def ahead(job: Job, steps: int, most: int = 121) -> dict[str, list[list]]:
    """Rates of a run that is not begun, by the schedule itself: {part that trains: [[step from 1, rate], …]}.
    None where the optimizer chooses them; one that Prodigy and its like find is multiplied with these.

    Raises:
        Mistake: the schedule cannot tell.
    """
    lr, stride = job.usual().lr, max(1, (steps - 1) / (most - 1))
    if job.optimizer.chooses:
        return {}
    places = sorted({round(i * stride) for i in range(most)} & set(range(steps)) | {steps - 1})
    parts = {part: lr.rate(part) for part in ("unet", "te1", "te2") if job.network.trains(part)}
    return {
        part: [[step + 1, lr.at(step, steps, base)] for step in places]
        for part, base in parts.items()
        if base is not None
    }


def thinned(points: list[list], most: int = POINTS) -> list[list]:
    """At most so many, evenly taken, the last one always among them."""
    if len(points) <= most:
        return points
    stride = -(-len(points) // (most - 1))
    return points[:-1:stride] + points[-1:]


def lines(path: pathlib.Path, word: str = "") -> Iterator[dict]:
    """The whole lines of a file of JSON that have a word in them, without what a cut-off process left
    behind."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        if word not in line:
            continue
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and isinstance(found.get("step"), int):
                yield found
