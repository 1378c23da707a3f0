"""DoRA: a layer's weight as directions, which an adapter turns, and magnitudes of their own.

Liu et al. 2024, arXiv:2402.09353, equation 5: W' = m (W + dW) / |W + dW|, the norm without a gradient
(section 4.3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.family import Adapter, Ranked
from lora_train.adapters.layer import Layer
from lora_train.adapters.norm import Normed, noted
from lora_train.knobs import knob

MAGNITUDES = "dora_scale"


class Magnitudes(Adapter):
    """An adapter and, beside it, a magnitude for each input or each output of the layer.

    They start as the norms that there are, so a fresh one changes nothing.

    Args:
        turned: the adapter; what it adds turns the directions.
        outputs: a magnitude for each output. The stock WebUI takes the norms over the inputs whatever the
            magnitudes' shape says, so that it reads only the others; see `plain`.
    """

    shrinks = False

    def __init__(self, layer: Layer, turned: Adapter, *, outputs: bool = False):
        super().__init__()
        self.layer, self.turned, self.outputs = layer, turned, outputs
        self.rests, self.late = turned.rests, turned.late
        self.magnitudes = nn.Parameter(self._norms())

    @torch.no_grad()
    def _norms(self) -> Tensor:
        """Of the directions: [1, in] or [out, 1], and as many axes of 1 as the kernel has."""
        kept = 0 if self.outputs else 1
        whole = self._directions()
        return whole.square().sum([axis for axis in range(whole.ndim) if axis != kept], keepdim=True).sqrt()

    def _directions(self) -> Tensor:
        """In float32 at least: in half precision what is added is lost beside the weight."""
        delta = self.turned.delta()
        delta = delta.to(torch.promote_types(delta.dtype, torch.float32))  # autocast makes it half
        return self.layer.weight().to(delta) + delta

    def _times(self) -> Tensor:
        """What each direction is multiplied with. A direction of zeros stays one."""
        norms = self._norms()
        return self.magnitudes / norms.clamp(min=torch.finfo(norms.dtype).tiny)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        layer, dtype, times = self.layer, base.dtype, self._times().flatten()
        if self.outputs:
            bias = 0 if layer.bias is None else layer.along(layer.bias.detach().to(dtype), base.ndim)
            plain = base - bias
            turned = self.turned(x, plain)
            if turned is plain:  # it rests in this step
                return base
            return base + self.strength * (layer.along(times.to(dtype), base.ndim) * turned - plain)
        shaped = times.view(-1, 1, 1) if layer.kernel else times
        x = x.to(dtype)
        stretched = layer.op(x * (shaped - 1).to(dtype), layer.weight().to(dtype))
        more = self.turned(x * shaped.to(dtype), stretched)
        return base if more is stretched else base + self.strength * more

    def delta(self) -> Tensor:
        whole = self._directions() * self._times()
        return whole - self.layer.weight().to(whole)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.turned.tensors(), MAGNITUDES: self.magnitudes.detach()}

    def plain(self) -> dict[str, Tensor] | None:
        if self.outputs:
            return {"diff": self.delta().detach()}
        turned = self.turned.plain()
        return turned and {**turned, MAGNITUDES: self.magnitudes.detach()}

    @torch.no_grad()
    def norm(self) -> Tensor:
        return self.delta().norm()

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """A file without magnitudes is one that keeps the norms as they come out."""
        self.turned.load({name: tensor for name, tensor in tensors.items() if name != MAGNITUDES})
        there = tensors.get(MAGNITUDES)
        if there is None:
            self.magnitudes.copy_(self._norms())
            return
        if there.shape != self.magnitudes.shape:
            of = "outputs" if along_outputs(there) else "inputs"
            raise ValueError(f"has magnitudes of its {of}, {tuple(there.shape)}; see network.wd_on_output")
        self.magnitudes.copy_(there)


def along_outputs(magnitudes: Tensor) -> bool:
    """Whether a file's magnitudes are of a layer's outputs."""
    return len(magnitudes) > 1


@dataclasses.dataclass(frozen=True)
class Decomposable(Normed, Ranked):
    """Ranked families whose adapters may turn directions that have magnitudes of their own."""

    dora_wd: bool = knob(
        False, "Train the size of each weight's columns apart from what the adapter adds (DoRA): nearer to "
        "training the whole weight, and slower.", group="network")  # fmt: skip
    wd_on_output: bool = knob(
        False, "With dora_wd, take the sizes of rows rather than of columns, as LyCORIS and PEFT do. The "
        "stock WebUI reads columns alone, so rows are saved for it as whole differences.",
        group="network")  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.wd_on_output and not self.dora_wd:
            yield "wd_on_output = True: expected dora_wd beside it"
        if self.dora_wd and self.scale_weight_norms is not None:
            yield (
                f"scale_weight_norms = {self.scale_weight_norms:g}: what a DoRA adds has sizes of its own, "
                "which shrinking an adapter's factors does not change; expected none beside dora_wd"
            )

    @property
    def own_form(self) -> bool:
        return self.dora_wd and self.wd_on_output

    def put(self, layer: Layer) -> Adapter | None:
        adapter = super().put(layer)
        if adapter is None or layer.norm or not self.dora_wd:
            return adapter
        return Magnitudes(layer, adapter, outputs=self.wd_on_output)

    def hold(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Adapter:
        there = tensors.get(MAGNITUDES)
        if layer.norm or (there is None and not self.dora_wd):
            return super().hold(layer, tensors)
        turned = self.like(layer, {name: tensor for name, tensor in tensors.items() if name != MAGNITUDES})
        outputs = self.wd_on_output if there is None else along_outputs(there)
        adapter = Magnitudes(layer, turned, outputs=outputs)
        adapter.load(tensors)
        return adapter

    def record(self) -> dict[str, object]:
        found = super().record()
        own = {"dora_wd": True, "wd_on_output": self.wd_on_output, "preset": self.choice}
        return noted(found, own) if self.dora_wd else found
