"""The stock WebUI makes of every family's saved file what was trained: by its formulas, layer by layer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import save
from lora_train.adapters.layer import Layer
from lora_train.adapters.network import Network
from lora_train.hosts.webui.texts import pieces
from tests.test_laws import made, stirred
from tests.webui_formulas import added

BLOCK = "input_blocks.4.1.transformer_blocks.0"
UNET = {  # path -> a layer; their own sizes, so that none is mistaken for another
    f"{BLOCK}.attn1.to_q": lambda: nn.Linear(12, 16, bias=False),
    f"{BLOCK}.ff.net.2": lambda: nn.Linear(24, 8),
    "middle_block.1.proj_in": lambda: nn.Conv2d(8, 12, 1),
    "input_blocks.4.0.skip_connection": lambda: nn.Conv2d(8, 16, 1),
    "input_blocks.4.0.in_layers.2": lambda: nn.Conv2d(8, 16, 3, padding=1),
    "output_blocks.2.0.out_layers.3": lambda: nn.Conv2d(16, 8, 3, padding=1),
    "input_blocks.3.0.op": lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1),
}
TEXTS = {"sd1": {"te1": nn.Linear}, "sd2": {"te1": None}, "sdxl": {"te1": nn.Linear, "te2": None}}
NAMES = {  # what the WebUI calls a text encoder's layers
    ("sd1", "te1"): "transformer_text_model_encoder_layers_3",
    ("sd2", "te1"): "model_transformer_resblocks_3",
    ("sdxl", "te1"): "0_transformer_text_model_encoder_layers_3",
    ("sdxl", "te2"): "1_model_transformer_resblocks_3",
}
PARTS = ("q_proj", "k_proj", "v_proj", "out_proj")


def layers(arch: str) -> dict[str, Layer]:
    """What the WebUI calls it -> layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = {path: make().requires_grad_(False) for path, make in UNET.items()}
        found = {
            f"diffusion_model_{path.replace('.', '_')}": Layer.of("unet", path, module, arch)
            for path, module in unet.items()
        }
        for part, kind in TEXTS[arch].items():
            begin, place = NAMES[arch, part], "encoder.layers.3"
            opened = kind is None
            split = pieces(nn.MultiheadAttention(12, 3)) if opened else [kind(12, 12) for _ in PARTS]
            for name, piece in zip(PARTS, split, strict=True):
                own = f"{begin}_{'attn' if opened else 'self_attn'}_{name}"
                found[own] = Layer.of(part, f"{place}.self_attn.{name}", piece.requires_grad_(False), arch)
            for name, theirs in (("fc1", "c_fc"), ("fc2", "c_proj")):
                own = f"{begin}_mlp_{theirs if opened else name}"
                module = nn.Linear(12, 12).requires_grad_(False)
                found[own] = Layer.of(part, f"{place}.mlp.{name}", module, arch)
    return found


def inputs(layer: Layer) -> Tensor:
    if layer.norm:
        grouped = isinstance(layer.module, nn.GroupNorm)
        return torch.randn(2, layer.shape[0], 6, 6) if grouped else torch.randn(2, 5, layer.shape[0])
    if len(layer.shape) == 4:
        return torch.randn(2, layer.shape[1], 6, 6)
    return torch.randn(2, 5, layer.shape[1])


def check(network: Network, there: dict[str, Layer], arch: str, path) -> None:
    """The file's every key is for a layer, and what it adds is what the attached adapter adds."""
    save(network, path, metadata={}, dtype=torch.float32)
    file = load_file(path)
    weights = {name: layer.weight() for name, layer in there.items()}
    gains = added(file, arch, weights)
    names = {layer.key: name for name, layer in there.items()}
    assert {names[key] for key in network.layers} == set(gains)
    for key, adapter in network.adapters.items():
        layer, (weight, bias) = network.layers[key], gains[names[key]]
        x = inputs(layer)
        with torch.no_grad():
            base = layer.module(x)
            expected = layer.op(x, weight)
            if bias is not None:
                second = layer.kernel or isinstance(layer.module, nn.GroupNorm)
                expected = expected + (bias.view(-1, *[1] * (base.ndim - 2)) if second else bias)
            ours = adapter.eval()(x, base) - base
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5 * float(base.abs().max()), msg=key)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("arch", TEXTS)
def test_the_webui_adds_what_the_adapter_adds(family, arch, tmp_path):
    """Fresh, and after some training."""
    torch.manual_seed(1)
    there = layers(arch)
    network = Network(made(family), there.values())
    check(network, there, arch, tmp_path / "fresh.safetensors")
    check(stirred(network, 0.2), there, arch, tmp_path / "trained.safetensors")
