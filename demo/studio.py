"""The gallery's studio: runs commands of `lora-train`, trains nothing twice, and opens what was drawn."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence

from PIL import Image
from run import CHECKPOINT

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = "--w 64 --h 64 --s 10 --l 5 --ss dpm++_2m"
Words = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Shot:
    """A picture to draw: with a LoRA, or with the bare checkpoint."""

    prompt: str
    seed: int
    lora: str = ""
    strength: float = 1.0

    @property
    def line(self) -> str:
        worn = f" <lora:{self.lora}:{self.strength:g}>" if self.lora else ""
        return f"{self.prompt}{worn} {FLAGS} --d {self.seed}"


class Studio:
    """Runs commands below one folder, and remembers how they were called."""

    def __init__(self, output: pathlib.Path, part: str):
        self.folder, self.commands = output / part, []
        self.folder.mkdir(parents=True, exist_ok=True)

    def told(self, words: Sequence[str]) -> None:
        from lora_train import cli

        sys.stdout.write(f"\n$ lora-train {shlex.join(words)}\n\n")
        sys.stdout.flush()
        if status := cli.main(words):
            raise SystemExit(status)

    def train(self, name: str, settings: Words) -> pathlib.Path:
        """One LoRA, unless it was trained with the same words before."""
        words = train_words(self.folder, name, settings)
        file, kept = self.folder / f"{name}.safetensors", self.folder / f"{name}.words"
        line = shlex.join(words)
        self.commands.append(f"lora-train {line}")
        if not (file.exists() and kept.exists() and kept.read_text(encoding="utf-8") == line):
            self.told(words)
            kept.write_text(line, encoding="utf-8")
        return file

    def draw(self, shots: Sequence[Shot], folder: str = "pictures") -> dict[Shot, Image.Image]:
        """All of them with one command."""
        lines = self.folder / f"{folder}.txt"
        lines.write_text("".join(f"{shot.line}\n" for shot in shots), encoding="utf-8")
        out = self.folder / folder
        words = {
            "pretrained_model_name_or_path": near(CHECKPOINT), "from_file": near(lines),
            "lora_dir": near(self.folder), "outdir": near(out),
        }  # fmt: skip
        self.told(["sample", *spelled(words)])
        files = [out / f"{i:03d}_{shot.seed}.png" for i, shot in enumerate(shots)]
        return {shot: opened(file) for shot, file in zip(shots, files, strict=True)}

    def plot(self, name: str, words: list[str]) -> tuple[Mapping, list[Image.Image]]:
        """Of the files of a LoRA: what was found, the sheet, and the scores as colours."""
        folder = self.folder / f"{name}-plot"
        self.commands.append(f"lora-train {shlex.join(words)}")
        self.told(words)
        found = json.loads((folder / "sheet.json").read_text(encoding="utf-8"))
        return found, [opened(folder / f"{picture}.png") for picture in ("sheet", "heat")]


def opened(file: pathlib.Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def near(path: pathlib.Path) -> pathlib.Path:
    """As seen from the repository."""
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def spelled(words: Words) -> list[str]:
    """As flags; what is true is said without a value."""
    return [
        word
        for name, value in words.items()
        for word in ((f"--{name}",) if value is True else (f"--{name}", str(value)))
    ]


def train_words(folder: pathlib.Path, name: str, settings: Words) -> list[str]:
    common = {
        "pretrained_model_name_or_path": near(CHECKPOINT), "resolution": 64, "output_dir": near(folder),
        "output_name": name, "seed": 1, "lr_scheduler": "cosine", "lr_warmup_steps": 0.05,
    }  # fmt: skip
    return ["train", *spelled({**common, **settings})]
