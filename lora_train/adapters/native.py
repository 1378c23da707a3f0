"""Native: thin adapters in tensors of their own, which no WebUI reads, and as the LoRA that they come to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train.adapters.thin import ALPHA, Thin, ThinFamily, factors


class Native(Thin):
    """Saved under its own names; plain, it is exactly a LoRA."""

    def own(self) -> dict[str, Tensor]:
        """Name in a file -> parameter; what is added is proportional to the first."""
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """Copies, for what layers share is in the file of each."""
        found = {name: tensor.detach().clone() for name, tensor in self.own().items()}
        return {**found, ALPHA: torch.tensor(float(self.alpha))}

    def plain(self) -> dict[str, Tensor] | None:
        inner, outer = self.inner.detach().clone(), self.outer.detach()  # layers may share the first
        return factors(outer, inner, self.layer.shape, self.scale * len(inner))

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Another alpha than ours is worked into the first, so that what is added stays what it was."""
        own = self.own()
        if lost := own.keys() - tensors.keys():
            raise ValueError(f"has {', '.join(sorted(tensors))}; expected also {', '.join(sorted(lost))}")
        for name, tensor in own.items():
            if tensor.shape != tensors[name].shape:
                there, here = ("x".join(map(str, t.shape)) for t in (tensors[name], tensor))
                raise ValueError(f"has {name} of {there}, not {here}")
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        if (alpha := alpha_of(tensors, self.rank)) != self.alpha:
            next(iter(own.values())).mul_(alpha / self.alpha)

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        next(iter(self.own().values())).mul_(ratio)


def alpha_of(tensors: Mapping[str, Tensor], rank: int) -> float:
    """A file without alpha means alpha = rank."""
    return (tensors[ALPHA].item() if ALPHA in tensors else 0.0) or float(rank)


@dataclasses.dataclass(frozen=True)
class NativeFamily(ThinFamily):
    """Families of such adapters."""

    own_form = True
    mark = ""

    def record(self) -> dict[str, object]:
        return {"ss_network_module": f"lora_train.{self.mark}", **super().record()}
