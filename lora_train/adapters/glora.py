"""GLoRA: a layer learns W A + B, both of low rank (Chavan et al. 2023, arXiv:2306.07967).

Tensors are in LyCORIS' first layout, which alone the stock WebUI reads, and without a scale.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train.adapters.altered import Altering, fits
from lora_train.adapters.family import Adapter, Scaled
from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Drops

ALPHA = "alpha"
NAMES = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")  # [r, in], [in, r], [r, in], [out, r]


class GloraAdapter(Adapter):
    """delta = alpha/rank (W a2 a1 + b2 b1). a2 and b2 start at zero: a fresh one changes nothing.

    W a2 beside b2 and a1 beside b1 are a LoRA of twice the rank, and so it is computed.
    """

    late = ("a2", "b2")

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops = Drops()):  # noqa: B008
        super().__init__()
        out, inn = layer.shape
        self.layer, self.rank, self.scale = layer, rank, alpha / rank
        self.drops, self.rests = drops, drops.module > 0
        self.a1, self.b1 = (nn.Parameter(torch.empty(rank, inn)) for _ in range(2))
        self.a2, self.b2 = (nn.Parameter(torch.zeros(width, rank)) for width in (inn, out))
        for factor in (self.a1, self.b1):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        drops, dtype = self.drops, base.dtype
        if self.training and drops.module and torch.rand(()) < drops.module:
            return base
        down, up = self._factors(dtype)
        mid = F.linear(x.to(dtype), down)
        if self.training and drops.values:
            mid = F.dropout(mid, drops.values)
        if self.training and drops.ranks:
            shape = [len(mid), *[1] * (mid.ndim - 2), mid.shape[-1]]
            kept = torch.rand(shape, device=mid.device) >= drops.ranks
            mid = mid * (kept / (1 - drops.ranks)).to(mid)
        return base + self.strength * self.scale * F.linear(mid, up)

    def _factors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[2 rank, in] and [out, 2 rank]."""
        turned = self.layer.weight().to(dtype) @ self.a2.to(dtype)
        down = torch.cat([self.a1, self.b1]).to(dtype)
        return down, torch.cat([turned, self.b2.to(turned.dtype)], 1)

    def delta(self) -> Tensor:
        down, up = self._factors(self.a1.dtype)
        return self.scale * (up @ down)

    def tensors(self) -> dict[str, Tensor]:
        """The scale is in those that start at zero, and alpha is the rank."""
        found = (self.a1, self.scale * self.a2, self.b1, self.scale * self.b2)
        named = {name: tensor.detach() for name, tensor in zip(NAMES, found, strict=True)}
        return {**named, ALPHA: torch.tensor(float(self.rank))}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        found = first_layout(tensors, self.layer.shape)
        own = (self.a1, self.a2, self.b1, self.b2)
        if len(found[NAMES[0]]) != self.rank:
            raise ValueError(f"has dim {len(found[NAMES[0]])}, not {self.rank}")
        fits(found, {name: tuple(tensor.shape) for name, tensor in zip(NAMES, own, strict=True)})
        for name, tensor in zip(NAMES, own, strict=True):
            tensor.copy_(found[name] / self.scale if name in NAMES[1::2] else found[name])

    @torch.no_grad()
    def norm(self) -> Tensor:
        return self.delta().norm()

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        for factor in (self.a1, self.a2, self.b1, self.b2):
            factor.mul_(ratio**0.5)


def first_layout(tensors: Mapping[str, Tensor], shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A file's factors, without alpha; LyCORIS 3's are a1 [in, r], a2 [r, in], b1 [out, r], b2 [r, in] and
    have a scale.

    Raises:
        ValueError: not the tensors of a GLoRA of such a layer.
    """
    if not set(NAMES) <= tensors.keys() <= {*NAMES, ALPHA}:
        raise ValueError(f"has {', '.join(sorted(tensors))}; expected {', '.join(NAMES)}, {ALPHA}")
    a1, a2, b1, b2 = (tensors[name].flatten(1) for name in NAMES)
    out, inn = shape
    if b2.shape[0] != out and (a1.shape[0], a2.shape[1], b1.shape[0], b2.shape[1]) == (inn, inn, out, inn):
        rank = len(a2)
        scale = (float(tensors[ALPHA]) or rank) / rank if ALPHA in tensors else 1.0
        a1, a2, b1, b2 = a2, scale * a1, b2, scale * b1
    return dict(zip(NAMES, (a1, a2, b1, b2), strict=True))


@dataclasses.dataclass(frozen=True)
class Glora(Altering, Scaled):
    """GLoRA, of linear layers: those that the WebUI reads it for."""

    algo, mark, late, of_weight = "glora", "a1.weight", True, True

    def make(self, layer: Layer) -> GloraAdapter | None:
        times = 0.0 if layer.kernel else self.times(layer)
        return GloraAdapter(layer, self.dim, (self.alpha or self.dim) * times, self.drops) if times else None

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> GloraAdapter:
        if layer.kernel:
            raise ValueError("is a convolution, and the file a GLoRA; expected linear layers alone")
        rank = len(first_layout(tensors, layer.shape)[NAMES[0]])
        adapter = GloraAdapter(layer, rank, float(rank), self.drops)
        adapter.load(tensors)
        return adapter

    @property
    def drops(self) -> Drops:
        return Drops(self.dropout or 0.0, self.rank_dropout or 0.0, self.module_dropout or 0.0)

    def arguments(self) -> dict[str, object]:
        return {"dropout": self.dropout, "rank_dropout": self.rank_dropout}

    def record(self) -> dict[str, object]:
        own = {"ss_network_dim": self.dim, "ss_network_alpha": self.alpha, "ss_network_dropout": self.dropout}
        dynamic = dict.fromkeys(("ss_network_dim", "ss_network_alpha"), "Dynamic")
        return {**super().record(), **own, **(dynamic if self.dim_from_weights else {})}

    def numbers(self, unet: int, convolutions: int, text: int) -> int:
        """Of widths two LoRAs' but for one output, which is an input."""
        return 2 * self.dim * (unet * self.trains("unet") + text * self.trains("te1"))
