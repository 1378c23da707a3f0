"""Rates by block, LoRA+, and layers by the names they have."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from torch import nn

from lora_train.adapters import FAMILIES
from lora_train.adapters.chosen import PRESETS
from lora_train.adapters.file import begun
from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.blocks import BlockRates, block_index, row_index
from lora_train.errors import Mistake
from lora_train.knobs import build
from tests.tiny import Tiny

SDXL = [
    "input_blocks.0.0",
    "input_blocks.4.1.proj_in",
    "middle_block.0.emb_layers.1",
    "middle_block.1.proj_in",
    "middle_block.2.emb_layers.1",
    "output_blocks.0.1.proj_in",
    "output_blocks.8.0.emb_layers.1",
    "out.2",
    "time_embed.0",
]


def xl() -> list[Layer]:
    return [Layer.of("unet", path, nn.Linear(4, 4), "sdxl") for path in SDXL]


def sizes(network: Network) -> dict[str, int]:
    return {key.removeprefix("unet."): adapter.rank for key, adapter in network.adapters.items()}


@pytest.mark.parametrize("count", [12, 9])
@pytest.mark.parametrize("base", [0.0, 0.25])
def test_curves_are_what_their_names_say(count, base):
    x = np.linspace(0, 1, count)
    truths = {"sine": np.sqrt(1 - np.cos(x * math.pi / 2) ** 2), "cosine": np.cos(x * math.pi / 2),
              "linear": x, "reverse_linear": x[::-1], "zeros": np.zeros(count)}  # fmt: skip
    for name, truth in truths.items():
        rates = BlockRates.parse(f"{name}+{base}" if base else name)
        assert np.allclose(rates.of(count), truth + base, atol=1e-12), name
        assert BlockRates.parse(str(rates)) == rates


def test_a_short_list_goes_on_with_one_and_a_long_one_is_cut():
    rates = BlockRates.parse("0.5,,2")
    assert rates.of(5) == [0.5, 0.0, 2.0, 1.0, 1.0]
    assert rates.of(2) == [0.5, 0.0]
    assert BlockRates.parse(str(rates)) == rates


@pytest.mark.parametrize("text", ["tangent", "1,a", "sine+x", "nan"])
def test_what_is_no_row_of_rates_is_refused(text):
    with pytest.raises(
        Mistake,
        match=f"down_lr_weight = {re.escape(text)}: expected numbers from 0 to 100 with commas between",
    ):
        build(Lora, {"down_lr_weight": text})


def test_sdxl_has_its_own_rows_and_its_23_places():
    """sd-scripts' get_block_index for SDXL: 0, then 9 down, 3 in the middle, 9 up, 22."""
    assert [block_index(path, 23) for path in SDXL] == [1, 5, 10, 11, 12, 13, 21, 22, 0]
    assert [row_index(path, "sdxl") for path in SDXL] == [
        (0, 0), (0, 4), (1, 0), (1, 1), (1, 2), (2, 0), (2, 8), None, None,
    ]  # fmt: skip
    assert row_index("middle_block.2.emb_layers.1", "sd1") == (1, 0)


def test_twenty_three_dims_are_sdxls(tmp_path):
    family = build(Lora, {"preset": "full", "block_dims": [*range(1, 24)]})
    assert list(sizes(begun(family, xl())).values()) == [2, 6, 11, 12, 13, 14, 22, 23, 1]
    with pytest.raises(
        Mistake, match="network.block_dims: 23 values are SDXL's; this model's blocks take 25"
    ):
        begun(family, Tiny().layers())


def test_twenty_five_dims_of_sdxl_go_by_the_blocks_ids(caplog):
    family = build(Lora, {"preset": "full", "block_dims": [*range(1, 26)], "dim": 99})
    with caplog.at_level("INFO"):
        assert list(sizes(begun(family, xl())).values()) == [1, 5, 13, 13, 13, 14, 22, 99, 99]
    assert "network.block_dims: 25 values go to IN00 to IN11" in caplog.text


