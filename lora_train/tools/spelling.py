"""How files of adapters spell their keys: kohya's way, and others' that are read as if they were in it."""

from __future__ import annotations

from lora_train.weights import Weights


def kohya(weights: Weights) -> dict[str, str]:
    """A key as kohya's files have it -> the key in this file."""
    return {name: name for name in weights.shapes}
