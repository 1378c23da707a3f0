"""Measures: how blurred a picture is, and how much of its JPEG compression can be seen.

The thresholds were set on 30 photographs, 22 generated pictures and 21 drawings; docs/LOG.md has the numbers.
"""

from __future__ import annotations

import statistics

import numpy as np
from PIL import Image

BLURRED = 0.55  # softness; of those 73 one is above it, a colour wheel without an edge; of all that were
# blurred by 3 pixels, at 512 pixels on the shorter side, all are, of those blurred by 2 three in four
BLOCKY = 0.6  # of those 73 none is above it; saved as JPEG of quality 10 and as PNG again six of ten
# photographs and generated pictures are, of quality 20 four, and no drawing on white, which has few blocks
POOR = 50  # JPEG's quality below which blocks and rings are seen in flat places

SIDE = 512  # pixels of the shorter side: a picture is as sharp as it is at the size of training
TILES = 4  # across and down; a blurred background is no blurred picture
BOX = 9  # pixels that are averaged to see what a blur takes away
FLAT = 1.0  # mean step from pixel to pixel, of both directions, below which a tile tells nothing
STEEP = 20  # a step of more is an edge, not a block's border
BLOCK = 8  # pixels
MIDDLE = 1024  # pixels of each side that are looked at for blocks

BASE = (  # JPEG's luminance table at quality 50: T.81, table K.1, in the order of rows
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip


def softness(grey: np.ndarray) -> float:
    """0 to 1: the share of the steps from pixel to pixel that another blur does not take away, in the
    sharpest eighth of the places that have anything to see. 0 where none has.

    Args:
        grey: [H, W] uint8.

    Source: Crete et al. 2007, "The blur effect: perception and estimation with a new no-reference perceptual
    blur metric"; taking it by tiles is ours.
    """
    if min(grey.shape) < BOX:
        return 0.0
    (down, soft_down), (across, soft_across) = _tiles(np.ascontiguousarray(grey.T)), _tiles(grey)
    steps, soft = down.T + across, np.maximum(soft_down.T, soft_across)
    seen = np.sort(soft[steps > max(FLAT, np.median(steps) / 4)])
    return float(seen[: max(1, len(seen) // 8)].mean()) if len(seen) else 0.0


def _tiles(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each tile, along its rows: the mean step, and the share of it that is left after a blur.

    Two means of BOX pixels side by side share all but their first and last pixel, so a step of the blurred
    picture is the difference of these over BOX.
    """
    half = BOX // 2
    wide = np.pad(grey, ((0, 0), (half, half)), mode="edge").astype(np.int16)
    sharp = BOX * np.abs(np.diff(wide[:, half:-half]))
    gone = np.maximum(0, sharp - np.abs(wide[:, BOX:] - wide[:, :-BOX]))
    height, width = sharp.shape
    rows, columns = (np.arange(TILES) * side // TILES for side in (height, width))

    def summed(x: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(x, columns, 1, dtype=np.int32), rows, 0)

    whole = summed(sharp).astype(np.float32)
    return whole * TILES * TILES / (BOX * height * width), 1 - summed(gone) / np.maximum(whole, 1e-6)


def blocks(grey: np.ndarray) -> float:
    """How much larger steps are at every eighth pixel than between, in mean steps; 0: not at all.

    Of each row and column of borders only what is no edge counts, and of all of them the middle one: a drawn
    line may lie on one border, but not on all. The borders may begin anywhere, as they do in crops.

    Args:
        grey: [H, W] uint8; of a picture that was resized nothing can be told.
    """
    top, left = (max(0, (side - MIDDLE) // 2) for side in grey.shape)
    grey = grey[top : top + MIDDLE, left : left + MIDDLE].astype(np.int16)
    if min(grey.shape) < 8 * BLOCK:
        return 0.0
    return max(0.0, min(_borders(grey), _borders(np.ascontiguousarray(grey.T))))


def _borders(grey: np.ndarray) -> float:
    steps = np.abs(np.diff(grey))
    between = steps[:, 1:-1]
    own = 2 * between - steps[:, :-2] - steps[:, 2:]
    low = between < STEEP
    each = (own * low).sum(0, dtype=np.int32) / (2 * np.maximum(1, low.sum(0)))
    usual = (between * low).sum(dtype=np.int64) / max(1, low.sum()) + 0.25
    places = sorted(float(np.median(each[i::BLOCK])) for i in range(BLOCK))
    return (places[-1] - places[-2]) / usual


def quality(image: Image.Image) -> int | None:
    """What an open JPEG file was saved with, 1 to 100 in the usual scale; None: it is no JPEG."""
    tables = vars(image).get("quantization")
    if image.format not in ("JPEG", "MPO") or not tables:
        return None
    table = sorted(tables[min(tables)])  # in any order, for Pillow's has changed; a scaled table is as sorted
    scales = [100 * own / base for own, base in zip(table, sorted(BASE), strict=False) if 1 < own < 255]
    scale = statistics.median(scales) if scales else 100 * sum(table) / sum(BASE)
    return round(max(1.0, min(100.0, 5000 / scale if scale > 100 else (200 - scale) / 2)))


def shrunk(grey: Image.Image) -> Image.Image:
    """At the size at which sharpness is judged; never larger than it is."""
    times = SIDE / min(grey.size)
    if times >= 1:
        return grey
    size = round(grey.width * times), round(grey.height * times)
    return grey.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
