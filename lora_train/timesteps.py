"""How often each timestep is drawn: distributions over a range of steps, by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Share = Callable[[Tensor, float, float], Tensor]
HEAVIEST = 2 / (math.pi - 2)  # weight of heavy_tail beyond which a step would be reached twice


def cumulative(kind: str, count: int, weight: float = 0.0, bias: float = 0.0, shift: float = 1.0) -> Tensor:
    """[count + 1] float64: the share of draws below each step of a range, and 1 behind the last.

    Args:
        kind: a name in SHARES.
        count: steps in the range.
        shift: 1 leaves the distribution as it is; above 1 noisier steps come more often: x becomes
            shift x / (1 + (shift - 1) x) (arXiv:2403.03206, eq. 23).

    Raises:
        ValueError: numbers that leave no step to draw.
    """
    moved = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    found = SHARES[kind](moved / (shift - (shift - 1) * moved), weight, bias)
    found = (found - found[0]) / (found[-1] - found[0])
    if not found.isfinite().all():
        raise ValueError("no step is left to draw")
    return found


def picked(shares: Tensor, u: Tensor) -> Tensor:
    """Steps, counted from the range's first.

    Args:
        shares: as `cumulative` gives them.
        u: uniform in 0..1, float64.
    """
    return torch.searchsorted(shares, u, right=True).sub(1).clamp(max=len(shares) - 2)


# Below, x is a place in the range, 0 its least noisy end, and the result the share of draws below it, up to
# a constant and a factor.


def _sigmoid(x: Tensor, weight: float, bias: float) -> Tensor:
    """Density 1 / (1 + exp(-weight (x - bias - 1/2)))."""
    if weight == 0:
        return x
    return torch.logaddexp(torch.zeros_like(x), weight * (x - bias - 0.5)) / weight


def _logit_normal(x: Tensor, weight: float, bias: float) -> Tensor:
    """x = sigmoid(bias + (1 + weight) n), n normal (arXiv:2403.03206, eq. 19)."""
    return torch.special.ndtr((torch.logit(x) - bias) / (1 + weight))


def _heavy_tail(x: Tensor, weight: float, bias: float) -> Tensor:
    """x = 1 - u - weight (cos^2(pi u / 2) - 1 + u), u uniform (arXiv:2403.03206, eq. 20). It falls with u, so
    its inverse is found by halving."""
    low, high = torch.zeros_like(x), torch.ones_like(x)
    for _ in range(60):
        u = (low + high) / 2
        over = 1 - u - weight * (torch.cos(math.pi / 2 * u).square() - 1 + u) > x
        low, high = torch.where(over, u, low), torch.where(over, high, u)
    return 1 - (low + high) / 2


def _cos_map(x: Tensor, weight: float, bias: float) -> Tensor:
    """x = 1 - 1 / (tan(pi u / 2) + 1), u uniform (arXiv:2403.03206, eq. 21)."""
    return torch.atan2(x, 1 - x) * (2 / math.pi)


def _inverted_parabola(x: Tensor, weight: float, bias: float) -> Tensor:
    """Density 2 - weight (x - bias - 1/2)^2, and 0 where that is less."""
    z = x - bias - 0.5
    if weight > 0:
        reach = math.sqrt(2 / weight)
        z = z.clamp(-reach, reach)
    return 2 * z - weight * z**3 / 3


def _beta(x: Tensor, weight: float, bias: float) -> Tensor:
    """The beta distribution with alpha = weight and beta = bias; beta is 1 in "Beta-Tuned Timestep Diffusion
    Model" (Zheng et al., ECCV 2024), section 3.3."""
    low = _incomplete(x, weight, bias)
    return torch.where(x * (weight + bias + 2) < weight + 1, low, 1 - _incomplete(1 - x, bias, weight))


def _incomplete(x: Tensor, a: float, b: float) -> Tensor:
    """The regularised incomplete beta function where x < (a + 1) / (a + b + 2), by its continued fraction
    (DLMF 8.17.22) from the tail."""
    fraction = torch.ones_like(x)
    for m in range(200, 0, -1):
        odd = -(a + m - 1) * (a + b + m - 1) * x / ((a + 2 * m - 2) * (a + 2 * m - 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + odd / (1 + even / fraction)
    front = a * x.log() + b * torch.log1p(-x) - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
    return torch.exp(front) / a / fraction


def _content(x: Tensor, weight: float, bias: float) -> Tensor:
    """x = 1 - u^3, u uniform: mostly noisy steps (arXiv:2302.08453, section 3.4)."""
    return 1 - (1 - x) ** (1 / 3)


def _style(x: Tensor, weight: float, bias: float) -> Tensor:
    """x = u^3, u uniform: mostly steps with little noise."""
    return x ** (1 / 3)


SHARES: dict[str, Share] = {
    "uniform": lambda x, weight, bias: x,
    "sigmoid": _sigmoid,
    "logit_normal": _logit_normal,
    "heavy_tail": _heavy_tail,
    "cos_map": _cos_map,
    "inverted_parabola": _inverted_parabola,
    "beta": _beta,
    "content": _content,
    "style": _style,
}
