"""DyLoRA: a LoRA whose first ranks can be taken by themselves (Valipour et al. 2022, arXiv:2210.07558).

Files are LoRA's, of the whole rank.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import LoraAdapter, read
from lora_train.adapters.thin import Drops, ThinFamily, factors
from lora_train.knobs import knob


class DyloraAdapter(LoraAdapter):
    """While training, each time another number of ranks: those up to a block drawn by chance, of which only
    that block learns, at alpha/rank * sqrt(rank / number) as in sd-scripts' `networks.dylora`.

    There all ranks are computed whatever is drawn, so that the first never learn to do without the others.

    Args:
        unit: ranks of a block.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops, *, unit: int):
        super().__init__(layer, rank, alpha, drops)
        self.unit = unit

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x, base)
        if self.drops is not None and self.drops.module and torch.rand(()) < self.drops.module:
            return base
        # torch's global generator, which checkpointing gives back when it runs this again
        first = int(torch.randint(self.rank // self.unit, ())) * self.unit
        last = first + self.unit
        down = torch.cat([self.down[:first].detach(), self.down[first:last]])
        up = torch.cat([self.up[:, :first].detach(), self.up[:, first:last]], 1)
        mid = self.layer.op(x.to(base.dtype), down.to(base.dtype))
        if self.drops is not None:
            mid = self._dropped(mid, self.drops)
        return self._added(base, mid, up, self.at(last) / last)

    def at(self, number: int) -> float:
        """The alpha of its first ranks by themselves."""
        return self.scale * math.sqrt(self.rank * number)

    def cut(self, rank: int) -> dict[str, Tensor]:
        number = min(self.rank, max(self.unit, rank // self.unit * self.unit))
        up, down = self.up[:, :number].flatten(1), self.down[:number].flatten(1)
        return factors(up, down, self.layer.shape, self.at(number))


@dataclasses.dataclass(frozen=True)
class Dylora(ThinFamily):
    """DyLoRA."""

    unit: int = knob(
        1, "Ranks that are trained at a time, so the steps in which ranks can be taken off later; dim is a "
        "multiple of it.", group="network", low=1, high=512)  # fmt: skip

    mark, late, own_form = "lora", True, True

    def check(self) -> Iterable[str]:
        yield from super().check()
        blocks = [("block_dims", self.block_dims), ("conv_block_dims", self.conv_block_dims)]
        sizes = [("dim", self.dim), ("conv_dim", self.conv_dim)]
        sizes += [(name, dim) for name, dims in blocks for dim in dict.fromkeys(dims or ())]
        for name, dim in sizes:
            if dim and dim % self.unit:
                yield f"{name} = {dim}: expected a multiple of unit, {self.unit}"

    def make(self, layer: Layer) -> DyloraAdapter | None:
        size = self.size(layer)
        return size and DyloraAdapter(layer, *size, self.drops, unit=self.unit)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> DyloraAdapter:
        down, _, alpha = read(tensors)
        if len(down) % self.unit:
            raise ValueError(f"has dim {len(down)}, which is no multiple of unit, {self.unit}")
        adapter = DyloraAdapter(layer, len(down), alpha, self.drops, unit=self.unit)
        adapter.load(tensors)
        return adapter

    def record(self) -> dict[str, object]:
        found = {"ss_network_module": "networks.dylora", **super().record()}
        args = json.loads(str(found.get("ss_network_args", "{}")))
        return {**found, "ss_network_args": json.dumps({"unit": str(self.unit), **args})}
