"""Results: what a drawing's pictures and numbers come to: sheets, table of blocks, heat map, suggestion."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lora_train.knobs import flat
from lora_train.plots import grid as sheets
from lora_train.plots.cells import Grid
from lora_train.plots.folder import Folder
from lora_train.plots.heat import heat
from lora_train.plots.suggestion import Choice, Measured, Place, Suggestion
from lora_train.plots.sweep import WITHOUT
from lora_train.run.store import whole

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.plots.drawing import Drawing

ENLARGED = 128  # pixels; cells of a smaller side are blown up to about this
LARGEST = 8000  # pixels of a sheet's side; cells of a larger one are made smaller
Cell = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Results:
    """Of a sheet whose cells are all there."""

    grid: Grid
    cells: list[Cell]  # as a sheet is read
    bare: Measured = Measured()  # without a LoRA
    held: bool = False  # whether the losses are of pictures that were not learned from
    on: str = ""  # what the losses are of
    notes: tuple[str, ...] = ()

    def write(self) -> None:
        """Everything into the folder, sheet.json last."""
        folder, plan = Folder(self.grid.plan.outdir), self.grid.plan
        pages = self.pages(folder)
        for name, image in pages.items():
            _save(folder, name, image)
        if plan.output is not None:
            with whole(plan.output) as part:
                next(iter(pages.values())).save(part, "PNG")
        warm = self.heat()
        if warm is not None:
            _save(folder, "heat.png", warm)
        folder.note(folder.record, self.record([*pages], warm is not None))

    def record(self, pages: list[str], warm: bool) -> dict[str, object]:
        found = self.suggested()
        return {
            "plan": texts(flat(self.grid.plan)), "axes": axes(self.grid), "cells": self.cells,
            "sheets": pages, "heat": "heat.png" if warm else None, "blocks": self.blocks(),
            "suggestion": found and {**dataclasses.asdict(found), "text": found.said()},
            "framed": [cell["at"] for cell in self.cells if found and self._chosen(cell, found)],
            "bare": {"loss": self.bare.loss, "looks": self.bare.looks},
            "scores": [[*place, round(score, 6)] for place, score in self.choice.scores().items()],
            "loss_of": self.on or None, "notes": [*self.notes],
        }  # fmt: skip

    # ── sheets ──

    def pages(self, folder: Folder) -> dict[str, Image.Image]:
        """{file name: picture}; one for each value of z."""
        x, y, z = self.grid.sides
        if len(z.values) == 1 or self.grid.plan.tall:
            rows = [(i, k) for k in range(len(z.values)) for i in range(len(y.values))]
            return {"sheet.png": self._page(folder, rows, "")}
        return {
            name: self._page(folder, [(i, k) for i in range(len(y.values))], z.labels[k])
            for k, name in enumerate(self.names())
        }

    def names(self) -> list[str]:
        """Of the sheets' files."""
        count = 1 if self.grid.plan.tall else len(self.grid.sides[2].values)
        return ["sheet.png"] if count == 1 else [f"sheet-{k + 1}.png" for k in range(count)]

    def _page(self, folder: Folder, rows: list[tuple[int, int]], above: str) -> Image.Image:
        x, y, z = self.grid.sides
        names = {tuple(cell["at"]): str(cell["key"]) for cell in self.cells}
        first = folder.opened(names[0, 0, 0])
        longest = max(len(x.values) * first.width, len(rows) * first.height)

        def cell(row: int, column: int) -> Image.Image:
            image = folder.opened(names[column, rows[row][0], rows[row][1]])
            share = min(1.0, LARGEST / longest)
            if share < 1:
                image.thumbnail((int(image.width * share), int(image.height * share)))
            return image

        labels = [
            " · ".join(text for text in ("" if above else z.labels[k], y.labels[i]) if text) for i, k in rows
        ]
        files = {file.stem for file in self.grid.files}
        title = above or (files.pop() if len(files) == 1 else "")
        enlarge = max(1, ENLARGED // min(first.size))
        return sheets.sheet(labels, x.labels, cell, title=title, enlarge=enlarge)

    # ── blocks ──

    def blocks(self) -> list[dict[str, object]]:
        """Of a sheet of single blocks: how far each moves the picture, the furthest first."""
        if not self.grid.compares_blocks:
            return []
        found: dict[tuple, list[Cell]] = {}
        for cell in self.cells:
            values = cell["values"]
            found.setdefault((values["block_id"], values.get("block_strength", 1.0)), []).append(cell)
        rows = [
            {
                "block": block, "strength": strength, "pictures": len(cells),
                "changed": round(_mean(c["metrics"]["changed"] for c in cells), 6),
                "moved": round(_mean(c["metrics"]["moved"] for c in cells), 4),
            }
            for (block, strength), cells in found.items()
        ]  # fmt: skip
        return sorted(rows, key=lambda row: (-row["changed"], -row["moved"]))

    # ── the suggestion ──

    def measured(self) -> dict[Place, Measured]:
        """What was found at each file and strength; of several prompts and seeds the mean. Nothing where
        something else is varied that makes a file's strength more than a number."""
        names = {side.name for side in self.grid.sides}
        if names & {"te_strength", "unet_strength", "block_weights", "block_id", "start", "stop"}:
            return {}
        found: dict[Place, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(self._place(cell), []).append(cell)
        return {
            place: Measured(tuple(cells[0].get("losses", ())), _there(cells, "looks"), _there(cells, "moved"))
            for place, cells in found.items()
        }

    def _place(self, cell: Cell) -> Place:
        at = cell["values"]
        swept = [f"{name.rpartition('.')[2]} {value}" for name, value in at.items() if "." in name]
        own = [str(at["file"])] if "file" in at else []
        file = ", ".join([*swept, *own]) or self.grid.files[0].stem
        strength = float(at.get("strength", self.grid.plan.network_mul))
        return file, 0.0 if at.get("file") == WITHOUT else strength

    def _chosen(self, cell: Cell, suggested: Suggestion) -> bool:
        file, strength = self._place(cell)
        return strength == suggested.strength and suggested.file in (file, None)

    @property
    def choice(self) -> Choice:
        found = self.measured() if self.grid.plan.score else {}
        return Choice(found, self.bare, self.held, self.on)

    def suggested(self) -> Suggestion | None:
        return self.choice.suggestion()

    def heat(self) -> Image.Image | None:
        """The scores of files and strengths, with the suggestion framed."""
        scores, chosen = self.choice.scores(), self.suggested()
        if len(scores) == 1 or chosen is None:
            return None
        files, strengths = ([*dict.fromkeys(place[i] for place in scores)] for i in (0, 1))
        values = [[scores.get((f, s)) for s in strengths] for f in files]
        place = (chosen.file or files[0], chosen.strength)
        framed = (files.index(place[0]), strengths.index(place[1])) if place in scores else None
        by = [f"loss on {self.on}"] * self.choice.by_loss + ["looks"] * self.choice.by_looks
        title = f"{' and '.join(by)}; without it 1, lower is better"
        title = f"{title[0].upper()}{title[1:]}"
        return heat(files, [f"{s:g}" for s in strengths], values, title=title, framed=framed, digits=3)


def finished(drawing: Drawing) -> Results:
    trial = drawing.trial
    return Results(
        drawing.grid, [drawing.cells[place] for place in drawing.grid.places()], drawing.bare(),
        held=trial is not None and trial.held, on="" if trial is None else trial.on,
        notes=tuple(drawing.notes))  # fmt: skip


def axes(grid: Grid) -> list[dict[str, object]]:
    """As sheet.json and the page have them."""
    return [
        {"side": side, "name": one.name, "values": [*one.values], "labels": [*one.labels]}
        for side, one in zip("xyz", grid.sides, strict=True) if one.name
    ]  # fmt: skip


def texts(values: Mapping[str, object]) -> dict[str, object]:
    return {path: value for path, value in values.items() if value not in (None, "", [])}


def _there(cells: Iterable[Cell], name: str) -> float | None:
    found = [cell["metrics"][name] for cell in cells if name in cell["metrics"]]
    return _mean(found) if found else None


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _save(folder: Folder, name: str, image: Image.Image) -> None:
    with whole(folder.path / name) as part:
        image.save(part, "PNG")
