"""Shot: one picture of a sheet, with all that it depends on beside the model."""

from __future__ import annotations

import dataclasses
import pathlib

from lora_train.blocks import BlockWeights
from lora_train.prompts import Prompt


@dataclasses.dataclass(frozen=True)
class Shot:
    """One picture: all that it depends on, beside the model. At strength 0 there is no file."""

    prompt: Prompt
    file: pathlib.Path | None = None
    te: float = 0.0
    unet: float = 0.0
    blocks: BlockWeights = BlockWeights()
    start: int | None = None
    stop: int | None = None

    @property
    def on(self) -> bool:
        return self.file is not None

    @property
    def times(self) -> list[tuple[str, int]]:
        """When it is switched on and off, as prompts say it."""
        return [(name, at) for name, at in (("start", self.start), ("stop", self.stop)) if at is not None]

    def bare(self) -> Shot:
        """The same without the LoRA."""
        return Shot(self.prompt)


def tagged(shot: Shot) -> str:
    """The prompt with what switches the LoRA on and off while its picture is drawn."""
    if not shot.on or not shot.times:
        return shot.prompt.prompt
    times = [f":{name}={value}" for name, value in shot.times]
    return f"{shot.prompt.prompt}<lora:{shot.file.stem}:1:1{''.join(times)}>"


def infotext(shot: Shot) -> str:
    """The prompt with all that makes its picture of this LoRA, as a prompt of the WebUI has it."""
    if not shot.on:
        return shot.prompt.prompt
    words = [f"{shot.te:g}", f"{shot.unet:g}"] if shot.te != shot.unet else [f"{shot.te:g}"]
    if shot.blocks != BlockWeights():
        words.append(f"lbw={shot.blocks}")
    words += [f"{name}={value}" for name, value in shot.times]
    return f"{shot.prompt.prompt}<lora:{':'.join([shot.file.stem, *words])}>"
