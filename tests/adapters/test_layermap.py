"""Layers and families as LyCORIS' preset files say them."""

from __future__ import annotations

import importlib.util
import json

import pytest

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import begun, entries, network_of
from lora_train.adapters.loha import LohaAdapter
from lora_train.adapters.lokr import LokrAdapter
from lora_train.adapters.lora import LoraAdapter, TuckerAdapter
from lora_train.adapters.mapped import complaints, record
from lora_train.errors import Mistake
from lora_train.job import assemble, declared
from lora_train.knobs import build
from lora_train.options import train_values
from tests.tiny import Tiny

TOML = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))),
    reason="reading TOML on Python 3.10 needs tomli, which the WebUI has not",
)
EXAMPLE = {  # as LyCORIS' example_configs/preset_configs/example.toml
    "enable_conv": True,
    "unet_target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D", "FinalLayer"],
    "unet_target_name": ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"],
    "text_encoder_target_module": ["CLIPAttention", "CLIPMLP", "MT5Block"],
    "text_encoder_target_name": [],
    "module_algo_map": {
        "CrossAttention": {"algo": "lokr", "dim": 10000000000000, "factor": 4},
        "FeedForward": {"algo": "lokr", "dim": 100000000000, "factor": 2},
        "ResnetBlock2D": {"algo": "lora", "dim": 3, "alpha": 1, "use_tucker": True, "factor": 8},
        "CLIPAttention": {"algo": "lora", "dim": 8, "alpha": 2},
        "CLIPMLP": {"algo": "lokr", "dim": 100000000000},
    },
}


def network(found=None, kind="loha", **values):
    family = build(FAMILIES[kind], {"layer_map": json.dumps(found or EXAMPLE), **values})
    return begun(family, Tiny().layers())


def test_a_rules_dylora_learns_as_many_ranks_at_a_time_as_lycoris_does():
    net = network({"module_algo_map": {"FeedForward": {"algo": "dylora", "dim": 8}}})
    assert {a.unit for a in net.adapters.values() if type(a).__name__ == "DyloraAdapter"} == {4}


def test_each_layer_has_the_family_of_the_innermost_class_around_it():
    net = network(dim=5, alpha=2)
    kinds = {key.partition(".")[2]: adapter for key, adapter in net.adapters.items()}
    block = "input_blocks.1.1.transformer_blocks.0"
    for path, cls in (
        (f"{block}.attn1.to_q", LokrAdapter), (f"{block}.attn2.to_out.0", LokrAdapter),
        (f"{block}.ff.net.0.proj", LokrAdapter), ("input_blocks.1.1.proj_in", LohaAdapter),
        ("input_blocks.1.0.in_layers.2", TuckerAdapter), ("input_blocks.1.0.emb_layers.1", LoraAdapter),
        ("input_blocks.3.0.op", LohaAdapter), ("output_blocks.8.2.conv", LohaAdapter),
        ("input_blocks.0.0", LohaAdapter), ("time_embed.2", LohaAdapter), ("out.2", LohaAdapter),
        ("encoder.layers.0.self_attn.q_proj", LoraAdapter), ("encoder.layers.0.mlp.fc1", LokrAdapter),
    ):  # fmt: skip
        assert type(kinds[path]) is cls, path
    assert len(kinds) == len({layer.key for layer in Tiny().layers() if not layer.norm})
    assert kinds[f"{block}.attn1.to_q"].factors == ("lokr_w1", "lokr_w2")
    assert (kinds["input_blocks.1.0.in_layers.2"].rank, kinds["input_blocks.1.0.in_layers.2"].alpha) == (3, 1)
    assert (kinds["input_blocks.3.0.op"].rank, kinds["input_blocks.3.0.op"].alpha) == (5, 2)
    assert (
        kinds["encoder.layers.0.self_attn.q_proj"].rank,
        kinds["encoder.layers.0.self_attn.q_proj"].alpha,
    ) == (8, 2)


def test_a_file_of_several_families_is_read_again():
    net = network()
    tensors = entries(net)
    again = network_of(tensors, Tiny().layers())
    assert {key: type(a) for key, a in again.adapters.items()} == {
        key: type(a) for key, a in net.adapters.items()
    }
    assert entries(again).keys() == tensors.keys()


def test_names_are_matched_from_their_beginning_or_whole():
    """re.match, and with use_fnmatch fnmatch, on diffusers' names."""
    names = {"unet_target_module": [], "text_encoder_target_module": [],
             "unet_target_name": [r"mid_block\..*to_[qk]", "conv_in"],
             "name_algo_map": {r"mid_block\..*attn2": {"algo": "lora", "dim": 9}}}  # fmt: skip
    found = {key: type(a) for key, a in network(names, kind="loha").adapters.items()}
    middle = "unet.middle_block.1.transformer_blocks.0"
    assert found == {
        "unet.input_blocks.0.0": LohaAdapter,
        **{f"{middle}.attn1.to_{p}": LohaAdapter for p in "qk"},
        **{f"{middle}.attn2.to_{p}": LoraAdapter for p in "qk"},
    }  # fmt: skip
    shell = {**names, "use_fnmatch": True, "unet_target_name": ["*.attn2.to_v"], "name_algo_map": {}}
    assert all(key.endswith("attn2.to_v") for key in network(shell).adapters)
    assert len(network(shell).adapters) == 5


