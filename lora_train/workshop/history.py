"""What was done to a folder: taken back, done again, listed, forgotten."""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Iterable

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, Tool, unheard
from lora_train.workshop.changed import DONE, Change
from lora_train.workshop.journal import Journal


@dataclasses.dataclass(frozen=True)
class OfFolder(Tool):
    """What concerns a folder's journal alone."""

    folder: pathlib.Path | None = knob(
        None, "Folder of pictures.", group="pictures", basic=True, place=True)  # fmt: skip
    follow_links: bool = knob(
        False, "Files that are links to outside are changed where they lead to.",
        group="pictures")  # fmt: skip

    alone = "folder"
    light = True

    def check(self) -> Iterable[str]:
        if self.folder is None or not self.folder.is_dir():
            yield f"folder = {self.folder}: expected a folder of pictures" if self.folder else (
                "folder: expected a folder of pictures")  # fmt: skip

    def makes(self) -> Iterable[tuple[str, pathlib.Path]]:
        return [("folder", self.folder)] if self.folder else ()

    @property
    def journal(self) -> Journal:
        return Journal(self.folder.absolute(), links=self.follow_links)


@dataclasses.dataclass(frozen=True)
class Undo(OfFolder):
    """Take back the last change."""

    leave_changed: bool = knob(
        False, "Files that something else has changed since stay as they are; the others are taken back.",
        group="pictures")  # fmt: skip

    def run(self, told: Told = unheard) -> Report:
        change = self.journal.undo(leave=self.leave_changed)
        if change is None:
            raise Mistake(f"{self.folder}: nothing has been changed here that could be undone")
        return Report((f"Undone: {change.title}, {files(change)}",), said(change))


@dataclasses.dataclass(frozen=True)
class Redo(OfFolder):
    """Do again what was undone last."""

    def run(self, told: Told = unheard) -> Report:
        change = self.journal.redo()
        if change is None:
            raise Mistake(f"{self.folder}: nothing has been undone here")
        return Report((f"Done again: {change.title}, {files(change)}",), said(change))


@dataclasses.dataclass(frozen=True)
class History(OfFolder):
    """The changes that can be undone."""

    forget: bool = knob(
        False, "Give back the room that undoing takes; the files stay as they are.",
        group="output")  # fmt: skip

    def run(self, told: Told = unheard) -> Report:
        broken = self.journal.recover()
        changes = self.journal.changes()
        if self.forget:
            self.journal.forget()
            return Report((f"{len(changes)} changes forgotten",), {"forgotten": len(changes)})
        lines = [f"Taken back, for it was broken off: {change.title}" for change in broken]
        lines += [_line(change) for change in changes] or ["Nothing has been changed here."]
        return Report(tuple(lines), {"changes": [said(change) for change in changes]})


def files(change: Change) -> str:
    return f"{change.files} file{'s' * (change.files != 1)}"


def said(change: Change) -> dict[str, object]:
    """As programs are told of it."""
    return {"number": change.number, "title": change.title, "when": change.when,
            "files": change.files, "done": change.state == DONE}  # fmt: skip


def _line(change: Change) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(change.when))
    undone = "" if change.state == DONE else " (undone)"
    return f"{when}  {change.title}, {files(change)}{undone}"
