"""LoRA: a layer learns a matrix of low rank beside its own (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train.adapters.factored import Factored
from lora_train.adapters.family import LISTS
from lora_train.adapters.layer import Layer
from lora_train.adapters.principal import principal
from lora_train.adapters.thin import ALPHA, DOWN, MID, UP, Drops, Thin
from lora_train.knobs import knob


class LoraAdapter(Thin):
    """delta = alpha/rank * up @ down. `up` starts at zero, so a fresh adapter changes nothing.

    As in sd-scripts' `networks.lora`: in a convolution `down` has its kernel and stride, `up` is 1x1.

    Args:
        scalar: a number that is learned starts at zero in the place of `up`, as in LyCORIS.
    """

    late = ("up",)

    def __init__(
        self,
        layer: Layer,
        rank: int,
        alpha: float,
        drops: Drops = Drops(),  # noqa: B008 (it has no state)
        *,
        scalar: bool = False,
    ):
        super().__init__(layer, rank, alpha, drops)
        out, inn, *kernel = layer.shape
        self.down = nn.Parameter(torch.empty(rank, inn, *kernel))
        self.up = nn.Parameter(torch.zeros(out, rank, *[1] * len(kernel)))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scalar = nn.Parameter(torch.zeros(())) if scalar else None
        if scalar:
            nn.init.kaiming_uniform_(self.up, a=math.sqrt(5))

    @property
    def inner(self) -> Tensor:
        return self.down

    @property
    def outer(self) -> Tensor:
        return self.up

    def tensors(self) -> dict[str, Tensor]:
        up = self.up.detach() if self.scalar is None else (self.scalar * self.up).detach()
        return {DOWN: self.down.detach(), UP: up, ALPHA: torch.tensor(float(self.alpha))}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Another alpha than ours is worked into `up`, so that what is added stays what it was."""
        down, up, alpha = read(tensors)
        wide, own = (len(up), down.shape[1]), (len(self.up), self.down[0].numel())
        if wide != own:
            raise ValueError(f"is for a layer of {wide[0]} x {wide[1]} values, not {own[0]} x {own[1]}")
        if len(down) != self.rank:
            raise ValueError(f"has dim {len(down)}, not {self.rank}")
        ratio = alpha / len(down) / self.scale
        self.down.copy_(down.view_as(self.down))
        self.up.copy_(up.view_as(self.up) if ratio == 1 else up.view_as(self.up).to(self.up) * ratio)
        if self.scalar is not None:
            self.scalar.fill_(1.0)

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        self.up.mul_(ratio**0.5)
        self.down.mul_(ratio**0.5)


