"""(IA)3: each of a layer's outputs, or inputs, is made larger or smaller (Liu et al. 2022, arXiv:2205.05638).

Tensors are LyCORIS' (`modules/ia3.py` 3.4.0): what each is multiplied with, less 1.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.altered import Altered, Altering, fits
from lora_train.adapters.chosen import PRESETS
from lora_train.adapters.layer import Layer
from lora_train.knobs import knob

WEIGHT, ON_INPUT = "weight", "on_input"
INPUTS = re.compile(r"\.(ff\.net\.2|mlp\.fc2)$")  # layers that are always taken at their inputs


class Ia3Adapter(Altered):
    """delta = w W, w over the rows or the columns of W. It starts at zero: a fresh one changes nothing."""

    def __init__(self, layer: Layer, scale: float = 1.0, rest: float = 0.0, *, inputs: bool = False):
        super().__init__(layer, scale, rest)
        self.inputs = inputs
        self.weight = nn.Parameter(torch.zeros(layer.shape[1] if inputs else layer.shape[0]))

    def added(self, x: Tensor, base: Tensor) -> Tensor:
        w = self.scale * self.weight.to(base.dtype)
        if not self.inputs:
            return self.layer.along(w, base.ndim) * self.product(base)
        w = w.view(-1, 1, 1) if self.layer.kernel else w
        return self.layer.op(x * w, self.layer.weight().to(base.dtype))

    def delta(self) -> Tensor:
        whole = self.layer.weight().to(self.weight)
        return whole * (self.scale * self.weight).view(1 if self.inputs else -1, *self._sides())

    def _sides(self) -> list[int]:
        rest = [1] * len(self.layer.kernel)
        return [-1, *rest] if self.inputs else [1, *rest]

    def tensors(self) -> dict[str, Tensor]:
        w = (self.scale * self.weight).detach()
        shape = [1, len(w), *[1] * len(self.layer.kernel)] if self.layer.kernel else [len(w)]
        return {WEIGHT: w.view(shape), ON_INPUT: torch.tensor(float(self.inputs))}

    def plain(self) -> dict[str, Tensor] | None:
        """The stock WebUI has no formula for the outputs of a convolution."""
        if self.inputs or not self.layer.kernel:
            return None
        return {"diff": self.delta().detach()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        found = {name: tensor.flatten() for name, tensor in tensors.items()}
        fits(found, {WEIGHT: tuple(self.weight.shape), ON_INPUT: (1,)})
        if bool(found[ON_INPUT]) != self.inputs:
            raise ValueError(f"acts on its {_side(not self.inputs)}, not on its {_side(self.inputs)}")
        self.weight.copy_(found[WEIGHT] / self.scale)


def _side(inputs: bool) -> str:
    return "inputs" if inputs else "outputs"


@dataclasses.dataclass(frozen=True)
class Ia3(Altering):
    """(IA)3."""

    train_on_input: bool = knob(
        False, "Make the inputs of every layer larger or smaller, rather than its outputs. Those of the "
        "second feed-forward layers always are.", group="network")  # fmt: skip

    algo, mark, linear, of_weight = "ia3", "on", True, True

    def _preset(self, layer: Layer) -> bool:
        """Without a preset those that it was made for."""
        chosen = self if self.preset is not None else dataclasses.replace(self, preset="ia3")
        return super(Ia3, chosen)._preset(layer)

    def _groups(self) -> tuple[re.Pattern[str], ...]:
        return PRESETS[self.choice].unet if self.layer_map is None else super()._groups()

    @property
    def choice(self) -> str:
        return self.preset or "ia3"

    def make(self, layer: Layer) -> Ia3Adapter | None:
        if not (scale := self.times(layer)):
            return None
        inputs = self.train_on_input or INPUTS.search(layer.path) is not None
        return Ia3Adapter(layer, scale, self.rest, inputs=inputs)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Ia3Adapter:
        inputs = ON_INPUT in tensors and bool(tensors[ON_INPUT].any())
        adapter = Ia3Adapter(layer, rest=self.rest, inputs=inputs)
        adapter.load(tensors)
        return adapter

    def arguments(self) -> dict[str, object]:
        return {"train_on_input": True} if self.train_on_input else {}

    def numbers(self, unet: int, convolutions: int, text: int) -> int:
        """Of the layers that it was made for; it takes 27 in 100 of all inputs and outputs."""
        return 27 * (unet * self.trains("unet") + text * self.trains("te1")) // 100
