"""Sheets that a page asks for: of a run that has ended, or as a person plans them; one at a time."""

from __future__ import annotations

import dataclasses
import json
import logging
import pathlib
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train.data.memory import Memory, usual
from lora_train.data.plan import plan as planned_of
from lora_train.errors import Mistake, fault
from lora_train.job import assemble
from lora_train.knobs import build, flat, settings
from lora_train.plots.axes import AXES, Axis, listed
from lora_train.plots.cells import Grid, drawn_up
from lora_train.plots.drawing import Course, Drawing
from lora_train.plots.plan import Plan, with_files
from lora_train.plots.results import Results, axes, finished, texts
from lora_train.plots.sweep import WITHOUT
from lora_train.run import samples
from lora_train.run.control import Control, Ended
from lora_train.run.live import linked
from lora_train.run.release import release
from lora_train.run.schema import row
from lora_train.train.room import full
from lora_train.values import either

if TYPE_CHECKING:
    from lora_train.host import Host
    from lora_train.run.queue import Queue
    from lora_train.run.runs import Run

STRENGTHS = "0, 0.4-1.2:0.2"
PROMPTS, FILES, PICTURES = 3, 8, 8  # at most, on a run's sheet; that its loss is measured on
DRAWING = "drawing"
FULL = "out of memory: close other programs, or unload other models, and draw it again"
LISTED = 500  # files, or runs, to choose from
OF_RUN = ("strengths", "files")  # the sheets that a run has by itself
OWN = ("outdir", "output")  # settings of a plan that are this place's
ASKED = "asked.json"  # how a sheet was asked for, so that it is gone on with

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Sheet:
    """One that is drawn, or was."""

    name: str  # of its folder
    run: str | None
    what: str  # "strengths", "files" or "plan"
    state: str = DRAWING  # then done, stopped or failed
    done: int = 0
    of: int = 0
    left: float | None = None  # seconds
    note: str = ""
    url: str | None = None
    suggestion: str | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is to be drawn."""

    sheet: Sheet
    grid: Grid
    values: Mapping[str, object]  # of the model, and of the run where it is one's
    asked: Mapping[str, object]  # as a page says it


class Sheets:
    """Draws one at a time, in a thread of its own, while nothing trains."""

    def __init__(self, host: Host, line: Queue, folder: pathlib.Path):
        """folder: each sheet has one of its own in it."""
        self.host, self.line, self.folder = host, line, folder
        self.now: Sheet | None = None
        self.drawing: Drawing | None = None
        self.control = Control()
        self.thread: threading.Thread | None = None

    def of_run(self, run: Run, what: str) -> Wish:
        """One of the two sheets of a run that has ended.

        Raises:
            Mistake: the run has no file, or not two of them.
        """
        files, (job, output, _) = run.files(), assemble(run.values, tolerant=True)
        prompts = samples.wanted(
            job, output, planned_of(job.data, decode=False, memory=Memory(usual()))
        )[:PROMPTS]  # fmt: skip
        name = f"{run.store.name}-{what}"
        plan = wanted(run.store.name, files, what, self.folder / name, run.store.records / f"{what}.png")
        grid = drawn_up(dataclasses.replace(plan, lora_dir=output.output_dir), None, prompts)
        own = {path: value for path, value in texts(flat(plan)).items() if path not in OWN}
        own["prompt"] = "\n".join(prompt.prompt for prompt in prompts)
        asked = {"values": own, "job": {}, "run": run.store.name, "what": what}
        return Wish(Sheet(name, run.store.name, what, of=_count(grid)), grid, run.values, asked)

    def planned(
        self, asked: Mapping[str, object], job: Mapping[str, object], name: str,
        of_run: Callable[[str], Sequence[pathlib.Path]],
    ) -> Wish:  # fmt: skip
        """A sheet as a person plans it.

        Args:
            asked: values of the plan, and the name of the run whose files it shows.
            job: of a run that is varied, or whose file it is; with the model.
            of_run: the files of a run.

        Raises:
            Mistake: all that is wrong with it.
        """
        own = {path: value for path, value in asked["values"].items() if path not in OWN}
        plan = build(Plan, {**own, "outdir": str(self.folder / name)})
        plan = with_files(plan, lambda name: [*of_run(name)])
        grid = drawn_up(plan, job, shelves=[self.host.folders.loras])  # where a page keeps presets
        assemble(job, tolerant=True)
        return Wish(Sheet(name, asked["run"], "plan", of=_count(grid)), grid, job, {**asked, "what": "plan"})

    def look(self, wish: Wish) -> dict[str, object]:
        """What would come of it: axes, cells, pictures each once, runs, and seconds where a picture's time is
        known from the last sheet."""
        pace, count = self._pace(), _count(wish.grid)
        return {
            "axes": axes(wish.grid), "cells": len([*wish.grid.places()]), "pictures": count,
            "runs": len(wish.grid.runs), "seconds": None if pace is None else round(pace * count, 1),
        }  # fmt: skip

    def _pace(self) -> float | None:
        """Seconds of a picture, of the sheet that was drawn last."""
        course = None if self.drawing is None else self.drawing.course
        return course.seconds / course.drawn if course is not None and course.drawn else None

    def begin(self, wish: Wish) -> dict[str, object]:
        """Raises Mistake: something else is drawn or trained."""
        job, _, place = assemble(wish.values, tolerant=True)
        if not self.line.machine.acquire(blocking=False):
            drawing = self.now is not None and self.now.state == DRAWING
            raise Mistake(
                "a sheet is being drawn; wait for it, or stop it"
                if drawing
                else "a run is on; draw the sheet when it has ended"
            )
        self.control, self.now = Control(), wish.sheet
        own = wish.values if wish.sheet.run is not None else None
        self.drawing = drawing = Drawing(
            wish.grid, job, place, self.host, values=own, control=self.control, told=self._told)  # fmt: skip
        self.thread = threading.Thread(
            target=self._draw, args=(wish, drawing), name="lora-train sheet", daemon=True
        )
        self.thread.start()
        return dataclasses.asdict(wish.sheet)

    def stop(self) -> dict[str, object]:
        """After the picture that is being drawn; or the step, and then the run keeps what it goes on from."""
        self.control.stop()
        return self.view() or {}

    def view(self) -> dict[str, object] | None:
        return None if self.now is None else dataclasses.asdict(self.now)

    def close(self, seconds: float) -> None:
        """The program ends."""
        self.control.stop()
        if self.thread is not None:
            self.thread.join(seconds)

    def _draw(self, wish: Wish, drawing: Drawing) -> None:
        found, sheet = self._ended(wish, drawing), wish.sheet
        try:
            release()
        finally:
            self.line.machine.release()
        for name, value in found.items():  # the state comes last: who sees it may draw the next one
            setattr(sheet, name, value)

    def _ended(self, wish: Wish, drawing: Drawing) -> dict[str, object]:
        """What is to be said of it."""
        try:
            drawing.folder.note(drawing.folder.path / ASKED, wish.asked)
            drawing.make()
            results = finished(drawing)
            results.write()
        except Ended:
            return {"note": "", "state": "stopped"}
        except Mistake as e:
            return {"note": "", "error": str(e), "state": "failed"}
        except Exception as e:
            if full(e):
                return {"note": "", "error": FULL, "state": "failed"}
            log.exception("The sheet %s could not be drawn", wish.sheet.name)
            return {"note": "", "error": fault(e), "state": "failed"}
        chosen = results.suggested()
        return {
            "note": "", "url": _shown(_page(drawing, results)), "suggestion": chosen and chosen.said(),
            "state": "done",
        }  # fmt: skip

    def _told(self, course: Course) -> None:
        self.control.heed()
        now = self.now
        now.done, now.of, now.left, now.note = course.done, course.of or now.of, course.left, course.note

    # ── on disk ──

    def all(self) -> list[dict[str, object]]:
        """The newest first."""
        files = [*self.folder.glob("*/sheet.json"), *self.folder.glob(f"*/{ASKED}")]
        found = {file.parent: file.stat().st_mtime for file in sorted(files, key=lambda f: f.stat().st_mtime)}
        return [
            {"name": path.name, "when": when, "state": self._state(path),
             "suggestion": _record(path / "sheet.json").get("suggestion")}
            for path, when in sorted(found.items(), key=lambda one: one[1], reverse=True)
        ]  # fmt: skip

    def _state(self, folder: pathlib.Path) -> str:
        """Of one on disk: done where its record is newer than what was asked for."""
        now, record, asked = self.now, folder / "sheet.json", folder / ASKED
        if now is not None and now.name == folder.name and now.state == DRAWING:
            return DRAWING
        whole = record.is_file() and not (
            asked.is_file() and asked.stat().st_mtime > record.stat().st_mtime
        )  # fmt: skip
        return "done" if whole else "stopped"

    def remove(self, name: str) -> None:
        """With all that lies in its folder, which for a sweep are its LoRAs as well.

        Raises:
            LookupError: there is none of this name.
            Mistake: it is being drawn.
        """
        folder = self.folder / name
        if not any((folder / file).is_file() for file in ("sheet.json", ASKED)):
            raise LookupError(f"{name}: no such sheet")
        if self._state(folder) == DRAWING:
            raise Mistake(f"{name} is being drawn; stop it first")
        shutil.rmtree(folder)
        if self.now is not None and self.now.name == name:
            self.now = None

    def of(self, run: str) -> list[str]:
        """Names of the sheets on disk that a run has by itself."""
        found = {f"{run}-{what}": what for what in OF_RUN}
        wished = {name: _record(self.folder / name / ASKED) for name in found}
        return [
            name
            for name, asked in wished.items()
            if (asked.get("run"), asked.get("what")) == (run, found[name])
        ]

    def one(self, name: str, after: int = 0) -> dict[str, object]:
        """A sheet with its cells; of one that is drawn, or was not drawn to its end, those that are there.

        Args:
            after: of the one that is drawn, so many cells are known already.

        Raises:
            LookupError: there is none of this name.
        """
        drawing, now, folder = self.drawing, self.now, self.folder / name
        asked, record = _record(folder / ASKED), _record(folder / "sheet.json")
        if not asked and not record:
            raise LookupError(f"{name}: no such sheet")
        state = self._state(folder)
        if state == "done":
            found, count = record, len(record["cells"])
        else:
            own = drawing if now is not None and now.name == name else None
            cells = [] if own is None else list(own.cells.values())[after:]
            found = {"axes": [] if own is None else axes(own.grid), "cells": cells}
            count = after + len(cells)
        return {**found, "asked": asked or None, "count": count, "state": state, **_linked(found, folder)}


def wanted(
    name: str, files: Sequence[pathlib.Path], what: str, outdir: pathlib.Path, output: pathlib.Path
) -> Plan:
    """Of one of the two sheets of a run.

    Raises:
        Mistake: the run has no file, or not two of them.
    """
    if not files:
        raise Mistake(f"{name}: no saved file is there; train it first")
    if what not in OF_RUN:
        raise Mistake(f"what = {what}: expected {either(OF_RUN)}")
    if what == "files" and len(files) == 1:
        raise Mistake(f"{name}: only one file was saved; output.save_every_n_epochs saves more to compare")
    shown = files if len(files) <= FILES else spread(files, FILES)
    every = Axis("file", listed([WITHOUT, *shown]))
    return Plan(
        network_weights=tuple(shown if what == "files" else files[-1:]),
        x=every if what == "files" else Axis("strength", STRENGTHS), y=Axis("prompt"), score=True,
        score_pictures=PICTURES, outdir=outdir, output=output)  # fmt: skip


def offered(runs: Iterable[Run], loras: pathlib.Path) -> dict[str, object]:
    """What a form needs: the settings of a plan, the axes that there are beside those of a training, and the
    files to choose from, the newest first."""
    rows = [row(s, {}) for s in settings(Plan) if s.path not in OWN]
    kinds = [
        {"name": name, "title": kind.title, "help": kind.said, "usual": kind.usual}
        for name, kind in AXES.items()
    ]
    made = [{"name": run.store.name, "files": [*map(str, files)]} for run in runs if (files := run.files())]
    there = (f for f in loras.rglob("*.safetensors") if f.is_file())  # and no link to nothing
    found = sorted(there, key=lambda f: f.stat().st_mtime, reverse=True)
    return {"settings": rows, "axes": kinds, "runs": made[:LISTED], "files": [*map(str, found[:LISTED])]}


def spread(files: Sequence[pathlib.Path], count: int) -> list[pathlib.Path]:
    """So many of them, evenly, the first and the last among them."""
    last = len(files) - 1
    return [files[round(i * last / (count - 1))] for i in range(count)]


def _count(grid: Grid) -> int:
    """Pictures, each once."""
    shots = {grid.shot(place) for place in grid.places()}
    whole = {grid.whole(place) for place in grid.places()} if grid.compares_blocks else set()
    bare = {shot.bare() for shot in shots} if grid.plan.score else set()
    return len(shots | whole | bare)


def _page(drawing: Drawing, results: Results) -> pathlib.Path:
    plan = drawing.grid.plan
    return plan.output or plan.outdir / results.names()[0]


def _shown(file: pathlib.Path) -> str:
    return f"{linked(file)}&drawn={time.time():.0f}"  # or a browser shows the last one


def _record(path: pathlib.Path) -> dict:
    """{} where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _linked(record: Mapping, folder: pathlib.Path) -> dict[str, object]:
    """With addresses of the pictures."""
    cells = [
        {**cell, "url": linked(folder / cell["picture"]),
         "base_url": cell.get("base") and linked(folder / cell["base"])}
        for cell in record["cells"]
    ]  # fmt: skip
    pages = {"sheet_urls": [_shown(folder / name) for name in record.get("sheets", ())]}
    warm = record.get("heat")
    return {"cells": cells, **pages, "heat_url": warm and _shown(folder / warm)}
