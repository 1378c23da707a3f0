"""OFT: a layer's outputs are turned within blocks (Qiu et al. 2023, arXiv:2306.07280), or, as BOFT, again and
again within blocks of ever farther neighbours (Liu et al. 2023, arXiv:2311.06243).

Tensors are LyCORIS' (`modules/diag_oft.py`, `modules/boft.py` 3.4.0) and those of sd-scripts' `networks.oft`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.altered import Altered, Altering, fits
from lora_train.adapters.family import Sized
from lora_train.adapters.layer import Layer
from lora_train.adapters.lokr import factorization
from lora_train.errors import Mistake
from lora_train.knobs import knob

BLOCKS, RESCALE, ALPHA = "oft_blocks", "rescale", "alpha"


class OftAdapter(Altered):
    """W' = R W, R orthogonal: from skew Q by Cayley's transform (I + Q)(I - Q)^-1. The blocks start at zero,
    so a fresh one changes nothing.

    Args:
        shape: of the blocks: (count, size, size), of BOFT (turns, count, size, size).
        constraint: the norm of Q is at most this for each output; 0: any.
        rescaled: whether each output also learns a size.
    """

    shrinks = False

    def __init__(  # noqa: PLR0913 (what LyCORIS has)
        self, layer: Layer, shape: tuple[int, ...], rest: float = 0.0, *, constraint: float = 0.0,
        rescaled: bool = False):  # fmt: skip
        super().__init__(layer, 1.0, rest)
        self.constraint = constraint
        self.blocks = nn.Parameter(torch.zeros(shape))
        self.sizes = nn.Parameter(torch.ones(layer.shape[0])) if rescaled else None

    def _less(self) -> Tensor:
        """R - I of each block; in float32 at least, because of the inverse."""
        skew = self.blocks - self.blocks.transpose(-1, -2)
        if self.constraint:
            norm = skew.norm()
            skew = skew * ((norm.clamp(max=self.constraint * self.layer.shape[0]) + 1e-8) / (norm + 1e-8))
        one = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(one - skew, 2 * skew)  # (I - Q)^-1 (I + Q) - I

    def _turned(self, rows: Tensor) -> Tensor:
        """What rows, one for each output, gain. rows: [..., out]."""
        less = self._less().to(rows.dtype)
        if less.ndim == 3:
            gain = _within(rows, less.transpose(-1, -2))
        else:
            gain = torch.zeros_like(rows)
            for order, turn in zip(_orders(less.shape, rows.device), less, strict=True):
                back = torch.empty_like(order)
                back[order] = torch.arange(len(order), device=order.device)
                gain = gain + _within((rows + gain)[..., order], turn)[..., back]
        if self.sizes is None:
            return gain
        sizes = self.sizes.to(rows.dtype)
        return sizes * gain + (self.sizes - 1).to(rows.dtype) * rows

    def added(self, x: Tensor, base: Tensor) -> Tensor:
        """From what the layer gave already: turning its outputs is turning its weight's rows."""
        product = self.product(base)
        if not self.layer.kernel:
            return self._turned(product)
        return self._turned(product.movedim(1, -1)).movedim(-1, 1)

    def delta(self) -> Tensor:
        whole = self.layer.weight().to(self.blocks)
        return self._turned(whole.movedim(0, -1)).movedim(-1, 0)

    def tensors(self) -> dict[str, Tensor]:
        found = {BLOCKS: self.blocks.detach(), ALPHA: torch.tensor(float(self.constraint))}
        if self.sizes is None:
            return found
        return {**found, RESCALE: self.sizes.detach().view(-1, *[1] * (len(self.layer.shape) - 1))}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        sized = {} if self.sizes is None else {RESCALE: (len(self.sizes), *[1] * (len(self.layer.shape) - 1))}
        fits(tensors, {BLOCKS: tuple(self.blocks.shape), **sized}, ALPHA)
        if not math.isclose(_constraint(tensors), self.constraint, rel_tol=0.01):
            raise ValueError(f"has a constraint of {_constraint(tensors):g}, not {self.constraint:g}")
        self.blocks.copy_(tensors[BLOCKS])
        if self.sizes is not None:
            self.sizes.copy_(tensors[RESCALE].flatten())


def _within(rows: Tensor, blocks: Tensor) -> Tensor:
    """Each block of the last axis times a matrix. blocks: [count, out, in]."""
    parts = rows.unflatten(-1, blocks.shape[:2])
    return torch.einsum("...kn,kmn->...km", parts, blocks).flatten(-2)


