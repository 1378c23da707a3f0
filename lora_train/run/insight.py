"""What a run's own records tell: the loss by timestep and by picture, what each block learned, and how runs
differ."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lora_train.job import declared
from lora_train.objectives import OBJECTIVES
from lora_train.run.curve import ASIDE, Curve, lines, thinned
from lora_train.run.losses import pictures, read
from lora_train.values import plain

if TYPE_CHECKING:
    import pathlib

    from lora_train.run.runs import Run

BINS, EACH = 20, 8  # at most; samples that a bin should have, or there are fewer
PARTS, IN_PART = 20, 64  # of a run, in sequence; as before
STEPS = 1000  # of a model's schedule
ROOM = 100_000  # bytes that the pictures' rows may take
CAPTION = 240  # letters of a caption that are shown
POINTS, LOOKS = 300, 100  # of a run that is compared; of what blocks add
OWN = (
    "output.output_name", "output.output_dir", "output.run_dir", "place.resume"
)  # which two runs never have alike  # fmt: skip

EARLY = "the first steps are still to come"
OLDER = "the run has no record of its samples' losses; runs from this version on have one"
WORDS = "{kind} learns from words and not from pictures, so there are none to sort"
UNLOOKED = "the run has no record of what its blocks learned; runs from this version on have one"

Table = dict[str, object]


def insight(run: Run) -> Table:
    """All of it, as the page shows it and the command prints it; less than 200 kB of JSON.

    Each part has `said`, None or why it is empty.
    """
    records = run.store.records
    samples, rows = finite(read(records)), pictures(records)
    why = None if len(samples) else EARLY if rows else OLDER
    return {
        "name": run.store.name, "step": int(samples["step"][-1]) if len(samples) else run.step,
        "samples": len(samples),
        "timesteps": {"said": why, "rows": [] if why else by_timestep(samples, *window(run.values))},
        "pictures": by_picture(samples, rows, run.values, why),
        "blocks": by_block(records),
    }  # fmt: skip


def finite(samples: np.ndarray) -> np.ndarray:
    """Those of a step that was skipped are not."""
    return samples[np.isfinite(samples["loss"])]


def window(values: dict[str, object]) -> tuple[int, int]:
    """Timesteps that a run draws, from the first to before the second."""
    low, high = (values.get(f"objective.{end}_timestep") for end in ("min", "max"))
    return (
        low if isinstance(low, int) else 0,
        high if isinstance(high, int) else STEPS,
    )


class Bins:
    """Timesteps in parts of one width: at most BINS of them, or as many as have EACH samples on average."""

    def __init__(self, samples: np.ndarray, low: int = 0, high: int = STEPS, most: int = BINS):
        count = min(most, max(1, len(samples) // EACH), high - low)
        self.edges = np.linspace(low, high, count + 1)
        self.of = np.clip(np.searchsorted(self.edges, samples["timestep"], side="right") - 1, 0, count - 1)
        self.losses = samples["loss"].astype(np.float64)

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def means(self) -> np.ndarray:
        """NaN of a bin without a sample."""
        counts = np.bincount(self.of, minlength=len(self))
        with np.errstate(invalid="ignore"):
            return np.bincount(self.of, self.losses, len(self)) / counts


def by_timestep(samples: np.ndarray, low: int = 0, high: int = STEPS) -> list[Table]:
    """Of each bin the mean of its losses and their quartiles, and the mean of the run's two halves."""
    bins, middle = Bins(samples, low, high), np.median(samples["step"])
    rows = []
    for place in range(len(bins)):
        here = bins.of == place
        losses, early = bins.losses[here], samples["step"][here] <= middle
        quarters = np.percentile(losses, (25, 50, 75)) if len(losses) else [None] * 3
        numbers = {
            "mean": mean(losses), "low": quarters[0], "median": quarters[1], "high": quarters[2],
            "early": mean(losses[early]), "late": mean(losses[~early]),
        }  # fmt: skip
        edges = {"from": round(bins.edges[place]), "to": round(bins.edges[place + 1])}
        rows.append({**edges, "count": len(losses), **{k: short(v) for k, v in numbers.items()}})
    return rows


