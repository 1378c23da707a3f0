"""Ways to compute attention; each replaces the forward of a class. One of them has no backward pass."""

import math

import ldm.modules.attention
import torch
import torch.nn.functional as F  # noqa: N812


def _heads(self, x, context):
    context = x if context is None else context
    for module, tensor in ((self.to_q, x), (self.to_k, context), (self.to_v, context)):
        yield module(tensor).unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _sdp(self, x, context=None, mask=None, **_):
    out = F.scaled_dot_product_attention(*_heads(self, x, context))
    return self.to_out(out.transpose(1, 2).flatten(2))


def _sliced(self, x, context=None, mask=None, **_):
    """A slice of the queries at a time."""
    q, k, v = _heads(self, x, context)
    slices = [(part @ k.mT / math.sqrt(k.shape[-1])).softmax(-1) @ v for part in q.split(16, 2)]
    return self.to_out(torch.cat(slices, 2).transpose(1, 2).flatten(2))


class _ForwardOnly(torch.autograd.Function):
    """As xFormers' kernels are on some cards: the backward pass is not implemented."""

    @staticmethod
    def forward(ctx, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)

    @staticmethod
    def backward(ctx, *gradients):
        raise NotImplementedError("no operator found for this attention's backward")


def _xformers(self, x, context=None, mask=None, **_):
    return self.to_out(_ForwardOnly.apply(*_heads(self, x, context)).transpose(1, 2).flatten(2))


class SdOptimization:
    def __init__(self, name, label, forward):
        self.name, self.label, self.forward = name, label, forward

    def title(self):
        return f"{self.name} - {self.label}" if self.label else self.name

    def is_available(self):
        return True

    def apply(self):
        ldm.modules.attention.CrossAttention.forward = self.forward

    def undo(self):
        pass


ALL = [
    SdOptimization("sdp", "scaled dot product", _sdp),
    SdOptimization("sub-quadratic", None, _sliced),
    SdOptimization("xformers", None, _xformers),
]
