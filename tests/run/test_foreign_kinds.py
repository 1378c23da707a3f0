"""Types of LoRA in kohya_ss' JSON and in files' metadata: families with their arguments."""

from __future__ import annotations

import json

import pytest

from lora_train.adapters import FAMILIES
from lora_train.compat.network import ALGOS, MODULES
from lora_train.job import assemble
from lora_train.run.foreign import imported
from lora_train.run.kohya import TYPES

FORM = {  # of the form's network part, as it is when nothing is touched
    "network_dim": 8,
    "network_alpha": 4,
    "conv_dim": 2,
    "conv_alpha": 1,
    "LyCORIS_preset": "full",
    "unit": 1,
    "factor": -1,
    "use_cp": False,
    "use_tucker": False,
    "use_scalar": False,
    "dora_wd": False,
    "unet_lr": 1e-4,
    "bypass_mode": False,
    "rank_dropout": 0,
    "module_dropout": 0,
    "rank_dropout_scale": False,
    "constrain": 0.0,
    "rescaled": False,
    "train_norm": False,
    "decompose_both": False,
    "train_on_input": True,
    "down_lr_weight": "",
    "mid_lr_weight": "",
    "up_lr_weight": "",
    "block_lr_zero_threshold": "",
    "block_dims": "",
    "block_alphas": "",
    "conv_block_dims": "",
    "conv_block_alphas": "",
    "loraplus_lr_ratio": 0,
    "loraplus_unet_lr_ratio": 0,
    "loraplus_text_encoder_lr_ratio": 0,
    "max_train_steps": 100,
    "max_resolution": "512,512",
    "text_encoder_lr": 5e-5,
}
LYCORIS = {
    "ss_network_dim": "8", "ss_network_alpha": "4.0", "ss_network_module": "lycoris.kohya",
    "ss_max_train_steps": "100",
}  # fmt: skip


def of(**more):
    """The network's settings, and what was not taken."""
    values, notes = imported("a.json", json.dumps(FORM | more).encode())
    return values, [note for note in notes if note.startswith("not taken")]


def metadata(**texts):
    header = json.dumps({"__metadata__": texts}).encode()
    values, notes = imported("a.safetensors", len(header).to_bytes(8, "little") + header)
    return values, [note for note in notes if note.startswith("not taken")]


@pytest.mark.parametrize("name", TYPES)
def test_every_type_of_kohya_ss_is_a_family_or_refused(name):
    module, algo, _ = TYPES[name]
    kind = ALGOS[algo] if algo else MODULES[module]["network.kind"]
    values, lost = of(LoRA_type=name)
    if kind not in FAMILIES:
        assert [line.partition(": not in")[0] for line in lost] == [f"not taken: LoRA_type = {name}"]
        return
    assert values.get("network.kind", "lora") == kind
    assert values.get("network.preset") == ("full" if algo else None)
    assert not lost
    assert type(assemble(values)[0].network) is FAMILIES[kind]


def test_standard_has_no_convolutions_and_locon_has():
    assert "network.conv_dim" not in of(LoRA_type="Standard")[0]
    assert of(LoRA_type="Kohya LoCon")[0]["network.conv_dim"] == 2


def test_rates_by_block_and_lora_plus_are_taken():
    values, lost = of(LoRA_type="Standard", down_lr_weight="sine+.25", mid_lr_weight="0.5",
                      loraplus_lr_ratio=16, block_lr_zero_threshold="0.1",
                      up_lr_weight="1,1,.5,0,0,0,0,0,0,0,0,0")  # fmt: skip
    assert not lost
    network = assemble(values)[0].network
    assert (network.down_lr_weight.curve, network.down_lr_weight.base) == ("sine", 0.25)
    assert network.up_lr_weight.values[:4] == (1.0, 1.0, 0.5, 0.0)
    assert (network.block_lr_zero_threshold, network.ratio("unet")) == (0.1, 16.0)


def test_twenty_five_dims_are_taken_also_of_sdxl():
    dims = ",".join(["4"] * 25)
    values, lost = of(LoRA_type="Kohya LoCon", sdxl=True, block_dims=dims, block_alphas=dims)
    assert not lost
    assert len(assemble(values)[0].network.block_dims) == 25


def test_lokr_at_a_large_dim_is_the_whole_matrix():
    """As kohya_ss' own presets have it: network_dim 100000."""
    values, lost = of(LoRA_type="LyCORIS/LoKr", network_dim=100000, network_alpha=1, factor=4)
    assert not lost
    network = assemble(values)[0].network
    assert (network.full_matrix, network.factor) == (True, 4)


def test_metadata_of_lycoris_is_read():
    args = {"algo": "loha", "conv_dim": "4", "preset": "attn-mlp", "use_tucker": "True", "dropout": None,
            "rank_dropout_scale": "False"}  # fmt: skip
    values, lost = metadata(**LYCORIS, ss_network_args=json.dumps(args))
    assert not lost
    network = assemble(values)[0].network
    assert type(network) is FAMILIES["loha"]
    assert (network.dim, network.alpha, network.preset) == (8, 4.0, "attn-mlp")
    assert (network.conv_dim, network.conv_alpha, network.use_tucker) == (4, 4.0, True)


def test_an_argument_that_is_not_here_leaves_the_others():
    args = {"algo": "lokr", "factor": "8", "unbalanced_factorization": "True", "preset": "nothing"}
    values, lost = metadata(**LYCORIS, ss_network_args=json.dumps(args))
    assert values["network.factor"] == 8
    assert [line.split()[3].partition("=")[0] for line in lost] == ["unbalanced_factorization", "preset"]
