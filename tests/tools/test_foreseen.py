"""What is foreseen of a tool is what it then writes."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.tools.foreseen import foreseen, head
from lora_train.tools.merge import Merge
from lora_train.tools.resize import Resize

LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
WIDE = "lora_te_text_model_encoder_layers_0_mlp_fc1"
CONV = "lora_unet_mid_block_resnets_0_conv1"
POINT = "lora_unet_mid_block_attentions_0_proj_in"  # a convolution of 1x1
KERNELS = {CONV: (3, 3), POINT: (1, 1)}


def lora(file, ranks, seed=0):
    draw, tensors = torch.Generator().manual_seed(seed), {}
    for key, rank in ranks.items():
        kernel = KERNELS.get(key, ())
        sides = (3072, 768) if key == WIDE else (1280, 1280)
        up = torch.randn(sides[0], rank, *(1 for _ in kernel), generator=draw)
        down = torch.randn(rank, sides[1], *kernel, generator=draw)
        tensors |= {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down}
        tensors[f"{key}.alpha"] = torch.tensor(float(rank))
    save_file({name: tensor.half() for name, tensor in tensors.items()}, file)
    return file


@pytest.fixture
def files(tmp_path):
    return (
        lora(tmp_path / "a.safetensors", {LINEAR: 8, WIDE: 6, CONV: 4, POINT: 7}),
        lora(tmp_path / "b.safetensors", {LINEAR: 4, CONV: 2}, seed=1),
    )


def written(file):
    """(bytes of the factors, ranks)."""
    tensors = {name: t for name, t in load_file(file).items() if not name.endswith("alpha")}
    ranks = {t.shape[0] for name, t in tensors.items() if "down" in name}
    return sum(t.numel() * t.element_size() for t in tensors.values()), sorted({min(ranks), max(ranks)})


@pytest.mark.parametrize(
    "make",
    [
        lambda a, b, to: Merge(models=(a, b), save_to=to),
        lambda a, b, to: Merge(models=(a, b), save_to=to, new_rank=5, new_conv_rank=3),
        lambda a, b, to: Merge(models=(a,), save_to=to, save_precision="float"),
        lambda a, b, to: Resize(model=str(a), save_to=to, new_rank=3),
        lambda a, b, to: Resize(model=str(a), save_to=to, new_rank=64, new_conv_rank=2),
    ],
)
def test_the_size_is_what_is_written(files, tmp_path, make):
    tool = make(*files, tmp_path / "made.safetensors")
    told = foreseen(tool)
    tool.run()
    assert (told["bytes"], told["ranks"]) == written(tmp_path / "made.safetensors")
    assert not told["most"]


def test_a_rank_that_is_chosen_by_what_a_layer_carries_is_at_most_so_large(files, tmp_path):
    tool = Resize(
        model=str(files[0]), save_to=tmp_path / "made.safetensors", new_rank=8, dynamic_method="sv_fro",
        dynamic_param=0.6)  # fmt: skip
    told = foreseen(tool)
    tool.run()
    assert told["most"]
    assert told["bytes"] >= written(tmp_path / "made.safetensors")[0]


def test_what_it_cannot_tell_it_does_not(files, tmp_path):
    to = tmp_path / "made.safetensors"
    assert foreseen(Resize(model=str(files[0]), save_to=to, recipe="spn_lora=1,size=32")) is None
    assert foreseen(Merge(models=files, save_to=to, method="additive")) is None
    with pytest.raises(FileNotFoundError):
        head(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"\xff" * 64)
    assert str(tmp_path / "bad.safetensors") in head(tmp_path / "bad.safetensors")["error"]
    assert head(files[0])["ranks"] == [4, 6, 7, 8]
