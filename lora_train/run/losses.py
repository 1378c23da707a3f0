"""What the loss of each sample was: a record for each, in `losses.bin` beside the run's metrics."""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from lora_train.run.store import Grown, RunStore, Unwritable, whole
from lora_train.train.events import Progress, Watcher

if TYPE_CHECKING:
    from lora_train.data.folder import Planned
    from lora_train.train.parallel import Team

# picture: its place in pictures.json. 16 bytes a sample: 10,000 steps of 4 are 640 kB
RECORD = np.dtype([("step", "<u4"), ("picture", "<u4"), ("timestep", "<i4"), ("loss", "<f4")])
PICTURES = "pictures.json"


class Losses(Watcher):
    """A watcher in each process of a run, for each sees its own samples, and has a file of its own."""

    def __init__(self, store: RunStore, planned: Planned, crew: Team):
        self.records, self.planned, self.crew = store.records, planned, crew
        self.file = Grown(file(store.records, crew.rank))
        self.places: dict[str, int] = {}  # of pictures, by file

    def started(self, progress: Progress) -> None:
        rows = pictures(self.records) if progress.step else []
        self.places = {row["file"]: place for place, row in enumerate(rows)}
        for item in self.planned.items:
            if self.places.setdefault(str(item.path), len(rows)) == len(rows):
                rows.append(
                    {
                        "file": str(item.path), "name": item.name, "caption": item.own or item.caption,
                        "is_reg": item.subset.is_reg,
                    }
                )  # fmt: skip
        if self.crew.first:
            with contextlib.suppress(OSError, Unwritable):  # of a full disk the metrics tell
                self._begin(rows, progress.step)
        if progress.step:
            cut(self.file.path, progress.step)
        self.file.begin(anew=not progress.step)

    def _begin(self, rows: list[dict], step: int) -> None:
        with whole(self.records / PICTURES) as part:
            part.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")
        mine = {file(self.records, rank) for rank in range(self.crew.world)}
        for other in set(self.records.glob("losses*.bin")) - mine:  # of a run by more processes
            if step:
                cut(other, step)
            else:
                other.unlink()

    def measured(self, progress: Progress) -> None:
        rows = [(progress.step, self.places[path], t, loss) for path, t, loss in progress.samples]
        if rows:
            with contextlib.suppress(OSError):
                self.file.add(np.array(rows, RECORD).tobytes())


def file(records: pathlib.Path, rank: int) -> pathlib.Path:
    """Of one process."""
    return records / (f"losses-{rank}.bin" if rank else "losses.bin")


def cut(path: pathlib.Path, step: int) -> None:
    """Forget the records of steps after `step`: a resumed run writes them again."""
    if path.exists():
        rows = _rows(path)
        with whole(path) as part:
            part.write_bytes(rows[rows["step"] <= step].tobytes())


def read(records: pathlib.Path) -> np.ndarray:
    """All records of a run, of every process, by step."""
    files = sorted(records.glob("losses*.bin"), key=lambda path: (len(path.name), path.name))
    rows = np.concatenate([np.empty(0, RECORD), *map(_rows, files)])
    return rows[np.argsort(rows["step"], kind="stable")]


def pictures(records: pathlib.Path) -> list[dict]:
    """What the records' pictures are: file, name, caption, and whether it is one of the class."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((records / PICTURES).read_text(encoding="utf-8"))
        if isinstance(found, list):
            return found
    return []


def _rows(path: pathlib.Path) -> np.ndarray:
    """The whole ones of a file; a process that was cut off may have left a part of one."""
    with contextlib.suppress(OSError):
        data = path.read_bytes()
        return np.frombuffer(data[: len(data) // RECORD.itemsize * RECORD.itemsize], RECORD)
    return np.empty(0, RECORD)
