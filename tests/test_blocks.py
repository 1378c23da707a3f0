"""Blocks: ids, indices, weights."""

from __future__ import annotations

import pytest

from lora_train.blocks import BLOCKS, PRESETS, BlockWeights, block_id, block_index


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
