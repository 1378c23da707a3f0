"""Kept: what a layer's earlier adapters came to, which stays beside the layer while a fresh one learns."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train.adapters.family import Adapter
from lora_train.adapters.layer import Layer

UP, DOWN, WHOLE = "kept_up", "kept_down", "kept_whole"


class Kept(nn.Module):
    """Two factors that grow, up [out, rank] and down [rank, in * kernel], as long as they are smaller than
    the matrix that they make; that matrix from then on. The host's weight is never written to."""

    def __init__(self, layer: Layer):
        super().__init__()
        self.layer = layer
        for name in (UP, DOWN, WHOLE):
            self.register_buffer(name, None)

    @property
    def thin(self) -> tuple[Tensor, Tensor] | None:
        return None if self.kept_up is None else (self.kept_up, self.kept_down)

    @torch.no_grad()
    def add(self, adapter: Adapter) -> None:
        """What an adapter adds now, at strength 1."""
        more = adapter.thin()
        if more is not None and self.kept_whole is None:
            before = self.thin or (more[0][:, :0], more[1][:0])
            up, down = torch.cat([before[0], more[0]], 1), torch.cat([before[1], more[1]])
            if up.numel() + down.numel() < len(up) * down.shape[1]:
                self.kept_up, self.kept_down = up, down
                return
        self.kept_whole = (self.delta() + adapter.delta()).clone()
        self.kept_up = self.kept_down = None

    def delta(self) -> Tensor | float:
        if self.kept_whole is not None:
            return self.kept_whole
        return 0.0 if self.kept_up is None else (self.kept_up @ self.kept_down).view(self.layer.shape)

    def forward(self, x: Tensor, out: Tensor, strength: float) -> Tensor:
        """out: what comes of the layer and its adapter."""
        dtype = out.dtype
        if self.kept_whole is not None:
            return out + strength * self.layer.op(x.to(dtype), self.kept_whole.to(dtype))
        up, down = self.kept_up.to(dtype), self.kept_down.to(dtype)
        mid = self.layer.op(x.to(dtype), down.view(len(down), *self.layer.shape[1:]))
        if self.layer.kernel:
            return out + strength * F.conv2d(mid, up[..., None, None])
        return out + strength * F.linear(mid, up)

    def tensors(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.named_buffers()}

    def load(self, tensors: Mapping[str, Tensor], device: torch.device | None = None) -> None:
        """device: to hold them on; None: the layer's. Raises ValueError: they are not of this layer."""
        found = {name: tensors.get(name) for name in (UP, DOWN, WHOLE)}
        out, count = len(self.layer.weight()), self.layer.weight()[0].numel()
        up, down, whole = found.values()
        thin = up is not None and down is not None and up.ndim == down.ndim == 2
        fits = thin and (len(up), down.shape[1], up.shape[1]) == (out, count, len(down))
        if not fits and (whole is None or whole.shape != self.layer.shape):
            raise ValueError("has kept what is not of this layer's shape")
        device = device or self.layer.weight().device
        for name, tensor in found.items():  # copied: where it is not aligned, products differ by a rounding
            setattr(self, name, None if tensor is None else tensor.float().to(device, copy=True))


def parted(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of a layer's tensors in a file: the adapter's, and what is kept beside it."""
    kept = {name: tensor for name, tensor in tensors.items() if name in (UP, DOWN, WHOLE)}
    return {name: tensor for name, tensor in tensors.items() if name not in kept}, kept
