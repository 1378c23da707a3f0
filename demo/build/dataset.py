"""Draws the demo's training set: known subjects in a style that the demo checkpoint has never seen.

python dataset.py --style <fluent-emoji-high-contrast package> --out ../dataset
"""

from __future__ import annotations

import argparse
import pathlib

from pictures import Icons, slug

SIZE, REPEATS, STYLE = 256, 10, "ink style"
SUBJECTS = (
    "monkey face", "cat face", "fox", "mouse face", "bear", "panda", "frog", "turtle", "octopus", "snail",
    "butterfly", "sunflower", "evergreen tree", "cactus", "grapes", "lemon", "pineapple", "strawberry",
    "pizza", "birthday cake", "house", "automobile", "rocket", "star", "umbrella", "fire", "soccer ball",
    "key",
)  # fmt: skip


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--style", type=pathlib.Path, required=True)
    ask.add_argument("--out", type=pathlib.Path, required=True)
    told = ask.parse_args()
    folder = told.out / f"{REPEATS}_{STYLE}"
    folder.mkdir(parents=True, exist_ok=True)
    icons = Icons(told.style)
    for label in SUBJECTS:
        name = slug(label)
        icons.draw(name, SIZE).convert("L").quantize(16).save(folder / f"{name}.png", optimize=True)
        (folder / f"{name}.txt").write_text(f"{label}, {STYLE}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
