"""Likeness: which pictures look the same, though their files differ."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from PIL import Image

from lora_train.data import pictures

BITS = 64
NEAR = 6  # bits that copies may differ by. Of 36 drawings and photographs the two most alike differ by 13;
# copies at half the size, as JPEG of quality 40, a fifth brighter or darker by 0 to 4 (one by 8); those with
# 2 % cut off on each side by 5 in the median, by 12 at most
SAME = 0.98  # correlation of cells from which pictures within NEAR bits are copies. Of 4.3 million pairs of
# 2,928 emoji on white 3,129 are within NEAR bits and 577 of these above it: one figure in another colour, or
# as a man and a woman. Of 58 drawings and photographs no copy as above is below 0.981; with 1 % cut off on
# each side 97 % are above it, with 2 % a third
ACROSS, DOWN = 9, 8  # cells
SOME = 1024  # numbers that are compared with all others at once


T = TypeVar("T", bound=Hashable)


def seen(path: pathlib.Path) -> bytes:
    """A picture's cells.

    Raises:
        Mistake: not a picture that can be read.
    """
    return cells(pictures.upright(path))


def cells(image: Image.Image) -> bytes:
    """Brightness of 9 x 8 places, row by row."""
    return image.convert("L").resize((ACROSS, DOWN), Image.Resampling.BOX).tobytes()


def turned(cells: bytes) -> bytes:
    """Of the mirrored picture."""
    return np.frombuffer(cells, np.uint8).reshape(DOWN, ACROSS)[:, ::-1].tobytes()


def plain(every: Iterable[bytes]) -> np.ndarray:
    """[N, 72] float32, of mean 0 and length 1: products of two are correlations. Of one colour: zeros."""
    seen = np.frombuffer(b"".join(every), np.uint8).reshape(-1, ACROSS * DOWN).astype(np.float32)
    seen -= seen.mean(1, keepdims=True)
    return seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-6)


def hashed(cells: bytes) -> int:
    """64 bits, as a signed number: whether each of 8 x 8 places is brighter than the one to its right.

    Copies that were resized, saved anew or brightened differ in a few bits, other pictures in about half.

    Source: the "difference hash" of N. Krawetz, 2013.
    """
    seen = np.frombuffer(cells, np.uint8).reshape(DOWN, ACROSS)
    bits = np.packbits((seen[:, :-1] > seen[:, 1:]).flatten())
    return int.from_bytes(bits.tobytes(), "big", signed=True)


def groups(hashes: Mapping[T, int], distance: int = NEAR) -> list[list[T]]:
    """Those that are within `distance` bits of another of their group; in the order given."""
    numbers, which = np.unique(np.array([*hashes.values()], np.int64), return_inverse=True)
    return _grouped([*hashes], which.tolist(), len(numbers), _near(numbers.view(np.uint64), distance))


def copies(seen: Mapping[T, bytes]) -> list[list[T]]:
    """Pictures, by their cells, that are near to another of their group; in the order given."""
    places: dict[bytes, int] = {}
    which = [places.setdefault(own, len(places)) for own in seen.values()]
    numbers = np.array([*map(hashed, places)], np.int64).view(np.uint64)
    return _grouped([*seen], which, len(places), _near(numbers, NEAR, plain(places)))


def _grouped(names: list[T], which: list[int], count: int, pairs: Iterable[tuple[int, int]]) -> list[list[T]]:
    leader = list(range(count))

    def found(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    for i, j in pairs:
        leader[found(j)] = found(i)
    grouped = collections.defaultdict(list)
    for i, name in zip(which, names, strict=True):
        grouped[found(i)].append(name)
    return [group for group in grouped.values() if len(group) > 1]


def _near(numbers: np.ndarray, distance: int, like: np.ndarray | None = None) -> Iterator[tuple[int, int]]:
    """Pairs of places; some more than once.

    Not all are compared: of two numbers that differ in at most d of 64 bits, one of d + 1 pieces is equal in
    both.

    Args:
        like: what `plain` makes of them; then pairs have to correlate as well.
    """
    edges = np.linspace(0, BITS, distance + 2).astype(int)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        mask = np.uint64((1 << int(high - low)) - 1)
        pieces = (numbers >> np.uint64(low)) & mask
        order = np.argsort(pieces, kind="stable")
        ends = np.flatnonzero(np.diff(pieces[order])) + 1
        for same in np.split(order, ends):
            for first in range(0, len(same) if len(same) > 1 else 0, SOME):
                some = same[first : first + SOME]
                close = _apart(numbers[some], numbers[same]) <= distance
                if like is not None:
                    close &= like[some] @ like[same].T >= SAME
                rows, columns = np.nonzero(close)
                yield from ((int(i), int(j)) for i, j in zip(some[rows], same[columns], strict=True) if i < j)


ONES = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    1, dtype=np.uint8
)


def _apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In how many bits each of some differs from each of others."""
    both = (some[:, None] ^ others[None, :]).view(np.uint16).reshape(len(some), len(others), 4)
    return ONES[both].sum(2, dtype=np.uint8)
