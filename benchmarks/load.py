"""Loading a 2 GB checkpoint: its peak over the model's size, and the time before the first forward (Linux).

python benchmarks/load.py --precision no bf16
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

ONE = "--one"


def peak(precision: str) -> None:
    """All three parts are loaded, one after the other, and kept."""
    from measure import forget_peak, megabytes
    from models import Case, borrowed, checkpoint

    with borrowed(checkpoint(), Case(precision)) as lent:
        lent.origin  # noqa: B018 (waits for the hashes, which are made beside)
        before = megabytes("VmRSS")
        forget_peak()
        models = [slot.use() for slot in lent.slots.values()]
        size = sum(t.nbytes for m in models for t in [*m.parameters(), *m.buffers()]) / 2**20
        most = megabytes() - before
        print(f"precision {precision}: model {size:.0f} MB, peak above the start {most:.0f} MB, "
              f"ratio {most / size:.3f}", flush=True)  # fmt: skip


def first(precision: str, began: float) -> None:
    """From the command's start, latents being cached, until the first forward pass could begin."""
    import torch
    from models import Case, borrowed, checkpoint

    from lora_train.adapters.lora import Lora
    from lora_train.adapters.network import Network

    marks = {"imports": time.time()}
    with borrowed(checkpoint(), Case(precision)) as lent, torch.no_grad():
        marks["borrowing"] = time.time()
        network = Network(Lora(train_unet_only=True), lent.layers())
        marks["weights"] = time.time()
        with network.attached():
            lent.encode(["a cat"])
            lent.park("text")
        marks["a caption"] = time.time()
        cpu = time.process_time()
    before, parts = began, []
    for name, at in marks.items():
        parts.append(f"{name} {at - before:.1f} s")
        before = at
    print(f"precision {precision}: {before - began:.1f} s, cpu {cpu:.1f} s: {', '.join(parts)}", flush=True)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--precision", nargs="+", default=["no", "bf16"], choices=["no", "bf16"])
    ask.add_argument(ONE, nargs=2, help=argparse.SUPPRESS)
    told = ask.parse_args()
    if told.one:
        what, began = told.one
        first(told.precision[0], float(began)) if what == "first" else peak(told.precision[0])
        return
    from models import checkpoint

    checkpoint()
    for what in ("peak", "first"):
        for precision in told.precision:
            words = [sys.executable, __file__, "--precision", precision, ONE, what, str(time.time())]
            subprocess.run(words, check=True)


if __name__ == "__main__":
    main()
