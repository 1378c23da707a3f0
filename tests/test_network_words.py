"""Every word of sd-scripts' and LyCORIS' networks is taken, or refused with the reason."""

from __future__ import annotations

import pytest

from lora_train.adapters import FAMILIES
from lora_train.compat import translate
from lora_train.compat.network import ALGOS, ARGUMENTS, CALLED, MODULES, REFUSED, WITHOUT, argument
from lora_train.errors import Mistake
from lora_train.job import assemble, declared

SD_SCRIPTS = """
    conv_dim conv_alpha block_dims block_alphas conv_block_dims conv_block_alphas rank_dropout module_dropout
    dropout down_lr_weight mid_lr_weight up_lr_weight block_lr_zero_threshold loraplus_lr_ratio
    loraplus_unet_lr_ratio loraplus_text_encoder_lr_ratio unit enable_all_linear enable_conv verbose
    use_tucker factor exclude_patterns include_patterns
"""  # of networks.lora, lora_fa, dylora, oft at 48d368f; of loha and lokr in the later one kohya_ss drives
LYCORIS = """
    conv_dim conv_alpha dropout rank_dropout module_dropout algo disable_conv_cp use_conv_cp use_cp use_tucker
    use_scalar block_size train_norm constraint constrain rescaled dora_wd wd_on_output full_matrix
    bypass_mode rs_lora unbalanced_factorization train_t5xxl loraplus_lr_ratio loraplus_unet_lr_ratio
    loraplus_text_encoder_lr_ratio preset decompose_both factor rank_dropout_scale train_on_input
"""  # of lycoris.kohya 3.4.0, and what kohya_ss passes to it
PLAIN = {"pretrained_model_name_or_path": "a.safetensors", "train_data_dir": "b"}


def values(**words):
    said = translate({**PLAIN, **words}, declared())
    return {path: value for path, value in said.values.items() if path.startswith("network.")}, said.notes


def network(**words):
    return assemble(translate({**PLAIN, **words}, declared()).values)[0].network


@pytest.mark.parametrize("name", sorted({*SD_SCRIPTS.split(), *LYCORIS.split()}))
def test_every_argument_has_one_meaning(name):
    """Off is always taken; on it is a setting, or a line, or a refusal that names it."""
    assert argument(name, "False") == {} or name in ("conv_alpha", "factor", *BLOCKS, *NUMBERS)
    try:
        found = argument(name, SAMPLE.get(name, "True"))
    except Mistake as e:
        assert f"network_args {CALLED.get(name, name)}=" in str(e)  # noqa: PT017 (taken or refused, and nothing else)
    else:
        assert found or name in WITHOUT


BLOCKS = ("block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "down_lr_weight",
          "mid_lr_weight", "up_lr_weight", "exclude_patterns", "include_patterns")  # fmt: skip
NUMBERS = ("rank_dropout", "module_dropout", "dropout", "algo")
SAMPLE = {"algo": "loha", "preset": "attn-mlp", "factor": "8"}


def test_no_argument_has_two_rules():
    lists = [*ARGUMENTS, *WITHOUT, *REFUSED]
    assert len(lists) == len(set(lists))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_a_family_or_refused(name):
    kind = MODULES[name].get("network.kind", "lora")
    if kind in FAMILIES:
        assert values(network_module=name)[0].get("network.kind", "lora") == kind
        assert type(network(network_module=name)) is FAMILIES[kind]
    else:
        with pytest.raises(Mistake, match=f"network_module = {name}: not in this version"):
            values(network_module=name)


@pytest.mark.parametrize("algo", ALGOS)
def test_every_algorithm_of_lycoris_is_a_family_or_refused(algo):
    words = {"network_module": "lycoris.kohya", "network_dim": 8, "network_args": [f"algo={algo}"]}
    if ALGOS[algo] in FAMILIES:
        assert type(network(**words)) is FAMILIES[ALGOS[algo]]
    else:
        with pytest.raises(Mistake, match=f"algo={algo}: not in this version"):
            values(**words)


