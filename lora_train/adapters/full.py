"""Full: a layer's whole weight, and its bias, as what they gain (LyCORIS' `modules/full.py` 3.4.0)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.altered import Altered, Altering, fits
from lora_train.adapters.fourfold import piece
from lora_train.adapters.layer import Layer

DIFF, BIAS = "diff", "diff_b"


class FullAdapter(Altered):
    """delta is a parameter; it starts at zero, so a fresh one changes nothing.

    Args:
        biased: whether the bias learns too.
    """

    def __init__(self, layer: Layer, scale: float = 1.0, rest: float = 0.0, *, biased: bool = False):
        super().__init__(layer, scale, rest)
        self.diff = nn.Parameter(torch.zeros(layer.shape))
        self.more = nn.Parameter(torch.zeros(layer.shape[0])) if biased else None

    def added(self, x: Tensor, base: Tensor) -> Tensor:
        more = self.layer.op(x, self.diff.to(base.dtype))
        if self.more is not None:
            more = more + self.layer.along(self.more.to(base.dtype), base.ndim)
        return self.scale * more

    def delta(self) -> Tensor:
        return self.scale * self.diff

    def bias(self) -> Tensor | None:
        return None if self.more is None else self.scale * self.more

    def tensors(self) -> dict[str, Tensor]:
        bias = self.bias()
        return {DIFF: self.delta().detach(), **({} if bias is None else {BIAS: bias.detach()})}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        biases = {} if self.more is None else {BIAS: tuple(self.more.shape)}
        fits(tensors, {DIFF: self.layer.shape, **{name: biases[name] for name in biases if name in tensors}})
        self.diff.copy_(tensors[DIFF] / self.scale)
        if self.more is not None:
            self.more.copy_(tensors[BIAS] / self.scale if BIAS in tensors else torch.zeros_like(self.more))


def biased(layer: Layer) -> bool:
    """Whether the stock WebUI changes the layer's bias: of OpenCLIP's attention only that of the way out."""
    return layer.bias is not None and piece(layer) in (None, "out_proj")


@dataclasses.dataclass(frozen=True)
class Full(Altering):
    """The whole weight of each layer."""

    algo, mark, linear = "full", "diff", True

    def make(self, layer: Layer) -> FullAdapter | None:
        scale = self.times(layer)
        return FullAdapter(layer, scale, self.rest, biased=biased(layer)) if scale else None

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> FullAdapter:
        adapter = FullAdapter(layer, rest=self.rest, biased=biased(layer) or BIAS in tensors)
        adapter.load(tensors)
        return adapter

    def numbers(self, unet: int, convolutions: int, text: int) -> int:
        """A layer's area over its width, on average: 630 to 830 in the UNet, 850 to 950 of convolutions, 510
        to 780 in text encoders."""
        wide = 900 * convolutions * self.resnets
        return (700 * unet + wide) * self.trains("unet") + 650 * text * self.trains("te1")