def relative(samples: np.ndarray, low: int = 0, high: int = STEPS) -> tuple[np.ndarray, str]:
    """Losses, which are by step, against what is usual at their timestep and at their time in the run, so
    that pictures can be compared that were seen at others: "times" the mean of the bin, or where a mean is
    not above 0, as of a loss with a logarithm in it, "more" than it. That is then held in the same way
    against the mean of its part of the run, for all losses fall while the run goes on."""
    bins = Bins(samples, low, high)
    usual, parts = bins.means[bins.of], max(1, min(PARTS, len(samples) // IN_PART))
    of = np.arange(len(samples)) * parts // len(samples)
    times = (usual > 0).all()
    found = bins.losses / usual if times else bins.losses - usual
    now = (np.bincount(of, found) / np.bincount(of))[of]
    if times and (now > 0).all():
        return found / now, "times"
    return (found, "times") if times else (found - now, "more")


def by_picture(samples: np.ndarray, rows: list[dict], values: dict[str, object], why: str | None) -> Table:
    """Pictures by the mean of `relative`, the highest first; of many those at both ends.

    `error` is that mean's standard error: two pictures that are not further apart than that are alike.
    """
    kind = str(values.get("objective.kind") or "denoise")
    found: Table = {"said": why, "how": "times", "total": 0, "rows": []}
    if kind in OBJECTIVES and not OBJECTIVES[kind].pictures:
        found["said"] = WORDS.format(kind=kind)
    if found["said"] or not (samples["picture"] < len(rows)).any():
        return {**found, "said": found["said"] or OLDER}
    samples = samples[samples["picture"] < len(rows)]
    against, found["how"] = relative(samples, *window(values))
    of, losses = samples["picture"], samples["loss"].astype(np.float64)
    counts = np.bincount(of, minlength=len(rows))
    seen = np.flatnonzero(counts)
    means, squares = (np.bincount(of, v, len(rows))[seen] / counts[seen] for v in (against, against**2))
    plain = np.bincount(of, losses, len(rows))[seen] / counts[seen]
    spread = np.sqrt(np.maximum(squares - means**2, 0) / np.maximum(counts[seen] - 1, 1))
    order = np.argsort(-means, kind="stable")
    made = [
        {
            **rows[seen[i]], "caption": str(rows[seen[i]].get("caption", ""))[:CAPTION],
            "count": int(counts[seen[i]]), "loss": short(plain[i]), "against": short(means[i]),
            "error": short(spread[i]) if counts[seen[i]] > 1 else None,
        }
        for i in order
    ]  # fmt: skip
    return {**found, "total": len(made), "rows": _ends(made)}


def _ends(rows: list[Table]) -> list[Table]:
    """As many as there is room for: three of the first for each of the last."""
    kept, room = [], ROOM
    head, tail = 0, len(rows)
    while head < tail:
        last = len(kept) % 4 == 3  # noqa: PLR2004
        row = rows[tail - 1] if last else rows[head]
        room -= len(json.dumps(row, ensure_ascii=False).encode(errors="replace"))
        if room < 0:
            break
        kept.append((tail - 1 if last else head, row))
        head, tail = (head, tail - 1) if last else (head + 1, tail)
    return [{**row, "place": place + 1} for place, row in sorted(kept, key=lambda found: found[0])]


def by_block(records: pathlib.Path) -> Table:
    """Norms of what each block's adapters add, over the steps at which they were looked at."""
    found = [*lines(records / "metrics.jsonl", ASIDE)]
    names = list(dict.fromkeys(name for line in found for name in line if name.startswith(ASIDE)))
    found = thinned(found, LOOKS)
    return {
        "said": None if found else UNLOOKED if Curve.read(records).rows else EARLY,
        "steps": [line["step"] for line in found],
        "rows": [
            {"name": name.removeprefix(ASIDE), "values": [short(line.get(name)) for line in found]}
            for name in sorted(names, key=_depth)
        ],
    }  # fmt: skip


def _depth(name: str) -> tuple[int, str]:
    """Text encoders first, then the UNet's blocks in the order they run."""
    name = name.removeprefix(ASIDE)
    order = ("te", "time_embed", "label_emb", "IN", "M", "OUT", "out")
    return next((i for i, lead in enumerate(order) if name.startswith(lead)), len(order)), name


def compare(runs: Sequence[Run]) -> Table:
    """Runs side by side: their smoothed losses, their losses by timestep, and the settings that differ."""
    # what an older run does not have was as it is by default
    usual = {setting.path: plain(setting.default) for setting in declared()}
    every = sorted({path for run in runs for path in run.values} - {*OWN})
    found = {path: [run.values.get(path, usual.get(path)) for run in runs] for path in every}
    differ = [
        {"path": p, "values": values} for p, values in found.items() if values != values[:1] * len(runs)
    ]
    return {"runs": [_side(run) for run in runs], "differ": differ}


def _side(run: Run) -> Table:
    records, wanted = run.store.records, ("step", "average", "loss/validation/average")
    curve, samples = Curve.read(records), finite(read(records))
    places = [curve.columns.index(name) if name in curve.columns else None for name in wanted]
    points = [[None if i is None or i >= len(row) else row[i] for i in places] for row in curve.rows]
    tried = [(loss, step) for step, _, loss in points if loss is not None]
    best = min(tried, default=None)
    bins = by_timestep(samples, *window(run.values)) if len(samples) else []
    return {
        "name": run.store.name, "step": points[-1][0] if points else 0,
        "columns": ["step", "average", "validation"],
        "points": [[step, short(a), short(v)] for step, a, v in _kept(points)],
        "average": short(points[-1][1]) if points else None,
        "best": best and {"loss": short(best[0]), "step": best[1]},
        "timesteps": [{"from": b["from"], "to": b["to"], "mean": b["mean"]} for b in bins],
    }  # fmt: skip


def _kept(points: list[list]) -> list[list]:
    """Thinned, but with all validations that there is room for."""
    tried = thinned([p for p in points if p[2] is not None], POINTS // 3)
    return sorted({p[0]: p for p in [*thinned(points, POINTS), *tried]}.values(), key=lambda p: p[0])


def mean(numbers: np.ndarray) -> float | None:
    return float(numbers.mean()) if len(numbers) else None


def short(number: float | None) -> float | None:
    """With the digits that are shown; None of what is not finite."""
    if number is None or not math.isfinite(number):
        return None
    return float(f"{number:.5g}")
