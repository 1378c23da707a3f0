"""`lora-train insight`: what runs' own records tell, as tables, JSON and a picture."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.options import Parser
from lora_train.values import shown

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.run.runs import Run

TEXT = """\
Say what a run's own records tell, also while it goes on: the loss by timestep, pictures by their loss (wrong
captions are among the first), what each block learned; of several runs also how they differ."""
ENDS = 10, 3  # pictures that are listed of the first and the last
THUMB, ACROSS = 120, 6  # pixels of a picture, and pictures in a row


def command(words: Sequence[str]) -> int:
    parser = Parser("lora-train insight", TEXT)
    parser.usage = "lora-train insight RUN_FOLDER [RUN_FOLDER ...] [options]"
    parser.add_argument(
        "folders", nargs="*", metavar="RUN_FOLDER", help="Folders of runs' records, NAME-run beside the "
        "LoRA, or LoRA files that they lie beside.")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="Print all of it as JSON.")
    parser.add_argument("--output", metavar="PNG", help="Also draw it.")
    given = vars(parser.parse_args(words))
    if not given.get("folders"):
        raise Mistake("RUN_FOLDER: expected the folder of a run's records, such as output/okara-run")

    from lora_train.run.insight import compare, insight
    from lora_train.run.store import whole

    runs = [found(pathlib.Path(folder)) for folder in given["folders"]]
    told = [insight(run) for run in runs]
    sides = compare(runs)
    beside = sides if len(runs) > 1 else None
    if given.get("json"):
        text = json.dumps({"runs": told, "compare": beside}, indent=1, ensure_ascii=False)
        sys.stdout.write(f"{text}\n")
    else:
        for table in told:
            sys.stdout.write("".join(f"{line}\n" for line in lines(table)))
        sys.stdout.write("".join(f"{line}\n" for line in apart(beside)) if beside else "")
    if "output" in given:
        with whole(pathlib.Path(given["output"])) as part:
            drawn(sides, told).save(part, "PNG")
    return 0


def found(path: pathlib.Path) -> Run:
    """The run of a folder, or of a LoRA.

    Raises:
        Mistake: there are no records, or of several runs.
    """
    from lora_train.plots.losses import run_of
    from lora_train.run.runs import at

    if path.suffix == ".safetensors":
        there = [own] if (own := run_of(path)) else []
    else:
        there = (
            [path] if (path / "job.json").is_file() else sorted(f.parent for f in path.glob("*-run/job.json"))
        )
    if not there:
        raise Mistake(f"RUN_FOLDER = {path}: expected a folder NAME-run with a job.json in it")
    if len(there) > 1:
        names = ", ".join(folder.name for folder in there)
        raise Mistake(f"RUN_FOLDER = {path}: expected one run's records; it has {names}, name one of them")
    return at(there[0])


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────


def lines(told: Mapping) -> Iterator[str]:
    yield f"{told['name']} · step {told['step']} · {told['samples']} samples"
    yield "\nLoss by timestep"
    yield from _by_timestep(told["timesteps"])
    pictures = told["pictures"]
    usual = "times" if pictures["how"] == "times" else "more than"
    yield f"\nPictures by loss: {usual} what is usual at their timesteps"
    yield from _by_picture(pictures)
    yield "\nWhat each block adds: norm after the first look, in the middle and at last"
    if said := told["blocks"]["said"]:
        yield f"  {said}"
    for row in told["blocks"]["rows"]:
        values = [v for v in row["values"] if v is not None] or [0.0]
        yield f"  {row['name']:<10} {values[0]:9.4g} {values[len(values) // 2]:9.4g} {values[-1]:9.4g}"


def _by_timestep(part: Mapping) -> Iterator[str]:
    if part["said"]:
        yield f"  {part['said']}"
        return
    heads = ("samples", "mean", "25 %", "50 %", "75 %", "early", "late")
    yield f"  {'timesteps':>12} {' '.join(f'{head:>8}' for head in heads)}"
    for row in part["rows"]:
        numbers = [row[k] for k in ("mean", "low", "median", "high", "early", "late")]
        said = " ".join(f"{'–' if n is None else f'{n:.4g}':>8}" for n in numbers)
        yield f"  {row['from']:>5} – {row['to']:>4} {row['count']:>8} {said}"


def _by_picture(part: Mapping) -> Iterator[str]:
    if part["said"]:
        yield f"  {part['said']}"
        return
    rows, (first, last) = part["rows"], ENDS
    shorter = len(rows) > first + last
    for row in [*rows[:first], *rows[-last:]] if shorter else rows:
        error = "" if row["error"] is None else f" ± {row['error']:.2g}"
        if shorter and row is rows[-last]:
            yield f"  {part['total'] - first - last} more"
        caption = " ".join(row["caption"].split())
        yield f"  {row['against']:>6.3g}{error:<9} {row['count']:>4} ×  {row['name']}  {caption}"


def apart(beside: Mapping) -> Iterator[str]:
    """Of several runs."""
    yield "\nSide by side"
    for side in beside["runs"]:
        best = side["best"]
        tried = f", validation {best['loss']:.4g} at step {best['step']}" if best else ""
        loss = "–" if side["average"] is None else f"{side['average']:.4g}"
        yield f"  {side['name']}: step {side['step']}, smoothed loss {loss}{tried}"
    yield "\nSettings that differ" if beside["differ"] else "\nTheir settings are the same."
    for row in beside["differ"]:
        yield f"  {row['path']}: " + " | ".join(shown(value) for value in row["values"])


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(sides: Mapping, told: Sequence[Mapping]) -> Image.Image:
    """The runs' losses over each other, and of one run all that its records tell, one below the other."""
    from lora_train.plots.chart import stacked

    return stacked(_beside(sides) + (_alone(told[0]) if len(told) == 1 else []))


