"""LoHa and LoKr that come as near to a matrix as they can."""

from __future__ import annotations

import torch
from torch import Tensor

from lora_train.adapters.lokr import factorization
from lora_train.adapters.principal import principal
from lora_train.tools.filed import Form

TRIALS, ROUNDS = 3, 120  # of least squares for each start, and at most for the better of them
STILL = 1e-4  # share of the distance that a round has to gain, to be followed by another
TURNS = 12  # of LoKr's two factors
RIDGE = 1e-7  # of the mean of what is solved by, against directions that do not matter
Pair = tuple[Tensor, Tensor]


@torch.no_grad()
def loha(matrix: Tensor, rank: int, seed: int = 0) -> Form:
    """(w1_a w1_b) * (w2_a w2_b), value by value, nearest to a matrix [out, in * kernel].

    By alternating least squares: with three of the factors held, the fourth is a problem of its own for each
    row, solved exactly, so that every step is at least as near. It begins once with the nearest LoRA times
    ones, than which it is never worse, and once with the roots of the values; the better one goes on.
    """
    matrix = matrix.float()
    rank = min(rank, *matrix.shape)
    best = min((_fitted(matrix, start, TRIALS) for start in _starts(matrix, rank, seed)),
               key=lambda pairs: _distance(matrix, pairs))  # fmt: skip
    far = _distance(matrix, best)
    for _ in range(ROUNDS):
        best, before = _fitted(matrix, best, 1), far
        far = _distance(matrix, best)
        if far > before * (1 - STILL):
            break
    (a1, b1), (a2, b2) = best
    return {
        **_even("hada_w1", a1, b1), **_even("hada_w2", a2, b2), "alpha": torch.tensor(float(rank)),
    }  # fmt: skip


def _starts(matrix: Tensor, rank: int, seed: int) -> list[tuple[Pair, Pair]]:
    rng = torch.Generator().manual_seed(seed)
    out, inn = matrix.shape
    high, low = (0.1 * torch.randn(side, rank, generator=rng).to(matrix) for side in (out, inn))
    high[:, 0], low[:, 0] = 1.0, 1.0
    root = matrix.abs().sqrt()
    return [
        (principal(matrix, rank), (high, low.t())),
        (principal(matrix.sign() * root, rank), principal(root, rank)),
    ]


def _fitted(matrix: Tensor, start: tuple[Pair, Pair], rounds: int) -> tuple[Pair, Pair]:
    (a1, b1), (a2, b2) = start
    for _ in range(rounds):
        other = a2 @ b2
        a1 = _rows(matrix, other, b1)
        b1 = _rows(matrix.t(), other.t(), a1.t()).t()
        other = a1 @ b1
        a2 = _rows(matrix, other, b2)
        b2 = _rows(matrix.t(), other.t(), a2.t()).t()
    return (a1, b1), (a2, b2)


def _rows(matrix: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """[rows, rank]: for each row i the x nearest to matrix[i] = (x factor) * other[i].

    Args:
        factor: [rank, columns].
    """
    rank = len(factor)
    products = (factor[:, None] * factor).flatten(0, 1)  # [rank * rank, columns]
    squares = (other.square() @ products.t()).view(-1, rank, rank)
    wanted = (matrix * other) @ factor.t()
    ridge = RIDGE * squares.diagonal(dim1=1, dim2=2).mean() + torch.finfo(squares.dtype).tiny
    return torch.linalg.solve(squares + ridge * torch.eye(rank).to(squares), wanted)


def _distance(matrix: Tensor, pairs: tuple[Pair, Pair]) -> float:
    (a1, b1), (a2, b2) = pairs
    found = float((matrix - (a1 @ b1) * (a2 @ b2)).norm())
    return found if found == found else float("inf")


def _even(name: str, a: Tensor, b: Tensor) -> Form:
    """Both factors about as large."""
    ratio = (b.norm() / a.norm().clamp(min=1e-30)).sqrt().clamp(1e-6, 1e6)
    return {f"{name}_a": a * ratio, f"{name}_b": b / ratio}


@torch.no_grad()
def lokr(weight: Tensor, rank: int | None, factor: int) -> Form:
    """w1 (x) w2 nearest to a weight [out, in, ...]: its values, arranged so that each row belongs to a value
    of w1, are nearest to a product of two vectors, the largest singular ones.

    Args:
        rank: of w2; None, or as large as it: whole. Then w1 and w2 take turns, each the best for the other.
        factor: as LoKr's.

    Source: Van Loan and Pitsianis 1993, "Approximation with Kronecker products", section 2.
    """
    weight = weight.float()
    out, inn, *kernel = weight.shape
    (a, b), (c, d) = factorization(out, factor), factorization(inn, factor)
    arranged = weight.reshape(a, b, c, d, -1).permute(0, 2, 1, 3, 4).reshape(a * c, -1)  # [a c, b d kernel]
    first, second = principal(arranged, 1)
    small, large = first[:, 0], second[0]
    if rank is None or rank >= max(b, d) / 2:  # as LyCORIS' LoKr decides
        whole = large.view(b, d, *kernel)
        return {"lokr_w1": small.view(a, c), "lokr_w2": whole, "alpha": torch.tensor(float(rank or 1))}
    for _ in range(TURNS):
        nearest = (small @ arranged) / small.square().sum().clamp(min=1e-30)
        up, down = principal(nearest.view(b, -1), rank)
        large = (up @ down).flatten()
        small = (arranged @ large) / large.square().sum().clamp(min=1e-30)
    factors = {"lokr_w2_a": up, "lokr_w2_b": down}
    return {"lokr_w1": small.view(a, c), **factors, "alpha": torch.tensor(float(len(down)))}
