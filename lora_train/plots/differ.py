"""How far pictures are from each other, and from the looks of a set of them; no network is asked."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

import numpy as np
from PIL import Image

SIDE = 64  # pixels that looks are taken of
BINS = 8  # of brightness
LEAST = 0.02  # of a feature's range: what pictures of a set differ by at least


def pixels(image: Image.Image) -> np.ndarray:
    """[H, W, 3] of 0 to 255."""
    return np.asarray(image.convert("RGB"), dtype=np.float64)


def moved(one: Image.Image, other: Image.Image) -> float:
    """Root of the mean squared difference of their pixels: 0 to 255."""
    return float(np.sqrt(np.square(pixels(one) - pixels(_like(other, one))).mean()))


def changed(one: Image.Image, other: Image.Image, threshold: float) -> float:
    """Share of values of pixels that differ by more than the threshold: 0 to 1. What
    sd-webui-lora-block-weight's Effective Block Analyzer calls diff %."""
    return float((np.abs(pixels(one) - pixels(_like(other, one))) > threshold).mean())


def _like(image: Image.Image, other: Image.Image) -> Image.Image:
    return image if image.size == other.size else image.resize(other.size, Image.Resampling.BICUBIC)


def looks(image: Image.Image) -> np.ndarray:
    """What a picture looks like, whatever it shows: 18 numbers of about 0 to 1.

    Mean and spread of brightness and of the two opponent colours, and how colourful it is (after Hasler and
    Süsstrunk 2003, equation 11); shares of eight steps of brightness; how steep it is at three sizes.
    """
    values = pixels(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)) / 255
    red, green, blue = values[..., 0], values[..., 1], values[..., 2]
    light, first, second = values @ [0.299, 0.587, 0.114], red - green, (red + green) / 2 - blue
    colours = [f(part) for part in (light, first, second) for f in (np.mean, np.std)]
    colourful = np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean())
    shares = np.histogram(light, BINS, (0, 1))[0] / light.size
    steep = [_steepness(light, size) for size in (1, 2, 4)]
    return np.array([*colours, colourful, *shares, *steep])


def _steepness(light: np.ndarray, size: int) -> float:
    """Mean difference of neighbours, of squares of so many pixels."""
    small = light.reshape(SIDE // size, size, SIDE // size, size).mean((1, 3))
    return float(np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean())


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What the pictures of a set look like: mean and spread of `looks`."""

    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, images: Iterable[Image.Image]) -> Likeness:
        found = np.stack([looks(image) for image in images])
        return cls(found.mean(0), np.maximum(found.std(0), LEAST))

    @classmethod
    def read(cls, files: Iterable[pathlib.Path]) -> Likeness:
        return cls.of(map(_opened, files))

    def distance(self, image: Image.Image) -> float:
        """Root of the mean squared distance to the set's mean, in its standard deviations; about 1 for its
        own pictures."""
        return float(np.sqrt(np.square((looks(image) - self.mean) / self.spread).mean()))


def _opened(file: pathlib.Path) -> Image.Image:
    with Image.open(file) as image:
        image.draft("RGB", (4 * SIDE, 4 * SIDE))
        if "A" in image.getbands() or "transparency" in image.info:
            clear = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
        return image.convert("RGB")
