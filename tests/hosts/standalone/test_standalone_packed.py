"""A base in fewer bits stands for the weights that were packed, and adapters train on it as on any other."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from safetensors import safe_open
from torch import nn

pytest.importorskip("diffusers")

from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.cli import main
from lora_train.host import Model
from lora_train.hosts.standalone.host import StandaloneHost
from lora_train.hosts.standalone.packed import Packed, pack

WITHOUT = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
KINDS = ["fp8", pytest.param("int8", marks=WITHOUT), pytest.param("nf4", marks=WITHOUT)]
NEAR = {"fp8": 0.04, "int8": 0.02, "nf4": 0.12}  # relative, of the weights; 2^-4 is the most that fp8 is off
LAYERS = (nn.Linear, nn.Conv2d)
BYTES = {"fp8": 1.0, "int8": 1.02, "nf4": 0.57}  # a number


def layers():
    torch.manual_seed(0)
    return [nn.Linear(48, 64), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Linear(48, 64, bias=False)]


def packed(layer: nn.Module, kind: str) -> nn.Module:
    with torch.device("meta"):
        model = nn.Sequential(type(layer)(**_like(layer)))
    pack(model, kind, torch.float32)
    model.to_empty(device="cpu")
    model[0].take(layer.weight.detach())
    if layer.bias is not None:
        model[0].bias.data.copy_(layer.bias.data)
    return model[0].requires_grad_(False)


def _like(layer):
    if isinstance(layer, nn.Linear):
        return {"in_features": 48, "out_features": 64, "bias": layer.bias is not None}
    return {"in_channels": 16, "out_channels": 32, "kernel_size": 3, "stride": 2, "padding": 1}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", range(3))
def test_it_is_near_small_and_acts_as_its_weight_does(kind, which):
    layer = layers()[which]
    small = packed(layer, kind)
    whole = small.weight
    assert ((whole - layer.weight).norm() / layer.weight.norm()).item() < NEAR[kind]
    held = sum(b.numel() * b.element_size() for b in small.buffers()) - 4 * 256 * (kind == "int8")
    assert held / whole.numel() <= BYTES[kind] + 0.05
    x = torch.randn(3, 48) if isinstance(layer, nn.Linear) else torch.randn(3, 16, 9, 9)
    x.requires_grad_()
    y = small(x)
    if isinstance(layer, nn.Linear):
        wanted = F.linear(x, whole, layer.bias)
    else:
        wanted = F.conv2d(x, whole, layer.bias, 2, 1)
    torch.testing.assert_close(y, wanted)
    grad = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, grad)[0] for out in (y, wanted)))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_whole_is_kept_for_the_backward_pass(kind):
    small, kept = packed(layers()[0], kind), []
    x = torch.randn(3, 48, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        small(x)
    assert torch.Size((64, 48)) not in kept


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_it_is_a_layer_to_adapters(kind):
    small = packed(layers()[0], kind)
    layer = Layer.of("unet", "input_blocks.1.1.proj_in", small)
    assert layer.shape == (64, 48)
    network = Network(Lora(dim=2), [layer])
    with network.attached():
        small(torch.randn(2, 48, requires_grad=True)).square().sum().backward()
    assert network.silent() == []


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_lent_model_in_fewer_bits_predicts_nearly_the_same(small, kind, arch):
    x, t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([500])
    found = {}
    for base in (None, kind):
        model = Model(small[arch], quantized_base=base, quantized_text_encoder=base is not None)
        with StandaloneHost().borrow(model, device="cpu", precision="no") as lent, torch.no_grad():
            found[base] = lent.denoise(x, t, lent.encode(["a cat"]))
            lent.park("text")
            assert torch.equal(found[base], lent.denoise(x, t, lent.encode(["a cat"]))), "read again"
            for part, slot in lent.slots.items():
                kinds = {isinstance(m, Packed) for m in slot.module.modules() if isinstance(m, LAYERS)}
                assert kinds == {base is not None and part != "vae"}, part
    off = (found[kind] - found[None]).norm() / found[None].norm()
    assert 0 < off < 10 * NEAR[kind]


def test_a_run_on_fp8_learns_and_says_so(small, tmp_path):
    folder = tmp_path / "1_cat"
    folder.mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "a.png")
    words = f"""train --pretrained_model_name_or_path {small["sd2"]} --train_data_dir {tmp_path}
        --resolution 64 --max_train_steps 2 --learning_rate 1e-3 --seed 1 --fp8_base --gradient_checkpointing
        --output_dir {tmp_path / "out"} --output_name x --device cpu"""
    assert main(words.split()) == 0
    with safe_open(tmp_path / "out" / "x.safetensors", "pt") as file:
        ups = [file.get_tensor(key) for key in file.keys() if "lora_up" in key]  # noqa: SIM118
        texts = file.metadata()
    assert sum(bool(up.any()) for up in ups) > 0.9 * len(ups)
    assert (texts["ss_fp8_base"], texts["ss_fp8_base_unet"]) == ("True", "False")