def _orders(shape: tuple[int, ...], device: torch.device) -> Iterator[Tensor]:
    """For each of BOFT's turns the outputs in the order in which they stand together in blocks."""
    turns, count, size, _ = shape
    for i in range(turns):
        far = 2**i * (size // 2)
        yield torch.arange(count * size, device=device).view(-1, 2, far).transpose(1, 2).flatten()


def _constraint(tensors: Mapping[str, Tensor]) -> float:
    return float(tensors[ALPHA]) if ALPHA in tensors else 0.0


def butterfly(width: int, most: int) -> tuple[int, int] | None:
    """Size and count of BOFT's blocks: an even size and a power of two.

    Args:
        most: what the size should not exceed; where there is none so small it is the smallest there is.

    Returns:
        None: there is none at all.
    """
    counts = [2**n for n in range(width.bit_length()) if width % 2 ** (n + 1) == 0]
    sizes = sorted((width // count, count) for count in counts)
    small = [pair for pair in sizes if pair[0] <= most]
    return (small[-1:] or sizes[:1] or [None])[0]


@dataclasses.dataclass(frozen=True)
class Turning(Altering, Sized):
    """OFT and BOFT. dim is the size of the blocks."""

    constraint: float = knob(
        0.0, "How far outputs may be turned: the norm of all turns is at most this for each output. 1e-3 and "
        "less is usual. 0: as far as they will.", group="network", low=0, high=100)  # fmt: skip
    rescaled: bool = knob(False, "Let each output learn a size as well.", group="network")

    of_weight = True
    mark, turns = "oft", 1  # as many matrices as a file has for each layer, about

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.scale_weight_norms is not None:
            yield (
                f"scale_weight_norms = {self.scale_weight_norms:g}: a turn adds to no weight what could be "
                "shrunk; expected constraint in its place"
            )
        weights = self.block_weights
        if any(value not in (0, 1) for value in (*weights.values, *(e.ratio for e in weights.elements))):
            yield "block_weights: expected 0 or 1 for each block; a turn at half strength is none"

    @property
    def said(self) -> str:
        return f"blocks of {self.dim}"

    def shape(self, layer: Layer) -> tuple[int, ...] | None:
        """Of a layer's blocks; None where there is nothing to turn."""
        raise NotImplementedError

    def make(self, layer: Layer) -> OftAdapter | None:
        if not self.times(layer) or (shape := self.shape(layer)) is None:
            return None
        return OftAdapter(layer, shape, self.rest, constraint=self.constraint, rescaled=self.rescaled)

    def like(self, layer: Layer, tensors: Mapping[str, Tensor]) -> OftAdapter:
        shape = tuple(tensors[BLOCKS].shape) if BLOCKS in tensors else ()
        whole = shape[-3:-2] and shape[-3] * shape[-1] == layer.shape[0] and shape[-1] == shape[-2]
        if len(shape) not in (3, 4) or not whole:
            there = "x".join(map(str, shape)) or "no"
            raise ValueError(f"has {there} {BLOCKS}, for a layer of {layer.shape[0]} outputs")
        adapter = OftAdapter(
            layer, shape, self.rest, constraint=_constraint(tensors), rescaled=RESCALE in tensors
        )
        adapter.load(tensors)
        return adapter

    def arguments(self) -> dict[str, object]:
        return {"constraint": self.constraint or None, "rescaled": self.rescaled or None}

    def record(self) -> dict[str, object]:
        return {**super().record(), "ss_network_dim": "Dynamic" if self.dim_from_weights else self.dim}

    def numbers(self, unet: int, convolutions: int, text: int) -> int:
        """Of the widths a half are outputs, of 3x3 convolutions an eighth; each has a row in its block."""
        widths = unet * self.trains("unet") + text * self.trains("te1")
        wide = convolutions * self.trains("unet") * self.resnets
        return self.turns * self.dim * (4 * widths + wide) // 8


@dataclasses.dataclass(frozen=True)
class Oft(Turning):
    """OFT."""

    dim_is_count: bool = knob(
        False, "Read dim as the number of blocks, as sd-scripts' networks.oft does, not as their size.",
        group="network")  # fmt: skip

    algo = "diag-oft"

    @property
    def said(self) -> str:
        return f"{self.dim} blocks" if self.dim_is_count else super().said

    def arguments(self) -> dict[str, object]:
        return {**super().arguments(), "dim_is_count": self.dim_is_count or None}

    def shape(self, layer: Layer) -> tuple[int, ...] | None:
        """As `Turning.shape`.

        Raises:
            Mistake: so many blocks do not divide it.
        """
        out = layer.shape[0]
        if not self.dim_is_count:
            size, count = factorization(out, self.dim)
        elif out % self.dim:
            raise Mistake(
                f"network.dim = {self.dim}: {layer.key} has {out} outputs, which {self.dim} blocks do not "
                "share evenly; expected a number that divides them"
            )
        else:
            size, count = out // self.dim, self.dim
        return (count, size, size) if size > 1 else None


@dataclasses.dataclass(frozen=True)
class Boft(Turning):
    """BOFT: blocks are of the even size nearest below dim whose number is a power of two."""

    algo, turns = "boft", 7

    def shape(self, layer: Layer) -> tuple[int, ...] | None:
        pair = butterfly(layer.shape[0], self.dim)
        return pair and (pair[1].bit_length(), pair[1], pair[0], pair[0])
