"""Frozen weights kept in a byte or half of one a number, and made whole layer by layer where they are used.

Nothing whole is kept for the backward pass: there the weight is unpacked once more. Adapters see such a layer
as any other, for `weight` is what it stands for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train.errors import Mistake

NEEDED = "bitsandbytes"
Unpack = Callable[[], Tensor]


def ready(kind: str | None) -> str | None:
    """Why this kind cannot be had here; None where it can."""
    if kind in (None, "fp8"):
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return f"this needs the package {NEEDED}; pip install {NEEDED}"
    return None


def pack(module: nn.Module, kind: str, dtype: torch.dtype) -> None:
    """Every linear and convolution layer of a model without weights yet (on the device "meta").

    Args:
        dtype: what weights are made whole in.
    """
    for child in module.modules():
        if type(child) in PACKED:
            shape = tuple(child.weight.shape)
            del child.weight
            child.__class__ = PACKED[type(child)]
            child.begin(kind, shape, dtype)


class Packed(nn.Module):
    """What a layer's class is mixed with."""

    def begin(self, kind: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        self.kind, self.whole_shape, self.dtype = kind, shape, dtype
        for name, found in _empty(kind, shape).items():
            self.register_buffer(f"packed_{name}", found, persistent=False)

    @property
    def weight(self) -> Tensor:
        return self.whole()

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        """A model that is brought into another dtype keeps what is packed as it is."""
        before = {name: buffer.dtype for name, buffer in self.named_buffers(recurse=False)}
        super()._apply(fn, recurse)
        for name, dtype in before.items():
            self.register_buffer(name, self.get_buffer(name).to(dtype), persistent=False)
        return self

    def take(self, value: Tensor) -> None:
        """Pack a weight that was read; on the layer's device."""
        here = self.packed_values.device
        for name, found in _packed(self.kind, value.reshape(self.whole_shape).to(here)).items():
            setattr(self, f"packed_{name}", found)

    @torch.no_grad()
    def whole(self) -> Tensor:
        values = self.packed_values
        if values.is_meta:
            return torch.empty(self.whole_shape, dtype=self.dtype, device="meta")
        if self.kind == "fp8":
            return values.to(self.dtype)
        import bitsandbytes.functional as B  # noqa: N812

        if self.kind == "int8":
            state = B.QuantState(
                absmax=self.packed_scales, code=self.packed_code, blocksize=BLOCK, dtype=torch.float32
            )
            found = B.dequantize_blockwise(values, state)
        else:
            state = B.QuantState(
                absmax=self.packed_scales, code=self.packed_code, blocksize=FINE, quant_type="nf4",
                dtype=torch.float32, shape=torch.Size(self.whole_shape))  # fmt: skip
            found = B.dequantize_4bit(values, state)
        return found.reshape(self.whole_shape).to(self.dtype)


class PackedLinear(Packed, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x.to(self.dtype), self, self.bias, F.linear, _linear_back)


class PackedConv2d(Packed, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return _Product.apply(x.to(self.dtype), self, self.bias, self._conv_forward, self._back)

    def _back(self, grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        return torch.nn.grad.conv2d_input(
            shape, weight, grad, self.stride, self.padding, self.dilation, self.groups
        )


PACKED: dict[type, Any] = {nn.Linear: PackedLinear, nn.Conv2d: PackedConv2d}


def _linear_back(grad: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
    return (grad.reshape(-1, grad.shape[-1]) @ weight).view(shape)


class _Product(torch.autograd.Function):
    """op(x, weight, bias), of which the backward pass keeps the packed weight alone."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layer: Packed, bias: Tensor | None, op: Callable, back: Callable
    ) -> Tensor:
        ctx.layer, ctx.back, ctx.shape = layer, back, x.shape
        return op(x, layer.whole(), None if bias is None else bias.to(x))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight = ctx.layer.whole()
        return ctx.back(grad.to(weight), weight, ctx.shape), None, None, None, None


BLOCK, FINE = 256, 64  # numbers that share a scale, of int8 and nf4


def _empty(kind: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The buffers that `_packed` fills, on "meta", so that a layer's place and size are known before."""
    count = torch.Size(shape).numel()
    if kind == "fp8":
        return {"values": torch.empty(shape, dtype=torch.float8_e4m3fn, device="meta")}
    block, codes = (BLOCK, 256) if kind == "int8" else (FINE, 16)
    values = torch.empty(shape if kind == "int8" else ((count + 1) // 2, 1), dtype=torch.uint8, device="meta")
    return {
        "values": values,
        "scales": torch.empty(-(-count // block), device="meta"),
        "code": torch.empty(codes, device="meta"),
    }


def _packed(kind: str, value: Tensor) -> dict[str, Tensor]:
    """
    Source: fp8 as sd-scripts' fp8_base, without a scale; int8 in blocks, Dettmers et al. 2021,
    arXiv:2110.02861; nf4, Dettmers et al. 2023, arXiv:2305.14314; both as bitsandbytes has them.
    """
    if kind == "fp8":
        largest = torch.finfo(torch.float8_e4m3fn).max
        return {"values": value.float().clamp(-largest, largest).to(torch.float8_e4m3fn)}
    if why := ready(kind):
        raise Mistake(f"model.quantized_base = {kind}: {why}")
    import bitsandbytes.functional as B  # noqa: N812

    flat = value.float().contiguous()
    if kind == "int8":
        values, state = B.quantize_blockwise(flat, blocksize=BLOCK)
    else:
        values, state = B.quantize_4bit(flat, blocksize=FINE, quant_type="nf4")
    return {"values": values, "scales": state.absmax, "code": state.code}