def test_a_block_at_zero_gets_no_adapter_and_the_others_their_rate():
    family = build(Lora, {"down_lr_weight": "1,0.5,1,1,0", "up_lr_weight": "zeros+0.3", "conv_dim": 2,
                          "mid_lr_weight": "0.04", "block_lr_zero_threshold": 0.04})  # fmt: skip
    network = Network(family, Tiny().layers())
    paths = {key.partition(".")[2].rpartition(".")[0] for key in network.adapters if key.startswith("unet")}
    assert not [path for path in paths if path.startswith(("input_blocks.4.", "middle_block"))]
    found = {pace.name: pace.times for pace in network.paces()}
    assert found == {"te1": 1, "unet": 1, "unet_IN01": 0.5, "unet_OUT08": 0.3, "unet_OUT11": 0.3}
    assert sum(len(pace.parameters) for pace in network.paces()) == len(list(network.parameters()))


@pytest.mark.parametrize("kind", FAMILIES)
def test_loraplus_is_for_what_starts_at_zero_beside_something_that_does_not(kind):
    cls = FAMILIES[kind]
    if not cls.late:
        with pytest.raises(Mistake, match="loraplus_lr_ratio = 16: expected nothing; adapters of this kind"):
            build(cls, {"loraplus_lr_ratio": 16})
        return
    family = build(cls, {"loraplus_lr_ratio": 16, "loraplus_text_encoder_lr_ratio": 4})
    network = Network(family, Tiny().layers())
    paces = {pace.name: pace for pace in network.paces()}
    assert {name: pace.times for name, pace in paces.items()} == {
        "te1": 1, "te1_plus": 4, "unet": 1, "unet_plus": 16,
    }  # fmt: skip
    for name, pace in paces.items():
        assert all(bool(p.any()) != name.endswith("_plus") for p in pace.parameters), name


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────


def chosen(**values) -> set[str]:
    return set(begun(build(Lora, values), Tiny().layers()).adapters)


def test_patterns_pick_by_path_and_by_the_files_key():
    every = chosen()
    cross = {key for key in every if ".attn2." in key}
    assert chosen(include_patterns=[r"\.attn2\."]) == cross
    assert chosen(include_patterns=["_attn2_"]) == cross == chosen(preset="cross-attn-only")
    assert chosen(exclude_patterns=[r"\.attn2\."]) == every - cross
    assert chosen(include_patterns=["attn"], exclude_patterns=["attn2", "^te1"]) == {
        key for key in every if "attn1" in key
    }
    assert chosen(include_patterns=["^lora_unet_mid_block_"]) == {k for k in every if "middle_block" in k}


def test_attention_alone():
    for number, name in ((1, "self-attn-only"), (2, "cross-attn-only")):
        found = chosen(preset=name)
        assert found
        assert all(f".attn{number}.to_" in key for key in found)
        assert len(found) == 4 * 5  # of to_q, to_k, to_v, to_out in each of the five transformers
    assert not PRESETS["cross-attn-only"].text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"include_patterns": ["atn2"]}, "network.include_patterns = atn2: found in no layer's name; names"),
        ({"exclude_patterns": ["attn1", "midle_block.1"]},
         "network.exclude_patterns = midle_block.1: found in no layer's name"),
        ({"include_patterns": ["in_layers"]}, "network.include_patterns = in_layers: found in no layer"),
        ({"include_patterns": ["(a"]}, "include_patterns = (a: expected a regular expression; missing"),
        ({"include_patterns": ["attn1"], "exclude_patterns": ["attn"]}, "network: no layer is left"),
    ],
)  # fmt: skip
def test_a_pattern_that_finds_nothing_is_refused(values, text):
    with pytest.raises(Mistake) as e:
        chosen(**values)
    assert str(e.value).startswith(text)
