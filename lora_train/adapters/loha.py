"""LoHa: the product, value by value, of two matrices of low rank (Hyeon-Woo et al. 2021, arXiv:2108.06098).

Factors, start and files are LyCORIS' (`modules/loha.py` 3.4.0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.factored import Factored
from lora_train.adapters.layer import Layer
from lora_train.adapters.product import Drops, LycorisFamily, Product

PLAIN = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
TUCKER = ("hada_t1", *PLAIN[:2], "hada_t2", *PLAIN[2:])


class Hadamard(torch.autograd.Function):
    """(a1 b1) * (a2 b2), whose two products are made again in the backward pass rather than kept: each is as
    large as the layer."""

    @staticmethod
    def forward(ctx, a1: Tensor, b1: Tensor, a2: Tensor, b2: Tensor) -> Tensor:
        ctx.save_for_backward(a1, b1, a2, b2)
        return (a1 @ b1) * (a2 @ b2)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        a1, b1, a2, b2 = ctx.saved_tensors
        first, second = grad * (a2 @ b2), grad * (a1 @ b1)
        return first @ b1.t(), a1.t() @ first, second @ b2.t(), a2.t() @ second


class LohaAdapter(Product):
    """delta = alpha/rank * (w1_a w1_b) * (w2_a w2_b); w2_a starts at zero: a fresh adapter changes nothing.

    Args:
        scalar: a number that is learned starts at zero in its place.
        tucker: in a convolution, w_b and w_a act on the channels in and out of a kernel t of its own.
    """

    late = ("hada_w2_a",)

    def __init__(  # noqa: PLR0913 (what LyCORIS has)
        self, layer: Layer, rank: int, alpha: float, drops: Drops, *, tucker: bool = False,
        scalar: bool = False):  # fmt: skip
        super().__init__(layer, alpha, rank, drops, scalar=scalar)
        out, inn, *kernel = layer.shape
        self.tucker = tucker and any(side > 1 for side in kernel)
        self.factors = TUCKER if self.tucker else PLAIN
        if self.tucker:
            shapes = [(rank, rank, *kernel), (rank, out), (rank, inn)] * 2
        else:
            area = torch.Size(kernel).numel()
            shapes = [(out, rank), (rank, inn * area)] * 2
        for name, shape in zip(self.factors, shapes, strict=True):
            setattr(self, name, nn.Parameter(torch.empty(shape)))
            nn.init.normal_(getattr(self, name), std=1.0 if name.endswith("_b") else 0.1)
        if not scalar:
            nn.init.zeros_(self.hada_w2_a)

    def delta(self) -> Tensor:
        return self.times * self._product(torch.float32)

    def _product(self, dtype: torch.dtype) -> Tensor:
        f = {name: getattr(self, name).to(dtype) for name in self.factors}
        if not self.tucker:
            return Hadamard.apply(*(f[name] for name in PLAIN)).view(self.layer.shape)
        halves = [
            torch.einsum("ijkl,jr,ip->prkl", f[f"hada_t{n}"], f[f"hada_w{n}_b"], f[f"hada_w{n}_a"])
            for n in (1, 2)
        ]
        return halves[0] * halves[1]

    def added(self, x: Tensor) -> Tensor:
        return self.layer.op(x, self.times * self._product(x.dtype))


@dataclasses.dataclass(frozen=True)
class Loha(LycorisFamily, Factored):
    """LoHa."""

    algo, mark, copies = "loha", "hada", 2

    def make(self, layer: Layer) -> LohaAdapter | None:
        size = self.size(layer)
        return size and LohaAdapter(layer, *size, self.drops, tucker=self.use_tucker, scalar=self.use_scalar)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> LohaAdapter:
        if PLAIN[1] not in tensors:
            raise ValueError(f"has {', '.join(sorted(tensors))}; expected {', '.join(PLAIN)}, alpha")
        rank = len(tensors[PLAIN[1]])
        alpha = tensors["alpha"].item() if "alpha" in tensors else 0.0
        adapter = LohaAdapter(
            layer, rank, alpha or float(rank), self.drops, tucker="hada_t1" in tensors, scalar=self.use_scalar
        )
        adapter.load(tensors)
        return adapter
