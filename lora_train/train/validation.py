"""Validation: when what is learned is tried on pictures that are not learned from, and what follows of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from lora_train.knobs import knob

if TYPE_CHECKING:
    from lora_train.train.events import Progress

PARTS = 5  # of the range of timesteps; tried are those between two: 200, 400, 600 and 800


@dataclasses.dataclass(frozen=True)
class Validation:
    """Only acts where pictures are held out, see `data.validation_split`."""

    validate_every_n_steps: int | None = knob(
        None, "Try what is learned on the pictures that are held out after every n-th step.",
        group="validation", low=1)  # fmt: skip
    validate_every_n_epochs: int | None = knob(
        None, "The same after every n-th epoch. If neither is set: after every epoch, and at the end.",
        group="validation", low=1)  # fmt: skip
    max_validation_steps: int | None = knob(
        None, "Batches of pictures that are tried at most.", group="validation", low=1)  # fmt: skip
    save_best: bool = knob(
        True, "Also keep the file with the lowest validation loss so far, named like the result with -best "
        "behind it.", group="validation")  # fmt: skip
    early_stopping_patience: int | None = knob(
        None, "End the run when the validation loss was not lower than the lowest for so many times in "
        "sequence.", group="validation", low=1)  # fmt: skip
    early_stopping_threshold: float = knob(
        0.0, "How much lower than the lowest it has to be to count as lower.", group="validation", low=0,
        high=10)  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            yield "early_stopping_threshold: expected none without early_stopping_patience"

    @property
    def epochs(self) -> int | None:
        """Every how many."""
        neither = self.validate_every_n_steps is None and self.validate_every_n_epochs is None
        return 1 if neither else self.validate_every_n_epochs

    def due(self, p: Progress) -> bool:
        """Whether it is time. The end of the run is, so that there is a number for what is saved then."""
        steps, epochs = self.validate_every_n_steps, self.epochs
        return (
            p.step >= p.steps
            or bool(steps and p.step % steps == 0)
            or bool(epochs and p.ends_epoch and p.epoch % epochs == 0)
        )

    def heard(self, p: Progress, loss: float) -> bool:
        """Write down a validation loss; whether it is the best so far."""
        better = p.best is None or loss < p.best - self.early_stopping_threshold
        better = better and math.isfinite(loss)
        p.best, p.stale = (loss, 0) if better else (p.best, p.stale + 1)
        p.enough = self.early_stopping_patience is not None and p.stale >= self.early_stopping_patience
        return better


def timesteps(low: int, high: int) -> list[int]:
    """Those between the parts of a range, as sd-scripts has them: four, evenly apart."""
    return [low + (high - low) * part // PARTS for part in range(1, PARTS)]