def test_the_order_of_words_does_not_matter():
    args = ["algo=loha", "preset=attn-mlp"]
    before, _ = values(network_args=args, network_module="lycoris.kohya")
    after, _ = values(network_module="lycoris.kohya", network_args=args)
    assert before == after == {"network.kind": "loha", "network.preset": "attn-mlp"}


def test_convolutions_get_what_their_module_gives_them():
    """sd-scripts' own networks take 1 for conv_alpha where none is given, LyCORIS and LoCon network_alpha."""
    sizes = {"network_dim": 16, "network_alpha": 8}
    own = network(network_module="networks.lora", network_args=["conv_dim=4"], **sizes)
    assert (own.conv_dim, own.conv_alpha) == (4, 1.0)
    lycoris = network(network_module="lycoris.kohya", network_args=["conv_dim=4"], **sizes)
    assert (lycoris.conv_dim, lycoris.conv_alpha) == (4, 8.0)
    locon = network(network_module="locon.locon_kohya", **sizes)
    assert (locon.conv_dim, locon.conv_alpha) == (16, 8.0)


def test_a_large_dim_of_lokr_is_its_whole_matrix():
    words = {"network_module": "lycoris.kohya", "network_args": ["algo=lokr", "factor=8"]}
    found, notes = values(network_dim=100000, **words)
    assert found["network.full_matrix"] is True
    assert "network.dim" not in found
    assert any("taken as network.full_matrix" in note for note in notes)
    assert values(network_dim=512, **words)[0]["network.dim"] == 512


def test_dylora_has_the_unit_of_its_module():
    """LyCORIS' block_size is 4 where none is given, sd-scripts' unit 1."""
    words = {"network_module": "lycoris.kohya", "network_dim": 8}
    assert network(**words, network_args=["algo=dylora"]).unit == 4
    assert network(**words, network_args=["algo=dylora", "block_size=2"]).unit == 2
    assert network(network_module="networks.dylora", network_dim=8).unit == 1


def test_what_changes_nothing_is_said_once():
    args = ["rank_dropout_scale=True", "bypass_mode=True", "use_reentrant=False", "train_t5xxl=False"]
    found, notes = values(network_module="networks.lora", network_args=args)
    assert found == {"network.kind": "lora"}
    assert [note.split()[1] for note in notes] == ["rank_dropout_scale", "bypass_mode"]


def test_patterns_are_read_in_pythons_words():
    found, _ = values(
        network_args=["exclude_patterns=['.*(q|k)_proj', 'ff[.]net']", r"include_patterns=a\.b(c|d)"]
    )
    assert found["network.exclude_patterns"] == [".*(q|k)_proj", "ff[.]net"]
    assert found["network.include_patterns"] == [r"a\.b(c|d)"]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["preset=everything"], "network_args preset=everything: expected full, "),
        (["no_such=1"], "network_args no_such=1: not in this version; expected algo, "),
        (["conv_dim"], "conv_dim: expected name=value"),
        (["algo=abc", "unbalanced_factorization=True"], "network_args algo=abc: not in this version"),
    ],
)
def test_what_cannot_be_is_refused(args, text):
    with pytest.raises(Mistake) as e:
        values(network_args=args)
    assert str(e.value).startswith(text)


def test_ia3_has_layers_of_its_own_unless_a_preset_is_named():
    words = {"network_module": "lycoris.kohya", "network_dim": 4}
    assert network(**words, network_args=["algo=ia3"]).preset is None
    assert network(**words, network_args=["algo=ia3", "preset=full"]).preset == "full"


def test_sizes_that_a_family_has_not_are_said():
    found, notes = values(
        network_module="lycoris.kohya", network_dim=4, network_alpha=1, network_args=["algo=full"]
    )
    assert found == {"network.kind": "full", "network.preset": "full"}
    assert [note.split()[0] for note in notes] == ["network.dim", "network.alpha"]
