"""Magnitudes beside an adapter (DoRA), and norms that learn."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.func import functional_call

from lora_train.adapters import FAMILIES
from lora_train.adapters.dora import Magnitudes
from lora_train.adapters.file import begun, network_of, save
from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.adapters.norm import NormAdapter
from lora_train.errors import Mistake
from lora_train.knobs import build
from tests.test_laws import inputs, made, seen, stirred
from tests.test_readable import TEXTS, check, layers
from tests.tiny import Tiny

KINDS = ("lora", "loha", "lokr")
kinds = pytest.mark.parametrize("kind", KINDS)
axes = pytest.mark.parametrize("outputs", [False, True], ids=["inputs", "outputs"])


def network(kind: str, outputs: bool = False, **values) -> Network:
    return Network(made(kind, dora_wd=True, wd_on_output=outputs, **values), Tiny().layers())


@kinds
@axes
def test_a_fresh_one_changes_nothing(kind, outputs):
    lent = Tiny()
    before = seen(lent)
    with Network(made(kind, dora_wd=True, wd_on_output=outputs), lent.layers()).attached():
        assert torch.equal(seen(lent), before)


def formula(adapter: Magnitudes) -> torch.Tensor:
    """Equation 5, row by row or column by column."""
    whole = (adapter.layer.weight() + adapter.turned.delta()).detach()
    made = torch.empty_like(whole)
    for i, size in enumerate(adapter.magnitudes.detach().flatten()):
        place = i if adapter.outputs else (slice(None), i)
        made[place] = size * whole[place] / torch.linalg.vector_norm(whole[place])
    return made


@kinds
@axes
def test_it_does_what_the_formula_says(kind, outputs):
    trained = stirred(network(kind, outputs), 0.2)
    for adapter in trained.adapters.values():
        weight, x = formula(adapter), inputs(adapter.layer)
        torch.testing.assert_close(adapter.delta(), weight - adapter.layer.weight(), rtol=1e-5, atol=1e-6)
        with torch.no_grad():
            base = adapter.layer.module(x)
            bias = 0 if adapter.layer.bias is None else adapter.layer.along(adapter.layer.bias, base.ndim)
            expected = adapter.layer.op(x, weight) + bias
            torch.testing.assert_close(adapter(x, base), expected, rtol=1e-5, atol=1e-5)


@kinds
@axes
def test_gradients_are_those_of_norms_that_stand_still(kind, outputs):
    """Against finite differences of the formula, with the norms as they are before."""
    for layer in (x for x in Tiny(dtype=torch.float64).layers() if not x.norm):
        if layer.path.partition(".")[0] not in ("input_blocks", "encoder"):
            continue
        family = made(kind, dora_wd=True, wd_on_output=outputs)
        if family.make(layer) is None:
            continue
        adapter = stirred(family.put(layer).double(), 0.2)
        norms, x = adapter._norms(), inputs(layer)[:1].double()
        names, values = zip(*adapter.named_parameters(), strict=True)
        base = layer.module(x).detach()
        bias = 0 if layer.bias is None else layer.along(layer.bias, base.ndim)

        class Still(nn.Module):
            """W' x with constant norms."""

            def __init__(self, adapter=adapter):
                super().__init__()
                self.own = adapter

            def forward(self, layer=layer, norms=norms, x=x, bias=bias):
                whole = layer.weight() + self.own.turned.delta()
                return layer.op(x, self.own.magnitudes * whole / norms) + bias

        still = Still()
        points = [value.detach().requires_grad_() for value in values]

        def constant(*values, still=still, names=names):
            return functional_call(still, {f"own.{n}": v for n, v in zip(names, values, strict=True)}, ())

        if kind == "lora":  # the others' delta is in float32
            assert torch.autograd.gradcheck(constant, points, fast_mode=True), layer.key
        ours = functional_call(adapter, dict(zip(names, points, strict=True)), (x, base))
        other = torch.randn_like(ours)
        found = torch.autograd.grad((ours * other).sum(), points)
        expected = torch.autograd.grad((constant(*points) * other).sum(), points)
        for name, a, b in zip(names, found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=f"{layer.key} {name}")


@kinds
@axes
@pytest.mark.parametrize("strength", [1.0, -0.3])
def test_merged_does_what_attached_does(kind, outputs, strength):
    lent = Tiny()
    trained = stirred(Network(made(kind, dora_wd=True, wd_on_output=outputs), lent.layers()))
    trained.strength = strength
    with trained.attached():
        attached = seen(lent)
    with trained.merged():
        torch.testing.assert_close(seen(lent), attached, rtol=1e-5, atol=1e-5)


@kinds
@pytest.mark.parametrize("arch", TEXTS)
def test_the_webui_reads_magnitudes_of_inputs(kind, arch, tmp_path):
    there = layers(arch)
    trained = Network(made(kind, dora_wd=True), there.values())
    check(trained, there, arch, tmp_path / "fresh.safetensors")
    check(stirred(trained, 0.2), there, arch, tmp_path / "trained.safetensors")
    assert any(name.endswith("dora_scale") for name in load_file(tmp_path / "trained.safetensors"))


