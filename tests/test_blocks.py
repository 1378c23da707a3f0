"""Blocks: ids, indices, weights."""

from __future__ import annotations

import pytest

from lora_train.blocks import BLOCKS, PRESETS, BlockWeights, Element, block_id, block_index, some


@pytest.mark.parametrize(
    ("path", "block", "index"),
    [
        ("input_blocks.0.0", "IN00", 0),
        ("input_blocks.1.1.proj_in", "IN01", 1),  # down_blocks.0, j = 0
        ("input_blocks.3.0.op", "IN03", 3),  # the downsampler counts as j = 2
        ("input_blocks.11.0.in_layers.2", "IN11", 11),
        ("middle_block.1.proj_in", "M00", 12),
        ("output_blocks.0.0.in_layers.2", "OUT00", 13),
        ("output_blocks.2.1.conv", "OUT02", 15),
        ("output_blocks.11.1.proj_out", "OUT11", 24),
        ("time_embed.0", None, None),
        ("out.2", None, None),
    ],
)
def test_a_layers_block(path, block, index):
    assert block_id("unet", path) == block
    assert block_index(path) == index


def test_the_text_encoder_is_base():
    assert block_id("te1", "encoder.layers.0.mlp.fc1") == "BASE"


@pytest.mark.parametrize("text", [*PRESETS, "all", "1," * 11 + "0.25", "0.5," * 16 + "1", "-1," * 25 + "1"])
def test_what_is_printed_is_read_again(text):
    weights = BlockWeights.parse(text)
    assert BlockWeights.parse(str(weights)) == weights


def test_the_default_is_all():
    assert BlockWeights.parse("ALL") == BlockWeights()
    assert str(BlockWeights()) == "ALL"
    assert BlockWeights().strength("unet", "time_embed.0") == 1


def test_shorter_lists_name_the_blocks_with_attention():
    """lora-block-weight's own lists."""
    twelve = BlockWeights.parse("1,2,3,4,5,6,7,8,9,10,11,12")
    named = {block: value for block, value in zip(BLOCKS, twelve.values, strict=True) if value}
    assert list(named) == [
        "BASE", "IN04", "IN05", "IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02", "OUT03", "OUT04", "OUT05",
    ]  # fmt: skip
    assert list(named.values()) == list(range(1, 13))
    seventeen = BlockWeights.parse("INS")
    assert [b for b, v in zip(BLOCKS, seventeen.values, strict=True) if v] == ["BASE", "IN01", "IN02", "IN04"]
    twenty = BlockWeights.parse(",".join(["1"] * 20))
    assert [b for b, v in zip(BLOCKS, twenty.values, strict=True) if not v] == [
        "IN09", "IN10", "IN11", "OUT09", "OUT10", "OUT11",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["", "MIDDLE", "1,2,3", "1," * 16 + "x", "nan," * 16 + "1", "1," * 17])
def test_what_is_no_list_is_refused(text):
    with pytest.raises(ValueError, match="expected 12, 17, 20 or 26 numbers, or one of NONE, ALL"):
        BlockWeights.parse(text)


Q, PROJ = "input_blocks.4.1.transformer_blocks.0.attn1.to_q", "output_blocks.11.1.proj_out"
TE = "encoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("element", "means"),
    [
        ("::0", [Q, PROJ, TE]),
        ("IN04::0", [Q]),
        ("in04 out11::0", [Q, PROJ]),
        ("IN04-OUT05::0", [Q]),
        ("BASE-IN04:attn:0", [Q, TE]),
        (":attn:0", [Q, TE]),
        (":attn1 proj_out:0", [Q, PROJ]),
        ("NOT BASE:attn:0", [Q]),
        ("NOT IN00-IN11:NOT attn:0", [PROJ]),
        (":NOT to_q self_attn:0", [PROJ]),
        (":input_blocks_4:0", [Q]),
    ],
)
def test_an_element_means_layers(element, means):
    read = Element.parse(element)
    layers = [("unet", Q), ("unet", PROJ), ("te1", TE)]
    assert [path for part, path in layers if read.means(part, path)] == means
    keys = [(part, path.replace(".", "_")) for part, path in layers]
    assert sum(read.means(*key) for key in keys) == len(means)
    assert Element.parse(str(read)) == read


def test_the_last_element_that_means_a_layer_counts():
    weights = BlockWeights.parse("ALL0.5|NOT BASE:attn:0.25,IN05-OUT05::2|IN04:to_q:-1")
    assert weights.strength("unet", Q) == -1
    assert weights.strength("unet", Q.replace("to_q", "to_k")) == 0.25
    assert weights.strength("unet", "middle_block.1.proj_in") == 2
    assert weights.strength("unet", PROJ) == 0.5
    assert weights.strength("unet", "time_embed.0") == 1
    assert BlockWeights.parse(str(weights)) == weights
    assert BlockWeights.parse("OUTALL|attndeepoff").elements == (Element("IN05-OUT05", "attn", 0.0),)


@pytest.mark.parametrize("text", ["ALL|IN05:attn", "ALL|IN12::0", "ALL|::strong", "ALL|IN04 OUT::0", "ALL|x"])
def test_what_is_no_element_is_refused(text):
    with pytest.raises(ValueError, match="expected (BLOCKS:WORDS:RATIO|a block's id)"):
        BlockWeights.parse(text)


def test_spans_of_blocks_go_in_the_order_of_the_model():
    named, all_but = some("IN11-OUT01")
    assert (sorted(named), all_but) == (["IN11", "M00", "OUT00", "OUT01"], False)
    assert some("NOT BASE") == ({"BASE"}, True)
