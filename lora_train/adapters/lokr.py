"""LoKr: the Kronecker product of a small matrix and a large one (Yeh et al. 2023, arXiv:2309.14859).

Factors, start and files are LyCORIS' (`modules/lokr.py` 3.4.0). The product is never made: the two factors
act one after the other, each on its share of the channels.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train.adapters.factored import Factored
from lora_train.adapters.layer import Layer
from lora_train.adapters.product import ALPHA, Drops, LycorisFamily, Product
from lora_train.knobs import knob

SMALL, LARGE = ("lokr_w1", "lokr_w1_a", "lokr_w1_b"), ("lokr_w2", "lokr_t2", "lokr_w2_a", "lokr_w2_b")
Shapes = dict[str, tuple[int, ...]]


def factorization(size: int, factor: int) -> tuple[int, int]:
    """Two numbers whose product is `size`, the smaller first.

    Args:
        factor: one of them, if it divides `size`; else the smaller is at most it. -1: as near to a square as
            may be.
    """
    if factor > 0 and size % factor == 0:
        return min(factor, size // factor), max(factor, size // factor)
    most = min(math.isqrt(size), factor if factor > 0 else size)
    smaller = next(n for n in range(most, 0, -1) if size % n == 0)
    return smaller, size // smaller


@dataclasses.dataclass(frozen=True)
class Cut:
    """How a layer's channels are shared out among the two factors."""

    factor: int = -1
    decompose_both: bool = False
    full_matrix: bool = False
    tucker: bool = False

    def shapes(self, layer: Layer, rank: int) -> Shapes:
        """Of the factors' tensors."""
        out, inn, *kernel = layer.shape
        (a, b), (c, d) = factorization(out, self.factor), factorization(inn, self.factor)
        wide = any(side > 1 for side in kernel)
        small: Shapes = {"lokr_w1": (a, c)}
        if self.decompose_both and rank < max(a, c) / 2:
            small = {"lokr_w1_a": (a, rank), "lokr_w1_b": (rank, c)}
        if self.full_matrix or rank >= max(b, d) / 2:
            return {**small, "lokr_w2": (b, d, *kernel)}
        if self.tucker and wide:
            large = {"lokr_t2": (rank, rank, *kernel), "lokr_w2_a": (rank, b), "lokr_w2_b": (rank, d)}
            return {**small, **large}
        return {**small, "lokr_w2_a": (b, rank), "lokr_w2_b": (rank, d * torch.Size(kernel).numel())}


