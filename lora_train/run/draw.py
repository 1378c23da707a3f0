"""Pictures from a lent model with LoRA files on it."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora_train.adapters.file import load, network_of
from lora_train.adapters.network import Network
from lora_train.plots.grid import sheet

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.host import Lent
    from lora_train.prompts import Prompt

ENLARGED = 128  # pixels; cells of a smaller side are blown up to about this


class Worn:
    """LoRA files, read once, that a lent model can wear at any strength.

    Raises:
        Mistake: a file is not a LoRA of this model.
    """

    def __init__(self, lent: Lent, files: Sequence[pathlib.Path]):
        layers = lent.layers()
        self.networks: list[Network] = []
        for file in files:
            network = network_of(load(file)[0], layers, name=str(file))
            self.networks.append(network.requires_grad_(False))

    @contextlib.contextmanager
    def at(self, strengths: Sequence[float]) -> Iterator[None]:
        """At strength 0 a file is not on at all, so the picture is the bare model's to the bit."""
        with contextlib.ExitStack() as on:
            for network, strength in zip(self.networks, strengths, strict=True):
                if strength:
                    network.strength = strength
                    on.enter_context(network.attached())
            yield


def strengths(
    lent: Lent, file: pathlib.Path, values: Sequence[float], prompts: Sequence[Prompt]
) -> Image.Image:
    """One row a prompt, one column a strength; the same seed along a row."""
    worn = Worn(lent, [file])

    def cell(row: int, column: int) -> Image.Image:
        with worn.at([values[column]]):
            return lent.sample(prompts[row])

    side = min(min(p.width, p.height) for p in prompts)
    return sheet(
        [p.prompt for p in prompts],
        [f"strength {v:g}" for v in values],
        cell,
        title=file.stem,
        enlarge=max(1, ENLARGED // side),
    )
