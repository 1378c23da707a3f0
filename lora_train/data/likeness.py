"""Likeness: which pictures look the same, though their files differ."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from PIL import Image

from lora_train.data import pictures

BITS = 64
NEAR = 6  # bits that copies may differ by. Of 36 drawings and photographs the two most alike differ by 13;
# copies at half the size, as JPEG of quality 40, a fifth brighter or darker by 0 to 4 (one by 8); those with
# 2 % cut off on each side by 5 in the median, by 12 at most
SOME = 1024  # numbers that are compared with all others at once


def likeness(path: pathlib.Path) -> int:
    """64 bits, as a signed number: whether each of 8 x 8 places is brighter than the one to its right.

    Copies that were resized, saved anew or brightened differ in a few bits, other pictures in about half.

    Raises:
        Mistake: not a picture that can be read.

    Source: the "difference hash" of N. Krawetz, 2013.
    """
    image = pictures.upright(path).convert("L").resize((9, 8), Image.Resampling.BOX)
    seen = np.asarray(image).astype(np.int16)
    bits = np.packbits((seen[:, :-1] > seen[:, 1:]).flatten())
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def groups(hashes: Mapping[pathlib.Path, int], distance: int = NEAR) -> list[list[pathlib.Path]]:
    """Pictures that are within `distance` bits of another of their group; in the order given.

    Not all pairs are compared: of two numbers that differ in at most d of 64 bits, one of d + 1 pieces is
    equal in both.
    """
    numbers, which = np.unique(np.array([*hashes.values()], np.int64), return_inverse=True)
    leader = list(range(len(numbers)))

    def found(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    for i, j in _near(numbers.view(np.uint64), distance):
        leader[found(j)] = found(i)
    grouped = collections.defaultdict(list)
    for i, path in zip(which.tolist(), hashes, strict=True):
        grouped[found(i)].append(path)
    return [group for group in grouped.values() if len(group) > 1]


def _near(numbers: np.ndarray, distance: int) -> Iterator[tuple[int, int]]:
    """Pairs of places; some more than once."""
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        mask = np.uint64((1 << int(high - low)) - 1)
        pieces = (numbers >> np.uint64(low)) & mask
        order = np.argsort(pieces, kind="stable")
        ends = np.flatnonzero(np.diff(pieces[order])) + 1
        for same in np.split(order, ends):
            for first in range(0, len(same) if len(same) > 1 else 0, SOME):
                some = same[first : first + SOME]
                rows, columns = np.nonzero(_apart(numbers[some], numbers[same]) <= distance)
                yield from ((int(i), int(j)) for i, j in zip(some[rows], same[columns], strict=True) if i < j)


ONES = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    1, dtype=np.uint8
)


def _apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In how many bits each of some differs from each of others."""
    both = (some[:, None] ^ others[None, :]).view(np.uint16).reshape(len(some), len(others), 4)
    return ONES[both].sum(2, dtype=np.uint8)
