"""Resolutions: at which size a picture is trained, and what of it is cut off.

The arithmetic is sd-scripts' (`make_bucket_resolutions`, `BucketManager.select_bucket` at 48d368f), so that
the same folder falls into the same buckets. Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Sequence

from lora_train.errors import Mistake
from lora_train.knobs import knob

Size = tuple[int, int]

GRAIN = 8  # pixels to a latent


@dataclasses.dataclass(frozen=True)
class Resolution:
    """Width and height; `512` and `768,512` are two ways to write one."""

    width: int
    height: int

    @classmethod
    def parse(cls, value: object) -> Resolution:
        """Raises ValueError: neither one whole number nor two."""
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        found = re.fullmatch(r"(\d+)(?:\.0)?(?:\s*[,x]\s*(\d+)(?:\.0)?)?", text.strip(" ()[]"))
        sides = [int(side) for side in found.groups() if side] if found else []
        if not sides or not all(GRAIN <= side <= 8192 for side in sides):
            raise ValueError(f"expected {GRAIN} to 8192, one number or width,height, such as 512 or 768,512")
        return cls(sides[0], sides[-1])

    def __str__(self) -> str:
        return str(self.width) if self.width == self.height else f"{self.width},{self.height}"


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a picture comes to its bucket: resized until it covers it, then cut to it."""

    bucket: Size
    resized: Size

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of what is seen, around the middle."""
        left, top = self.cut()
        return left, top, left + self.bucket[0], top + self.bucket[1]

    def cut(self, at: tuple[float, float] | None = None) -> tuple[int, int]:
        """Left and top of what is seen of the resized picture.

        Args:
            at: 0 to 1: where between left and right, top and bottom ends; None: around the middle.
        """
        rooms = [r - b for r, b in zip(self.resized, self.bucket, strict=True)]
        left, top = [room // 2 for room in rooms] if at is None else map(_drawn, at, rooms)
        return left, top

    def error(self, size: Size) -> float:
        """How far the bucket's aspect ratio is from the picture's."""
        return abs(self.bucket[0] / self.bucket[1] - size[0] / size[1])


def _drawn(at: float, room: int) -> int:
    return int(at * (room + 1))


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Sizes that pictures are trained at."""

    resolution: Resolution = knob(
        Resolution(512, 512), "Size to train at: one number or width,height. With buckets its area counts.",
        group="buckets", unit="pixels", basic=True)  # fmt: skip
    enable_bucket: bool = knob(
        False, "Give each picture a size near its own shape, with about the resolution's area.",
        group="buckets", basic=True)  # fmt: skip
    min_bucket_reso: int = knob(
        256, "Shortest side of a bucket.", group="buckets", low=GRAIN, high=8192, unit="pixels")  # fmt: skip
    max_bucket_reso: int = knob(
        1024, "Longest side of a bucket.", group="buckets", low=GRAIN, high=8192, unit="pixels")  # fmt: skip
    bucket_reso_steps: int = knob(
        64, "Sides of buckets are multiples of this, itself a multiple of 8.", group="buckets", low=GRAIN,
        high=1024, unit="pixels")  # fmt: skip
    bucket_no_upscale: bool = knob(
        False, "Never enlarge a picture: buckets follow the pictures' own sizes, and min_bucket_reso and "
        "max_bucket_reso do not count.", group="buckets")  # fmt: skip

    def check(self) -> Iterable[str]:
        width, height, step = self.resolution.width, self.resolution.height, self.bucket_reso_steps
        if not self.enable_bucket:
            return
        if step % GRAIN:
            yield f"bucket_reso_steps = {step}: expected a multiple of {GRAIN}, such as 64"
        if min(width, height) < step:
            yield f"resolution = {self.resolution}: expected at least bucket_reso_steps, {step}"
        if self.bucket_no_upscale:
            return
        if min(width, height) < self.min_bucket_reso:
            yield (
                f"min_bucket_reso = {self.min_bucket_reso}: expected at most the shorter side of resolution, "
                f"{min(width, height)}"
            )
        if max(width, height) > self.max_bucket_reso:
            yield (
                f"max_bucket_reso = {self.max_bucket_reso}: expected at least the longer side of resolution, "
                f"{max(width, height)}"
            )

    @property
    def whole(self) -> Size:
        """What pictures are cut to without buckets: the autoencoder makes latents of whole squares, and
        leaves out what is over."""
        width, height = self.resolution.width, self.resolution.height
        return width - width % GRAIN, height - height % GRAIN

    def fit(self, size: Size) -> Fit:
        """The bucket for a picture of `size`.

        Raises:
            Mistake: without enlarging, the picture fills not even the smallest bucket.
        """
        if not self.enable_bucket:
            return choose(size, (self.whole,))
        full = self.resolution.width, self.resolution.height
        step = self.bucket_reso_steps
        if self.bucket_no_upscale:
            return shrink(size, full[0] * full[1], step)
        low, high = self.min_bucket_reso, self.max_bucket_reso
        return choose(size, make_resolutions(full, max(step, low - low % step), high + -high % step, step))


@functools.lru_cache(maxsize=64)
def make_resolutions(area: Size, low: int = 256, high: int = 1024, step: int = 64) -> tuple[Size, ...]:
    """All buckets of at most `area`'s area, sides from `low` to `high` in multiples of `step`; sorted."""
    most = area[0] * area[1]
    side = int(math.sqrt(most) // step) * step
    found = {(side, side)}
    for width in range(low, high + 1, step):
        height = min(high, most // width // step * step)
        if height >= low:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def choose(size: Size, resolutions: Sequence[Size]) -> Fit:
    """The bucket of the nearest aspect ratio (of two as near the first), or that of exactly this size."""
    width, height = size
    aspect = width / height
    bucket = size if size in resolutions else min(resolutions, key=lambda r: abs(r[0] / r[1] - aspect))
    scale = bucket[1] / height if aspect > bucket[0] / bucket[1] else bucket[0] / width
    return Fit(bucket, (int(width * scale + 0.5), int(height * scale + 0.5)))


def shrink(size: Size, most: int, step: int) -> Fit:
    """The bucket of a picture that is made smaller if its area is over `most`, and else left at its size.

    Raises:
        Mistake: no bucket is that small.
    """
    resized = _shrunk(size, most, step) if size[0] * size[1] > most else size
    bucket = resized[0] - resized[0] % step, resized[1] - resized[1] % step
    if not all(bucket):
        raise Mistake(
            f"{size[0]}x{size[1]} pixels, with a side below {step} (bucket_reso_steps) at this resolution; "
            "enlarge or crop it, leave it out, or turn bucket_no_upscale off"
        )
    return Fit(bucket, resized)


def _shrunk(size: Size, most: int, step: int) -> Size:
    """Of two sizes, with width or with height on a multiple of `step`, the one whose bucket is truer."""

    def down(x: float) -> int:
        x = int(x + 0.5)
        return x - x % step

    aspect = size[0] / size[1]
    wide = down(math.sqrt(most * aspect))
    tall = down(most / math.sqrt(most * aspect))
    of_wide = abs(wide / below - aspect) if (below := down(wide / aspect)) else math.inf
    of_tall = abs(down(tall * aspect) / tall - aspect) if tall else math.inf
    if of_wide < of_tall:
        return wide, int(wide / aspect + 0.5)
    return int(tall * aspect + 0.5), tall
