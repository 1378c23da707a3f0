"""What sets (IA)3, OFT, GLoRA and whole weights apart from the families of factors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import begun, load, network_of, save
from lora_train.adapters.glora import GloraAdapter
from lora_train.adapters.layer import Layer
from lora_train.adapters.network import Network
from lora_train.adapters.oft import OftAdapter, butterfly
from lora_train.compat import translate
from lora_train.errors import Mistake
from lora_train.job import Job
from lora_train.knobs import build, settings
from lora_train.run.inside import told
from tests.test_laws import inputs, made, seen, stirred
from tests.test_readable import TEXTS, check, layers
from tests.tiny import Tiny
from tests.webui_formulas import added

LINEAR = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
WAYS = [
    ("ia3", {"train_on_input": True}),
    ("ia3", {"preset": None}),
    ("ia3", {"block_weights": "0.5," * 25 + "0.5"}),
    ("oft", {"constraint": 1e-3}),
    ("oft", {"constraint": 5.0}),
    ("oft", {"rescaled": True}),
    ("boft", {}),
    ("boft", {"rescaled": True, "constraint": 1e-3, "dim": 12}),
    ("oft", {"dim_is_count": True, "dim": 2}),
    ("glora", {"alpha": 3.0, "block_weights": "0.5," * 25 + "0.5"}),
    ("full", {"block_weights": "0.5," * 25 + "0.5", "train_norm": True}),
]
ways = pytest.mark.parametrize(("family", "how"), WAYS, ids=lambda way: str(way))


@ways
@pytest.mark.parametrize("arch", TEXTS)
def test_the_webui_adds_what_each_option_makes_of_it(family, how, arch, tmp_path):
    there = layers(arch)
    if how.get("dim_is_count"):  # a way out of 3 is shared by none
        there = {name: layer for name, layer in there.items() if layer.shape[0] % 2 == 0}
    network = Network(made(family, **how), there.values())
    file = tmp_path / "a.safetensors"
    save(stirred(network, 0.2), file, metadata={}, dtype=torch.float32)
    if family == "ia3" and how == {"preset": None} and arch != "sd1":
        return  # see `test_openclips_attention_is_whole_in_a_file`
    check(network, there, arch, file)


@ways
def test_an_option_is_in_the_file_and_in_what_goes_on_from_it(family, how, tmp_path):
    lent = Tiny()
    trained = stirred(Network(made(family, **how), lent.layers()), 0.2)
    file, native = tmp_path / "a.safetensors", tmp_path / "native.safetensors"
    save(trained, file, metadata={}, dtype=torch.float32, native=native)
    own = native if native.exists() else file
    plain = {k: v for k, v in how.items() if k != "block_weights"}
    for network in (
        network_of(load(own)[0], lent.layers()),
        begun(made(family, **plain, weights=str(own)), lent.layers()),
        begun(made(family, **plain, weights=str(own), dim_from_weights=True), lent.layers()),
    ):
        for key, adapter in trained.adapters.items():
            torch.testing.assert_close(network.adapters[key].delta(), adapter.delta(), rtol=1e-5, atol=1e-6)


@ways
def test_gradients_of_an_option_are_those_of_finite_differences(family, how):
    lent = Tiny(dtype=torch.float64)
    path = LINEAR if family == "glora" or how == {"preset": None} else "input_blocks.3.0.op"
    path = path.replace("to_q", "to_k") if family == "ia3" else path
    layer = next(layer for layer in lent.layers() if layer.path == path)
    adapter = stirred(made(family, **how).make(layer).double(), 0.2)
    names, values = zip(*adapter.named_parameters(), strict=True)
    x = inputs(layer)[:1].double()
    base = layer.module(x).detach()

    def run(x, base, *values):
        return torch.func.functional_call(adapter, dict(zip(names, values, strict=True)), (x, base))

    points = [t.detach().requires_grad_() for t in (x, base, *values)]
    assert torch.autograd.gradcheck(run, points, fast_mode=True)


def test_ia3_multiplies_rows_or_columns():
    layer = Layer.of("te1", "encoder.layers.0.mlp.fc1", nn.Linear(6, 4).requires_grad_(False))
    x = torch.randn(3, 6)
    outputs, columns = made("ia3").make(layer), made("ia3", train_on_input=True).make(layer)
    with torch.no_grad():
        outputs.weight.copy_(torch.tensor([1.0, 0, 0, -1]))
        columns.weight[2] = -1.0
        base = layer.module(x)
        plain = base - layer.bias
        expected = plain * torch.tensor([2.0, 1, 1, 0]) + layer.bias
        torch.testing.assert_close(outputs(x, base), expected)
        torch.testing.assert_close(columns(x, base), layer.module(x * torch.tensor([1.0, 1, 0, 1, 1, 1])))


def test_without_a_preset_ia3_is_where_it_was_made_for():
    found = Network(FAMILIES["ia3"](), Tiny().layers())
    ends = {path.removeprefix("unet.").removeprefix("te1.").split(".", 4)[-1] for path in found.adapters}
    assert {end.rpartition("transformer_blocks.0.")[2].rpartition("layers.1.")[2] for end in ends} >= {
        "attn1.to_k", "attn1.to_v", "attn2.to_k", "attn2.to_v", "ff.net.2"
    }  # fmt: skip
    assert not any("to_q" in key or "proj_in" in key or "q_proj" in key for key in found.adapters)
    for key, adapter in found.adapters.items():
        assert adapter.inputs == key.endswith(("ff.net.2", "mlp.fc2")), key


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_openclips_attention_is_whole_in_a_file(arch, tmp_path):
    """The WebUI changes its four parts together or not at all: those without an adapter get one of zeros."""
    there = layers(arch)
    network = stirred(Network(FAMILIES["ia3"](), there.values()))
    file = tmp_path / "a.safetensors"
    save(network, file, metadata={}, dtype=torch.float32)
    part = "lora_te_" if arch == "sd2" else "lora_te2_"
    lead = f"{part}text_model_encoder_layers_3_self_attn_"
    tensors = load_file(file)
    assert {f"{lead}{name}.lora_up.weight" in tensors for name in ("q_proj", "out_proj")} == {True}
    assert f"{lead}k_proj.weight" in tensors
    assert not tensors[f"{lead}q_proj.lora_up.weight"].any()

    weights = {name: layer.weight() for name, layer in there.items()}
    gains = added(tensors, arch, weights)
    names = {layer.key: name for name, layer in there.items()}
    for key, adapter in network.adapters.items():
        torch.testing.assert_close(gains[names[key]][0], adapter.delta(), rtol=1e-5, atol=1e-6)
    rest = {
        name: weight for name, (weight, _) in gains.items() if name not in {names[k] for k in network.layers}
    }
    assert rest
    assert not any(weight.any() for weight in rest.values())
    again = begun(FAMILIES["ia3"](weights=file), there.values())
    assert again.adapters.keys() == network.adapters.keys()
    assert network_of(tensors, there.values()).adapters.keys() == network.adapters.keys()


@pytest.mark.parametrize(
    ("kind", "how"), [("oft", {}), ("boft", {}), ("oft", {"dim_is_count": True, "dim": 2})]
)
def test_a_turn_keeps_lengths_and_angles(kind, how):
    layer = next(layer for layer in Tiny().layers() if layer.path == LINEAR)
    adapter = stirred(made(kind, **how).make(layer), 0.5)
    whole = torch.eye(layer.shape[0])
    with torch.no_grad():
        turn = whole + adapter._turned(whole)
    torch.testing.assert_close(turn @ turn.t(), whole, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(turn, whole, atol=0.1)


def test_a_constraint_holds_the_turn_back():
    layer = next(layer for layer in Tiny().layers() if layer.path == LINEAR)
    gains = []
    for constraint in (0.0, 0.02, 1e-4):
        torch.manual_seed(0)
        adapter = stirred(made("oft", constraint=constraint).make(layer), 1.0)
        less = adapter._less().detach()
        gains.append(float(less.detach().norm()))
        # of R = (I + Q)(I - Q)^-1 : Q = (R - I)(R + I)^-1
        one = torch.eye(less.shape[-1])
        skew = less @ (less + 2 * one).inverse()
        assert constraint == 0 or float(skew.norm()) <= constraint * layer.shape[0] * 1.001
    assert gains[0] > gains[1] > gains[2]


@pytest.mark.parametrize(
    ("width", "most", "pair"),
    [
        (320, 16, (10, 32)), (320, 64, (40, 8)), (320, 8, (10, 32)), (768, 4, (6, 128)), (768, 12, (12, 64)),
        (1280, 32, (20, 64)), (8, 4, (4, 2)), (8, 8, (8, 1)), (9, 4, None), (2, 1, (2, 1)),
    ],
)  # fmt: skip
def test_boft_has_blocks_of_even_size_whose_number_is_a_power_of_two(width, most, pair):
    assert butterfly(width, most) == pair


def test_ofts_number_of_blocks_has_to_divide_the_outputs():
    layer = next(layer for layer in Tiny().layers() if layer.path == LINEAR)
    with pytest.raises(
        Mistake, match=r"network\.dim = 3: unet\.input.*8 outputs, which 3 blocks do not share"
    ):
        made("oft", dim_is_count=True, dim=3).make(layer)
    adapter = made("oft", dim_is_count=True, dim=2).make(layer)
    assert adapter.blocks.shape == (2, 4, 4)


@pytest.mark.parametrize(
    ("kind", "values", "complaint"),
    [
        ("oft", {"block_weights": "0.5," * 25 + "1"}, "block_weights: expected 0 or 1"),
        ("oft", {"scale_weight_norms": 1}, "scale_weight_norms = 1: a turn adds to no weight"),
    ],
)
def test_what_cannot_be_is_refused(kind, values, complaint):
    with pytest.raises(Mistake) as e:
        build(FAMILIES[kind], values)
    assert str(e.value).startswith(complaint)


def test_keys_of_sd_scripts_oft_are_read(tmp_path):
    lent = Tiny()
    trained = stirred(Network(made("oft", dim_is_count=True, dim=2, train_unet_only=True), lent.layers()))
    save(trained, tmp_path / "a.safetensors", metadata={}, dtype=torch.float32)
    own = {
        name.replace("lora_unet", "oft_unet"): t for name, t in load_file(tmp_path / "a.safetensors").items()
    }
    save_file(own, tmp_path / "b.safetensors")
    again = network_of(load(tmp_path / "b.safetensors")[0], lent.layers())
    for key, adapter in trained.adapters.items():
        assert isinstance(again.adapters[key], OftAdapter)
        assert torch.equal(again.adapters[key].delta(), adapter.delta())


def test_glora_reads_lycoris_newer_layout():
    """W + alpha/r (W a1 a2 + b1 b2), other tensors under the same names."""
    layer = next(layer for layer in Tiny().layers() if layer.path.endswith("ff.net.2"))
    out, inn = layer.shape
    shapes = {"a1": (inn, 3), "a2": (3, inn), "b1": (out, 3), "b2": (3, inn)}
    tensors = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    a1, a2, b1, b2 = tensors.values()
    adapter = FAMILIES["glora"]().like(layer, {**tensors, "alpha": torch.tensor(1.5)})
    assert isinstance(adapter, GloraAdapter)
    expected = 0.5 * (layer.weight() @ a1 @ a2 + b1 @ b2)
    torch.testing.assert_close(adapter.delta(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"has dim 3, not 4"):
        made("glora").make(layer).load(tensors)


def test_a_whole_weight_learns_its_bias_and_merges_it():
    lent = Tiny()
    network = stirred(Network(made("full"), lent.layers()), 0.2)
    before = {key: None if x.bias is None else x.bias.clone() for key, x in network.layers.items()}
    with network.attached():
        attached = seen(lent)
    with network.merged():
        torch.testing.assert_close(seen(lent), attached, rtol=1e-5, atol=1e-5)
        assert any(b is not None and not torch.equal(b, network.layers[k].bias) for k, b in before.items())
    for key, bias in before.items():
        assert bias is None or torch.equal(bias, network.layers[key].bias)


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_of_openclips_attention_the_way_outs_bias_alone_learns(arch):
    """The WebUI changes no other."""
    network = Network(made("full"), layers(arch).values())
    part = "te1" if arch == "sd2" else "te2"
    learn = {key.rpartition(".")[2]: a.more is not None for key, a in network.adapters.items()
             if key.startswith(f"{part}.") and "self_attn" in key}  # fmt: skip
    assert learn == {"q_proj": False, "k_proj": False, "v_proj": False, "out_proj": True}


@pytest.mark.parametrize("kind", ["ia3", "oft", "boft", "glora", "full"])
def test_another_shape_is_refused_with_it(kind):
    lent = Tiny().layers()
    first = next(layer for layer in lent if layer.path == LINEAR.replace("to_q", "to_k"))
    other = next(layer for layer in lent if layer.path.endswith("mlp.fc1"))
    tensors = stirred(made(kind).make(first)).tensors()
    with pytest.raises(ValueError, match=r"has|is"):
        FAMILIES[kind]().like(other, tensors)
    with pytest.raises(ValueError, match=r"has .*; expected|has no oft_blocks"):
        FAMILIES[kind]().like(first, {"some": torch.zeros(3)})


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("ia3", {"train_on_input": True}),
        ("ia3", {"preset": "attn-mlp"}),
        ("oft", {"constraint": 1e-3, "rescaled": True, "dim": 8}),
        ("oft", {"dim": 8, "dim_is_count": True}),
        ("boft", {"dim": 16}),
        ("glora", {"alpha": 2.0, "rank_dropout": 0.1}),
        ("full", {"preset": "full", "train_norm": True, "module_dropout": 0.1}),
        ("lora", {"dora_wd": True}),
        ("loha", {"dora_wd": True, "wd_on_output": True, "train_norm": True}),
    ],
)
def test_a_files_metadata_says_how_it_was_trained(kind, how):
    """As settings that are read from a file of LyCORIS; what chooses the same layers may be written out."""
    family = build(FAMILIES[kind], how)
    heard = told({name: str(value) for name, value in family.record().items()})
    values = translate(heard.words, settings(Job)).values
    net = {name.removeprefix("network."): v for name, v in values.items() if name.startswith("network.")}
    again = build(FAMILIES[net.pop("kind", "lora")], {**net, "preset": family.preset or ""})
    assert again == family
    assert heard.refused == []
    assert net["preset"] == family.choice


def test_a_turn_has_blocks_and_no_rank():
    assert made("oft", dim=8).said == made("boft", dim=8).said == "blocks of 8"
    assert made("oft", dim=8, dim_is_count=True).said == "8 blocks"
