"""LoRA-FA: LoRA whose first factor stays as it was drawn (Zhang et al. 2023, arXiv:2308.03303).

Gradient, optimizer state and what the backward pass needs of the input are those of the second factor alone.
Files are LoRA's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import LoraAdapter, read
from lora_train.adapters.thin import Drops, ThinFamily


class LoraFaAdapter(LoraAdapter):
    """delta = alpha/rank * up @ down, of which `down` does not learn."""

    late = ()

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops):
        super().__init__(layer, rank, alpha, drops)
        down = self.down.detach()
        del self.down
        self.register_buffer("down", down)

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        self.up.mul_(ratio)


@dataclasses.dataclass(frozen=True)
class LoraFa(ThinFamily):
    """LoRA-FA."""

    mark = "lora"

    def make(self, layer: Layer) -> LoraFaAdapter | None:
        size = self.size(layer)
        return size and LoraFaAdapter(layer, *size, self.drops)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> LoraFaAdapter:
        down, _, alpha = read(tensors)
        adapter = LoraFaAdapter(layer, len(down), alpha, self.drops)
        adapter.load(tensors)
        return adapter

    def record(self) -> dict[str, object]:
        return {"ss_network_module": "networks.lora_fa", **super().record()}
