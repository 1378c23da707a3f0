"""Base: a checkpoint as it lies on disk, layer by layer."""

from __future__ import annotations

import functools
import pathlib

from torch import Tensor

from lora_train.errors import Mistake
from lora_train.models.files import CHECKPOINT, Source, find
from lora_train.models.whole import places
from lora_train.weights import Weights

Where = tuple[Weights, Source]


class Base:
    """Reads a layer's weight when it is asked for, and keeps none.

    Raises:
        Mistake: no checkpoint that we know.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            self.found = find(path)
        except Mistake as e:  # it speaks of a job's setting, which a tool has not
            raise Mistake(str(e).replace(f"{CHECKPOINT} = ", "")) from e
        self.arch = self.found.facts.arch
        self.weights: dict[str, Where] = {}  # key of a layer, "unet.input_blocks.0.0" -> where its weight is
        self.biases: dict[str, Where] = {}
        for part, there in self.found.parts.items():
            if part != "vae":
                for (_, at, tensor), source in places(part, there, self.arch):
                    into = self.weights if tensor == "weight" else self.biases
                    into[f"{part}.{at}"] = (there.weights, source)

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every layer's weight."""
        return {key: at.shape(file.shapes[at.key]) for key, (file, at) in self.weights.items()}

    def weight(self, key: str) -> Tensor:
        """float32, [out, in] or [out, in, height, width], or [channels] of a norm; memory of its own."""
        return _read(self.weights[key])

    def bias(self, key: str) -> Tensor | None:
        return _read(self.biases[key]) if key in self.biases else None


def _read(where: Where) -> Tensor:
    file, at = where
    [(_, stored)] = file.read([at.key])
    return at.of(stored).float().clone()