class TuckerAdapter(LoraAdapter):
    """Of a convolution: `down` and `up` act on the channels in and out of a kernel of its own, `mid`.

    As LyCORIS' `modules/locon.py` 3.4.0: delta[o, i] = alpha/rank * sum up[o, n] mid[n, m] down[m, i].
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops, *, scalar: bool = False):
        super().__init__(layer, rank, alpha, drops, scalar=scalar)
        self.down = nn.Parameter(torch.empty(rank, layer.shape[1], 1, 1))
        self.mid = nn.Parameter(torch.empty(rank, rank, *layer.kernel))
        for factor in (self.down, self.mid):
            nn.init.kaiming_uniform_(factor, a=math.sqrt(5))

    def _between(self, x: Tensor) -> Tensor:
        return self.layer.op(F.conv2d(x, self.down.to(x.dtype)), self.mid.to(x.dtype))

    def delta(self) -> Tensor:
        up, down = self.up.flatten(1), self.down.flatten(1)
        return self.times * torch.einsum("nmkl,in,mj->ijkl", self.mid, up, down)

    def thin(self) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), MID: self.mid.detach()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        mid = tensors.get(MID)
        if mid is None or mid.shape != self.mid.shape:
            there = "no" if mid is None else "another"
            raise ValueError(f"has {there} {MID} of dim {self.rank}")
        super().load({name: tensor for name, tensor in tensors.items() if name != MID})
        self.mid.copy_(mid)

    @torch.no_grad()
    def norm(self) -> Tensor:
        return self.delta().norm()

    @torch.no_grad()
    def shrink(self, ratio: Tensor) -> None:
        for factor in (self.up, self.mid, self.down):
            factor.mul_(ratio ** (1 / 3))


class PissaAdapter(LoraAdapter):
    """Starts from the layer's own principal parts B A, which are taken off again: delta = alpha/rank *
    ((B + up) (A + down) - B A). It is a LoRA of twice the rank, and so it is computed and saved:
    up (A + down) + B down, of which nothing has to cancel out.

    Source: Meng et al. 2024, arXiv:2404.02948, equations 2 to 4; `up` and `down` are what is learned of the
    factors there, so that weight decay pulls to the model as it was.
    """

    late, shrinks = (), False

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops):
        super().__init__(layer, rank, alpha, drops)
        up, down = principal(layer.weight().flatten(1), rank)
        for name, own, found in (("first_up", self.up, up.t()), ("first_down", self.down, down)):
            first = torch.zeros(rank, own.numel() // rank)  # a small layer has fewer parts
            first[: len(found)] = found.cpu() / math.sqrt(self.scale)
            first = first.t() if name == "first_up" else first
            self.register_buffer(name, first.reshape(own.shape).contiguous())
        nn.init.zeros_(self.down)

    @property
    def inner(self) -> Tensor:
        return torch.cat([self.first_down + self.down, self.down])

    @property
    def outer(self) -> Tensor:
        return torch.cat([self.up, self.first_up], 1)

    def _dropped(self, mid: Tensor, drops: Drops) -> Tensor:
        """Of a rank both halves."""
        axis = 1 if mid.ndim == 4 else -1
        kept = super()._dropped(torch.ones_like(mid.narrow(axis, 0, self.rank)), drops)
        return mid * torch.cat([kept, kept], axis)

    def tensors(self) -> dict[str, Tensor]:
        alpha = torch.tensor(2.0 * self.alpha)
        return {DOWN: self.inner.detach(), UP: self.outer.detach(), ALPHA: alpha}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        raise ValueError("starts from the model, not from a file")


SIZES = ("rs_lora", "conv_dim", "conv_alpha", *LISTS)  # arguments that are others' in a file of twice the dim


@dataclasses.dataclass(frozen=True)
class Lora(Factored):
    """LoRA; with conv_dim, LoCon."""

    init: str = knob(
        "kaiming", "What an adapter starts from: random numbers, or the layer's own principal parts (PiSSA), "
        "which learns faster; then the file has twice the dim.", group="network",
        choices=("kaiming", "pissa"))  # fmt: skip

    mark = "lora"  # what its tensors' names begin with

    def check(self) -> Iterable[str]:
        yield from super().check()
        reasons = {
            "use_tucker": "which has a factor more",
            "use_scalar": "which starts at nothing in another way",
            "scale_weight_norms": "for what it adds is no product that could be shrunk",
            "weights": "for then the file is what it starts from",
        }
        for name in reasons if self.init == "pissa" else ():
            if vars(self)[name]:
                yield f"init = pissa: cannot go with {name}, {reasons[name]}; leave one of them out"

    @property
    def late(self) -> bool:
        return super().late and self.init != "pissa"

    @property
    def copies(self) -> int:
        return 2 if self.init == "pissa" else 1

    def make(self, layer: Layer) -> LoraAdapter | None:
        if (size := self.size(layer)) is None:
            return None
        if self.init == "pissa":
            return PissaAdapter(layer, *size, self.drops)
        wide = any(side > 1 for side in layer.kernel)
        kind = TuckerAdapter if self.use_tucker and wide else LoraAdapter
        return kind(layer, *size, self.drops, scalar=self.use_scalar)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> LoraAdapter:
        down, _, alpha = read({name: tensor for name, tensor in tensors.items() if name != MID})
        kind = TuckerAdapter if MID in tensors else LoraAdapter
        if MID in tensors and not layer.kernel:
            raise ValueError(f"has {MID}, and is no convolution")
        adapter = kind(layer, len(down), alpha, self.drops, scalar=self.use_scalar)
        adapter.load(tensors)
        return adapter

    @property
    def drops(self) -> Drops:
        return Drops(self.dropout or 0.0, self.rank_dropout or 0.0, self.module_dropout or 0.0)

    def record(self) -> dict[str, object]:
        found = super().record()
        if self.init == "pissa":
            dim, alpha = 2 * self.dim, "Dynamic" if self.rs_lora else self.alpha and 2 * self.alpha
            given = json.loads(str(found.pop("ss_network_args", "{}")))
            args = {name: text for name, text in given.items() if name not in SIZES}
            if args.keys() - {"dropout"}:
                found["ss_network_args"] = json.dumps(args)
            own = {"ss_network_dim": dim, "ss_network_alpha": alpha}
            return {"ss_network_module": "networks.lora", **found, **own}
        if not (self.use_tucker or self.use_scalar or self.rs_lora):
            return {"ss_network_module": "networks.lora", **found}
        args = {"algo": "locon", **json.loads(str(found["ss_network_args"]))}  # sd-scripts has none of them
        return {**found, "ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(args)}


def read(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, float]:
    """down [rank, in * kernel], up [out, rank], alpha; a file without alpha means alpha = rank.

    Raises:
        ValueError: not the tensors of a LoRA.
    """
    if not {DOWN, UP} <= tensors.keys() <= {DOWN, UP, ALPHA}:
        raise ValueError(f"has {', '.join(sorted(tensors))}; expected {DOWN}, {UP}, {ALPHA}")
    down, up = tensors[DOWN].flatten(1), tensors[UP].flatten(1)
    if len(down) != up.shape[1]:
        raise ValueError(f"has factors of dims {len(down)} and {up.shape[1]}, which do not fit together")
    alpha = tensors[ALPHA].item() if ALPHA in tensors else 0.0
    return down, up, alpha or float(len(down))
