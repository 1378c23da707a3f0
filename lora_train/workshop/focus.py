"""Where in a picture something is to be seen, and which part of it to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from lora_train.data.buckets import Size

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

SIDE = 192  # pixels of the longer side of what is looked at
CALM = 0.02  # of the way from black to white: edges and colours below are noise


def interest(image: Image.Image, faces: Sequence[Box] = (), weight: float = 0.0) -> np.ndarray:
    """How much there is to see at each place, [h, w] of sum 1.

    Half of it is edges, half how far a place's colour is from the picture's mean colour (frequency-tuned
    saliency, Achanta et al. 2009, equation 1), each relative to its own sum; a little less towards the rim.

    Args:
        image: RGB.
        faces: `weight` of all lies evenly on them, where there are some.
    """
    scale = min(1.0, SIDE / max(image.size))
    size = tuple(max(1, round(side * scale)) for side in image.size)
    small = image.resize(size, Image.Resampling.BOX).filter(ImageFilter.GaussianBlur(1))
    r, g, b = np.moveaxis(np.asarray(small, np.float32) / 255, -1, 0)
    opponent = np.stack([(r + g + b) / 3, (r - g) / 2, (b - (r + g) / 2) / 2])
    along = [np.gradient(opponent[0], axis=i) if size[1 - i] > 1 else 0 * r for i in (0, 1)]
    edges = np.hypot(*along)
    colour = np.sqrt(np.square(opponent - opponent.mean((1, 2), keepdims=True)).sum(0))
    found = sum(_share(np.maximum(part - CALM, 0)) for part in (edges, colour)) / 2
    y, x = (np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in found.shape)
    found = _share(found * (1 - 0.25 * np.square(x) - 0.25 * np.square(y)[:, None]))
    if faces and weight:
        own = np.zeros_like(found)
        for left, top, right, bottom in faces:
            here = [math.floor(left * scale), math.floor(top * scale)]
            own[here[1] : math.ceil(bottom * scale), here[0] : math.ceil(right * scale)] = 1
        found = (1 - weight) * found + weight * _share(own)
    return found


def largest(size: Size, ratio: float, found: np.ndarray | None = None) -> Box:
    """The largest part of a picture with this ratio of width to height; around the middle, or where most of
    what is `found` lies near its own middle: weighed by 1 - d^2, d from 0 there to 1 at its ends."""
    width, height = size
    wide = min(width, max(1, round(height * ratio)))
    high = min(height, max(1, round(width / ratio)))
    left, top = (width - wide) // 2, (height - high) // 2
    if found is not None and wide < width:
        left = _best(found.sum(0), width, wide)
    elif found is not None and high < height:
        top = _best(found.sum(1), height, high)
    return left, top, left + wide, top + high


def around(box: Box, size: Size, *, margin: float = 0.0, ratio: float | None = None) -> Box:
    """A box with room around it, brought to a ratio of width to height by what is missing on two sides;
    within the picture, and so smaller where that does not reach.

    Args:
        margin: on each side, in longer sides of the box.
    """
    left, top, right, bottom = box
    room = margin * max(right - left, bottom - top)
    wide, high = right - left + 2 * room, bottom - top + 2 * room
    if ratio is not None:
        wide, high = max(wide, high * ratio), max(high, wide / ratio)
        less = min(1.0, size[0] / wide, size[1] / high)
        wide, high = wide * less, high * less
    wide, high = min(size[0], max(1, round(wide))), min(size[1], max(1, round(high)))
    x, y = (left + right) / 2, (top + bottom) / 2
    left = min(max(0, round(x - wide / 2)), size[0] - wide)
    top = min(max(0, round(y - high / 2)), size[1] - high)
    return left, top, left + wide, top + high


def _share(part: np.ndarray) -> np.ndarray:
    """Of sum 1; even where there is nothing."""
    whole = float(part.sum())
    return part / whole if whole > 0 else np.full_like(part, 1 / part.size)


def _best(mass: np.ndarray, length: int, side: int) -> int:
    """Where a part of `side` begins along a side of the picture."""
    scale = len(mass) / length
    places = (np.arange(len(mass)) + 0.5) / scale
    starts = np.unique(
        np.linspace(0, length - side, min(length - side + 1, 4 * len(mass))).round().astype(int)
    )
    off = (places - (starts[:, None] + side / 2)) / (side / 2)
    worth = (np.maximum(1 - np.square(off), 0) * mass).sum(1)
    near = np.flatnonzero(worth >= worth.max() - 1e-9)
    middle = (length - side) / 2
    return int(starts[near[np.abs(starts[near] - middle).argmin()]])
