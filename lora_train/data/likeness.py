"""Likeness: which pictures look the same, though their files differ."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

import numpy as np
from PIL import Image

from lora_train.data import pictures

NEAR = 6  # bits that copies may differ by. Of 36 drawings and photographs the two most alike differ by 13;
# copies at half the size, as JPEG of quality 40, a fifth brighter or darker by 0 to 4 (one by 8); those with
# 2 % cut off on each side by 5 in the median, by 12 at most
SAME = 0.98  # correlation of cells from which pictures within NEAR bits are copies. Of 4.3 million pairs of
# 2,928 emoji on white 3,129 are within NEAR bits and 577 of these above it: one figure in another colour, or
# as a man and a woman. Of 58 drawings and photographs no copy as above is below 0.981; with 1 % cut off on
# each side 97 % are above it, with 2 % a third
ACROSS, DOWN = 9, 8  # cells
REACH = (2 - 2 * SAME) ** 0.5 + 1e-3  # how far two such are apart at most, as vectors of length 1
SOME = 2048  # that are compared with as many others at once


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


def copies(seen: Mapping[T, bytes]) -> list[list[T]]:
    """Pictures, by their cells, that are near to another of their group; in the order given."""
    places: dict[bytes, int] = {}
    which = [places.setdefault(own, len(places)) for own in seen.values()]
    leader = _led([*places])
    grouped = collections.defaultdict(list)
    for name, place in zip(seen, which, strict=True):
        grouped[_found(leader, place)].append(name)
    return [group for group in grouped.values() if len(group) > 1]


def _led(every: list[bytes]) -> np.ndarray:
    """For each of several cells another one of its group, or itself.

    Not all pairs are compared: of two that correlate by SAME no projection differs by more than REACH, so
    along the axis on which they differ most, each is held against those that follow within it.
    """
    leader = np.arange(len(every))
    if len(every) < 2:
        return leader
    like, numbers = plain(every), np.array([*map(hashed, every)], np.int64).view(np.uint64)
    along = like @ np.linalg.eigh(np.cov(like.T))[1][:, -1].astype(np.float32)
    order = np.argsort(along, kind="stable")
    like, numbers, along = like[order], numbers[order], along[order]
    for first in range(0, len(order), SOME):
        last = min(first + SOME, len(order))
        end = int(np.searchsorted(along, along[last - 1] + REACH, side="right"))
        for begin in range(first, end, SOME):
            stop = min(begin + SOME, end)
            rows, columns = np.nonzero(like[first:last] @ like[begin:stop].T >= SAME)
            rows, columns = rows + first, columns + begin
            near = _apart(numbers[rows], numbers[columns]) <= NEAR
            _join(leader, order[rows[near]], order[columns[near]])
    return leader


def _join(leader: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
    """Each row's columns and the row itself become one group; rows of the same number stand together."""
    firsts = np.flatnonzero(np.diff(rows, prepend=-1))
    for row, some in zip(rows[firsts], np.split(columns, firsts[1:]), strict=len(rows) > 0):
        if len(some) == 1 and some[0] == row:
            continue
        roots = {_found(leader, int(i)) for i in (row, *np.unique(leader[some]))}
        first = min(roots)
        leader[[*roots]] = first
        leader[some] = first


def _found(leader: np.ndarray, i: int) -> int:
    while leader[i] != i:
        leader[i] = leader[leader[i]]
        i = int(leader[i])
    return i


ONES = np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    1, dtype=np.uint8
)


def _apart(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """In how many bits each of some differs from that of others."""
    return ONES[(some ^ others).view(np.uint16).reshape(-1, 4)].sum(1, dtype=np.uint8)