@kinds
def test_those_of_outputs_are_written_for_it_as_differences(kind, tmp_path):
    there = layers("sd1")
    trained = stirred(Network(made(kind, dora_wd=True, wd_on_output=True), there.values()), 0.2)
    check(trained, there, "sd1", tmp_path / "a.safetensors")
    assert {name.partition(".")[2] for name in load_file(tmp_path / "a.safetensors")} == {"diff"}


@kinds
@axes
def test_what_is_saved_does_the_same_again(kind, outputs, tmp_path):
    trained, lent = stirred(network(kind, outputs), 0.2), Tiny()
    file, native = tmp_path / "a.safetensors", tmp_path / "native.safetensors"
    save(trained, file, metadata={}, dtype=torch.float32, native=native)
    own = native if outputs else file
    with trained.attached():
        pass
    tensors = load_file(own)
    again = network_of(tensors, lent.layers())
    for key, adapter in trained.adapters.items():
        torch.testing.assert_close(again.adapters[key].delta(), adapter.delta(), rtol=1e-5, atol=1e-6)
    family = made(kind, dora_wd=True, wd_on_output=outputs, weights=str(own))
    for key, adapter in begun(family, lent.layers()).adapters.items():
        torch.testing.assert_close(adapter.delta(), trained.adapters[key].delta(), rtol=1e-5, atol=1e-6)
    other = made(kind, dora_wd=True, wd_on_output=not outputs, weights=str(own))
    with pytest.raises(Mistake, match="wd_on_output"):
        begun(other, lent.layers())


@kinds
def test_a_file_without_magnitudes_goes_on_with_its_norms(kind, tmp_path):
    lent = Tiny()
    plain = stirred(Network(made(kind), lent.layers()), 0.2)
    save(plain, tmp_path / "a.safetensors", metadata={}, dtype=torch.float32)
    family = made(kind, dora_wd=True, weights=str(tmp_path / "a.safetensors"))
    for key, adapter in begun(family, lent.layers()).adapters.items():
        assert isinstance(adapter, Magnitudes)
        torch.testing.assert_close(adapter.delta(), plain.adapters[key].delta(), rtol=1e-5, atol=1e-6)


@kinds
def test_one_that_rests_leaves_the_layer_alone(kind):
    trained = stirred(network(kind, module_dropout=0.5))
    for adapter in [*trained.adapters.values()][:4]:
        x = inputs(adapter.layer)
        base = adapter.layer.module(x)
        rested = sum(adapter(x, base) is base for _ in range(60))
        assert 10 < rested < 50
        assert adapter.rests


def test_a_direction_of_zeros_stays_one():
    linear = nn.Linear(4, 3, bias=False).requires_grad_(False)
    linear.weight[:, 1] = 0
    layer = Layer.of("te1", "encoder.layers.0.mlp.fc1", linear)
    adapter = made("lora", dora_wd=True).put(layer)
    assert adapter.delta().isfinite().all()
    assert adapter(torch.randn(2, 4), torch.zeros(2, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"wd_on_output": True}, "wd_on_output = True: expected dora_wd"),
        ({"dora_wd": True, "scale_weight_norms": 1}, "scale_weight_norms = 1: what a DoRA adds"),
        ({"train_norm": True, "train_text_encoder_only": True}, "train_norm = True: expected the UNet"),
        ({"train_norm": True, "preset": "attn-only"}, "train_norm = True: preset attn-only has no norms"),
    ],
)
def test_what_cannot_be_is_refused(values, complaint):
    with pytest.raises(Mistake) as e:
        build(FAMILIES["lora"], values)
    assert str(e.value).startswith(complaint)


NORMS = (  # path, the one with resnets or with transformers
    ("input_blocks.1.0.in_layers.0", "unet-convblock-only"),
    ("middle_block.2.out_layers.0", "unet-convblock-only"),
    ("input_blocks.1.1.norm", "attn-mlp"),
    ("input_blocks.1.1.transformer_blocks.0.norm1", "attn-mlp"),
    ("input_blocks.1.1.transformer_blocks.0.norm3", "attn-mlp"),
    ("out.0", None),
)


@pytest.mark.parametrize("preset", ["full", "attn-mlp", "unet-convblock-only"])
def test_norms_are_those_beside_the_chosen_layers(preset):
    found = Network(made("lora", train_norm=True, preset=preset), Tiny().layers())
    learn = {key.removeprefix("unet.") for key, a in found.adapters.items() if isinstance(a, NormAdapter)}
    assert learn
    for path, beside in NORMS:
        assert (path in learn) == (beside is not None and preset in ("full", beside)), path
    without = Network(made("lora", preset=preset), Tiny().layers())
    assert found.adapters.keys() - without.adapters.keys() == {f"unet.{path}" for path in learn}


