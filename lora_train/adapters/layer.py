"""Layer: a frozen layer of the model, as an adapter sees it."""

from __future__ import annotations

import dataclasses
import functools

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

NORMS = {"num_groups", "normalized_shape"}  # what a GroupNorm and a LayerNorm know of themselves


@dataclasses.dataclass(frozen=True, eq=False)
class Layer:
    """A linear or convolution layer, or one of the UNet's norms. Told by its weight's shape, because hosts
    bring classes of their own."""

    part: str  # "unet", "te1" or "te2"
    path: str  # in the house's language, see names.py
    module: nn.Module
    arch: str = "sd1"  # one of names.ARCHS, for the layer's key in a file

    @classmethod
    def of(cls, part: str, path: str, module: nn.Module, arch: str = "sd1") -> Layer | None:
        """None: not a layer that an adapter could be put on."""
        weight = getattr(module, "weight", None)
        if not isinstance(weight, Tensor) or weight.ndim not in (1, 2, 4) or isinstance(module, nn.Embedding):
            return None
        if weight.ndim == 1 and (part != "unet" or not NORMS & vars(module).keys() or module.bias is None):
            return None
        return cls(part, path, module, arch)

    @property
    def norm(self) -> bool:
        """Whether it is a norm, whose weight has one value for each channel."""
        return len(self.shape) == 1

    @property
    def key(self) -> str:
        return f"{self.part}.{self.path}"

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """(out, in), or (out, in, height, width) of a convolution; (channels,) of a norm. Asked once, for a
        host may have to make the weight to tell it."""
        return tuple(self.module.weight.shape)

    @property
    def kernel(self) -> tuple[int, ...]:
        """() of a linear layer and of a norm."""
        return self.shape[2:]

    @property
    def bias(self) -> Tensor | None:
        return self.module.bias

    def weight(self) -> Tensor:
        """The frozen weight itself; whoever writes to it gives it back."""
        return self.module.weight.detach()

    def op(self, x: Tensor, w: Tensor) -> Tensor:
        """What the layer does, with another weight and no bias. w: [any, in], or [any, in, height, width].

        A convolution keeps stride, padding and dilation for a kernel of its own size; one of another size is
        taken as a plain 1x1 convolution, as the factors of an adapter are.
        """
        if w.ndim == 1:
            return self._normed(x, w)
        if w.ndim == 2:
            return F.linear(x, w)
        if tuple(w.shape[2:]) != self.kernel:
            return F.conv2d(x, w)
        m = self.module
        return F.conv2d(x, w, None, m.stride, m.padding, m.dilation)

    def along(self, values: Tensor, axes: int) -> Tensor:
        """A value for each output, shaped to act on what the layer gives.

        Args:
            axes: of what it gives: a convolution and a GroupNorm have their channels in the second.
        """
        second = self.kernel or "num_groups" in vars(self.module)
        return values.view(-1, *[1] * (axes - 2)) if second else values

    def _normed(self, x: Tensor, w: Tensor) -> Tensor:
        m = self.module
        if "num_groups" in vars(m):
            return F.group_norm(x, m.num_groups, w, None, m.eps)
        return F.layer_norm(x, m.normalized_shape, w, None, m.eps)
