"""`lora-train plot`: sheets of pictures over any axis, with scores and a suggestion."""

from __future__ import annotations

import functools
import logging
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.options import Parser, add, parse, train_values

if TYPE_CHECKING:
    from lora_train.job import Job, Place
    from lora_train.knobs import Setting
    from lora_train.plots.cells import Grid
    from lora_train.plots.drawing import Course
    from lora_train.plots.results import Results

log = logging.getLogger(__name__)

TEXT = """\
Sheets of pictures: an axis along the top (--x), one down the side (--y), one of sheets (--z).
Values are lists, spans such as 0-1.2:0.2, and names; an axis by its name alone has usual ones:
  --x "strength: 0-1.2:0.2" --y file       every file of --network_weights at each strength
  --x "te_strength: 0, 1" --y "unet_strength: 0, 1"
  --y "block_id: 17ALL"                    only one block at a time; --others 1: all but one
  --x "network.dim: 4, 8, 16"              a run for each; its settings are those of lora-train train
{}
What is in --outdir already is not drawn again: a sheet that was stopped goes on by itself."""
SHOWN = 5.0  # seconds between two lines that say how far it is
STOPPED = 130


def command(words: Sequence[str]) -> int:
    """Returns the exit status."""
    from lora_train.job import assemble, declared
    from lora_train.knobs import build
    from lora_train.plots.cells import drawn_up
    from lora_train.plots.plan import Plan, with_files
    from lora_train.plots.sweep import setting
    from lora_train.run.check import tried

    every = declared()
    parser = _parser(every)
    own, rest = parser.parse_known_args(words)
    given = {name: _one(value) for name, value in vars(own).items()}
    model = {path: value for path, value in given.items() if "." in path}
    plan = with_files(build(Plan, _plan_values(given)), functools.partial(_saved, given))
    varied = any(setting(axis.name) for axis in plan.axes.values())
    if rest and not varied:
        parse(parser, words)  # says what of them there is not
    job, notes = train_values(rest, every) if varied else ({}, [])
    for note in notes:
        log.info(note)
    complaints: list[str] = []
    grid = tried(complaints, lambda: drawn_up(plan, {**job, **model}))
    parts = tried(complaints, lambda: assemble({**job, **model} if varied else model, tolerant=True))
    if complaints:
        raise Mistake("\n".join(dict.fromkeys(complaints)))
    return _drawn(grid, parts[0], parts[2])


def _saved(given: Mapping[str, object], name: str) -> list[pathlib.Path]:
    """Files of a run, which lies where LoRAs do."""
    from lora_train.run.runs import Run
    from lora_train.run.store import RunStore

    folder = pathlib.Path(str(given.get("lora_dir", "output")))
    found = Run(RunStore(folder, name), {}).files()
    if not found:
        raise Mistake(f"file = run {name}: expected a run whose files are in {folder}; --lora_dir says where")
    return found


def _parser(every: Sequence[Setting]) -> Parser:
    from lora_train.knobs import settings
    from lora_train.plots.axes import AXES
    from lora_train.plots.plan import Plan

    rows = "\n".join(f"  {name:<16}{kind.said}" for name, kind in AXES.items())
    parser = Parser("lora-train plot", TEXT.format(f"axes:\n{rows}"))
    groups = {name: parser.add_argument_group(name) for name in ("sheet", "pictures", "scores", "model")}
    for s in settings(Plan):
        action = add(groups[s.group], s, [s.path], dest=s.path)
        action.nargs = "+" if s.path == "prompt" else action.nargs
    groups["sheet"].add_argument("--strengths", metavar="NUMBERS", help="The same as --x strength: NUMBERS.")
    for s in every:
        if s.path.startswith("model.") or s.path in ("place.device", "training.mixed_precision"):
            add(groups["model"], s, [s.name, s.path], dest=s.path)
    return parser


def _one(value: object) -> object:
    """Of a list with one value that value; a file's name with commas in it is no list."""
    alone = isinstance(value, list) and len(value) == 1
    return value[0] if alone and not ("," in value[0] and pathlib.Path(value[0]).exists()) else value


def _plan_values(given: Mapping[str, object]) -> dict[str, object]:
    values = {name: value for name, value in given.items() if "." not in name}
    if isinstance(values.get("prompt"), list):
        values["prompt"] = "\n".join(values["prompt"])
    if (strengths := values.pop("strengths", None)) is not None:
        values.setdefault("x", f"strength: {strengths}")
    if "output" in values and "outdir" not in values:  # the sheet's own folder lies beside it
        values["outdir"] = str(pathlib.Path(str(values["output"])).with_suffix(""))
        if values["outdir"] == str(values["output"]):
            values["outdir"] += "-cells"
    return values


def _drawn(grid: Grid, job: Job, place: Place) -> int:
    from lora_train.hosts.standalone.host import StandaloneHost, fitted
    from lora_train.plots.drawing import Drawing
    from lora_train.plots.results import finished
    from lora_train.run.control import Ended
    from lora_train.run.watchers import Bar
    from lora_train.stopping import interruptible

    job, instead = fitted(job, place)
    for note in instead:
        log.info(note)
    with interruptible("Stopping after this picture; the same command goes on from there") as control:
        drawing = Drawing(
            grid, job, place, StandaloneHost(), control=control, told=Telling(), watchers=[Bar()]
        )
        try:
            drawing.make()
        except Ended:
            log.info("Stopped with %d of %d pictures drawn.", drawing.course.done, drawing.course.of)
            return STOPPED
    results = finished(drawing)
    results.write()
    _said(results)
    return 0


class Telling:
    """Says how far a sheet is, every few seconds."""

    def __init__(self) -> None:
        self.last, self.note = time.monotonic(), ""

    def __call__(self, course: Course) -> None:
        now = time.monotonic()
        if course.note and course.note != self.note and not course.note.startswith("training"):
            log.info("%s", f"{course.note[0].upper()}{course.note[1:]}")
        elif course.of and now - self.last >= SHOWN:
            self.last = now
            left = "" if course.left is None else f", {course.left // 60:.0f}:{course.left % 60:02.0f} left"
            log.info("%d of %d pictures%s", course.done, course.of, left)
        self.note = course.note


def _said(results: Results) -> None:
    folder, plan = results.grid.plan.outdir, results.grid.plan
    for note in results.notes:
        log.info(note)
    if rows := results.blocks():
        sys.stdout.write(f"{'block':<12}{'strength':>9}{'changed':>10}{'moved':>9}\n")
        for row in rows:
            sys.stdout.write(
                f"{row['block']:<12}{row['strength']:>9g}{row['changed']:>10.1%}{row['moved']:>9.2f}\n"
            )
    if (found := results.suggested()) is not None:
        sys.stdout.write(f"{found.said()}\n")
    log.info("Saved %s", plan.output or folder)
