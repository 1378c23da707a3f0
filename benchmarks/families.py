"""One training step of each family of adapters, in turn with plain LoRA; and its peak memory, in a process of
its own (Linux).

python benchmarks/families.py
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

import torch
from measure import alternating, forget_peak, megabytes, ratio
from models import TINY, Case, borrowed, checkpoint, ours

from lora_train.adapters import FAMILIES
from lora_train.adapters.family import Family
from lora_train.knobs import build, settings

SIZE = {"dim": 4, "alpha": 1.0, "train_unet_only": True}
OPTIONS = {"dora": ("lora", {"dora_wd": True}), "tucker": ("lora", {"conv_dim": 4, "use_tucker": True})}


def family(name: str) -> Family:
    """At the size that all are compared at, as far as it has one; or LoRA with an option."""
    kind, more = OPTIONS.get(name, (name, {}))
    known = {setting.name for setting in settings(FAMILIES[kind])}
    return build(FAMILIES[kind], {k: v for k, v in {**SIZE, **more}.items() if k in known})


def peak(name: str, case: Case, path: pathlib.Path, steps: int) -> float:
    """Megabytes of a process that makes some steps."""
    with borrowed(path, case) as lent:
        lent.slots["unet"].use()
        with ours(lent, case, family(name)) as step:
            forget_peak()
            for _ in range(steps):
                step()
            return megabytes()


def asked(name: str, told: argparse.Namespace) -> float:
    """The same, in a fresh process."""
    words = [
        sys.executable,
        __file__,
        name,
        "--one",
        "--side",
        str(told.side),
        "--threads",
        str(told.threads),
    ]
    done = subprocess.run([*words, *["--tiny"] * told.tiny], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    names = [*FAMILIES, *OPTIONS]
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("names", nargs="*", default=[], choices=[[], *names], metavar="FAMILY")
    ask.add_argument("--steps", type=int, default=3)
    ask.add_argument("--threads", type=int, default=1)
    ask.add_argument("--side", type=int, default=32, help="of a latent: pixels / 8")
    ask.add_argument("--tiny", action="store_true", help="the tiny checkpoint, to try the benchmark out")
    ask.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    told = ask.parse_args()
    torch.set_num_threads(told.threads)
    path, width = (TINY, 64) if told.tiny else (checkpoint(), 768)
    case = Case(side=told.side, width=width)
    if told.one:
        print(json.dumps(peak(told.names[0], case, path, steps=2)))
        return
    plain = asked("lora", told)
    print("| family | step over LoRA's, CPU | peak, MB | over LoRA's |")
    print(f"|---|---|---|---|\n| lora | 1 | {plain:.0f} | 1 |", flush=True)
    for name in told.names or names:
        if name == "lora":
            continue
        with borrowed(path, case) as lent:
            lent.slots["unet"].use()
            with ours(lent, case) as lora, ours(lent, case, family(name)) as step:
                times = alternating({"lora": lora, name: step}, told.steps)
        most = asked(name, told)
        print(
            f"| {name} | {ratio(times[name].cpu, times['lora'].cpu)} | {most:.0f} | {most / plain:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
