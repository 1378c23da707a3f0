"""Tied-LoRA: layers of one shape learn two factors together, and two vectors each (Renduchintala et al. 2023,
arXiv:2311.09578)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.family import Adapter
from lora_train.adapters.layer import Layer
from lora_train.adapters.native import Native, NativeFamily, alpha_of
from lora_train.adapters.thin import Drops


class Pair(nn.Module):
    """a [rank, in * kernel] and b [out, rank], of all layers of a shape; b starts at zero."""

    def __init__(self, out: int, inn: int, rank: int):
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, inn))
        self.b = nn.Parameter(torch.zeros(out, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))


class TiedAdapter(Native):
    """delta = alpha/rank * diag(v) b diag(u) a (equation 2); u and v start at 1.

    Made alone it has a pair of its own. In a network the first of a shape keeps its, and the others take it
    over: `join`.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops):
        super().__init__(layer, rank, alpha, drops)
        out, inn, *kernel = layer.shape
        self.tied_u = nn.Parameter(torch.ones(rank))
        self.tied_v = nn.Parameter(torch.ones(out))
        self.kept: Pair | None = Pair(out, inn * math.prod(kernel), rank)
        self.taken: tuple[Pair, ...] = ()  # no part of this module: it is another's
        self.fresh = True

    @property
    def pair(self) -> Pair:
        return self.taken[0] if self.taken else self.kept

    def join(self, others: dict[object, Adapter]) -> None:
        """Of what a file held, only equal pairs become one."""
        first = others.setdefault((self.layer.part, self.layer.shape, self.rank), self)
        theirs, mine = first.pair, self.pair
        if first is self or not (
            (self.fresh and first.fresh) or (torch.equal(theirs.a, mine.a) and torch.equal(theirs.b, mine.b))
        ):
            return
        self.kept, self.taken = None, (theirs,)

    @property
    def inner(self) -> Tensor:
        return self.pair.a.view(self.rank, *self.layer.shape[1:])

    @property
    def outer(self) -> Tensor:
        made = self.tied_v[:, None] * self.pair.b * self.tied_u
        return made.view(*made.shape, *[1 for _ in self.layer.kernel])

    def own(self) -> dict[str, Tensor]:
        pair = self.pair
        return {"tied_v": self.tied_v, "tied_u": self.tied_u, "tied_a": pair.a, "tied_b": pair.b}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        self.fresh = False


@dataclasses.dataclass(frozen=True)
class Tied(NativeFamily):
    """Tied-LoRA."""

    mark, copies = "tied", 2

    def make(self, layer: Layer) -> TiedAdapter | None:
        size = self.size(layer)
        return size and TiedAdapter(layer, *size, self.drops)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> TiedAdapter:
        rank = tensors["tied_u"].numel() if "tied_u" in tensors else 1
        adapter = TiedAdapter(layer, rank, alpha_of(tensors, rank), self.drops)
        adapter.load(tensors)
        return adapter
