"""VeRA: two random matrices that all layers share and that stay as they are, and two vectors for each layer
that learn what to take of them (Kopiczko et al. 2023, arXiv:2310.11454)."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.layer import Layer
from lora_train.adapters.native import Native, NativeFamily, alpha_of
from lora_train.adapters.thin import Drops
from lora_train.knobs import knob

SEED = "vera_seed"
BYTES = 4  # of the seed; each is a number that half precision holds exactly


@functools.lru_cache(maxsize=64)
def shared(seed: int, rank: int, count: int, device: torch.device) -> Tensor:
    """Columns [rank, count] of one endless random matrix of variance 1: equal as far as they go, however many
    are asked for."""
    with torch.inference_mode(False), torch.no_grad():  # a host may lend inside one, and we outlive it
        drawn = torch.rand(count, rank, generator=torch.Generator().manual_seed(seed))
        return ((2 * drawn - 1) * math.sqrt(3)).t().contiguous().to(device)


class VeraAdapter(Native):
    """delta = alpha/rank * diag(b) B diag(d) A; b starts at zero, so a fresh adapter changes nothing.

    A is [rank, in * kernel] and B [out, rank], uniform and of the size that Kaiming's start has for them.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops, *, seed: int, start: float = 0.1):
        super().__init__(layer, rank, alpha, drops)
        self.seed = seed
        self.vera_b = nn.Parameter(torch.zeros(layer.shape[0]))
        self.vera_d = nn.Parameter(torch.full((rank,), start))

    @property
    def inner(self) -> Tensor:
        out, inn, *kernel = self.layer.shape
        count = inn * math.prod(kernel)
        frozen = shared(2 * self.seed, self.rank, count, self.vera_d.device).to(self.vera_d)
        return (math.sqrt(2 / count) * self.vera_d[:, None] * frozen).view(self.rank, inn, *kernel)

    @property
    def outer(self) -> Tensor:
        out, kernel = self.layer.shape[0], self.layer.kernel
        frozen = shared(2 * self.seed + 1, self.rank, out, self.vera_b.device).to(self.vera_b).t()
        made = math.sqrt(2 / self.rank) * self.vera_b[:, None] * frozen
        return made.reshape(out, self.rank, *[1 for _ in kernel])

    def own(self) -> dict[str, Tensor]:
        return {"vera_b": self.vera_b, "vera_d": self.vera_d}

    def tensors(self) -> dict[str, Tensor]:
        parts = self.seed.to_bytes(BYTES, "little")
        return {**super().tensors(), SEED: torch.tensor([float(part) for part in parts])}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        if (seed := _seed(tensors)) != self.seed:
            raise ValueError(f"was trained with projection_prng_key = {seed}, not {self.seed}")
        super().load(tensors)


def _seed(tensors: Mapping[str, Tensor]) -> int:
    if SEED not in tensors or tensors[SEED].shape != (BYTES,):
        raise ValueError(f"has no {SEED} of {BYTES} values")
    return int.from_bytes([int(part) % 256 for part in tensors[SEED].tolist()], "little")


@dataclasses.dataclass(frozen=True)
class Vera(NativeFamily):
    """VeRA."""

    projection_prng_key: int = knob(
        0, "Seed of the two random matrices; the file keeps it.", group="network", low=0, high=2**32 - 1
    )
    d_initial: float = knob(
        0.1, "What the vector between the two matrices starts at.", group="network", low=1e-6, high=100
    )

    mark = "vera"

    def make(self, layer: Layer) -> VeraAdapter | None:
        size, start = self.size(layer), self.d_initial
        return size and VeraAdapter(layer, *size, self.drops, seed=self.projection_prng_key, start=start)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> VeraAdapter:
        rank = tensors["vera_d"].numel() if "vera_d" in tensors else 1
        adapter = VeraAdapter(layer, rank, alpha_of(tensors, rank), self.drops, seed=_seed(tensors))
        adapter.load(tensors)
        return adapter

    def record(self) -> dict[str, object]:
        found = super().record()
        args = json.loads(str(found.get("ss_network_args", "{}")))
        own = {"projection_prng_key": str(self.projection_prng_key), "d_initial": str(self.d_initial)}
        return {**found, "ss_network_args": json.dumps({**own, **args})}
