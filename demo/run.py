"""The demo: teaches the small checkpoint beside this file a new style and shows that it learned it.

    python demo/run.py [--output_dir demo/output] [--max_train_steps 900]

Every step is an ordinary command of `lora-train`, printed before it runs.
"""

from __future__ import annotations

import argparse
import pathlib
import shlex
import shutil
import sys

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
CHECKPOINT = HERE / "checkpoint" / "demo.safetensors"
STRENGTHS = "0, 0.5-1.0:0.25"


def colourfulness(path: pathlib.Path) -> float:
    """0 for grey, about 60 for what people call quite colourful.

    Source: Hasler and Süsstrunk 2003, "Measuring colourfulness in natural images", equation 11.
    """
    red, green, blue = np.asarray(Image.open(path).convert("RGB"), dtype=float).reshape(-1, 3).T
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    return float(np.linalg.norm(opponents.std(1)) + 0.3 * np.linalg.norm(opponents.mean(1)))


def before_and_after(samples: pathlib.Path) -> tuple[float, float]:
    """Mean colourfulness of the first and of the last pictures that a run drew."""
    moments: dict[str, list[float]] = {}
    for path in sorted(samples.glob("ink_*.png")):
        moments.setdefault(path.name.split("_")[1], []).append(colourfulness(path))
    means = [sum(values) / len(values) for values in moments.values()]
    return means[0], means[-1]


def train_words(output: pathlib.Path, steps: int, prompts: pathlib.Path = HERE / "prompts.txt") -> list[str]:
    words = {
        "pretrained_model_name_or_path": CHECKPOINT, "train_data_dir": HERE / "dataset", "resolution": 64,
        "output_dir": output, "output_name": "ink", "network_dim": 16, "network_alpha": 16, "conv_dim": 8,
        "conv_alpha": 8, "learning_rate": 3e-3, "lr_scheduler": "cosine", "lr_warmup_steps": 0.05,
        "train_batch_size": 4,
        "max_train_steps": steps, "sample_prompts": prompts,
        "sample_every_n_steps": max(1, steps // 3), "seed": 1,
    }  # fmt: skip
    return [
        "train",
        *(str(word) for name, value in words.items() for word in (f"--{name}", value)),
        "--sample_at_first",
    ]


def plot_words(output: pathlib.Path) -> list[str]:
    words = {
        "pretrained_model_name_or_path": CHECKPOINT, "network_weights": output / "ink.safetensors",
        "strengths": STRENGTHS, "from_file": HERE / "prompts.txt", "output": output / "ink-sheet.png",
    }  # fmt: skip
    return ["plot", *(str(word) for name, value in words.items() for word in (f"--{name}", value))]


def main() -> int:
    sys.path.insert(0, str(HERE.parent))
    from lora_train import cli

    ask = argparse.ArgumentParser(description="Train the demo LoRA and draw its sheet.")
    ask.add_argument("--output_dir", type=pathlib.Path, default=HERE / "output")
    ask.add_argument("--max_train_steps", type=int, default=900)
    told = ask.parse_args()
    output = told.output_dir
    shutil.rmtree(output / "sample", ignore_errors=True)
    for words in (train_words(output, told.max_train_steps), plot_words(output)):
        sys.stdout.write(f"\n$ lora-train {shlex.join(words)}\n\n")
        sys.stdout.flush()
        status = cli.main(words)
        if status:
            return status
    before, after = before_and_after(output / "sample")
    sys.stdout.write(f"""
Done. The style is black on white; while it was learned, the samples' colourfulness went from {before:.0f}
to {after:.0f}.
What you have now:
  {output / "ink.safetensors"}   the LoRA; put it in models/Lora of a WebUI that has the demo checkpoint
  {output / "ink-sheet.png"}     the same prompts at strength 0, 0.5, 0.75 and 1: look at it
  {output / "sample"}            what it drew while it learned
Next: put 15 or more pictures of your own in a folder, with a .txt caption beside each, and run
  lora-train train --pretrained_model_name_or_path <your SD 1.5 .safetensors> --train_data_dir <folder> \\
      --resolution 512 --output_dir output --output_name mine --network_dim 16 --max_train_epochs 10
""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
