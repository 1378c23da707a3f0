"""What a wrong prediction costs: the losses of elements, their mean over a sample, and what a step weighs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLIP = 1000.0  # of a ratio whose inverse is a weight, as in sd-scripts; that of SD's first step is 1175


def averaged(elements: Tensor, masks: Tensor | None = None) -> Tensor:
    """[B] float32: the mean of each sample's elements.

    Args:
        elements: [B, C, h, w], the loss of each.
        masks: [B, 1, h, w], how much each place counts; None: all the same. The mean is over all places, as
            in sd-scripts.
    """
    if masks is not None:
        elements = elements * masks.to(elements)
    return elements.flatten(1).mean(1)


def elements(kind: str, error: Tensor, c: Tensor | None = None) -> Tensor:
    """The loss of each element of an error [B, ...].

    Args:
        kind: "l2", "l1", "huber" or "smooth_l1".
        c: [B] > 0, for the last two: the error from which on they go straight.

    The last two are Charbonnier's smooth forms (arXiv:1701.03077, eq. 1 with alpha = 1): 2c (sqrt(e^2 + c^2)
    - c) is e^2 for small e, and 2 (sqrt(e^2 + c^2) - c) is e^2 / c. As in sd-scripts, written so that nothing
    is lost where e is much smaller than c.
    """
    if kind == "l2":
        return error.square()
    if kind == "l1":
        return error.abs()
    c = c.to(error).view(-1, *[1] * (error.ndim - 1))
    straight = 2 * error.square() / ((error.square() + c.square()).sqrt() + c)
    return c * straight if kind == "huber" else straight


def thresholds(schedule: str, t: Tensor, snr: Tensor, *, steps: int, c: float, scale: float) -> Tensor:
    """[B], the c of `elements` at timesteps [B].

    Args:
        schedule: "constant": c scale. "exponential": it falls from scale at the first step to c scale
            behind the last. "snr": (1 - c) / (1 + sigma)^2 + c with sigma = 1 / sqrt(snr).

    Source: Khrapov et al. 2024, arXiv:2403.16728, section 3.3; "snr" as sd-scripts has it.
    """
    if schedule == "constant":
        return torch.full_like(snr, c * scale)
    if schedule == "exponential":
        return torch.exp(t.to(snr) * math.log(c) / steps) * scale
    root = snr.sqrt()  # 1 / (1 + sigma) = root / (1 + root), also where no signal is left
    return (1 - c) * (root / (1 + root)).square() + c


def per_x0(snr: Tensor, prediction: str) -> Tensor:
    """[B]: an error e in the prediction is one of sqrt(per_x0) e in x_0.

    Raises:
        ValueError: an unknown prediction.
    """
    return 1 / (snr if known(prediction) == "epsilon" else 1 + snr)


def per_noise(snr: Tensor, prediction: str) -> Tensor:
    """[B]: an error e in the prediction is one of sqrt(per_noise) e in the noise."""
    return torch.ones_like(snr) if known(prediction) == "epsilon" else snr / (1 + snr)


def known(prediction: str) -> str:
    """Raises ValueError: no weights are known for it."""
    if prediction not in ("epsilon", "v"):
        raise ValueError(f"no weights for prediction {prediction!r}; known: epsilon, v")
    return prediction


def min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """Loss weight that caps every step's pull on x_0 at `gamma`.

    The cap is on the error in x_0, so it has to be carried over to whatever the model predicts.

    Args:
        snr: [B], signal power over noise power; > 0.
        gamma: 5 in the paper; larger leaves more steps alone.
        prediction: "epsilon" or "v".

    Returns:
        [B], to multiply with each sample's mean squared error.

    Raises:
        ValueError: an unknown prediction.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    return snr.clamp(max=gamma) * per_x0(snr, prediction)


def soft_min_snr_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """`min_snr_weight` without the edge: on the error in x_0 it is 1 / (sigma^2 + 1 / gamma), which is snr
    where that is much less than gamma, and gamma where it is much more.

    Source: Crowson et al. 2024, arXiv:2401.11605, the weighting named soft-min-SNR.
    """
    return snr * gamma / (snr + gamma) * per_x0(snr, prediction)


def debiased_weight(snr: Tensor, prediction: str) -> Tensor:
    """1 / sqrt(snr) on the error in the noise (Yu et al. 2023, arXiv:2310.08442, eq. 10), carried over to
    what the model predicts.

    For v that is sqrt(snr) / (1 + snr): an error e in v is one of sqrt(snr / (1 + snr)) e in the noise.
    (sd-scripts has 1 / (1 + snr) there and OneTrainer 1 / sqrt(1 + snr), which are other weights of x_0 than
    the paper's.)
    """
    # the lower bound only keeps 0 times infinity away from v, where no signal is left
    return snr.clamp(1e-12, CLIP).rsqrt() * per_noise(snr, prediction)


def p2_weight(snr: Tensor, gamma: float, prediction: str) -> Tensor:
    """1 / (1 + snr)^gamma on the error in the noise (Choi et al. 2022, arXiv:2204.00227, eq. 8 with k = 1),
    carried over to what the model predicts."""
    return (1 + snr) ** -gamma * per_noise(snr, prediction)
