"""The workroom: folders of pictures as a page sees them, and works on them, one at a time."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.run import insight
from lora_train.run.bench import Allow, Bench
from lora_train.run.eye import Eye
from lora_train.run.small import Ahead
from lora_train.values import shown
from lora_train.workshop import WORKS
from lora_train.workshop.changed import DONE, UNDONE, Change
from lora_train.workshop.history import said
from lora_train.workshop.journal import Journal
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Look, Work

if TYPE_CHECKING:
    from lora_train.host import Folders, Host
    from lora_train.run.queue import Queue
    from lora_train.run.runs import Runs

Values = Mapping[str, object]
Losses = Mapping[str, float]  # by a picture's file

MOST = 500  # pictures of one answer
WIDTH = 256  # pixels of a small copy in the gallery
TAGS = 2000  # that are listed
KEPT = 4  # lists of names that are kept, so that paging does not filter again

SORTS: Mapping[str, Callable[[Opened, Entry], object]] = {
    "name": lambda opened, entry: 0,
    "newest": lambda opened, entry: -entry.status.st_mtime_ns,
    "caption": lambda opened, entry: read(opened, entry).casefold(),
    "shortest": lambda opened, entry: len(read(opened, entry)),
    "smallest": lambda opened, entry: pixels(opened, entry),
    "largest": lambda opened, entry: -pixels(opened, entry),
    "problems": lambda opened, entry: -len(opened.problems.get(entry.name, ())),
}


@dataclasses.dataclass(frozen=True)
class Where(Look):
    """Which pictures of which folder."""


class Workroom:
    """Every method may be called from any thread."""

    def __init__(self, host: Host, line: Queue, folders: Folders, past: Runs):
        self.past = past
        self.bench = Bench(host, line, folders, WORKS)
        self.found: collections.OrderedDict[tuple, list[str]] = collections.OrderedDict()
        self.lock = threading.Lock()
        self.ahead = Ahead(busy=line.machine.locked)

    # ── looking ──

    def open(self, values: Values) -> dict[str, object]:
        """A folder, looked at anew; what was broken off in it is taken back first."""
        where = build(Where, values)
        recovered = self._journal(where).recover()
        return {**self._state(where, where.opened()), "recovered": [change.title for change in recovered]}

    def items(
        self, values: Values, job: Values, begin: int, count: int, sort: str, run: str | None
    ) -> dict[str, object]:
        """Some of those that the filter leaves, in order, with their buckets in a run with these settings."""
        where, eye = build(Where, values), Eye(job)
        opened, losses = where.opened(anew=False), self._losses(run)
        names = self._names(where, opened, sort, run, losses)
        entries = (opened.entries.get(name) for name in names[begin : begin + min(count, MOST)])
        rows = [row(opened, entry, losses) for entry in entries if entry is not None]
        rows = [{**r, "bucket": eye.bucket(r["size"])} for r in rows]
        self.ahead.make([opened.path(str(r["name"])) for r in rows if r["size"]], WIDTH)
        return {"version": opened.version, "total": len(names), "from": begin, "items": rows}

    def names(self, values: Values, sort: str, run: str | None) -> dict[str, object]:
        """All that the filter leaves, in order."""
        where = build(Where, values)
        opened = where.opened(anew=False)
        names = self._names(where, opened, sort, run, self._losses(run))
        return {"version": opened.version, "names": names}

    def item(self, values: Values, name: str, job: Values) -> dict[str, object]:
        """All there is to say of one picture, and what a run with these settings would see of it."""
        opened = build(Where, values).opened(anew=False)
        entry = opened.named(name)
        return {**row(opened, entry, {}), **Eye(job).seen(opened, entry)}

    def tags(self, values: Values) -> dict[str, object]:
        """[tag, pictures that have it] of those that the filter leaves, the most frequent first."""
        where = build(Where, values)
        opened = where.opened(anew=False)
        counts: collections.Counter[str] = collections.Counter()
        for entry in where.chosen(opened):
            counts.update({tag: 1 for tag in map(str.strip, read(opened, entry).split(",")) if tag})
        return {"version": opened.version, "total": len(counts), "tags": counts.most_common(TAGS)}

    def history(self, values: Values) -> list[dict[str, object]]:
        """The oldest first."""
        return [said(change) for change in self._journal(build(Where, values)).changes()]

    # ── doing ──

    def undo(self, values: Values, leave: bool) -> dict[str, object]:
        """leave: files that something else has changed since."""
        return self._turned(values, lambda journal: journal.undo(leave=leave))

    def redo(self, values: Values) -> dict[str, object]:
        return self._turned(values, Journal.redo)

    def look(self, name: str, values: Values, allow: Allow) -> dict[str, object]:
        """What is wrong with a work's settings, or what it would do to how many."""
        found = {"complaints": [], "of": None, "count": None, "examples": []}
        try:
            work = self.bench.built(name, values, allow)
            return {**found, **work.foreseen(work.opened(anew=False))} if isinstance(work, Work) else found
        except Mistake as e:
            return {**found, "complaints": str(e).splitlines()}

    def _turned(self, values: Values, turn: Callable[[Journal], Change | None]) -> dict[str, object]:
        where = build(Where, values)
        change = turn(self._journal(where))
        return {**self._state(where, where.opened()), "change": change and said(change)}

    # ── of a folder ──

    def _state(self, where: Where, opened: Opened) -> dict[str, object]:
        """What the page says above the pictures."""
        changes = self._journal(where).changes()
        done = [change.title for change in changes if change.state == DONE]
        undone = [change.title for change in changes if change.state == UNDONE]
        return {
            "folder": str(opened.folder), "version": opened.version,
            "pictures": len(opened) - len(opened.masks),
            "captioned": sum(entry.caption is not None for entry in opened.chosen()),
            "outside": len(opened.outside), "undo": done[-1] if done else None,
            "redo": undone[0] if undone else None, "problems": problems(opened), "sorts": [*SORTS],
        }  # fmt: skip

    def _journal(self, where: Where) -> Journal:
        return Journal(where.folder.absolute(), links=where.follow_links)

    def _names(self, where: Where, opened: Opened, sort: str, run: str | None, losses: Losses) -> list[str]:
        key = (where, id(opened), opened.version, opened.judged, sort, run)
        with self.lock:
            if key in self.found:
                self.found.move_to_end(key)
                return self.found[key]
        chosen = where.chosen(opened)
        if sort == "loss" and run is not None:
            chosen.sort(key=lambda entry: -losses.get(str(opened.path(entry.name)), 0.0))
        elif sort not in SORTS:
            raise Mistake(f"sort = {shown(sort)}: expected {', '.join(SORTS)}, or loss and a run")
        else:
            chosen.sort(key=lambda entry: SORTS[sort](opened, entry))
        names = [entry.name for entry in chosen]
        opened.memory.keep()
        with self.lock:
            self.found[key] = names
            while len(self.found) > KEPT:
                self.found.popitem(last=False)
        return names

    def _losses(self, run: str | None) -> Losses:
        """Of a run, against what is usual; see insight.relative."""
        if run is None:
            return {}
        found = insight.insight(self.past.one(run))["pictures"]
        return {r["file"]: r["against"] for r in found["rows"] if r["against"] is not None}


def row(opened: Opened, entry: Entry, losses: Losses) -> dict[str, object]:
    """A picture as the gallery shows it."""
    size, path = opened.size(entry), str(opened.path(entry.name))
    return {
        "name": entry.name, "path": path, "size": size, "bytes": entry.status.st_size,
        "changed": entry.status.st_mtime_ns // 1_000_000, "caption": read(opened, entry),
        "captioned": entry.caption is not None, "problems": sorted(opened.problems.get(entry.name, ())),
        "loss": losses.get(path),
    }  # fmt: skip


def problems(opened: Opened) -> dict[str, int]:
    """{kind: pictures that have it}, of the last report."""
    return dict(collections.Counter(kind for kinds in opened.problems.values() for kind in kinds))


def read(opened: Opened, entry: Entry) -> str:
    """Its caption; "" where that cannot be read, which the report says."""
    try:
        return opened.text(entry)
    except Mistake:
        return ""


def pixels(opened: Opened, entry: Entry) -> int:
    size = opened.size(entry)
    return size[0] * size[1] if size else 0
