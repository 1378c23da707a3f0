"""A change to a folder's files, as its journal keeps it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib

from lora_train.errors import Mistake
from lora_train.workshop.steps import Step

RECORD = "change.json"
HEAD = 4096  # bytes of a record that tell of it

BEGUN, MOVING, DONE = "begun", "moving", "done"  # how far a change is; MOVING: tangled files are at hand
UNDOING, BACK, UNDONE = "undoing", "back", "undone"  # BACK: they are on the way to their old names


@dataclasses.dataclass
class Change:
    """Steps that belong together."""

    title: str
    state: str = BEGUN
    when: float = 0.0
    files: int = 0  # how many steps it has
    home: pathlib.Path = pathlib.Path()

    @property
    def number(self) -> int:
        return int(self.home.name)

    def now(self, state: str) -> None:
        """Replaces the record, all or nothing."""
        every = [vars(step) for step in self.steps]
        self.state, self.files = state, len(every)
        own = {"title": self.title, "state": self.state, "when": self.when, "files": self.files}
        text = json.dumps({**own, "steps": every})
        part = self.home / f"{RECORD}.part"
        written(part, text.encode())
        part.replace(self.home / RECORD)

    @classmethod
    def read(cls, home: pathlib.Path) -> Change:
        """All but the steps: of 100,000 pictures these are 30 MB, and a page asks often."""
        with (home / RECORD).open("rb") as file:
            head, found, _ = file.read(HEAD).partition(b', "steps": [')  # in a title its quotes are escaped
        if not found:
            raise ValueError(f"{home}: not a record")
        return cls(**json.loads(head + b"}"), home=home)

    @functools.cached_property
    def steps(self) -> list[Step]:
        """Raises Mistake: the disk has lost them."""
        path = self.home / RECORD
        try:
            return [Step(**step) for step in json.loads(path.read_text(encoding="utf-8"))["steps"]]
        except (ValueError, TypeError, KeyError) as e:
            raise Mistake(
                f"{path}: the record of the change {self.title} cannot be read ({e}). What it keeps lies "
                "beside it; move that folder out of the way to go on"
            ) from e


def written(path: pathlib.Path, content: bytes) -> None:
    """And on the disk, not only on its way."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
