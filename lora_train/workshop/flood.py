"""Ground of one colour, found from the borders of a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from lora_train.errors import Mistake

GRAIN = 16  # levels of a channel that count as one when the border's commonest colour is looked for
EDGE = 5  # pixels across: a drawn line's soft edge, in which subject and ground mix


def subject(image: Image.Image, tolerance: int, *, share: float = 0.5, holes: bool = False) -> Image.Image:
    """How much each place is subject, "L": what does not hang together with the border in the border's
    commonest colour.

    At soft edges a colour is a mix of the ground's and the subject's, and says how much of each. What the
    subject's is there is taken to be the colour near by that is farthest from the ground's.

    Args:
        image: RGB.
        tolerance: how far a channel may be from the ground's colour, 0 to 255.
        share: of the border that has to be of one colour.
        holes: ground that the subject encloses goes, too.

    Raises:
        Mistake: the border has not one colour.
    """
    pixels = np.asarray(image).astype(np.int16)
    colour, of = commonest(pixels, tolerance)
    if of < share:
        raise Mistake(f"no plain ground: {of:.0%} of the border has about one colour; take a remover")
    away = np.abs(pixels - colour).max(2)
    like = away <= tolerance
    ground = like if holes else hanging(like)
    far = np.where(ground, 0, away).astype(np.uint8)
    full = np.asarray(Image.fromarray(far).filter(ImageFilter.MaxFilter(EDGE))).astype(np.float32)
    near = np.asarray(Image.fromarray(ground).convert("L").filter(ImageFilter.MaxFilter(EDGE))) > 0
    mixed = np.where(near, far / np.maximum(full, 1), 1.0)
    return Image.fromarray(np.where(ground, 0, np.rint(mixed * 255)).astype(np.uint8))


def commonest(pixels: np.ndarray, tolerance: int) -> tuple[np.ndarray, float]:
    """(colour that most of the border has, share of the border that is within tolerance of it)."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    coarse = (border // GRAIN).astype(np.int64)
    keys = (coarse[:, 0] * 256 + coarse[:, 1]) * 256 + coarse[:, 2]
    values, counts = np.unique(keys, return_counts=True)
    colour = np.median(border[keys == values[counts.argmax()]], 0).astype(np.int16)
    for _ in range(2):  # the edge of a grain may go through the colour
        close = np.abs(border - colour).max(1) <= max(tolerance, 1)
        colour = np.median(border[close], 0).astype(np.int16) if close.any() else colour
    return colour, float((np.abs(border - colour).max(1) <= tolerance).mean())


def hanging(like: np.ndarray) -> np.ndarray:
    """Which of those that are so hang together with the border, by sides."""
    piece = pieces(like)
    edge = np.concatenate([piece[0], piece[-1], piece[:, 0], piece[:, -1]])
    outer = np.zeros(int(piece.max()) + 1, bool)
    outer[edge] = True
    outer[0] = False
    return outer[piece]


def pieces(like: np.ndarray) -> np.ndarray:
    """A number for each place, the same in all that hangs together by sides; 0 where it is not so.

    Runs of a row are one thing each; runs that touch in two rows are joined, the smaller number wins, until
    nothing changes. All in a few passes over the picture, however winding its shapes are.
    """
    height, width = like.shape
    begins = like.copy()
    begins[:, 1:] &= ~like[:, :-1]
    number = np.cumsum(begins, dtype=np.int32).reshape(height, width) * like
    above, below = number[:-1].ravel(), number[1:].ravel()
    touch = (above > 0) & (below > 0)
    pairs = above[touch].astype(np.int64) * (int(number.max()) + 1) + below[touch]
    pairs = np.unique(pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]])
    ones, others = np.divmod(pairs, int(number.max()) + 1)
    parent = np.arange(number.max() + 1, dtype=np.int32)
    while True:
        a, b = parent[ones], parent[others]
        if (a == b).all():
            break
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while (parent != parent[parent]).any():
            parent = parent[parent]
    return parent[number]