def _alone(told: Mapping) -> list[Image.Image]:
    from lora_train.plots.chart import Line, chart, strips

    rows = [row for row in told["timesteps"]["rows"] if row["count"]]

    def over(name: str) -> list[tuple[float, float]]:
        return [((row["from"] + row["to"]) / 2, row[name]) for row in rows if row[name] is not None]

    curves = [Line("mean, and half of all samples", over("mean"), over("low"), over("high"))]
    curves += [Line("first half", over("early"), wide=False), Line("second half", over("late"), wide=False)]
    head = f"{told['name']} · step {told['step']} · "
    parts = [chart(curves, title=f"{head}loss by timestep", across="timestep")]
    if told["pictures"]["rows"]:
        parts.append(_gallery(told["pictures"]))
    if told["blocks"]["rows"]:
        steps, blocks = told["blocks"]["steps"], told["blocks"]["rows"]
        title = f"norm of what each block adds · steps {steps[0]} to {steps[-1]}"
        parts.append(strips([(row["name"], row["values"]) for row in blocks], title=title))
    return parts


def _gallery(part: Mapping) -> Image.Image:
    """The pictures with the highest loss, and those with the lowest, under what they are held against."""
    from lora_train.plots.grid import sheet

    rows = part["rows"]
    groups = {"highest loss": rows[:ACROSS], "lowest loss": rows[-ACROSS:] if len(rows) > ACROSS else []}
    groups = {name: group for name, group in groups.items() if group}
    return sheet(
        list(groups), [""] * min(ACROSS, len(rows)), lambda r, c: _cell([*groups.values()][r], c),
        title="pictures by loss, against what is usual at their timesteps",
    )  # fmt: skip


def _cell(rows: Sequence[Mapping], place: int) -> Image.Image:
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    from lora_train.plots.grid import FONT, INK, PAPER

    cell = Image.new("RGB", (THUMB, THUMB + 18), PAPER)
    if place >= len(rows):
        return cell
    row, pen = rows[place], ImageDraw.Draw(cell)
    try:
        with Image.open(row["file"]) as picture:
            small = ImageOps.exif_transpose(picture).convert("RGB")
            small.thumbnail((THUMB, THUMB))
        cell.paste(small, ((THUMB - small.width) // 2, (THUMB - small.height) // 2))
    except (OSError, ValueError, Image.DecompressionBombError):
        pen.text((THUMB / 2, THUMB / 2), "gone", INK, ImageFont.truetype(str(FONT), 12), anchor="mm")
    name = pathlib.Path(row["name"]).name[:11]
    pen.text((2, THUMB + 3), f"{row['against']:.3g} {name}", INK, ImageFont.truetype(str(FONT), 11))
    return cell


def _beside(sides: Mapping) -> list[Image.Image]:
    from lora_train.plots.chart import Line, chart

    curves, bins, tried = [], [], []
    for side in sides["runs"]:
        curves.append(Line(side["name"], [(p[0], p[1]) for p in side["points"] if p[1] is not None]))
        tried.append(Line(side["name"], [(p[0], p[2]) for p in side["points"] if p[2] is not None]))
        rows = [row for row in side["timesteps"] if row["mean"] is not None]
        bins.append(Line(side["name"], [((row["from"] + row["to"]) / 2, row["mean"]) for row in rows]))
    others = [(tried, "validation loss", "step")]
    if len(curves) > 1:
        others.append((bins, "loss by timestep", "timestep"))
    there = [(of, title, x) for of, title, x in others if any(line.points for line in of)]
    every = [(curves, "smoothed loss", "step"), *there]
    return [chart(of, title=title, across=x) for of, title, x in every]
