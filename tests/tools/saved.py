"""Files of every family, saved from networks over a checkpoint's layers, for tools to work on."""

from __future__ import annotations

import atexit
import functools
import pathlib
import shutil
import tempfile

import torch
from torch import Tensor

from lora_train.adapters.file import save
from lora_train.adapters.network import Network
from lora_train.tools.base import Base
from lora_train.tools.opened import Opened, layer
from tests.hosts import tiny_checkpoints
from tests.test_laws import made, stirred

BLOCK = "input_blocks.4.1.transformer_blocks.0"
UNET = (
    f"unet.{BLOCK}.attn1.to_q", f"unet.{BLOCK}.attn2.to_k", f"unet.{BLOCK}.ff.net.2",
    "unet.middle_block.1.proj_in", "unet.input_blocks.4.0.in_layers.2",
    "unet.output_blocks.2.0.skip_connection",
    "unet.input_blocks.3.0.op",
)  # fmt: skip
NORMS = ("unet.input_blocks.4.0.in_layers.0", "unet.input_blocks.4.0.out_layers.0")
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1")
TEXTS = {"sd1": ("te1",), "sd2": ("te1",), "sdxl": ("te1", "te2")}
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
VARIANTS = {  # families as files show them that are of other forms than the plain ones
    "tucker": ("lora", {"use_tucker": True}),
    "dora": ("lora", {"dora_wd": True}),
    "dora_out": ("lora", {"dora_wd": True, "wd_on_output": True}),
    "normed": ("lora", {"train_norm": True}),
}  # fmt: skip


@functools.cache
def checkpoint(arch: str) -> pathlib.Path:
    """A small one, made once."""
    if arch == "sd1":
        return tiny_checkpoints.DEMO / "demo.safetensors"
    folder = pathlib.Path(tempfile.mkdtemp(prefix="tools_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return tiny_checkpoints.write(folder / f"{arch}.safetensors", arch)


@functools.cache
def base(arch: str) -> Base:
    return Base(checkpoint(arch))


def keys(arch: str) -> list[str]:
    """Of some of its layers."""
    texts = [f"{part}.encoder.layers.{i}.{p}" for part in TEXTS[arch] for i in (0, 1) for p in PARTS]
    return [key for key in (*UNET, *texts) if key in base(arch).shapes]


def network(family: str, arch: str = "sd1", by: float = 0.1, **values: object) -> Network:
    """With its own layers, whose weights are the checkpoint's."""
    kind, more = VARIANTS.get(family, (family, {}))
    there = base(arch)
    places = [key.split(".", 1) for key in keys(arch)]
    if family == "normed":
        places += [key.split(".", 1) for key in NORMS]
    layers = [layer(part, path, arch, there.shapes[f"{part}.{path}"], there.weight(f"{part}.{path}"))
              for part, path in places]  # fmt: skip
    for at in layers:
        if at.norm:
            at.module.bias = torch.nn.Parameter(there.bias(at.key), requires_grad=False)
    torch.manual_seed(3)
    return stirred(Network(made(kind, **more, **values), layers), by).eval()


def file(folder: pathlib.Path, family: str, arch: str = "sd1", **values: object) -> pathlib.Path:
    path = folder / f"{family}_{arch}.safetensors"
    said = {"ss_output_name": family, "ss_base_model_version": VERSIONS[arch]}
    save(network(family, arch, **values), path, metadata=said, dtype=torch.float32)
    return path


def matrices(path: pathlib.Path, arch: str = "sd1") -> dict[str, Tensor]:
    """What a file adds to each layer."""
    opened = Opened(path)
    assert opened.arch == arch
    return {key: opened.change(key, base(arch)).matrix() for key in opened.layers}


def biases(path: pathlib.Path, arch: str = "sd1") -> dict[str, Tensor | None]:
    opened = Opened(path)
    return {key: opened.change(key, base(arch)).bias for key in opened.layers}
