"""The checksum that says whether a model is as it was."""

import pytest
import torch
from torch import nn

from lora_train.hosts.webui.proof import LANES, Proof


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """With tensors shorter and longer than the lanes, one under two names, a view and a buffer."""
    made = nn.Module()
    rng = torch.Generator().manual_seed(0)
    for name, size in {"short": 3, "long": 4 * LANES * 8 + 5, "large": 1 << 20}.items():
        made.register_parameter(name, nn.Parameter(torch.randn(size, generator=rng).to(dtype)))
    made.view = nn.Parameter(torch.randn(40_001, generator=rng).to(dtype)[1:])
    made.again, made.inner = nn.Linear(4, 4).to(dtype), nn.Module()
    made.inner.again = made.again
    made.register_buffer("counts", torch.arange(9))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_every_bit_counts(dtype):
    made = model(dtype)
    proof = Proof(made)
    assert proof.changed(made) == []
    for name, value in [*made.named_parameters(), *made.named_buffers()]:
        for at in (0, value.numel() // 2, value.numel() - 1):
            word = value.data.view(-1).view(torch.uint8)[at * value.element_size()]
            word ^= 1
            assert proof.changed(made) == [name]
            word ^= 1
    assert proof.changed(made) == []


def test_what_changes_places_counts_and_where_it_lies_does_not():
    made = model()
    proof = Proof(made)
    made.to(torch.float64).to(torch.float32)
    made.large.data = made.large.data.clone().view(2, -1).t().contiguous().t().reshape(-1)
    assert proof.changed(made) == []
    first, second = made.large.data[:1].clone(), made.large.data[1:2].clone()
    made.large.data[:1], made.large.data[1:2] = second, first
    assert proof.changed(made) == ["large"]


def test_another_precision_or_another_model_is_a_change():
    made = model()
    proof = Proof(made)
    made.large.data = made.large.data.half()
    made.extra = nn.Parameter(torch.zeros(2))
    assert proof.changed(made) == ["extra", "large"]
