"""What pictures are like, as vectors that are remembered: which are neighbours, and which much the same."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from lora_train.data import pictures
from lora_train.errors import Mistake
from lora_train.tools.tool import Told, unheard
from lora_train.workshop.asking import ahead
from lora_train.workshop.found import Found
from lora_train.workshop.objects import Objects
from lora_train.workshop.opened import Entry, Opened

ROWS, COLUMNS = 256, 4096  # that are compared at once; of 100,000 pictures that takes 150 MB
LEVELS = 127  # a number of a vector is kept as one byte; the likeness of two changes by some 0.001


@dataclasses.dataclass
class Features:
    """Of pictures that could be read."""

    names: list[str]
    kept: np.ndarray  # [pictures, 1280] int8

    def likeness(self, begin: int, end: int) -> np.ndarray:
        """[end - begin, pictures]: cosines, of some with all; 1 is the same, and of photos of different
        things it is seldom over 0.5."""
        rows, of = unit(self.kept[begin:end]), len(self.names)
        found = np.empty((len(rows), of), np.float32)
        for n in range(0, of, COLUMNS):
            found[:, n : n + COLUMNS] = rows @ unit(self.kept[n : n + COLUMNS]).T
        return found

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, likeness of its rows with all); of a picture with itself it is -1."""
        for begin in range(0, len(self.names), ROWS):
            found = self.likeness(begin, begin + ROWS)
            here = np.arange(len(found))
            found[here, here + begin] = -1
            yield begin, found

    def nearest(self) -> dict[str, tuple[str, float]]:
        """Of each picture the one that is most like it, and how much."""
        found = {}
        for begin, likeness in self.blocks() if len(self.names) > 1 else ():
            best = likeness.argmax(1)
            for n, other in enumerate(best):
                found[self.names[begin + n]] = (self.names[other], float(likeness[n, other]))
        return found

    def groups(self, least: float) -> list[list[str]]:
        """Pictures that are alike, or are both like a third, the largest group first."""
        of = [*range(len(self.names))]

        def root(n: int) -> int:
            while of[n] != n:
                of[n] = of[of[n]]
                n = of[n]
            return n

        for begin, likeness in self.blocks():
            for row, other in zip(*np.nonzero(likeness >= least), strict=True):
                one, two = sorted((root(begin + int(row)), root(int(other))))
                of[two] = one
        found: dict[int, list[str]] = {}
        for n, name in enumerate(self.names):
            found.setdefault(root(n), []).append(name)
        return sorted((names for names in found.values() if len(names) > 1), key=len, reverse=True)


def unit(kept: np.ndarray) -> np.ndarray:
    """Of length 1."""
    rows = kept.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


def features(
    opened: Opened, entries: Sequence[Entry], told: Told = unheard, *, device: str = "auto"
) -> Features:
    """Of those of the pictures that can be read.

    Raises:
        Mistake: the model's packages are not installed.
    """
    model = Objects(device, whole=True)
    vectors: dict[str, bytes] = {}

    def seen(entry: Entry) -> object:
        with contextlib.suppress(Mistake):
            return model.prepared(pictures.upright(opened.path(entry.name)))
        return None

    with Found(opened, f"vectors {model.id}") as found:
        vectors = {entry.name: kept for entry in entries if (kept := found.of(entry)) is not None}
        rest = [entry for entry in entries if entry.name not in vectors]
        if rest:
            model.ready()
        with contextlib.closing(ahead(seen, rest, 2 * model.batch)) as every:
            batch: list[tuple[Entry, object]] = []
            for n, (entry, picture) in enumerate(every, 1):
                batch += [(entry, picture)] if picture is not None else []
                if batch and (len(batch) == model.batch or n == len(rest)):
                    for (one, _), row in zip(
                        batch, model.vectors([p for _, p in batch]).cpu().numpy(), strict=True
                    ):
                        vectors[one.name] = (
                            np.round(row / np.abs(row).max() * LEVELS).astype(np.int8).tobytes()
                        )
                        found.keep(one, vectors[one.name])
                    batch = []
                told(len(entries) - len(rest) + n, len(entries))
    names = [entry.name for entry in entries if entry.name in vectors]
    joined = b"".join(vectors.pop(name) for name in names)
    return Features(names, np.frombuffer(joined, np.int8).reshape(len(names), -1 if names else 1))
