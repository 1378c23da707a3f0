"""Masks as pictures of grey: grown, softened, and what colours are under a soft edge."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageFilter

WIDE, NARROW = 90, 6  # pixels around that say what an edge's colours are; see `foreground`
REACH = WIDE + NARROW  # pixels around that it looks at in all


def grown(mask: Image.Image, radius: int) -> Image.Image:
    """Larger by so many pixels all round; below 0 smaller."""
    if not radius:
        return mask
    if radius < 0:
        return Image.eval(grown(Image.eval(mask, _turned), -radius), _turned)
    pixels = np.asarray(mask)
    found = pixels.copy()
    for down in range(radius + 1):
        wide = _wide(pixels, math.isqrt(radius * radius - down * down))
        height = max(0, len(pixels) - down)
        found[down:] = np.maximum(found[down:], wide[:height])
        found[:height] = np.maximum(found[:height], wide[len(pixels) - height :])
    return Image.fromarray(found)


def _turned(value: int) -> int:
    return 255 - value


def _wide(pixels: np.ndarray, reach: int) -> np.ndarray:
    """The largest of those up to `reach` to the left and right; in as many passes as its logarithm."""
    padded, have, want = np.pad(pixels, ((0, 0), (reach, reach))), 1, 2 * reach + 1
    while have < want:
        step = min(have, want - have)
        padded = np.maximum(padded[:, :-step], padded[:, step:])
        have += step
    return padded


def softened(mask: Image.Image, radius: float) -> Image.Image:
    return mask.filter(ImageFilter.GaussianBlur(radius)) if radius else mask


def foreground(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What the subject's colours are where they mix with the ground's, [H, W, 3] of 0 to 1.

    Forte, "Approximate Fast Foreground Colour Estimation", ICIP 2021: means around, weighted by how much is
    subject, and the rest of the mix laid on them; once from afar and once from near by.

    Args:
        pixels: [H, W, 3], 0 to 1.
        alpha: [H, W], 0 to 1.
    """
    a = alpha[..., None].astype(np.float32)
    front = back = pixels.astype(np.float32)
    for radius in (WIDE, NARROW):
        around = _mean(a, radius)
        mean = _mean(front * a, radius) / (around + 1e-5)
        ground = _mean(back * (1 - a), radius) / (1 - around + 1e-5)
        front = (mean + a * (pixels - a * mean - (1 - a) * ground)).clip(0, 1)
        back = ground
    return front


def _mean(values: np.ndarray, radius: int) -> np.ndarray:
    """Of the square around each place; beyond the picture its edge goes on."""
    wide = 2 * radius + 1
    for axis in (0, 1):
        values = np.moveaxis(values, axis, 0)
        padded = np.pad(values, ((radius + 1, radius), *[(0, 0)] * (values.ndim - 1)), mode="edge")
        total = np.cumsum(padded, 0, dtype=np.float32)
        values = np.moveaxis((total[wide:] - total[:-wide]) / wide, 0, axis)
    return values
