"""What share of a step is our own Python: hooks, draws, loop, metrics. On the tiny checkpoint, by profile.

python benchmarks/overhead.py
"""

from __future__ import annotations

import argparse
import cProfile
import pathlib
import pstats
import tempfile
import time

import torch
from models import ROOT, TINY, Case, borrowed, ours

from lora_train.data.batches import Batch
from lora_train.data.folder import Planned
from lora_train.run.losses import Losses
from lora_train.run.store import RunStore
from lora_train.run.watchers import Metrics
from lora_train.train.events import Progress
from lora_train.train.parallel import Team

PACKAGE = str(ROOT / "lora_train")


def profiled(step: object, count: int) -> tuple[float, float, list[tuple[float, str]]]:
    """Seconds of all, seconds inside our own lines, and these by function."""
    profile = cProfile.Profile()
    began = time.perf_counter()
    profile.runcall(lambda: [step() for _ in range(count)])
    whole = time.perf_counter() - began
    rows = []
    for (file, line, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():
        if file.startswith(PACKAGE) and not (file.endswith("attention.py") and name == "attention"):
            # whose products are written with operators, which a profile counts as Python
            rows.append((own, f"{pathlib.Path(file).relative_to(PACKAGE)}:{line} {name}"))
    return whole, sum(own for own, _ in rows), sorted(rows, reverse=True)


def measured(step: object, lent: object, count: int) -> dict[str, float]:
    """Milliseconds a call, of what our lines ask torch for that a step without us would not."""
    from lora_train.objectives.denoise import Denoise
    from lora_train.train.loop import draws

    course = Denoise().begin(lent, None)
    progress = Progress(steps=10**6, steps_per_epoch=10**6, rates={"unet": 1e-4})
    batch = Batch(torch.zeros(1, 4, 64, 64), ["x"], None, [1], ["x"], paths=["x"])
    with tempfile.TemporaryDirectory() as folder:
        store = RunStore(pathlib.Path(folder), "x")
        metrics, losses = Metrics(store, lent.device), Losses(store, Planned((), folders=False), Team())
        for watcher in (metrics, losses):
            watcher.started(progress)
        progress.step, progress.samples, losses.places = 1, [("x", 500, 0.1)], {"x": 0}
        found = {
            "draws": _each(lambda: course.drawn(torch.zeros(4, 64, 64), "", 1000, draws(1, [1])[0]), count),
            "steps drawn again": _each(lambda: course.timesteps(lent, batch, draws(1, [1])), count),
            "metrics": _each(lambda: metrics.measured(progress), count),
            "losses": _each(lambda: losses.measured(progress), count),
        }
        metrics.finished(progress, None)
    return found


def _each(call: object, count: int) -> float:
    call()
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count * 1e3


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--steps", type=int, default=20)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--side", type=int, default=32, help="of a latent: pixels / 8")
    told = ask.parse_args()
    torch.set_num_threads(told.threads)
    case = Case(side=told.side, width=64)
    with borrowed(TINY, case) as lent, ours(lent, case) as step:
        step()
        whole, own, rows = profiled(step, told.steps)
        each = measured(step, lent, 200)
    a_step = whole / told.steps * 1e3
    print(f"a step {a_step:.1f} ms, of it in our own lines {own / whole:.2%}")
    for seconds, name in rows[:8]:
        print(f"  {seconds / whole:7.3%}  {name}")
    for name, ms in each.items():
        print(f"{name}: {ms:.3f} ms, {ms / a_step:.2%}")
    print(f"together {own / whole + sum(each.values()) / a_step:.2%} of a step (at most 3 % is wanted)")


if __name__ == "__main__":
    main()
