"""One training step of a full-size SD 1.5, ours against diffusers with peft, in turn in one process.

python benchmarks/step.py --precision no bf16 --checkpointing no yes
"""

from __future__ import annotations

import argparse
import itertools

import torch
from measure import alternating, told
from models import TINY, Case, borrowed, checkpoint, copied, ours, peers


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--precision", nargs="+", default=["no", "bf16"], choices=["no", "bf16"])
    ask.add_argument("--checkpointing", nargs="+", default=["no"], choices=["no", "yes"])
    ask.add_argument("--steps", type=int, default=5)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--batch", type=int, default=1)
    ask.add_argument("--side", type=int, default=64, help="of a latent: pixels / 8")
    ask.add_argument("--tiny", action="store_true", help="the tiny checkpoint, to try the benchmark out")
    told_ = ask.parse_args()
    torch.set_num_threads(told_.threads)
    path, width = (TINY, 64) if told_.tiny else (checkpoint(), 768)
    for precision, checkpointing in itertools.product(told_.precision, told_.checkpointing):
        again = checkpointing == "yes"
        case = Case(precision, again, told_.batch, told_.side, width=width)
        with borrowed(path, case) as lent:
            unet = lent.slots["unet"].use()
            theirs = peers(copied(unet), case)
            with ours(lent, case) as own:
                times = alternating({"ours": own, "peer": theirs}, told_.steps)
        print(f"precision {precision}, checkpointing {checkpointing}, {told_.threads} threads")
        print(told(times), flush=True)


if __name__ == "__main__":
    main()
