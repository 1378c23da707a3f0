"""Which layers of Stable Diffusion 1.x get an adapter, and how large it is."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from lora_train.adapters.chosen import PRESETS
from lora_train.adapters.file import entries
from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.names import path_of
from tests.tiny import Tiny

BLOCK = "transformer_blocks_0"
ATTENTION = [
    *("proj_in", "proj_out", f"{BLOCK}_ff_net_0_proj", f"{BLOCK}_ff_net_2"),
    *(f"{BLOCK}_{a}_to_{p}" for a in ("attn1", "attn2") for p in ("q", "k", "v", "out_0")),
]


def attention() -> list[str]:
    places = [f"down_blocks_{i}_attentions_{j}" for i in range(3) for j in range(2)]
    places += ["mid_block_attentions_0"]
    places += [f"up_blocks_{i}_attentions_{j}" for i in range(1, 4) for j in range(3)]
    return [f"lora_unet_{place}_{name}" for place in places for name in ATTENTION]


def convolutions() -> list[str]:
    places = [f"down_blocks_{i}_resnets_{j}" for i in range(4) for j in range(2)]
    places += [f"mid_block_resnets_{j}" for j in range(2)]
    places += [f"up_blocks_{i}_resnets_{j}" for i in range(4) for j in range(3)]
    names = [f"{place}_{name}" for place in places for name in ("conv1", "conv2", "time_emb_proj")]
    short = ["down_blocks_1_resnets_0", "down_blocks_2_resnets_0"]
    short += [place for place in places if place.startswith("up_")]
    names += [f"{place}_conv_shortcut" for place in short]
    names += [f"down_blocks_{i}_downsamplers_0_conv" for i in range(3)]
    names += [f"up_blocks_{i}_upsamplers_0_conv" for i in range(3)]
    return [f"lora_unet_{name}" for name in names]


def text() -> list[str]:
    names = [f"self_attn_{p}_proj" for p in ("q", "k", "v", "out")] + ["mlp_fc1", "mlp_fc2"]
    return [f"lora_te_text_model_encoder_layers_{i}_{name}" for i in range(12) for name in names]


OTHERS = ["conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2"]


def module(key: str) -> nn.Module:
    """A small layer of the right kind."""
    if key.endswith(("conv", "conv1", "conv2", "conv_in", "conv_out")):
        return nn.Conv2d(8, 8, 3)
    if key.endswith(("_proj_in", "_proj_out", "conv_shortcut")):
        return nn.Conv2d(8, 8, 1)
    return nn.Linear(8, 8)


@pytest.fixture(scope="module")
def layers() -> list[Layer]:
    keys = [*text(), *attention(), *convolutions(), *(f"lora_unet_{name}" for name in OTHERS)]
    return [Layer.of(*path_of(key), module(key)) for key in keys]


def modules(network: Network) -> set[str]:
    return {name.partition(".")[0] for name in entries(network)}


def downs(network: Network) -> dict[str, int]:
    """File key -> rank."""
    tensors = entries(network)
    return {n.partition(".")[0]: len(t) for n, t in tensors.items() if n.endswith("lora_down.weight")}


def alphas(network: Network) -> dict[str, float]:
    return {n.partition(".")[0]: t.item() for n, t in entries(network).items() if n.endswith(".alpha")}


def test_the_lists_are_as_long_as_sd_scripts_says():
    assert (len(attention()), len(convolutions()), len(text())) == (192, 86, 72)


def test_plain_lora_takes_attention_and_text_encoder(layers):
    network = Network(Lora(), layers)
    assert modules(network) == {*attention(), *text()}
    assert set(downs(network).values()) == {4}
    assert set(alphas(network).values()) == {1.0}


def test_convolutions_come_with_conv_dim(layers):
    network = Network(Lora(dim=8, conv_dim=2, conv_alpha=0.5), layers)
    assert modules(network) == {*attention(), *convolutions(), *text()}
    for key, rank in downs(network).items():
        large = key.endswith(("conv", "conv1", "conv2"))
        assert rank == (2 if large else 8), key
        assert alphas(network)[key] == (0.5 if large else 1.0), key


def test_alpha_nothing_is_dim(layers):
    for alpha in (0, None):
        network = Network(Lora(dim=6, alpha=alpha, conv_dim=3, conv_alpha=alpha), layers)
        assert all(alphas(network)[key] == rank for key, rank in downs(network).items())


def test_one_part_alone(layers):
    assert modules(Network(Lora(train_unet_only=True), layers)) == set(attention())
    assert modules(Network(Lora(train_text_encoder_only=True, conv_dim=2), layers)) == set(text())


def test_factors_are_drawn_as_sd_scripts_draws_them():
    """kaiming_uniform with a = sqrt 5 is uniform up to 1/sqrt of the inputs; up is zero."""
    layer = Layer.of("unet", "input_blocks.3.0.op", nn.Conv2d(16, 8, 3, stride=2))
    adapter = Lora(dim=64, conv_dim=64).make(layer)
    assert float(adapter.down.detach().abs().max()) == pytest.approx(1 / (16 * 9) ** 0.5, rel=0.01)
    assert float(adapter.down.detach().std()) == pytest.approx(1 / (3 * 16 * 9) ** 0.5, rel=0.05)
    assert not adapter.up.any()
    assert adapter.up.shape == (8, 64, 1, 1)


BLOCKS = ["down_blocks_0_attentions_0", "mid_block_attentions_0", "up_blocks_3_attentions_2"]


def test_block_dims_and_alphas_go_by_sd_scripts_index(layers):
    dims = ",".join(str(i) for i in range(25))
    family = build(Lora, {"block_dims": dims, "block_alphas": dims, "dim": 30, "alpha": 5})
    ranks, alpha = downs(Network(family, layers)), alphas(Network(family, layers))
    for block, index in zip(BLOCKS, (1, 12, 24), strict=True):
        assert ranks[f"lora_unet_{block}_proj_in"] == alpha[f"lora_unet_{block}_proj_in"] == index
    assert {ranks[key] for key in text()} == {30}
    assert not set(convolutions()) & ranks.keys()


def test_conv_block_dims_bring_convolutions_and_zero_leaves_out(layers):
    conv = ",".join(["0"] * 12 + ["3"] * 13)
    own = ",".join(["0"] * 13 + ["2"] * 12)
    family = build(Lora, {"conv_block_dims": conv, "conv_block_alphas": "6," * 24 + "6", "block_dims": own})
    network = Network(family, layers)
    ranks, alpha = downs(network), alphas(network)
    assert "lora_unet_down_blocks_0_resnets_0_conv1" not in ranks
    assert ranks["lora_unet_mid_block_resnets_0_conv1"] == 3
    assert alpha["lora_unet_mid_block_resnets_0_conv1"] == 6
    assert "lora_unet_mid_block_resnets_0_time_emb_proj" not in ranks  # linear, so of block_dims
    assert ranks["lora_unet_up_blocks_0_resnets_0_conv_shortcut"] == 2
    assert ranks["lora_unet_up_blocks_0_upsamplers_0_conv"] == 3


def test_a_blocks_strength_is_in_alpha_and_zero_makes_no_adapter(layers):
    weights = ",".join(["0.5", *["0"] * 6, "2", *["-1"] * 9])  # of 17: BASE, IN…, M00, OUT03…
    network = Network(build(Lora, {"block_weights": weights, "dim": 4, "alpha": 8}), layers)
    alpha = alphas(network)
    assert "lora_unet_down_blocks_0_attentions_0_proj_in" not in alpha
    assert alpha["lora_te_text_model_encoder_layers_0_mlp_fc1"] == 4
    assert alpha["lora_unet_mid_block_attentions_0_proj_in"] == 16
    assert alpha["lora_unet_up_blocks_3_attentions_2_proj_in"] == -8


ONLY = {"train_unet_only": True, "train_text_encoder_only": True}
FROM = {"dim_from_weights": True, "weights": "a.safetensors"}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"dim": 0}, "dim = 0: expected 1 to 512"),
        ({"alpha": -1}, "alpha = -1: expected 0 or more"),
        ({"rank_dropout": 1}, "rank_dropout = 1: expected 0 to 0.99"),
        ({"block_weights": "1,2"}, "block_weights = 1,2: expected 12, 17, 20 or 26 numbers"),
        ({"block_dims": "4,4"}, "block_dims = 4,4: expected 25 values, or SDXL's 23; got 2"),
        ({"conv_block_alphas": "1," * 25}, "conv_block_alphas: expected conv_dim or conv_block_dims"),
        (ONLY, "train_unet_only = True: expected not beside train_text_encoder_only"),
        ({"dim_from_weights": True}, "dim_from_weights = True: expected a file"),
        ({**FROM, "block_weights": "INS"}, "block_weights: expected none beside dim_from_weights"),
    ],
)
def test_what_cannot_be_is_refused(values, complaint):
    with pytest.raises(Mistake) as e:
        build(Lora, values)
    assert str(e.value).startswith(complaint)


def test_nothing_to_train_is_a_mistake(layers):
    with pytest.raises(Mistake, match="no layer is left to train; look at block_weights"):
        Network(build(Lora, {"block_weights": "NONE"}), layers)


def test_two_layers_of_one_name_are_an_error_of_ours():
    layer = Layer.of("te1", "encoder.layers.0.mlp.fc1", nn.Linear(4, 4))
    with pytest.raises(ValueError, match="two layers are called te1.encoder"):
        Network(Lora(), [layer, layer])


class Foreign(nn.Module):
    """A host's own linear layer."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(3, 4)), None


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(4, 3), (3, 4)),
        (Foreign(), (3, 4)),
        (nn.Conv2d(4, 3, (1, 3)), (3, 4, 1, 3)),
        (nn.Embedding(4, 3), None),
        (nn.LayerNorm(4), (4,)),
        (nn.GroupNorm(2, 4), (4,)),
        (nn.GroupNorm(2, 4, affine=False), None),
        (nn.SiLU(), None),
    ],
)
def test_a_layer_is_told_by_its_weights_shape(module, shape):
    layer = Layer.of("unet", "input_blocks.1.0.in_layers.2", module)
    assert (layer and layer.shape) == shape
    if layer:
        assert layer.key == "unet.input_blocks.1.0.in_layers.2"
        assert layer.kernel == shape[2:]
        assert layer.bias is module.bias


def test_a_convolution_keeps_its_stride_for_a_kernel_of_its_own_size():
    for stride, padding in itertools.product((1, 2), (0, 1)):
        conv = nn.Conv2d(4, 3, 3, stride=stride, padding=padding, bias=False)
        layer, x = Layer.of("unet", "input_blocks.3.0.op", conv), torch.randn(1, 4, 8, 8)
        assert torch.equal(layer.op(x, layer.weight()), conv(x))
        assert layer.op(x, torch.randn(5, 4, 1, 1)).shape == (1, 5, 8, 8)


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_preset_says_of_itself_is_what_it_chooses(preset):
    """Whether text encoders and 3x3 convolutions are in it, as the plan counts and the form explains."""
    family, layers = Lora(preset=preset, conv_dim=2), Tiny().layers()
    chosen = [layer for layer in layers if family.size(layer)]
    assert family.trains("te1") == any(layer.part == "te1" for layer in chosen)
    wide = [layer for layer in chosen if any(side > 1 for side in layer.kernel)]
    assert bool(wide) == bool(family.wide_dim)
    assert {family.size(layer)[0] for layer in wide} == ({2} if wide else set())
