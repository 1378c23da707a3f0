"""Single pictures: what is wrong with their files, sizes and pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from lora_train.data.buckets import Buckets, Fit
from lora_train.data.exam import LARGE
from lora_train.data.health import CUT, ENLARGED
from lora_train.data.measures import BLOCKY, POOR
from lora_train.data.memory import Known
from lora_train.errors import Mistake
from lora_train.workshop.kinds import Finding


@dataclasses.dataclass(frozen=True)
class Bounds:
    """From where on something is a problem."""

    side: int  # pixels
    aspect: float
    softness: float


def strange(name: str, known: Known, buckets: Buckets, bounds: Bounds) -> Iterator[Finding]:
    """All that is to be said of a picture which can be read."""
    yield from _sized(name, known, buckets, bounds)
    for trait in (known.traits or "").split():
        yield Finding(trait, (name,))
    if (known.frames or 1) > 1:
        yield Finding("animated", (name,), {"frames": known.frames})
    if known.softness is not None and known.softness > bounds.softness:
        yield Finding("blurred", (name,), {"softness": round(known.softness, 2)})
    if poor(known):
        yield Finding("artefacts", (name,), {"quality": known.quality, "blocks": round(known.blocks or 0, 2)})


def poor(known: Known) -> bool:
    """Whether its compression can be seen. Of large JPEG files it goes when they are made smaller, and counts
    where the quality is below half of the usual bound."""
    if known.quality is not None and known.quality < POOR:
        return known.width * known.height <= LARGE or known.quality < POOR / 2
    return (known.blocks or 0) > BLOCKY


def _sized(name: str, known: Known, buckets: Buckets, bounds: Bounds) -> Iterator[Finding]:
    size = known.width, known.height
    if max(size) > bounds.aspect * min(size):
        yield Finding("aspect", (name,), {"size": size, "times": round(max(size) / min(size), 1)})
    if min(size) < bounds.side:
        yield Finding("tiny", (name,), {"size": size})
    fit = fitted(size, buckets)
    if fit is None:
        return
    facts = {"size": size, "bucket": fit.bucket, "seen": box(size, fit)}
    if scale(size, fit) > ENLARGED and min(size) >= bounds.side:
        yield Finding("enlarged", (name,), {**facts, "times": round(scale(size, fit), 2)})
    if lost(fit) > CUT:
        yield Finding("cut", (name,), {**facts, "share": round(lost(fit), 3)})


def fitted(size: tuple[int, int], buckets: Buckets) -> Fit | None:
    """None: too small for any bucket where nothing is enlarged."""
    try:
        return buckets.fit(size)
    except Mistake:
        return None


def scale(size: tuple[int, int], fit: Fit) -> float:
    """How much larger its bucket shows it; below 1 it is made smaller."""
    return max(fit.resized[0] / size[0], fit.resized[1] / size[1])


def lost(fit: Fit) -> float:
    """Share of its area that is cut off."""
    return 1 - fit.bucket[0] * fit.bucket[1] / (fit.resized[0] * fit.resized[1])


def box(size: tuple[int, int], fit: Fit) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is seen of a picture, in its own pixels."""
    (width, height), (wide, tall) = size, fit.resized
    left, top, right, bottom = fit.crop
    return (round(left * width / wide), round(top * height / tall),
            round(right * width / wide), round(bottom * height / tall))  # fmt: skip


def counted(sizes: Iterable[tuple[int, int]], buckets: Buckets) -> list[tuple[tuple[int, int], int]]:
    """(bucket, pictures that come to it), the smallest first."""
    counts: dict[tuple[int, int], int] = {}
    fits: dict[tuple[int, int], Fit | None] = {}
    for size in sizes:
        if size not in fits:
            fits[size] = fitted(size, buckets)
        if (fit := fits[size]) is not None:
            counts[fit.bucket] = counts.get(fit.bucket, 0) + 1
    return sorted(counts.items())
