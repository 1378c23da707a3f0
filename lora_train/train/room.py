"""When memory runs out in a step: the same step again, in smaller pieces."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch

log = logging.getLogger(__name__)

T = TypeVar("T")


class Samples(Protocol):
    """Those of a batch; see `data.batches.Batch`."""

    ordinals: list[int]

    def pieces(self, most: int) -> list[Samples]: ...


B = TypeVar("B", bound=Samples)


def full(error: BaseException) -> bool:
    """Whether memory ran out: on a card, or on a CPU, where torch has no error of its own for it."""
    return isinstance(error, MemoryError | torch.cuda.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in ("out of memory", "allocate memory"))
    )


class Pieces:
    """How many samples go through the model together; fewer from where memory ran out on.

    A step's loss is a mean over all its samples, whatever pieces they come in, and what is drawn for a sample
    is its own: so the step comes to the same, to rounding, and only takes longer.
    """

    def __init__(self) -> None:
        self.most: int | None = None

    def of(self, batches: Sequence[B]) -> list[B]:
        return [piece for batch in batches for piece in batch.pieces(self.most or len(batch.ordinals))]

    def tried(self, batches: Sequence[B], run: Callable[[Sequence[B]], T], undo: Callable[[], None]) -> T:
        """`run` over the batches in pieces.

        Args:
            undo: takes back what a run that failed has left behind.

        Raises:
            Whatever was raised: a single sample does not fit.
        """
        while True:
            try:
                return run(self.of(batches))
            except (MemoryError, RuntimeError) as e:
                size = max(len(piece.ordinals) for piece in self.of(batches))
                if not full(e) or size == 1:
                    raise
            self.most = size // 2  # out here the error's frames, and what they hold, are gone
            undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning(
                "Not enough memory for %d pictures at once: from here on %d go through the model at a time, "
                "and their gradients are added up. The result is the same.", size, self.most)  # fmt: skip
