"""Principal parts of a matrix: its largest singular values and vectors."""

from __future__ import annotations

import torch
from torch import Tensor

EXACT = 256  # rows or columns up to which all singular values are found, as that takes no time
SPARE, ROUNDS = 8, 6  # more columns than are asked for, and passes over the matrix


def principal(matrix: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Factors [rows, rank] and [rank, columns], whose product is the nearest of their rank, or as near as
    makes no difference. What a singular value is goes to both alike, as its root.

    Source: Halko, Martinsson, Tropp 2011, arXiv:0909.4061, algorithm 4.4.
    """
    matrix = matrix.float()
    least = min(matrix.shape)
    if least <= max(EXACT, rank + SPARE):
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        rng = torch.Generator().manual_seed(seed)  # on the CPU, so that every card finds the same
        start = torch.randn(matrix.shape[1], rank + SPARE, generator=rng).to(matrix)
        basis = torch.linalg.qr(matrix @ start).Q
        for _ in range(ROUNDS):
            basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.t() @ basis).Q).Q
        u, s, vh = torch.linalg.svd(basis.t() @ matrix, full_matrices=False)
        u = basis @ u
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def narrowed(up: Tensor, down: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest factors of a smaller rank to the product up @ down, which is never made."""
    (left, upper), (right, lower) = torch.linalg.qr(up.float()), torch.linalg.qr(down.float().t())
    first, second = principal(upper @ lower.t(), rank)
    return left @ first, second @ right.t()
