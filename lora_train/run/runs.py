"""Runs: what lies on disk of each, how much it takes, and where it can be gone on from."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator

from safetensors import SafetensorError, safe_open

from lora_train.errors import Mistake
from lora_train.records import read_json, unpacked
from lora_train.run.curve import Curve
from lora_train.run.live import PLAN, drawn
from lora_train.run.store import RunStore

WHAT = ("caches", "states", "all")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run's files: `store` says where."""

    store: RunStore
    values: dict[str, object]

    @property
    def states(self) -> dict[pathlib.Path, int]:
        """State folders that can be read -> the step of each."""
        names = [self.store.last, *self.store.beside.glob(f"{self.store.name}*-state")]
        own = [f for f in names if f == self.store.last or _ours(f.name, self.store.name)]
        found = {folder: _step(folder) for folder in own}
        return {folder: step for folder, step in found.items() if step is not None}

    @property
    def newest(self) -> tuple[pathlib.Path, int] | None:
        """Where the run is gone on from, and its step."""
        return max(self.states.items(), key=lambda found: found[1], default=None)

    @property
    def step(self) -> int:
        return max((row[0] for row in Curve.read(self.store.records).rows[-1:]), default=0)

    def files(self) -> list[pathlib.Path]:
        """The LoRAs that it wrote, the newest last."""
        there = self.store.folder.glob(f"{self.store.name}*.safetensors")
        named = (self.store.result, self.store.best)
        own = [f for f in there if f in named or _ours(f"{f.stem}-state", self.store.name)]
        return sorted(own, key=lambda f: f.stat().st_mtime)

    def row(self) -> dict[str, object]:
        files, job = self.files(), self.store.records / "job.json"
        result = self.store.result
        newest = self.newest
        state = "done" if result.is_file() else "stopped" if files else "unfinished"
        file = result if result.is_file() else files[-1] if files else None
        return {
            "name": self.store.name, "folder": str(self.store.beside), "began": job.stat().st_mtime,
            "step": self.step, "steps": _steps(self.store), "file": file and str(file),
            "bytes": sum(f.stat().st_size for f in files), "state": state, "values": self.values,
            "resume": newest and str(newest[0]),
            "caches_bytes": sum(map(size, self.store.caches)), "states_bytes": sum(map(size, self.states)),
        }  # fmt: skip

    def clear(self, what: str) -> None:
        """Delete caches, states, or all but the LoRAs themselves."""
        if what not in WHAT:
            raise Mistake(f"what = {what}: expected {', '.join(WHAT)}")
        gone: list[pathlib.Path] = []
        if what in ("caches", "all"):
            gone += self.store.caches
        if what in ("states", "all"):
            gone += self.states
        if what == "all":
            gone += [self.store.records, self.store.samples]
        for folder in gone:
            shutil.rmtree(folder, ignore_errors=True)
        if what == "all":
            with contextlib.suppress(OSError):  # something else lies there
                self.store.beside.rmdir()


class Runs:
    """The runs whose folders lie in one folder: folder/okara/okara-run/job.json."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def all(self) -> Iterator[Run]:
        """The newest first."""
        jobs = sorted(self.folder.glob("*/*-run/job.json"), key=_when, reverse=True)
        for job in jobs:
            with contextlib.suppress(Mistake, OSError):
                yield at(job.parent)

    def one(self, name: str) -> Run:
        """Raises LookupError: there is none of this name."""
        for run in self.all():
            if run.store.name == name:
                return run
        raise LookupError(f"{name}: no such run")

    def view(self, name: str) -> dict[str, object]:
        run = self.one(name)
        records = run.store.records
        curve = Curve.read(records)
        found = {"columns": curve.columns, "points": curve.rows, "samples": drawn(records)}
        return {**run.row(), **found}


def at(records: pathlib.Path) -> Run:
    """The run whose records are in a folder.

    Raises:
        Mistake: they are not.
    """
    job = records / "job.json"
    values = unpacked(read_json(job), job)
    folder = pathlib.Path(str(values.get("output.output_dir") or job.parent.parent))
    return Run(RunStore(folder, job.parent.name.removesuffix("-run"), job.parent.parent), values)


def _when(job: pathlib.Path) -> float:
    with contextlib.suppress(OSError):
        return job.stat().st_mtime
    return 0.0


def _ours(folder: str, name: str) -> bool:
    """Whether a state is of this run and not of one whose name begins alike: x-state, x-000003-state."""
    number = folder.removesuffix("-state").removeprefix(name).removeprefix("-").removeprefix("step")
    return not number or number.isdecimal()


def _step(folder: pathlib.Path) -> int | None:
    """None: no state that can be read."""
    try:
        with safe_open(folder / "state.safetensors", "pt") as f:
            step = json.loads((f.metadata() or {})["state"])["progress"]["step"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return step if isinstance(step, int) else None


def _steps(store: RunStore) -> int | None:
    """How many it was to have; written when it began."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads((store.records / PLAN).read_text(encoding="utf-8"))["steps"])
    return None


def size(folder: pathlib.Path) -> int:
    """Bytes of all that lies in it."""
    return sum(_bytes(folder.rglob("*")))


def _bytes(paths: Iterable[pathlib.Path]) -> Iterator[int]:
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_file():
                yield path.stat().st_size


def taken(output_dir: pathlib.Path, name: str, *, resumed: bool) -> str | None:
    """Why a run may not write under this name: a result is never overwritten unasked.

    Args:
        resumed: files of earlier steps are its own.
    """
    store = RunStore(output_dir, name)
    there = [store.result] if store.result.exists() else []
    if not resumed:
        there += [f for f in Run(store, {}).files() if f != store.result]
    if not there:
        return None
    return (
        f"output.output_name = {name}: {there[0].name} is in {output_dir} already, and a result is not "
        f"overwritten; {free(output_dir, name)} is a free name"
    )


def free(output_dir: pathlib.Path, name: str) -> str:
    """The next name nothing is called: okara -> okara-2."""
    head, dash, number = name.rpartition("-")
    if not (dash and number.isdecimal() and len(number) < 4):  # noqa: PLR2004 (longer ones are a step's)
        head, number = name, "1"
    count = int(number)
    while True:
        count += 1
        other = f"{head}-{count}"
        if not any(output_dir.glob(f"{other}*.safetensors")):
            return other
