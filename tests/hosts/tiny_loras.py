"""LoRA files for the small checkpoints, with every key as kohya's scripts write it; no other code of ours
is asked what a layer is called."""

from __future__ import annotations

import pathlib

import torch
from safetensors.torch import save_file

from tests.hosts import tiny_checkpoints as tiny

CLIP = {  # a layer of Hugging Face's, with its shape in widths
    "self_attn_q_proj": (1, 1), "self_attn_k_proj": (1, 1), "self_attn_v_proj": (1, 1),
    "self_attn_out_proj": (1, 1), "mlp_fc1": (4, 1), "mlp_fc2": (1, 4),
}  # fmt: skip
TEXTS = {"sd2": {"lora_te": (tiny.LAYERS, tiny.TOWER)},
         "sdxl": {"lora_te1": (2, tiny.HIDDEN), "lora_te2": (tiny.LAYERS, tiny.TOWER)}}  # fmt: skip


def _diffusers(path: str) -> str:
    """E.g. input_blocks.4.1.proj_in -> down_blocks.1.attentions.0.proj_in"""
    lead, number, rest = path.split(".", 2)
    if lead == "middle_block":
        return f"mid_block.attentions.0.{rest}"
    level, j = divmod(int(number) - (lead == "input_blocks"), 3)
    return f"{'down' if lead == 'input_blocks' else 'up'}_blocks.{level}.attentions.{j}.{rest[2:]}"


def layers(family: str) -> dict[str, tuple[int, ...]]:
    """{key: shape of the weight} of the transformers' linear layers, and of all in the text encoders."""
    found = {}
    for name, shape in tiny.unet(family):
        path = name.removesuffix(".weight")
        if path == name or len(shape) != 2 or not ("transformer_blocks" in path or "proj_" in path):
            continue
        spelled = path if family == "sdxl" else _diffusers(path)
        found["lora_unet_" + spelled.replace(".", "_")] = shape
    for lead, (count, width) in TEXTS[family].items():
        for i in range(count):
            for name, (out, read) in CLIP.items():
                key = f"{lead}_text_model_encoder_layers_{i}_{name}"
                found[key] = out * width, read * width
    return found


def write(path: pathlib.Path, family: str, rank: int = 2, *, only: str = "lora_") -> pathlib.Path:
    """One that changes every layer whose key begins with `only` by about as much as there is."""
    made = {}
    for key, (out, read) in layers(family).items():
        if key.startswith(only):
            made[f"{key}.lora_down.weight"] = tiny.drawn(f"{key}.down", (rank, read))
            made[f"{key}.lora_up.weight"] = tiny.drawn(f"{key}.up", (out, rank))
            made[f"{key}.alpha"] = torch.tensor(rank / 2)
    save_file(made, path, {"ss_network_module": "networks.lora"})
    return path
