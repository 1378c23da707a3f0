"""Peak memory of loading and of training steps, ours and theirs, each in a process of its own (Linux).

python benchmarks/memory.py --precision no bf16 --checkpointing no yes
"""

from __future__ import annotations

import argparse
import itertools
import json
import pathlib
import subprocess
import sys

import torch
from measure import forget_peak, megabytes
from models import TINY, Case, borrowed, checkpoint, copied, ours, peers


def measured(who: str, case: Case, path: pathlib.Path, steps: int) -> dict[str, float]:
    """Megabytes. Theirs is loaded by our reader as well, so that the steps are what is compared."""
    with borrowed(path, case) as lent:
        unet = lent.slots["unet"].use()
        if who == "peer":
            step = peers(copied(unet), case)
            peak = _steps(step, steps)
        else:
            with ours(lent, case) as step:
                peak = _steps(step, steps)
    return {"steps": peak}


def _steps(step: object, count: int) -> float:
    forget_peak()
    for _ in range(count):
        step()
    return megabytes()


def asked(who: str, told: argparse.Namespace, precision: str, again: str) -> float:
    """The same, in a fresh process."""
    words = [sys.executable, __file__, "--one", who, "--precision", precision, "--checkpointing", again]
    words += ["--steps", str(told.steps), "--threads", str(told.threads)] + ["--tiny"] * told.tiny
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])["steps"]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--precision", nargs="+", default=["no", "bf16"], choices=["no", "bf16"])
    ask.add_argument("--checkpointing", nargs="+", default=["no", "yes"], choices=["no", "yes"])
    ask.add_argument("--steps", type=int, default=2)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--tiny", action="store_true", help="the tiny checkpoint, to try the benchmark out")
    ask.add_argument("--one", choices=["ours", "peer"], help=argparse.SUPPRESS)
    told = ask.parse_args()
    torch.set_num_threads(told.threads)
    path, width = (TINY, 64) if told.tiny else (checkpoint(), 768)
    for precision, again in itertools.product(told.precision, told.checkpointing):
        if told.one:
            case = Case(precision, again == "yes", width=width)
            print(json.dumps(measured(told.one, case, path, told.steps)))
            continue
        mine, theirs = (asked(who, told, precision, again) for who in ("ours", "peer"))
        print(f"precision {precision}, checkpointing {again}: ours {mine:.0f} MB, peer {theirs:.0f} MB, "
              f"ratio {mine / theirs:.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
