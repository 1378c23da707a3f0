"""Draws the demo checkpoint's own sheet: 24 fixed prompts at three strengths of guidance.

python sheet.py --checkpoint ../checkpoint/demo.safetensors --out ../checkpoint.png
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from pictures import listed  # noqa: E402

from lora_train.host import Model  # noqa: E402
from lora_train.hosts.standalone.host import StandaloneHost  # noqa: E402
from lora_train.plots.grid import sheet  # noqa: E402
from lora_train.prompts import Prompt  # noqa: E402

SCALES, STEPS, SIDE, COUNT = (4.0, 5.5, 7.0), 20, 64, 24


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--checkpoint", type=pathlib.Path, required=True)
    ask.add_argument("--out", type=pathlib.Path, required=True)
    told = ask.parse_args()
    labels = listed("concepts.txt")
    labels = labels[:: len(labels) // COUNT][:COUNT]
    with StandaloneHost().borrow(Model(told.checkpoint), device="cpu", precision="no") as lent:

        def cell(row: int, column: int):
            return lent.sample(Prompt(labels[row], "", SIDE, SIDE, row, STEPS, SCALES[column]))

        page = sheet(labels, [f"cfg {scale:g}" for scale in SCALES], cell)
    page.save(told.out)


if __name__ == "__main__":
    main()
