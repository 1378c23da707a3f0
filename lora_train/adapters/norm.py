"""Norms: what a norm's weight and bias gain, as LyCORIS' `train_norm` (`modules/norms.py` 3.4.0)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.family import Adapter, Family
from lora_train.adapters.layer import Layer
from lora_train.knobs import knob

WEIGHT, BIAS = "w_norm", "b_norm"  # the WebUI reads none without the other


class NormAdapter(Adapter):
    """Both start at zero, so a fresh one changes nothing.

    Args:
        scale: times what they add; worked into the file.
        rest: chance of being left out of a step.
    """

    def __init__(self, layer: Layer, scale: float = 1.0, rest: float = 0.0):
        super().__init__()
        self.layer, self.scale, self.rest, self.rests = layer, scale, rest, rest > 0
        self.weight = nn.Parameter(torch.zeros(layer.shape))
        self.more = nn.Parameter(torch.zeros(layer.shape))

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        if self.training and self.rest and torch.rand(()) < self.rest:
            return base
        normed = self.layer.op(x.to(base.dtype), self.weight.to(base.dtype))
        more = normed + self.layer.along(self.more, base.ndim)
        return base + self.strength * self.scale * more.to(base.dtype)

    def delta(self) -> Tensor:
        return self.scale * self.weight

    def bias(self) -> Tensor:
        return self.scale * self.more

    def tensors(self) -> dict[str, Tensor]:
        return {WEIGHT: self.delta().detach(), BIAS: self.bias().detach()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        if tensors.keys() != {WEIGHT, BIAS}:
            raise ValueError(f"has {', '.join(sorted(tensors))}; expected {WEIGHT}, {BIAS}")
        for name, own in ((WEIGHT, self.weight), (BIAS, self.more)):
            if tensors[name].numel() != own.numel():
                raise ValueError(f"has {name} of {tensors[name].numel()} values, not {own.numel()}")
            own.copy_(tensors[name].view_as(own) / self.scale)

    @torch.no_grad()
    def norm(self) -> Tensor:
        return self.delta().norm()

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        self.weight.mul_(ratio)
        self.more.mul_(ratio)


@dataclasses.dataclass(frozen=True)
class Normed(Family):
    """Families beside whose adapters the UNet's norms can learn."""

    train_norm: bool = knob(
        False, "Train the norms of the UNet's chosen blocks as well: a weight and a bias for each channel.",
        group="network")  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.train_norm and not self.trains("unet"):
            yield "train_norm = True: expected the UNet to train; the norms are in it"
        elif self.train_norm and not self.normed:
            yield f"train_norm = True: preset {self.choice} has no norms in it; expected full or attn-mlp"

    def put(self, layer: Layer) -> Adapter | None:
        if not layer.norm:
            return super().put(layer)
        scale = self.block_weights.strength(layer.part, layer.path)
        if not (self.train_norm and scale and self.pace(layer) and self.wants_norm(layer)):
            return None
        return NormAdapter(layer, scale, self.module_dropout or 0.0)

    def hold(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
        if not layer.norm:
            return super().hold(layer, tensors)
        adapter = NormAdapter(layer, rest=self.module_dropout or 0.0)
        adapter.load(tensors)
        return adapter

    def record(self) -> dict[str, object]:
        found = super().record()
        return noted(found, {"train_norm": True, "preset": self.choice}) if self.train_norm else found


def noted(found: Mapping[str, object], arguments: Mapping[str, object]) -> dict[str, object]:
    """A file's metadata, with more among its `ss_network_args`; such as only LyCORIS has."""
    known = json.loads(str(found.get("ss_network_args", "{}")))
    args = json.dumps(
        {**known, **{name: str(value) for name, value in arguments.items() if value is not None}}
    )
    return {**found, "ss_network_module": "lycoris.kohya", "ss_network_args": args}
