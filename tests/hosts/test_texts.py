"""OpenCLIP's attention in pieces, against torch's own in one."""

import functools

import pytest
import torch
from torch import nn

from lora_train.hosts.webui.texts import attend, pieces


@pytest.fixture(params=[True, False], ids=["batch first", "length first"])
def attention(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = nn.MultiheadAttention(32, 4, batch_first=request.param)
        nn.init.normal_(made.in_proj_bias)
        nn.init.normal_(made.out_proj.bias)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("kind", [None, torch.float32, torch.bool])
def test_it_computes_what_torch_does(attention, kind):
    x = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(1))
    length = 7 if attention.batch_first else 5
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    mask = {
        None: None,
        torch.bool: hidden,
        torch.float32: torch.zeros(length, length).masked_fill(hidden, -torch.inf),
    }
    expected = attention(x, x, x, need_weights=False, attn_mask=mask[kind])[0]
    found = attend(attention, pieces(attention), x, x, x, need_weights=False, attn_mask=mask[kind])[0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_pieces_are_the_attentions_own_weights(attention):
    """A change through one is a change of the attention, also after its weights were moved."""
    parts = pieces(attention)
    attention.to(torch.float64).to(torch.float32)
    x = torch.randn(1, 3, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for part in parts:
            part.weight.mul_(2)
    assert not any(dict(part.named_parameters()) for part in parts)
    expected = attention(x, x, x, need_weights=False)[0]
    torch.testing.assert_close(attend(attention, parts, x, x, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_hooks_on_pieces_run_once_each(attention):
    parts, ran = pieces(attention), []
    for i, part in enumerate(parts):
        part.register_forward_hook(lambda _m, _x, y, i=i: ran.append(i) or y)
    attention.forward = functools.partial(attend, attention, parts)
    x = torch.randn(1, 3, 32)
    attention(x, x, x, need_weights=False)
    assert ran == [0, 1, 2, 3]