def test_a_norm_does_what_one_of_its_values_would():
    """Against the host's own module with weight and bias changed."""
    lent = Tiny()
    trained = stirred(Network(made("lora", train_norm=True), lent.layers()), 0.3)
    norms = {k: a for k, a in trained.adapters.items() if isinstance(a, NormAdapter)}
    for key, adapter in norms.items():
        x = torch.randn(2, adapter.layer.shape[0], 4, 4)
        x = x if "num_groups" in vars(adapter.layer.module) else x.permute(0, 2, 3, 1)
        module = adapter.layer.module
        with torch.no_grad():
            ours = adapter(x, module(x))
            weight, bias = module.weight.clone(), module.bias.clone()
            module.weight.add_(adapter.delta())
            module.bias.add_(adapter.bias())
            torch.testing.assert_close(ours, module(x), rtol=1e-5, atol=1e-5, msg=key)
            module.weight.copy_(weight)
            module.bias.copy_(bias)
    with trained.attached():
        attached = seen(lent)
    with trained.merged():
        torch.testing.assert_close(seen(lent), attached, rtol=1e-5, atol=1e-5)
    assert not torch.equal(attached, seen(lent))
    assert trained.silent() == [*trained.adapters]


def test_the_gradients_of_a_norm_are_those_of_finite_differences():
    layer = next(x for x in Tiny(dtype=torch.float64).layers() if x.path == "input_blocks.1.1.norm")
    adapter = stirred(NormAdapter(layer).double())
    x = torch.randn(1, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    base = layer.module(x).detach().requires_grad_()

    def run(x, base, weight, more):
        return functional_call(adapter, {"weight": weight, "more": more}, (x, base))

    points = [x, base, *(p.detach().requires_grad_() for p in adapter.parameters())]
    assert torch.autograd.gradcheck(run, points)


@pytest.mark.parametrize("arch", TEXTS)
def test_the_webui_reads_norms(arch, tmp_path):
    paths = ["input_blocks.4.0.in_layers.0", "middle_block.2.out_layers.0", "input_blocks.4.1.norm",
             "input_blocks.4.1.transformer_blocks.0.norm2"]  # fmt: skip
    modules = [nn.GroupNorm(2, 8), nn.GroupNorm(2, 8), nn.GroupNorm(2, 8), nn.LayerNorm(8)]
    there = {
        f"diffusion_model_{path.replace('.', '_')}": Layer.of(
            "unet", path, module.requires_grad_(False), arch
        )
        for path, module in zip(paths, modules, strict=True)
    }
    trained = stirred(Network(made("lora", train_norm=True, block_weights="1," * 11 + "1"), there.values()))
    check(trained, there, arch, tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    again = network_of(tensors, there.values())
    for key, adapter in trained.adapters.items():
        assert torch.equal(again.adapters[key].delta(), adapter.delta())
        assert torch.equal(again.adapters[key].bias(), adapter.bias())


def test_the_metadata_says_what_they_are():
    found = made("lora", dora_wd=True, train_norm=True).record()
    assert found["ss_network_module"] == "lycoris.kohya"
    assert '"dora_wd": "True", "wd_on_output": "False"' in found["ss_network_args"]
    assert '"train_norm": "True"' in found["ss_network_args"]
    assert '"algo": "loha"' in made("loha", dora_wd=True).record()["ss_network_args"]
    assert made("lora").record()["ss_network_module"] == "networks.lora"


@axes
def test_under_autocast_norms_are_those_of_the_sum_in_full(outputs):
    """In bfloat16 the weight would lose what is added to it, and its own last digits."""
    trained = stirred(network("lora", outputs), 1e-3)
    for adapter in trained.adapters.values():
        expected = adapter._norms()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(adapter._norms(), expected, rtol=2e-5, atol=1e-7)


def test_it_moves_to_another_model_with_what_it_is_around():
    """So that nothing of the model before is held."""
    trained = network("lora")
    trained.move(Tiny().layers())
    for key, adapter in trained.adapters.items():
        assert adapter.layer is trained.layers[key]
        assert adapter.turned.layer is trained.layers[key]


def test_one_from_a_file_cannot_be_shrunk_either(tmp_path):
    file = tmp_path / "a.safetensors"
    save(network("lora"), file, metadata={}, dtype=torch.float32)
    family = Lora(weights=file, dim_from_weights=True, scale_weight_norms=1.0)
    with pytest.raises(Mistake, match=r"network\.scale_weight_norms = 1: \S+ holds a DoRA"):
        begun(family, Tiny().layers())


def test_norms_of_blocks_without_a_rate_do_not_learn():
    found = Network(made("lora", train_norm=True, down_lr_weight="zeros"), Tiny().layers())
    blocks = {key.split(".")[1] for key, a in found.adapters.items() if isinstance(a, NormAdapter)}
    assert blocks == {"middle_block", "output_blocks"}
    assert all(pace.times == 1 for pace in found.paces())
