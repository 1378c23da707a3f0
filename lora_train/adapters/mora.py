"""MoRA: one square matrix between a fixed way to make the input small and the output large again, of as many
values as a LoRA and of a higher rank (Jiang et al. 2024, arXiv:2405.12130)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train.adapters.layer import Layer
from lora_train.adapters.native import Native, NativeFamily, alpha_of
from lora_train.adapters.thin import Drops, Thin
from lora_train.knobs import knob

SHARING, ROTATION = "mora_sharing", "mora_rotation"


def side(shape: tuple[int, ...], rank: int, *, even: bool = False) -> int:
    """Of the square that has as many values as a LoRA of the rank (section 3.2)."""
    out, inn = shape[0], math.prod(shape[1:])
    found = min(round(math.sqrt((out + inn) * rank)), out, inn)
    return max(2, found - found % 2) if even else max(1, found)


class SharingAdapter(Native):
    """delta = alpha/rank * D M C (equation 6): C adds up every rank-th input, and D repeats outputs.

    Args:
        rank: side of the square.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops):
        super().__init__(layer, rank, alpha, drops)
        self.matrix = nn.Parameter(torch.zeros(rank, rank))

    @property
    def inner(self) -> Tensor:
        """C; made when it is asked for, for of a large convolution it is larger than the matrix."""
        size, (_, inn, *kernel) = len(self.matrix), self.layer.shape
        count = inn * math.prod(kernel)
        one = torch.eye(size, dtype=self.matrix.dtype, device=self.matrix.device)
        return one.repeat(1, -(-count // size))[:, :count].view(size, inn, *kernel)

    @property
    def outer(self) -> Tensor:
        """D M."""
        out, size = self.layer.shape[0], len(self.matrix)
        made = self.matrix.repeat(-(-out // size), 1)[:out]
        return made.view(out, size, *[1 for _ in self.layer.kernel])

    def _between(self, x: Tensor) -> Tensor:
        if self.layer.kernel:
            return super()._between(x)
        return folded(x, len(self.matrix)).sum(-2)

    def own(self) -> dict[str, Tensor]:
        return {SHARING: self.matrix}


class RotationAdapter(Native):
    """The input in pieces as long as the square, each turned by an angle of its place, through one matrix
    (equation 9). Of more pieces than the output has, those that lie `outputs` apart are added up; of fewer,
    they are repeated. So delta is made of blocks M R_i, and has the layer's full rank.

    Args:
        rank: side of the square; even.
    """

    def __init__(self, layer: Layer, rank: int, alpha: float, drops: Drops):
        super().__init__(layer, rank, alpha, drops)
        self.matrix = nn.Parameter(torch.zeros(rank, rank))

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        if self.training and self.drops is not None and torch.rand(()) < self.drops.module:
            return base
        x, times = x.to(base.dtype), self.scale * self.strength
        if self.layer.kernel:
            return base + self.layer.op(x, (self.strength * self.delta()).to(x.dtype))
        pieces = self._turned(folded(x, len(self.matrix))) @ self.matrix.to(x.dtype).t()
        return base + times * unfolded(pieces, self.layer.shape[0])

    def _turned(self, pieces: Tensor) -> Tensor:
        """Su et al. 2021, arXiv:2104.09864, in halves. pieces: [..., places, size]."""
        half = pieces.shape[-1] // 2
        place = torch.arange(pieces.shape[-2], device=pieces.device, dtype=torch.float32)
        angle = place[:, None] * 10000.0 ** (-torch.arange(half, device=pieces.device) / half)
        cos, sin = angle.cos().to(pieces.dtype), angle.sin().to(pieces.dtype)
        first, second = pieces[..., :half], pieces[..., half:]
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def delta(self) -> Tensor:
        """Block by block: M R_i, from what M makes of each value of a piece that is turned by its place."""
        out, size = self.layer.shape[0], self.rank
        count = math.prod(self.layer.shape[1:])
        high, wide = -(-out // size), -(-count // size)
        one = torch.eye(size, dtype=self.matrix.dtype, device=self.matrix.device)
        blocks = self._turned(one[:, None].expand(-1, wide, -1)) @ self.matrix.t()  # [from, place, to]
        blocks = blocks.permute(1, 2, 0)
        rows, columns = (torch.arange(max(high, wide)) % n for n in (high, wide))
        whole = blocks.new_zeros(high, wide, size, size)
        whole = whole.index_put((rows, columns), blocks[columns])
        whole = whole.transpose(1, 2).reshape(high * size, wide * size)[:out, :count]
        return self.scale * whole.reshape(self.layer.shape)

    def thin(self) -> None:
        return None

    def norm(self) -> Tensor:
        return self.delta().detach().norm()

    def own(self) -> dict[str, Tensor]:
        return {ROTATION: self.matrix}

    def plain(self) -> dict[str, Tensor] | None:
        return {"diff": self.delta().detach()}


def folded(x: Tensor, size: int) -> Tensor:
    """[..., count] -> [..., places, size], with zeros behind the last."""
    return F.pad(x, (0, -x.shape[-1] % size)).unflatten(-1, (-1, size))


def unfolded(pieces: Tensor, count: int) -> Tensor:
    """[..., places, size] -> [..., count]."""
    places, size = pieces.shape[-2:]
    wanted = -(-count // size)
    if places > wanted:
        pieces = F.pad(pieces, (0, 0, 0, -places % wanted)).unflatten(-2, (-1, wanted)).sum(-3)
        places = wanted
    whole = pieces.flatten(-2)
    return whole.repeat(*[1] * (whole.ndim - 1), -(-wanted // places))[..., :count]


@dataclasses.dataclass(frozen=True)
class Mora(NativeFamily):
    """MoRA."""

    mora_type: str = knob(
        "sharing", "How a square matrix meets the layer's width: by sharing, best at large dims, which is "
        "saved as a LoRA of a higher rank; or by rotation, best at small ones, which is saved as whole "
        "differences.", group="network", choices=("sharing", "rotation"))  # fmt: skip

    mark, linear = "mora", True

    def check(self) -> Iterable[str]:
        yield from super().check()
        for name in ("dropout", "rank_dropout") if self.mora_type == "rotation" else ():
            if vars(self)[name]:
                yield (
                    f"{name} = {vars(self)[name]:g}: MoRA by rotation has no ranks to drop; expected "
                    "module_dropout in its place"
                )

    @property
    def copies(self) -> int:
        """Of a typical layer of 1250 x 1250, whole or of the square's rank; and the native form."""
        return 1 + round(625 / self.dim if self.mora_type == "rotation" else math.sqrt(2500 / self.dim))

    def make(self, layer: Layer) -> Thin | None:
        if (found := self.size(layer)) is None:
            return None
        turned = self.mora_type == "rotation"
        rank = side(layer.shape, found[0], even=turned)
        alpha = torch.tensor(found[1] * rank / found[0]).item()  # as a file can hold it
        return (RotationAdapter if turned else SharingAdapter)(layer, rank, alpha, self.drops)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> Thin:
        kind = RotationAdapter if ROTATION in tensors else SharingAdapter
        name = ROTATION if ROTATION in tensors else SHARING
        if name not in tensors:
            raise ValueError(f"has {', '.join(sorted(tensors))}; expected {SHARING} or {ROTATION}")
        rank = len(tensors[name])
        adapter = kind(layer, rank, alpha_of(tensors, rank), self.drops)
        adapter.load(tensors)
        return adapter

    def record(self) -> dict[str, object]:
        found = super().record()
        args = json.loads(str(found.get("ss_network_args", "{}")))
        return {**found, "ss_network_args": json.dumps({"mora_type": self.mora_type, **args})}
