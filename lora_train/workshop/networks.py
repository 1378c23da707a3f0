"""Networks in .onnx files, of whatever kind: opened, and asked."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lora_train.errors import Mistake
from lora_train.workshop.work import needed

CARDS = ("CUDAExecutionProvider", "ROCMExecutionProvider")


def session(path: pathlib.Path, which: str, device: str = "auto") -> Any:
    """A network, ready to be asked.

    Args:
        which: how a person named it.
        device: "auto", "cpu" or "cuda".

    Raises:
        Mistake: the package or the device is missing, or the file is no network.
    """
    try:
        import onnxruntime
    except ImportError as e:
        raise needed("onnxruntime", "onnxruntime", which) from e
    there = onnxruntime.get_available_providers()
    if device == "cuda" and CARDS[0] not in there:
        raise Mistake("device = cuda: onnxruntime finds no such device; pip install onnxruntime-gpu")
    cards = [] if device == "cpu" else [name for name in CARDS if name in there]
    try:
        return onnxruntime.InferenceSession(str(path), providers=[*cards, "CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has a dozen of its own, and they share nothing
        raise Mistake(f"{which}: onnxruntime cannot read it ({(str(e) or repr(e)).splitlines()[0]})") from e


def answered(
    network: Any, given: dict[str, np.ndarray], which: str, outputs: Sequence[str] | None = None
) -> list[np.ndarray]:
    """What a network gives.

    Args:
        which: how a person named it.

    Raises:
        Mistake: it is of another kind, or there is too little memory.
    """
    try:
        return network.run(outputs, given)
    except Exception as e:  # as in `session`
        raise Mistake(
            f"{which}: cannot be asked as a network of its kind ({(str(e) or repr(e)).splitlines()[0]})"
        ) from e
