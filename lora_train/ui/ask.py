"""One request, read: what it names, and what it may name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.knobs import settings
from lora_train.plots.axes import named
from lora_train.plots.plan import sides_of
from lora_train.values import shown

if TYPE_CHECKING:
    from lora_train.run.bench import Bench
    from lora_train.ui.guard import Guard


@dataclasses.dataclass(frozen=True)
class Ask:
    """One request, read."""

    place: Mapping[str, str]  # what stands in the route's braces
    query: Mapping[str, str]
    body: bytes
    guard: Guard

    @property
    def json(self) -> dict:
        try:
            found = json.loads(self.body or b"{}")
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise Mistake("body: expected a JSON object")
        return found

    @property
    def values(self) -> dict[str, object]:
        values = self.json.get("values")
        if not isinstance(values, dict):
            raise Mistake('values: expected an object of settings, such as {"network.dim": 16}')
        return self.guard.values(values)

    def tool(self, bench: Bench) -> tuple[str, dict[str, object], Callable]:
        """A tool's name, its values, and who says of further paths whether they may be named."""
        values, known = self.json.get("values"), bench.settings(self.place["name"])
        if not isinstance(values, dict):
            raise Mistake('values: expected an object of settings, such as {"new_rank": 16}')
        return self.place["name"], self.guard.values(values, known), self.guard.path

    @property
    def where(self) -> dict[str, object]:
        """Which pictures of which folder."""
        from lora_train.run.workroom import Where

        values = self.json.get("where")
        if not isinstance(values, dict):
            raise Mistake('where: expected an object, such as {"folder": "D:/pictures", "only": "cat"}')
        return self.guard.values(values, {s.path: s for s in settings(Where)})

    @property
    def page(self) -> tuple[int, int, str, str | None]:
        """From which on and how many, in which order, and by which run's losses."""
        run = self.json.get("run")
        begin, count = (self.json.get(name, usual) for name, usual in (("from", 0), ("count", 200)))
        if not all(isinstance(n, int) and n >= 0 for n in (begin, count)):
            raise Mistake("from, count: expected whole numbers")
        return begin, count, str(self.json.get("sort") or "name"), None if run is None else str(run)

    @property
    def name(self) -> str:
        """Of a preset or run, which is a file's as well."""
        name = self.place["name"]
        if name.strip(" .") != name or set(name) & set('/\\:*?"<>|') or not name.isprintable():
            raise Mistake(f'name = {shown(name)}: expected a name without any of / \\ : * ? " < > |')
        return name

    @property
    def names(self) -> list[str]:
        """Of several runs, with slashes between, which no name has."""
        return [name for name in self.query.get("names", "").split("/") if name]

    @property
    def sheet(self) -> tuple[dict[str, object], dict[str, object], str, str | None]:
        """What is planned of one: its values, those of a run, its name, and the run whose files it shows."""
        job, run = self.json.get("job") or {}, self.json.get("run")
        if not isinstance(job, dict):
            raise Mistake("job: expected an object of settings, or nothing")
        values = self.values
        for axis in sides_of(values):
            for word in named(axis.words) if axis.name == "file" else ():
                if not word.startswith("run ") and set(word) & set("/\\"):
                    self.guard.path(word, "file")
        return values, self.guard.values(job), self.name, None if run is None else str(run)

    def whole(self, name: str, usual: int = 0) -> int:
        try:
            return int(self.query.get(name, usual))
        except ValueError:
            raise Mistake(f"{name} = {shown(self.query[name])}: expected a whole number") from None

    def flag(self, name: str, usual: bool) -> bool:
        value = self.json.get(name, usual)
        if not isinstance(value, bool):
            raise Mistake(f"{name} = {shown(value)}: expected true or false")
        return value
