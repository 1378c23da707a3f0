"""The curves are what the metrics hold, and nothing else."""

import dataclasses
import json
import time

import pytest

from lora_train.job import assemble
from lora_train.run.control import Control
from lora_train.run.curve import FIRST, POINTS, Curve, ahead
from lora_train.run.live import Live
from lora_train.train.events import Progress

LINES = [
    {"step": 1, "epoch": 1, "loss": 0.5, "average": 0.5, "norm": 2.0, "lr/unet": 1e-4, "lr/te1": 5e-5,
     "max_norm/keys_scaled": 3, "images_per_second": 1.0, "megabytes": 90.0},
    {"step": 2, "epoch": 1, "loss": 0.4, "average": 0.45, "norm": 1.0, "lr/unet": 1e-4, "lr/te1": 5e-5,
     "max_norm/keys_scaled": 4, "images_per_second": 2.0, "megabytes": 91.0},
]  # fmt: skip


def test_each_number_of_a_line_is_a_column(tmp_path):
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "lo')
    curve = Curve.read(tmp_path)
    assert curve.columns == [*FIRST, "lr/unet", "lr/te1", "max_norm/keys_scaled"]
    assert curve.rows == [
        [1, 0.5, 0.5, 1e-4, 2.0, 90.0, 1e-4, 5e-5, 3],
        [2, 0.4, 0.45, 1e-4, 1.0, 91.0, 1e-4, 5e-5, 4],
    ]
    assert curve.upto(1).rows == curve.rows[:1]
    assert Curve.read(tmp_path / "nowhere").rows == []


def test_a_column_that_comes_later_leaves_earlier_rows_as_they_are():
    curve = Curve()
    curve.add({"step": 1, "loss": 0.5, "average": 0.5})
    curve.add(LINES[1])
    assert curve.rows[0] == [1, 0.5, 0.5, None, None, None]
    assert len(curve.rows[1]) == len(curve.columns)


def test_what_is_left_is_told_by_the_pace_of_the_steps(tmp_path):
    """And not by the samples before the first one, which take long without a graphics card."""
    live = Live("1", "okara", Control(), tmp_path)
    progress = Progress(steps=100, steps_per_epoch=10, began=time.monotonic() - 600)
    live.started(progress)
    assert live.view()["left"] is None
    progress.step = 1
    live.measured(progress)
    assert live.view()["left"] is None
    progress.began -= 20
    progress.step = 21
    assert live.view()["left"] == pytest.approx(79, rel=0.01)


def test_as_many_points_as_a_page_draws_smoothly():
    curve = Curve()
    for step in range(1, 5001):
        curve.add({"step": step})
    shown = curve.after(0)
    assert len(shown) <= POINTS
    assert shown[-1][0] == 5000
    assert [row[0] for row in curve.after(4998)] == [4999, 5000]


def test_the_curve_ahead_is_what_the_run_then_has(trained):
    values = {"lr__kind": "cosine", "lr__lr_warmup_steps": 3, "lr__text_encoder_lr": 0.02}
    outcome = trained("a", **values)
    job = assemble({path.replace("__", "."): value for path, value in values.items()})[0]
    job = dataclasses.replace(job, lr=job.lr.filled(0.01))
    found = Curve.read(outcome.file.parent / "x-run")
    for part in ("unet", "te1"):
        at = found.columns.index(f"lr/{part}")
        assert [[row[0], row[at]] for row in found.rows] == ahead(job, 8)[part]
    long = ahead(job, 100_000)["unet"]
    assert len(long) <= 122
    assert (long[0][0], long[-1][0]) == (1, 100_000)
    assert ahead(assemble({"optimizer.kind": "adafactor"})[0], 8) == {}
