"""Thin: adapters whose matrix is the product of a tall factor and a wide one, whatever those are made of."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lora_train.adapters.family import Adapter, Ranked
from lora_train.adapters.layer import Layer

DOWN, UP, MID, ALPHA = "lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha"


@dataclasses.dataclass(frozen=True)
class Drops:
    """What is left out while training; each a share, 0 for never."""

    values: float = 0.0
    ranks: float = 0.0
    module: float = 0.0


class Thin(Adapter):
    """delta = alpha/rank * outer @ inner."""

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops = Drops()):  # noqa: B008
        super().__init__()
        self.layer, self.rank, self.alpha, self.scale = layer, rank, alpha, alpha / rank
        self.drops, self.rests = drops if drops != Drops() else None, drops.module > 0
        self.scalar: Tensor | None = None  # a factor that is learned

    @property
    def inner(self) -> Tensor:
        """The factor that the input goes into; [any rank, in, ...]."""
        raise NotImplementedError

    @property
    def outer(self) -> Tensor:
        """The factor that the output comes out of; [out, the same rank, ...]."""
        raise NotImplementedError

    @property
    def times(self) -> float | Tensor:
        """What the product is multiplied with."""
        return self.scale if self.scalar is None else self.scale * self.scalar

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """The factors are taken in the dtype of `base`: under autocast, and on a model in half precision."""
        dtype = base.dtype
        if self.drops is None or not self.training:
            return self._added(base, self._between(x.to(dtype)), self.outer, self.scale)
        if self.drops.module and torch.rand(()) < self.drops.module:
            return base
        mid = self._dropped(self._between(x.to(dtype)), self.drops)
        return self._added(base, mid, self.outer, self.scale)

    def _between(self, x: Tensor) -> Tensor:
        """What comes out of the factors before `outer`."""
        return self.layer.op(x, self.inner.to(x.dtype))

    def _dropped(self, mid: Tensor, drops: Drops) -> Tensor:
        """Draws from torch's global generator, which checkpointing gives back when it runs this again."""
        if drops.values:
            mid = F.dropout(mid, drops.values)
        if drops.ranks:
            axis = 1 if mid.ndim == 4 else -1
            shape = [len(mid), *[1] * (mid.ndim - 1)]
            shape[axis] = mid.shape[axis]
            kept = torch.rand(shape, device=mid.device) >= drops.ranks
            mid = mid * (kept / (1 - drops.ranks)).to(mid)
        return mid

    def _added(self, base: Tensor, mid: Tensor, outer: Tensor, scale: float) -> Tensor:
        """base + scale * outer(mid) in one pass over base: a fifth to a half off an adapter's time on a CPU,
        and no tensor of the size of `base` in between. (In place it is slower: autograd copies the view.)"""
        up, scale = outer.to(base.dtype), scale * self.strength
        if self.scalar is not None:
            mid = self.scalar.to(mid.dtype) * mid
        if up.ndim == 2:
            flat = torch.addmm(base.flatten(0, -2), mid.flatten(0, -2), up.t(), alpha=scale)
            return flat.view(base.shape)
        if not base.is_contiguous():  # channels last
            return base + F.conv2d(mid * scale, up)
        ups = up.flatten(1).expand(len(mid), -1, -1)
        return torch.baddbmm(base.flatten(2), ups, mid.flatten(2), alpha=scale).view(base.shape)

    def delta(self) -> Tensor:
        return (self.times * (self.outer.flatten(1) @ self.inner.flatten(1))).view(self.layer.shape)

    @torch.no_grad()
    def thin(self) -> tuple[Tensor, Tensor] | None:
        return self.times * self.outer.flatten(1), self.inner.flatten(1)

    @torch.no_grad()
    def norm(self) -> Tensor:
        """From the factors' small squares: |UD|^2 is the sum of (U'U) * (DD'); the product is never made."""
        up, down = self.outer.flatten(1), self.inner.flatten(1)
        square = ((up.t() @ up) * (down @ down.t())).sum()
        return abs(self.times) * square.clamp(min=0).sqrt()


def factors(up: Tensor, down: Tensor, shape: tuple[int, ...], alpha: float) -> dict[str, Tensor]:
    """A LoRA's tensors for a layer of a shape.

    Args:
        up: [out, rank]. down: [rank, in * kernel].
    """
    rank, kernel = len(down), shape[2:]
    return {
        DOWN: down.detach().reshape(rank, shape[1], *kernel),
        UP: up.detach().reshape(shape[0], rank, *[1] * len(kernel)),
        ALPHA: torch.tensor(float(alpha)),
    }


@dataclasses.dataclass(frozen=True)
class ThinFamily(Ranked):
    """Families of such adapters."""

    @property
    def drops(self) -> Drops:
        return Drops(self.dropout or 0.0, self.rank_dropout or 0.0, self.module_dropout or 0.0)
