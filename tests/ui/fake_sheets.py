"""What the desk with canned answers says of sheets and of block weights."""

import time

from lora_train.blocks import BLOCKS, LISTS
from lora_train.run.blockbook import BlockBook
from lora_train.run.sheets import offered

STRENGTHS = [0, 0.4, 0.6, 0.8, 1, 1.2]
FILES = ["okara-000002", "okara-000004", "okara"]
TEXT = (
    "Suggested: okara at 0.8. Loss on 7 held-out pictures and distance to the training pictures' looks 0.102 "
    "and 2.2, the best there is; without it 0.142 and 2.4."
)


def cell_of(x, y, values, base=0, **metrics):
    at = 100 * y + x
    return {
        "at": [x, y, 0], "values": values, "key": str(at), "seconds": 2.5,
        "url": f"/lora_train/v1/drawing?of={at}", "base_url": f"/lora_train/v1/drawing?of={base}",
        "infotext": f"okara <b>in</b> the snow<lora:okara:1>\nSteps: 20, Sampler: DDIM, Seed: {at}",
        "metrics": metrics,
    }  # fmt: skip


def sheet_of(count=None):
    """Three files at six strengths; a count: so many cells are there."""
    axes = [
        {
            "side": "x",
            "name": "strength",
            "values": STRENGTHS,
            "labels": [f"strength {s}" for s in STRENGTHS],
        },
        {"side": "y", "name": "file", "values": FILES, "labels": FILES},
    ]
    cells = [
        cell_of(x, y, {"strength": s, "file": f}, moved=round(18 * s * (y + 1) / 3, 2),
                changed=round(0.3 * s, 3), loss=0.142 - 0.05 * s,
                looks=round(2.4 - s + s * s * (y + 1) / 3, 2))
        for y, f in enumerate(FILES) for x, s in enumerate(STRENGTHS)
    ]  # fmt: skip
    if count is not None:
        return {"state": "drawing", "axes": axes, "cells": cells[:count], "count": count}
    scores = [[f, s, round(1 - 0.1 * (i + 1) * (1 - ((s - 0.8) / 0.8) ** 2), 3)] for i, f in enumerate(FILES)
              for s in STRENGTHS]  # fmt: skip
    return {
        "state": "done", "axes": axes, "cells": cells, "count": len(cells), "scores": scores,
        "suggestion": {"file": "okara", "strength": 0.8, "verdict": "good", "reason": "", "text": TEXT,
            "numbers": {"loss": {"here": 0.102, "bare": 0.142}, "looks": {"here": 2.2, "bare": 2.4}},
            "of": "7 held-out pictures", "held": True,
        },
        "framed": [[3, 2, 0]], "loss_of": "7 held-out pictures", "blocks": [], "notes": [],
        "bare": {"loss": 0.142, "looks": 2.4}, "sheet_urls": ["/lora_train/v1/drawing?of=5"],
        "heat_url": "/lora_train/v1/drawing?of=6",
    }  # fmt: skip


def blocks_of_sheet():
    """Each block of 17 off."""
    names = LISTS[17]
    axes = [
        {"side": "x", "name": "block_strength", "values": [0], "labels": ["block strength 0"]},
        {"side": "y", "name": "block_id", "values": names, "labels": names},
    ]
    cells = [cell_of(0, i, {"block_id": name, "block_strength": 0}, changed=0.02 * (i % 5),
                     moved=1.5 * (i % 5)) for i, name in enumerate(names)]  # fmt: skip
    rows = [{"block": n, "strength": 0.0, "pictures": 1, "changed": 0.02 * (i % 5), "moved": 1.5 * (i % 5)}
            for i, n in enumerate(names)]  # fmt: skip
    return {
        "state": "done", "axes": axes, "cells": cells, "count": len(cells), "scores": [], "suggestion": None,
        "framed": [], "blocks": sorted(rows, key=lambda row: -row["changed"]), "notes": [],
        "sheet_urls": ["/lora_train/v1/drawing?of=5"], "heat_url": None,
    }  # fmt: skip


class Sheets:
    """A part of the desk; a test sets `sheets` and `files`, and reads `asked`."""

    def sheeted(self, folder):
        self.sheets: dict = {}
        self.book = BlockBook(folder)
        self.files: list = []  # runs with their files
        self.folder = folder

    def axes(self):
        return {
            **offered([], self.folder),
            "runs": self.files,
            "files": ["/webui/models/Lora/other.safetensors"],
        }

    def look_sheet(self, values, job, name, run):
        self.asked.append(("look sheet", values, job, run))
        if "a" in str(values.get("x", "")).partition(":")[2]:
            return {
                "complaints": [
                    "strength = 'a': expected numbers such as 0, 0.5, 1 or a span such as 0.5-1.0:0.25"
                ]
            }
        axes = sheet_of()["axes"]
        return {"axes": axes, "cells": 18, "pictures": 21, "runs": 0, "seconds": 52.5, "complaints": []}

    def plan_sheet(self, values, job, name, run):
        self.asked.append(("plan sheet", name, values, job, run))
        self.sheets[name] = {
            **sheet_of(5),
            "asked": {"values": values, "job": job, "run": run, "what": "plan"},
        }
        self.drawn = {
            "name": name, "run": run, "what": "plan", "state": "drawing", "done": 5, "of": 21, "left": 40.0,
            "note": "", "url": None, "suggestion": None, "error": None,
        }  # fmt: skip

    def drawn_sheets(self):
        return [
            {"name": name, "when": time.time(), "state": sheet["state"],
             "suggestion": sheet.get("suggestion")}
            for name, sheet in self.sheets.items()
        ]  # fmt: skip

    def drawn_sheet(self, name, after=0):
        if name not in self.sheets:
            raise LookupError(f"{name}: no such sheet")
        found = {"asked": None, **self.sheets[name]}
        return {**found, "cells": found["cells"][after:]}

    def remove_sheet(self, name):
        self.asked.append(("remove sheet", name))
        del self.sheets[name]
        return {}

    def block_presets(self):
        assert self.book.list()["blocks"] == [*BLOCKS]
        return self.book.list()

    def put_block_preset(self, name, text):
        self.book.write(name, text)
