"""What the gallery measures of pictures, as numbers."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness, as Pillow's "L" has them


def pixels(image: Image.Image) -> np.ndarray:
    """[H, W, 3] of 0 to 255."""
    return np.asarray(image.convert("RGB"), dtype=float)


def mean(values: Iterable[float]) -> float:
    found = [*values]
    return sum(found) / len(found)


def colourfulness(image: Image.Image) -> float:
    """0 for grey, about 60 for what people call quite colourful.

    Source: Hasler and Süsstrunk 2003, "Measuring colourfulness in natural images", equation 11.
    """
    red, green, blue = pixels(image).reshape(-1, 3).T
    opponents = np.stack([red - green, (red + green) / 2 - blue])
    return float(np.linalg.norm(opponents.std(1)) + 0.3 * np.linalg.norm(opponents.mean(1)))


def redness(image: Image.Image) -> float:
    """Red over green, of what is drawn: of the pixels that are not white."""
    found = pixels(image)
    drawn = found[found.min(-1) < 200]
    return float((drawn[:, 0] - drawn[:, 1]).mean()) if len(drawn) else 0.0


def distance(one: Image.Image, other: Image.Image) -> float:
    """Root of the mean squared difference of their pixels: 0 to 255."""
    return float(np.sqrt(((pixels(one) - pixels(other)) ** 2).mean()))


def shape_distance(one: Image.Image, other: Image.Image) -> float:
    """The same of their brightness alone."""
    return distance(one.convert("L"), other.convert("L"))


def spread(images: Sequence[Image.Image]) -> float:
    """Mean distance of every two of them: of one prompt at several seeds, what chance makes of it."""
    return mean(distance(one, other) for one, other in itertools.combinations(images, 2))


def moved(before: Sequence[Image.Image], after: Sequence[Image.Image]) -> float:
    """Mean distance of pictures to those of the same seeds."""
    return mean(distance(one, other) for one, other in zip(before, after, strict=True))


def nearest(image: Image.Image, among: Sequence[Image.Image]) -> float:
    """Distance to the nearest."""
    return min(distance(image, other) for other in among)


def rising(values: Sequence[float]) -> bool:
    return all(one < other for one, other in itertools.pairwise(values))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """In Markdown; numbers to the right, those with a point to one place after it."""
    rows = [*rows]
    numeric = [all(isinstance(row[i], int | float) for row in rows) for i in range(len(heads))]
    lines = [heads, ["---:" if told else "---" for told in numeric]]
    lines += [[f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
