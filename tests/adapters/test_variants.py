"""LoRA's variants: Tucker decomposition, a learned scale, rsLoRA's scale, a start from principal parts."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.func import functional_call

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import begun, entries, load, network_of, save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.names import file_key
from tests.test_laws import inputs, seen, stirred
from tests.tiny import Tiny
from tests.webui_formulas import delta

WAYS = [
    ("lora", {"use_tucker": True}),
    ("lora", {"use_scalar": True}),
    ("lora", {"rs_lora": True}),
    ("lora", {"use_tucker": True, "use_scalar": True, "rs_lora": True}),
    ("loha", {"use_scalar": True, "rs_lora": True}),
    ("loha", {"use_scalar": True, "use_tucker": True}),
    ("lokr", {"use_scalar": True, "rs_lora": True}),
    ("lokr", {"use_scalar": True, "decompose_both": True, "factor": 4}),
    ("lokr", {"use_scalar": True, "full_matrix": True}),
]
ways = pytest.mark.parametrize(("kind", "how"), WAYS, ids=[f"{k}-{'-'.join(h)}" for k, h in WAYS])


def made(kind, how, **more):
    return build(FAMILIES[kind], {"dim": 4, "alpha": 2.0, "conv_dim": 2, "conv_alpha": 3.0, **how, **more})


@ways
def test_a_variant_keeps_the_laws(kind, how, tmp_path):
    """A fresh one changes nothing; forward, delta, the file by the WebUI's formulas and the file read again
    are one; shrinking shrinks."""
    lent = Tiny()
    before = seen(lent)
    network = Network(made(kind, how), lent.layers())
    with network.attached():
        assert torch.equal(seen(lent), before)
        seen(lent).sum().backward()
    assert network.silent() == []
    stirred(network, 0.3)
    for key, layer in network.layers.items():
        x, adapter = inputs(layer), network.adapters[key]
        with torch.no_grad():
            base = layer.module(x)
            ours, theirs = adapter(x, base) - base, layer.op(x, adapter.delta())
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6 * float(base.abs().max()), msg=key)
        torch.testing.assert_close(adapter.norm(), adapter.delta().norm().detach(), rtol=1e-4, atol=1e-6)
    save(network, tmp_path / "a.safetensors", metadata={}, dtype=torch.float32)
    tensors = load(tmp_path / "a.safetensors")[0]
    again = network_of(tensors, lent.layers())
    for key, layer in network.layers.items():
        lead = file_key(layer.part, layer.path, layer.arch) + "."
        own = {name[len(lead) :]: t for name, t in tensors.items() if name.startswith(lead)}
        expected = network.adapters[key].delta().detach()
        for found in (delta(own, layer.weight())[0], again.adapters[key].delta().detach()):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6, msg=key)
        before = network.adapters[key].norm()
        network.adapters[key].shrink(torch.tensor(0.25))
        assert float(network.adapters[key].norm()) == pytest.approx(0.25 * float(before), rel=1e-4)


@ways
def test_a_variant_goes_on_from_a_file(kind, how, tmp_path):
    layers, path = Tiny().layers(), tmp_path / "a.safetensors"
    save(stirred(Network(made(kind, how), layers)), path, metadata={}, dtype=torch.float32)
    expected = {key: a.delta().detach() for key, a in network_of(load(path)[0], layers).adapters.items()}
    for how_again in (how, {"dim_from_weights": True, "use_scalar": how.get("use_scalar", False)}):
        again = begun(made(kind, how_again, weights=path), layers)
        for key, adapter in again.adapters.items():
            torch.testing.assert_close(adapter.delta().detach(), expected[key], rtol=1e-5, atol=1e-7)


@ways
def test_gradients_of_a_variant_are_those_of_finite_differences(kind, how):
    paths = ("input_blocks.1.1.proj_in", "input_blocks.3.0.op", "input_blocks.1.0.in_layers.2")
    for layer in (layer for layer in Tiny(dtype=torch.float64).layers() if layer.path in paths):
        adapter = stirred(made(kind, how).make(layer).double(), 0.3)
        names, values = zip(*adapter.named_parameters(), strict=True)

        def run(x, base, *values, adapter=adapter, names=names):
            return functional_call(adapter, dict(zip(names, values, strict=True)), (x, base))

        x = inputs(layer)[:1].double()
        points = [t.detach().requires_grad_() for t in (x, layer.module(x).detach(), *values)]
        assert torch.autograd.gradcheck(run, points, fast_mode=True), layer.key


def test_tucker_is_of_wide_kernels_alone_and_smaller():
    network = Network(Lora(dim=4, conv_dim=4, use_tucker=True), Tiny().layers())
    mids = {name for name in entries(network) if name.endswith(".lora_mid.weight")}
    wide = {
        f"{file_key(x.part, x.path)}.lora_mid.weight" for x in network.layers.values() if x.kernel == (3, 3)
    }
    assert mids == wide != set()
    name = "lora_unet_down_blocks_0_downsamplers_0_conv."
    shapes = {k[len(name) :]: tuple(t.shape) for k, t in entries(network).items() if k.startswith(name)}
    assert shapes == {
        "lora_down.weight": (4, 8, 1, 1), "lora_mid.weight": (4, 4, 3, 3), "lora_up.weight": (8, 4, 1, 1),
        "alpha": ()}  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr"])
def test_rslora_divides_by_the_root_of_the_rank(kind):
    """Of the same factors it adds root of rank times as much, and its file says so to any reader."""
    layers = Tiny().layers()
    plain, scaled = (Network(made(kind, {"rs_lora": on}, dim=3), layers) for on in (False, True))
    scaled.load_state_dict(stirred(plain).state_dict())
    for key, adapter in plain.adapters.items():
        if {"lokr_w1", "lokr_w2"} <= dict(adapter.named_parameters()).keys():
            continue  # both factors whole: no rank
        rank = adapter.rank
        torch.testing.assert_close(scaled.adapters[key].delta(), math.sqrt(rank) * adapter.delta())
        alphas = [float(network.adapters[key].tensors()["alpha"]) for network in (plain, scaled)]
        assert alphas[1] == pytest.approx(math.sqrt(rank) * alphas[0])


def test_metadata_of_what_only_lycoris_has_names_it():
    record = Lora(use_tucker=True, rs_lora=True, conv_dim=2).record()
    assert record["ss_network_module"] == "lycoris.kohya"
    args = json.loads(record["ss_network_args"])
    assert args.items() >= {"algo": "locon", "use_tucker": "True", "rs_lora": "True", "conv_dim": "2"}.items()
    assert Lora().record()["ss_network_module"] == "networks.lora"
    found = json.loads(FAMILIES["lokr"](use_scalar=True).record()["ss_network_args"])
    assert found.items() >= {"algo": "lokr", "use_scalar": "True"}.items()


def test_loraplus_needs_a_factor_that_starts_at_zero():
    assert made("loha", {}, loraplus_lr_ratio=16).late
    with pytest.raises(
        Mistake, match=r"loraplus_lr_ratio = 16: expected nothing; .* no factor that starts at"
    ):
        made("loha", {"use_scalar": True}, loraplus_lr_ratio=16)
