"""Singular values and vectors of what a file adds to a layer, by the shortest way that is as exact."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lora_train.adapters.principal import principal
from lora_train.adapters.thin import factors


@dataclasses.dataclass(frozen=True)
class Singular:
    """The largest singular values of a matrix, from the largest on, and their vectors."""

    left: Tensor  # [out, count]
    values: Tensor  # [count], float64, on the CPU
    right: Tensor  # [count, in * kernel]
    square: float  # sum of the squares of all that there are

    def cut(self, rank: int) -> tuple[Tensor, Tensor]:
        """Factors of the nearest matrix of a rank; each value is shared out among both alike."""
        root = self.values[:rank].sqrt().to(self.left)
        return self.left[:, :rank] * root, root[:, None] * self.right[:rank]

    def missing(self, rank: int) -> float:
        """Frobenius norm of what the nearest matrix of a rank lacks."""
        return math.sqrt(max(self.square - float(self.values[:rank].square().sum()), 0.0))


@torch.no_grad()
def of_factors(up: Tensor, down: Tensor) -> Singular:
    """Of up @ down, which is never made: its values are those of the product of their triangles, so that it
    costs rank^2 (out + in)."""
    (left, upper), (right, lower) = torch.linalg.qr(up.float()), torch.linalg.qr(down.float().t())
    u, s, vh = torch.linalg.svd((upper @ lower.t()).double(), full_matrices=False)
    s = s.cpu()
    return Singular(left @ u.to(left), s, vh.to(left) @ right.t(), float(s.square().sum()))


@torch.no_grad()
def of_matrix(matrix: Tensor, rank: int | None = None, seed: int = 0) -> Singular:
    """Of a matrix.

    Args:
        rank: so many are needed; None: all. The largest few of a large matrix are found at random, with
            passes enough that the difference is none in float32 (`principal`).
    """
    matrix = matrix.float()
    square = float(matrix.double().square().sum()) if matrix.numel() < 1 << 20 else _square(matrix)
    if rank is None or rank * 4 > min(matrix.shape):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return Singular(u, s.double().cpu(), vh, square)
    up, down = principal(matrix, rank, seed)
    values = up.double().square().sum(0).cpu()  # each factor has its root
    root = values.sqrt().clamp(min=1e-30).to(up)
    return Singular(up / root, values, down / root[:, None], square)


def _square(matrix: Tensor) -> float:
    """Row by row, for a copy in double precision would be large."""
    return float(sum(rows.double().square().sum() for rows in matrix.split(256)))


def joined(parts: Sequence[tuple[Tensor, Tensor]], times: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Factors of the sum of products, each times a number: their ranks, one after the other."""
    ups = [up if by == 1 else up * by for (up, _), by in zip(parts, times, strict=True)]
    return torch.cat(ups, 1), torch.cat([down for _, down in parts])


def balanced(up: Tensor, down: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, whose ranks are about as large in both factors, so that neither becomes coarse in
    half precision; ranks that add nothing are left out. By powers of two, which cost no digit."""
    high, low = up.norm(dim=0), down.norm(dim=1)
    kept = (high > 0) & (low > 0)
    ratio = torch.exp2(torch.log2(low[kept] / high[kept]).div(2).round())
    return up[:, kept] * ratio, down[kept] / ratio[:, None]


def lora(up: Tensor, down: Tensor, shape: tuple[int, ...]) -> dict[str, Tensor]:
    """A LoRA's tensors, whose alpha is its rank: nothing is multiplied with what they make."""
    return factors(up, down, shape, len(down))
