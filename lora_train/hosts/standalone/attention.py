"""Attention on a CPU where torch's own is slow, through diffusers' interface for it; see docs/LOG.md."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW = 2**19  # scores of a head up to which they are kept for the backward pass: 1 MB in bfloat16
ROWS = 256  # of a tile: with SD 1.5's 4096 columns 2 MB in bfloat16, so that it stays in the cache


class Processor:
    """As diffusers' AttnProcessor2_0 for the layers of our denoisers, which have no masks."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        out = attention(q, k, v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q: [B, heads, L, D]; k, v: [B, heads, S, D] -> [B, heads, L, D]."""
    few = q.shape[2] * k.shape[2] <= FEW
    half = q.dtype is torch.bfloat16
    # who asks for float32 at "highest" means torch's own, to the bit
    quick = half or (q.dtype is torch.float32 and torch.get_float32_matmul_precision() != "highest")
    if q.device.type == "cpu" and quick and few:
        return (q * q.shape[3] ** -0.5 @ k.mT).softmax(-1) @ v
    if q.device.type == "cpu" and half:
        return Tiled.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v)


class Tiled(torch.autograd.Function):
    """Some rows of one head at a time; the backward pass makes the scores anew, so nothing large is kept.

    Which product is taken by which side is what is quickest: a long side that is summed over has to lie last.
    Gradients as in Dao et al. 2022, arXiv:2205.14135, section 3.1.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        out = torch.empty_like(q)  # keeps the layout, heads inside
        for head in itertools.product(range(len(q)), range(q.shape[1])):
            values = v[head].t().contiguous()
            for i in range(0, q.shape[2], ROWS):
                rows = slice(i, i + ROWS)
                shares, _ = _shares(q[head][rows], k[head])
                out[head][rows] = (values @ shares.t()).t()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = ctx.saved_tensors
        made = tuple(torch.empty_like(t) for t in (q, k, v))
        for head in itertools.product(range(len(q)), range(q.shape[1])):
            _head_backward(*(t[head] for t in (q, k, v, grad)), *(t[head] for t in made))
        return made


def _head_backward(  # noqa: PLR0913 (three inputs, their gradients, and the one that comes in)
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, to_q: Tensor, to_k: Tensor, to_v: Tensor
) -> None:
    """q, grad: [L, D]; k, v: [S, D]. Writes into the last three; sums over tiles are in float32."""
    scale, keys = q.shape[1] ** -0.5, k.t().contiguous()
    sum_k, sum_v = (torch.zeros(keys.shape, dtype=torch.float32) for _ in range(2))
    for i in range(0, len(q), ROWS):
        rows = slice(i, i + ROWS)
        shares, scaled = _shares(q[rows], k)
        slopes = grad[rows] @ v.t()
        sum_v += grad[rows].t().contiguous() @ shares
        slopes = torch.ops.aten._softmax_backward_data(slopes, shares, -1, shares.dtype)
        sum_k += scaled.t().contiguous() @ slopes
        to_q[rows] = (keys @ slopes.t()).t() * scale
    to_k.copy_(sum_k.t())
    to_v.copy_(sum_v.t())


def _shares(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax of the scores of some rows, [rows, S], and the rows scaled."""
    scaled = q * q.shape[1] ** -0.5
    return (scaled @ k.t()).softmax(-1), scaled