def test_without_convolutions_only_those_with_a_dim_of_their_own():
    found = network({"enable_conv": False, "text_encoder_target_module": [],
                     "module_algo_map": {"Upsample2D": {"dim": 2}}}, kind="lora")  # fmt: skip
    wide = {key for key, layer in found.layers.items() if any(side > 1 for side in layer.kernel)}
    assert wide == {"unet.output_blocks.8.2.conv"}
    assert not [key for key in found.layers if key.startswith("te1")]


def test_a_size_of_its_own_holds_in_every_block():
    found = network({"module_algo_map": {"CrossAttention": {"dim": 3, "alpha": 2}}},
                    kind="lora", block_dims=[8] * 25, block_alphas=[5] * 25)  # fmt: skip
    sizes = {key: (a.rank, a.alpha) for key, a in found.adapters.items() if key.startswith("unet")}
    assert sizes["unet.input_blocks.1.1.transformer_blocks.0.attn2.to_q"] == (3, 2)
    assert sizes["unet.input_blocks.1.1.transformer_blocks.0.ff.net.2"] == (8, 5)


def test_norms_learn_beside_layers_of_any_family():
    rules = {"module_algo_map": {"CrossAttention": {"algo": "ia3"}, "FeedForward": {"algo": "lora"}}}
    for kind in ("lora", "ia3"):
        found = network(rules, kind=kind, train_norm=True).layers.values()
        norms = sum(layer.norm for layer in Tiny().layers()) - 1  # all but that of the way out
        assert sum(layer.norm for layer in found) == norms


def test_the_metadata_is_lycoris_and_holds_the_map():
    said = record(build(FAMILIES["lora"], {"layer_map": json.dumps(EXAMPLE)}))
    args = json.loads(said["ss_network_args"])
    assert (said["ss_network_module"], args["algo"]) == ("lycoris.kohya", "lora")
    assert json.loads(args["preset"]) == EXAMPLE


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_metadata_of_every_family_holds_the_map(kind):
    """Also of those that LyCORIS has not, whose module then stays their own."""
    said = record(build(FAMILIES[kind], {"layer_map": json.dumps(EXAMPLE)}))
    args = json.loads(said["ss_network_args"])
    assert json.loads(args["preset"]) == EXAMPLE
    assert ("algo" in args) == (said["ss_network_module"] == "lycoris.kohya")


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"layer_map": "presets/my.toml"}, "layer_map = presets/my.toml: expected what stands in"),
        ({"layer_map": '{"enable_con": true}'}, 'layer_map = {"enable_con": true}: enable_con: no such'),
        ({"layer_map": '{"target_name": []}'}, 'layer_map = {"target_name": []}: target_name: of its use'),
        ({"layer_map": '{"unet_target_name": "a"}'},
         'layer_map = {"unet_target_name": "a"}: unet_target_name: expected a list of names'),
        ({"layer_map": '{"unet_target_name": ["("]}'},
         'layer_map = {"unet_target_name": ["("]}: (: expected a regular expression'),
        ({"layer_map": "{}", "preset": "full"}, "preset = full: expected none beside layer_map"),
        ({"layer_map": "{}", "dim_from_weights": True, "weights": "a"},
         "layer_map: expected none beside dim_from_weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(values, text):
    with pytest.raises(Mistake) as e:
        build(FAMILIES["lora"], values)
    assert str(e.value).startswith(text)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"algo": "abc"}, "network.layer_map: module_algo_map.CLIPMLP.algo = abc: expected lora, "),
        ({"dim": 0}, "network.layer_map: module_algo_map.CLIPMLP.dim = 0: expected 1 to 512"),
        ({"dims": 4}, "network.layer_map: module_algo_map.CLIPMLP.dims = 4: a layer has no such setting"),
    ],
)
def test_what_a_rule_cannot_say_is_told_with_its_place(rule, text):
    family = build(FAMILIES["lora"], {"layer_map": json.dumps({"module_algo_map": {"CLIPMLP": rule}})})
    assert [line[: len(text)] for line in complaints(family)][:1] == [text]


def test_a_name_that_no_layer_has_is_refused():
    with pytest.raises(Mistake, match="network.layer_map: conv_inn: found in no layer's name"):
        network({"unet_target_name": ["conv_inn"]})


@TOML
def test_the_command_line_reads_the_file_and_the_job_holds_it(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(
        'enable_conv = false\n[module_algo_map.CrossAttention]\nalgo = "lokr"\nfactor = 4\n', encoding="utf-8"
    )
    words = ["--network_module", "lycoris.kohya", "--network_args", f"preset={file}", "algo=loha"]
    values, _ = train_values(
        [*words, "--pretrained_model_name_or_path", "a", "--train_data_dir", "b"], declared()
    )
    family = assemble(values)[0].network
    assert type(family) is FAMILIES["loha"]
    assert family.preset is None
    wanted = {"enable_conv": False, "module_algo_map": {"CrossAttention": {"algo": "lokr", "factor": 4}}}
    assert json.loads(str(family.layer_map)) == wanted
    assert str(tmp_path) not in str(family.layer_map)
