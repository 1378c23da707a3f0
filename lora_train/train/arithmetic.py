"""The faster of torch's two ways to multiply matrices on a CPU, where it is as exact."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

log = logging.getLogger(__name__)

EXACT = 1e-5  # relative; float32 comes to 3e-7, TF32 to 3e-4, bfloat16 to 3e-3


@contextlib.contextmanager
def quick(device: torch.device) -> Iterator[None]:
    """float32 matrices are multiplied by oneDNN rather than MKL inside `with`: in half the time on AMD's.

    torch calls that precision "medium" and may take bfloat16 for it where a CPU has units for that (AMX), so
    it is tried out first. On a GPU the same word would stand for TF32: there nothing is changed.
    """
    before = _precision() if device.type == "cpu" else None
    if before is None:
        yield
        return
    try:
        torch.set_float32_matmul_precision("medium")
        if (off := error()) > EXACT:
            log.info("Matrix multiplication stays with %r: 'medium' is off by %.0e here.", before, off)
            torch.set_float32_matmul_precision(before)
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _precision() -> str | None:
    """None where a host chose with torch's newer settings: then the older getter raises, and asking for more
    would mix the two."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@torch.no_grad()
def error() -> float:
    """Relative error of the kinds of multiplication that training is made of, the largest."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((128, 320), (320, 320), (4, 64, 320), (4, 320, 64), (1, 32, 16, 16), (32, 32, 3, 3))
    wide = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    narrow = [t.float() for t in wide]
    pairs = zip(_products(narrow), _products([t.double() for t in narrow]), strict=True)
    return max(float((ours - exact).norm() / exact.norm()) for ours, exact in pairs)


def _products(t: list[Tensor]) -> list[Tensor]:
    with torch.autocast("cpu", enabled=False):
        return [F.linear(t[0], t[1]), torch.bmm(t[2], t[3]), F.conv2d(t[4], t[5], padding=1)]
