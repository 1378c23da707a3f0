"""OpenCLIP's attention, whose four parts the stock WebUI changes together or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train.adapters.layer import Layer
from lora_train.names import file_key

FUSED = {"sd2": "te1", "sdxl": "te2"}  # arch -> the text encoder that has it
PIECE = re.compile(r"(.+\.self_attn)\.(q_proj|k_proj|v_proj|out_proj)$")
PIECES = ("q_proj", "k_proj", "v_proj", "out_proj")
DOWN, UP = "lora_down.weight", "lora_up.weight"


def piece(layer: Layer) -> str | None:
    """Which part of such an attention a layer is."""
    found = PIECE.search(layer.path) if layer.part == FUSED.get(layer.arch) else None
    return found and found[2]


def missing(layers: Mapping[str, Layer]) -> dict[str, Tensor]:
    """Tensors, under the keys of a file, for the parts that have no adapter where others have one: of a LoRA
    that adds nothing."""
    found: dict[str, Tensor] = {}
    for layer in layers.values():
        if piece(layer) is None:
            continue
        whole = PIECE.search(layer.path)[1]
        for name in PIECES:
            if f"{layer.part}.{whole}.{name}" not in layers:
                key = file_key(layer.part, f"{whole}.{name}", layer.arch)
                out, inn = layer.shape
                found[f"{key}.{DOWN}"], found[f"{key}.{UP}"] = torch.zeros(1, inn), torch.zeros(out, 1)
                found[f"{key}.alpha"] = torch.tensor(1.0)
    return found


def unfilled(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors without such. Nothing that was trained has a `down` of zeros."""
    found = {
        name.removesuffix(DOWN)
        for name, down in tensors.items()
        if name.endswith(f".{DOWN}") and len(down) == 1 and not down.any()
    }
    return {name: tensor for name, tensor in tensors.items() if f"{name.partition('.')[0]}." not in found}
