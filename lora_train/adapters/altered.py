"""What families share that act on a layer's own weight or output, and have no factors, rank or alpha."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train.adapters.family import Adapter
from lora_train.adapters.layer import Layer
from lora_train.adapters.norm import Normed
from lora_train.adapters.paced import ROWS
from lora_train.knobs import flat


class Altered(Adapter):
    """An adapter that adds what it makes of the layer's output.

    Args:
        scale: times what it adds: the strength of the layer's block.
        rest: chance of being left out of a step.
    """

    def __init__(self, layer: Layer, scale: float = 1.0, rest: float = 0.0):
        super().__init__()
        self.layer, self.scale, self.rest, self.rests = layer, scale, rest, rest > 0

    def added(self, x: Tensor, base: Tensor) -> Tensor:
        """What the layer's output gains, at strength 1, in the dtype of `base`, which x has too."""
        raise NotImplementedError

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        if self.training and self.rest and torch.rand(()) < self.rest:
            return base
        return base + self.strength * self.added(x.to(base.dtype), base)

    def product(self, base: Tensor) -> Tensor:
        """The layer's output without its bias: of what comes before it in the same layer too."""
        if (bias := self.layer.bias) is None:
            return base
        return base - self.layer.along(bias.detach().to(base.dtype), base.ndim)

    @torch.no_grad()
    def norm(self) -> Tensor:
        return self.delta().norm()

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        """What is added goes with its parameters."""
        for parameter in self.parameters():
            parameter.mul_(ratio)


@dataclasses.dataclass(frozen=True)
class Altering(Normed):
    """Families of them; their reference is LyCORIS."""

    algo, mark = "", ""  # its name, and what the tensors' names begin with

    def times(self, layer: Layer) -> float:
        """Strength of a layer's adapter; 0 where it gets none."""
        return self.block_weights.strength(layer.part, layer.path) if self.wants(layer) else 0.0

    @property
    def rest(self) -> float:
        return self.module_dropout or 0.0

    def arguments(self) -> dict[str, object]:
        """What LyCORIS is told beyond what all are."""
        return {}

    def record(self) -> dict[str, object]:
        known = flat(self)
        told = {name: known[name] for name in ("module_dropout", *ROWS)}
        args = {
            "algo": self.algo,
            "preset": self.choice,
            **told,
            "train_norm": self.train_norm or None,
            **self.arguments(),
        }
        texts = {
            name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
            for name, value in args.items()
            if value is not None
        }
        return {
            "ss_network_module": "lycoris.kohya",
            "ss_network_dim": None,
            "ss_network_alpha": None,
            "ss_network_args": json.dumps(texts),
        }


def fits(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], *more: str) -> None:
    """Raises ValueError: a file's tensors are others than these, or of other sizes.

    Args:
        more: names of tensors that may be there.
    """
    if not shapes.keys() <= tensors.keys() <= {*shapes, *more}:
        raise ValueError(f"has {', '.join(sorted(tensors))}; expected {', '.join((*shapes, *more))}")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            there, here = ("x".join(map(str, sizes)) for sizes in (tensors[name].shape, shape))
            raise ValueError(f"has {name} of {there}, not {here}")