class LokrAdapter(Product):
    """delta = alpha/rank * w1 (x) w2, each whole or of low rank; where both are whole the scale is 1.

    A factor of w2 starts at zero, or with `scalar` a learned number, so a fresh adapter changes nothing.
    """

    late = ("lokr_w2", "lokr_w2_b")

    def __init__(  # noqa: PLR0913 (what LyCORIS has)
        self, layer: Layer, rank: int, alpha: float, shapes: Shapes, drops: Drops, *, scalar: bool = False
    ):
        whole = {"lokr_w1", "lokr_w2"} <= shapes.keys()
        super().__init__(layer, float(rank) if whole else alpha, rank, drops, scalar=scalar)
        self.factors = tuple(shapes)
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(shape)))
            nn.init.kaiming_uniform_(getattr(self, name), a=math.sqrt(5))
        if not scalar:
            nn.init.zeros_(getattr(self, "lokr_w2" if "lokr_w2" in shapes else "lokr_w2_b"))
        small, large = self._small(torch.float32), self._large(torch.float32)
        (a, c), (b, d, *kernel) = small.shape, large.shape
        if (a * b, c * d, *kernel) != tuple(layer.shape):
            raise ValueError(
                f"is for a layer of {a * b} x {c * d} values, not {layer.shape[0]} x {layer.shape[1]}"
            )

    def _small(self, dtype: torch.dtype) -> Tensor:
        """[a, c]."""
        if "lokr_w1" in self.factors:
            return self.lokr_w1.to(dtype)
        return self.lokr_w1_a.to(dtype) @ self.lokr_w1_b.to(dtype)

    def _large(self, dtype: torch.dtype) -> Tensor:
        """[b, d], or [b, d, height, width]."""
        if "lokr_w2" in self.factors:
            return self.lokr_w2.to(dtype)
        first, second = self.lokr_w2_a.to(dtype), self.lokr_w2_b.to(dtype)
        if "lokr_t2" in self.factors:
            return torch.einsum("ijkl,ip,jr->prkl", self.lokr_t2.to(dtype), first, second)
        kernel = self.layer.kernel
        return (first @ second).view(len(first), -1, *kernel)

    def delta(self) -> Tensor:
        small, large = self._small(torch.float32), self._large(torch.float32)
        spread = small.view(*small.shape, *[1] * len(self.layer.kernel))
        return self.times * torch.kron(spread, large)

    def added(self, x: Tensor) -> Tensor:
        small, large = self.times * self._small(x.dtype), self._large(x.dtype)
        if large.ndim == 2:
            shares = x.unflatten(-1, (small.shape[1], -1))  # [..., c, d]
            return (small @ F.linear(shares, large)).flatten(-2)
        shares = x.unflatten(1, (small.shape[1], -1)).flatten(0, 1)  # [B c, d, h, w]
        made = self.layer.op(shares, large).unflatten(0, (len(x), -1))  # [B, c, b, h, w]
        return torch.einsum("ac,ncbhw->nabhw", small, made).flatten(1, 2)

    @torch.no_grad()
    def norm(self) -> Tensor:
        """Of a Kronecker product it is the product of the two."""
        return abs(self.times) * self._small(torch.float32).norm() * self._large(torch.float32).norm()

    def scale_of(self, tensors: Mapping[str, Tensor]) -> float:
        return 1.0 if {"lokr_w1", "lokr_w2"} <= tensors.keys() else super().scale_of(tensors)


@dataclasses.dataclass(frozen=True)
class Lokr(LycorisFamily, Factored):
    """LoKr."""

    factor: int = knob(
        -1, "Size of the small matrix's sides; smaller gives larger files that learn more. -1: as near to a "
        "square as may be, the smallest files.", group="network", low=-1, high=512)  # fmt: skip
    decompose_both: bool = knob(False, "Give the small matrix low rank as well.", group="network")
    full_matrix: bool = knob(
        False, "Keep the large matrix whole, whatever dim says; alpha then has no effect.", group="network"
    )

    algo, mark = "lokr", "lokr"

    def make(self, layer: Layer) -> LokrAdapter | None:
        if (size := self.size(layer)) is None:
            return None
        cut = Cut(self.factor or -1, self.decompose_both, self.full_matrix, self.use_tucker)
        return LokrAdapter(layer, *size, cut.shapes(layer, size[0]), self.drops, scalar=self.use_scalar)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> LokrAdapter:
        known = [name for name in (*SMALL, *LARGE) if name in tensors]
        ranked = [name for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors]
        shapes = {name: tuple(tensors[name].shape) for name in known}
        alpha = tensors[ALPHA].item() if ALPHA in tensors else 0.0
        rank = shapes[ranked[0]][0] if ranked else max(1, round(alpha))
        try:
            adapter = LokrAdapter(
                layer, rank, alpha or float(rank), shapes, self.drops, scalar=self.use_scalar
            )
        except (AttributeError, RuntimeError) as e:
            raise ValueError(f"has {', '.join(sorted(tensors))}, which do not fit together") from e
        adapter.load(tensors)
        return adapter

    def arguments(self, before: object) -> str:
        own = {"factor": self.factor, "decompose_both": self.decompose_both, "full_matrix": self.full_matrix}
        usual = {"factor": -1, "decompose_both": False, "full_matrix": False}
        given = {name: str(value) for name, value in own.items() if value != usual[name]}
        return json.dumps({**json.loads(super().arguments(before)), **given})
