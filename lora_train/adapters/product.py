"""What families share whose matrix is made of factors in another way than LoRA's: layers, rows left out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.family import Adapter, Ranked
from lora_train.adapters.layer import Layer

ALPHA = "alpha"


@dataclasses.dataclass(frozen=True)
class Drops:
    """What is left out while training; each a share, 0 for never."""

    rows: float = 0.0
    module: float = 0.0


class Product(Adapter):
    """An adapter whose factors are named as its file names them."""

    factors: tuple[str, ...] = ()  # names of the parameters that are there

    def __init__(self, layer: Layer, alpha: float, rank: int, drops: Drops, *, scalar: bool = False):
        super().__init__()
        self.layer, self.alpha, self.rank, self.scale = layer, alpha, rank, alpha / rank
        self.drops, self.rests = drops, drops.module > 0
        self.scalar = nn.Parameter(torch.zeros(())) if scalar else None

    @property
    def times(self) -> float | Tensor:
        """What the product is multiplied with."""
        return self.scale if self.scalar is None else self.scale * self.scalar

    def added(self, x: Tensor) -> Tensor:
        """What the layer's output gains, at strength 1, in the dtype of x."""
        raise NotImplementedError

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        """The factors are taken in the dtype of `base`: under autocast, and on a model in half precision."""
        if self.training and self.drops.module and torch.rand(()) < self.drops.module:
            return base
        more = self.added(x.to(base.dtype))
        if self.training and self.drops.rows:
            more = more * self._kept(more)
        return base + self.strength * more

    def _kept(self, more: Tensor) -> Tensor:
        """Outputs that stay, for each sample anew. LyCORIS drops those of a whole batch, unscaled."""
        shape = [len(more), *[1] * (more.ndim - 1)]
        shape[1 if more.ndim == 4 else -1] = self.layer.shape[0]
        kept = torch.rand(shape, device=more.device) >= self.drops.rows
        return (kept / (1 - self.drops.rows)).to(more)

    def tensors(self) -> dict[str, Tensor]:
        found = {name: getattr(self, name).detach() for name in self.factors}
        if self.scalar is not None:
            found[self.factors[0]] = found[self.factors[0]] * self.scalar.detach()
        return {**found, ALPHA: torch.tensor(float(self.alpha))}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Another alpha than ours is worked into the first factor, so that what is added stays the same."""
        if tensors.keys() - {ALPHA} != set(self.factors):
            raise ValueError(f"has {', '.join(sorted(tensors))}; expected {', '.join(self.factors)}, {ALPHA}")
        for name in self.factors:
            own = getattr(self, name)
            if own.shape != tensors[name].shape:
                there, here = ("x".join(map(str, shape)) for shape in (tensors[name].shape, own.shape))
                raise ValueError(f"has {name} of {there}, not {here}")
        for name in self.factors:
            getattr(self, name).copy_(tensors[name])
        ratio = self.scale_of(tensors) / self.scale
        if ratio != 1:
            getattr(self, self.factors[0]).mul_(ratio)
        if self.scalar is not None:
            self.scalar.fill_(1.0)

    def scale_of(self, tensors: Mapping[str, Tensor]) -> float:
        """What a file multiplies the product with."""
        alpha = tensors[ALPHA].item() if ALPHA in tensors else 0.0
        return (alpha or self.rank) / self.rank

    @torch.no_grad()
    def norm(self) -> Tensor:
        return self.delta().norm()

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        for name in self.factors:
            getattr(self, name).mul_(ratio ** (1 / len(self.factors)))


@dataclasses.dataclass(frozen=True)
class LycorisFamily(Ranked):
    """Families whose reference is LyCORIS."""

    algo, mark = "", ""  # LyCORIS' name, and what the tensors' names begin with

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.dropout:
            yield (
                f"dropout = {self.dropout}: {self.algo} has no values between its factors to drop; expected "
                "rank_dropout or module_dropout in its place"
            )

    @property
    def drops(self) -> Drops:
        return Drops(self.rank_dropout or 0.0, self.module_dropout or 0.0)

    def record(self) -> dict[str, object]:
        found = {"ss_network_module": "lycoris.kohya", **super().record()}
        return {**found, "ss_network_args": self.arguments(found.get("ss_network_args"))}

    def arguments(self, before: object) -> str:
        """`ss_network_args`, with what LyCORIS calls the family."""
        kept = json.loads(str(before)) if before else {}
        own = {"algo": self.algo, "preset": self.choice}
        return json.dumps({**{k: str(v) for k, v in own.items() if v is not None}, **kept})
