"""The journal: jobs of the queue as a file that is whole at any moment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
import time
import uuid
from collections.abc import Iterable, Mapping

from lora_train.run.store import Unwritable, whole

SCHEMA = 1

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Entry:
    """A job in the queue."""

    id: str
    name: str
    values: dict[str, object]
    state: str = "waiting"
    step: int = 0
    steps: int | None = None
    error: str | None = None
    added: float = 0.0
    began: float | None = None
    ended: float | None = None
    file: str | None = None
    model: dict[str, object] | None = None
    own: bool = False  # what lies under its name is its own, of an earlier try

    @classmethod
    def new(cls, name: str, values: Mapping[str, object], model: dict[str, object] | None) -> Entry:
        return cls(uuid.uuid4().hex[:10], name, dict(values), added=time.time(), model=model)

    @property
    def place(self) -> tuple[object, object]:
        """Where it writes."""
        return self.values.get("output.output_dir"), self.values.get("output.output_name")


class Journal:
    """`file` holds what was last written, or, if that was cut off, what was written before."""

    def __init__(self, file: pathlib.Path):
        self.file, self.told = file, False

    def read(self) -> list[Entry]:
        names = {field.name for field in dataclasses.fields(Entry)}
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
            rows = [{k: v for k, v in row.items() if k in names} for row in found["entries"]]
            return [Entry(**row) for row in rows]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            aside = self.file.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                self.file.replace(aside)
            log.warning(
                "the queue %s cannot be read (%s); it is kept as %s, and is empty now", self.file, e, aside
            )
            return []

    def write(self, entries: Iterable[Entry]) -> None:
        text = json.dumps({"schema": SCHEMA, "entries": [dataclasses.asdict(e) for e in entries]}, indent=1)
        try:
            with whole(self.file) as part:
                part.write_text(text, encoding="utf-8")
            self.told = False
        except Unwritable as e:
            if not self.told:
                log.warning("%s. The queue goes on, and would not outlive a restart", e)
            self.told = True
