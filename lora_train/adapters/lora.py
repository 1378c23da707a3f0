"""LoRA: a layer learns a matrix of low rank beside its own (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train.adapters.family import Adapter, Ranked
from lora_train.adapters.layer import Layer

DOWN, UP, ALPHA = "lora_down.weight", "lora_up.weight", "alpha"


@dataclasses.dataclass(frozen=True)
class Drops:
    """What is left out while training; each a share, 0 for never."""

    values: float = 0.0
    ranks: float = 0.0
    module: float = 0.0


class LoraAdapter(Adapter):
    """delta = alpha/rank * up @ down. `up` starts at zero, so a fresh adapter changes nothing.

    As in sd-scripts' `networks.lora`: in a convolution `down` has its kernel and stride, `up` is 1x1.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops = Drops()):  # noqa: B008
        super().__init__()
        out, inn, *kernel = layer.shape
        self.layer, self.rank, self.alpha, self.scale = layer, rank, alpha, alpha / rank
        self.drops, self.rests = drops if drops != Drops() else None, drops.module > 0
        self.down = nn.Parameter(torch.empty(rank, inn, *kernel))
        self.up = nn.Parameter(torch.zeros(out, rank, *[1] * len(kernel)))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """The factors are taken in the dtype of `base`: under autocast, and on a model in half precision."""
        dtype = base.dtype
        if self.drops is None or not self.training:
            return self._added(base, self.layer.op(x.to(dtype), self.down.to(dtype)))
        if self.drops.module and torch.rand(()) < self.drops.module:
            return base
        mid = self.layer.op(x.to(dtype), self.down.to(dtype))
        return self._added(base, self._dropped(mid, self.drops))

    def _dropped(self, mid: Tensor, drops: Drops) -> Tensor:
        """Draws from torch's global generator, which checkpointing gives back when it runs this again."""
        if drops.values:
            mid = F.dropout(mid, drops.values)
        if drops.ranks:
            shape = [len(mid), *[1] * (mid.ndim - 1)]
            shape[1 if mid.ndim == 4 else -1] = self.rank
            kept = torch.rand(shape, device=mid.device) >= drops.ranks
            mid = mid * (kept / (1 - drops.ranks)).to(mid)
        return mid

    def _added(self, base: Tensor, mid: Tensor) -> Tensor:
        """base + scale * up(mid) in one pass over base: a fifth to a half off an adapter's time on a CPU, and
        no tensor of the size of `base` in between. (In place it is slower: autograd copies the view.)"""
        up, scale = self.up.to(base.dtype), self.scale * self.strength
        if up.ndim == 2:
            flat = torch.addmm(base.flatten(0, -2), mid.flatten(0, -2), up.t(), alpha=scale)
            return flat.view(base.shape)
        if not base.is_contiguous():  # channels last
            return base + F.conv2d(mid * scale, up)
        ups = up.flatten(1).expand(len(mid), -1, -1)
        return torch.baddbmm(base.flatten(2), ups, mid.flatten(2), alpha=scale).view(base.shape)

    def delta(self) -> Tensor:
        return (self.scale * (self.up.flatten(1) @ self.down.flatten(1))).view(self.layer.shape)

    def tensors(self) -> dict[str, Tensor]:
        return {DOWN: self.down.detach(), UP: self.up.detach(), ALPHA: torch.tensor(float(self.alpha))}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Another alpha than ours is worked into `up`, so that what is added stays what it was."""
        down, up, alpha = _factors(tensors)
        wide, own = (len(up), down.shape[1]), (len(self.up), self.down[0].numel())
        if wide != own:
            raise ValueError(f"is for a layer of {wide[0]} x {wide[1]} values, not {own[0]} x {own[1]}")
        if len(down) != self.rank:
            raise ValueError(f"has dim {len(down)}, not {self.rank}")
        ratio = alpha / len(down) / self.scale
        self.down.copy_(down.view_as(self.down))
        self.up.copy_(up.view_as(self.up) if ratio == 1 else up.view_as(self.up).to(self.up) * ratio)

    @torch.no_grad()
    def norm(self) -> Tensor:
        """From the factors' small squares: |UD|^2 is the sum of (U'U) * (DD'); the product is never made."""
        up, down = self.up.flatten(1), self.down.flatten(1)
        square = ((up.t() @ up) * (down @ down.t())).sum()
        return abs(self.scale) * square.clamp(min=0).sqrt()

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        self.up.mul_(ratio**0.5)
        self.down.mul_(ratio**0.5)


@dataclasses.dataclass(frozen=True)
class Lora(Ranked):
    """LoRA; with conv_dim, LoCon."""

    mark = "lora"  # what its tensors' names begin with

    def make(self, layer: Layer) -> LoraAdapter | None:
        size = self.size(layer)
        return size and LoraAdapter(layer, *size, self.drops)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> LoraAdapter:
        down, _, alpha = _factors(tensors)
        adapter = LoraAdapter(layer, len(down), alpha, self.drops)
        adapter.load(tensors)
        return adapter

    @property
    def drops(self) -> Drops:
        return Drops(self.dropout or 0.0, self.rank_dropout or 0.0, self.module_dropout or 0.0)

    def record(self) -> dict[str, object]:
        return {"ss_network_module": "networks.lora", **super().record()}


def _factors(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, float]:
    """down [rank, in * kernel], up [out, rank], alpha; a file without alpha means alpha = rank.

    Raises:
        ValueError: not the tensors of a LoRA.
    """
    if not {DOWN, UP} <= tensors.keys() <= {DOWN, UP, ALPHA}:
        raise ValueError(f"has {', '.join(sorted(tensors))}; expected {DOWN}, {UP}, {ALPHA}")
    down, up = tensors[DOWN].flatten(1), tensors[UP].flatten(1)
    if len(down) != up.shape[1]:
        raise ValueError(f"has factors of dims {len(down)} and {up.shape[1]}, which do not fit together")
    alpha = tensors[ALPHA].item() if ALPHA in tensors else 0.0
    return down, up, alpha or float(len(down))
