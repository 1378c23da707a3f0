"""What can be seen of a run while it goes on: its progress, and who watches it.

The loop, with its events in place:

    for watcher: started(progress)
    for epoch:
        for step:
            for micro-batch: losses, backward
            clip, rates, optimizer step
            for watcher: measured(progress)       of this step, on a GPU of the one before it
            for watcher: stepped(progress)
            between(progress)                 where something is asked; may block: that is what a pause is
    for watcher: finished(progress, error)    also after an error or a stop
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Sequence


@dataclasses.dataclass
class Progress:
    """Where a run stands. Steps and epochs that are done; the loop alone writes here."""

    steps: int  # in the whole run
    steps_per_epoch: int
    step: int = 0
    images: int = 0
    loss: float = 0.0
    average: float = 0.0  # of the losses of the last epoch's worth of steps, exponentially
    norm: float = 0.0  # of the gradient, before clipping
    rates: dict[str, float] = dataclasses.field(default_factory=dict)  # part -> learning rate of the step
    norms: dict[str, float] = dataclasses.field(default_factory=dict)  # see Network.max_norm and .regions
    # of the step's samples in this process: picture, timestep, loss before its weight; for `measured` alone
    samples: Sequence[tuple[str, int, float]] = ()
    began: float = dataclasses.field(default_factory=time.monotonic)
    best: float | None = None  # of the validation losses so far, the lowest
    stale: int = 0  # validations since then
    enough: bool = False  # nothing more is learned: the run ends here as at its last step
    first: int = 0  # step at which this process began: 0, or where it resumed
    origin: int = 0  # step at which the run itself began
    stopped: bool = False  # asked to stop before the last step
    keep: bool = True  # False: stopped, and nothing is to be saved

    @property
    def epoch(self) -> int:
        """Number of the epoch the last step belongs to, from 1; 0 before the first."""
        return -(-self.step // self.steps_per_epoch)

    @property
    def epochs(self) -> int:
        return -(-self.steps // self.steps_per_epoch)

    @property
    def ends_epoch(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return self.step > 0 and self.step % self.steps_per_epoch == 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Seconds, at the pace so far."""
        done = self.step - self.first
        return self.seconds / done * (self.steps - self.step) if done else float("nan")

    def saw(self, step: int, loss: float, norm: float) -> None:
        share = max(1 / (step - self.origin), 2 / (self.steps_per_epoch + 1))
        self.loss, self.norm = loss, norm
        self.average += min(1.0, share) * (loss - self.average)


class Watcher:
    """Told what happens; changes nothing of the training."""

    def preparing(self, what: str, done: int, of: int) -> None:
        """What is made ready before the first step, or is done between two, and how much of it is."""

    def started(self, progress: Progress) -> None:
        """Before the first step of this process; `progress.step` is not 0 after a resume."""

    def due(self, progress: Progress) -> bool:
        """Whether `stepped` will read the numbers of this step, and not only those of an earlier one."""
        return False

    def measured(self, progress: Progress) -> None:
        """The numbers of every step, in order, in a copy of how things stood after it: at once, or on a GPU,
        which is not waited for, after the next step and at the latest before `finished`."""

    def stepped(self, progress: Progress) -> None:
        """After every optimizer step; loss and norm are of this step only where it is `due`."""

    def validated(self, progress: Progress, numbers: dict[str, float]) -> None:
        """What is learned was tried on pictures that are not learned from, after this step."""

    def sampled(self, progress: Progress, sample: dict[str, object]) -> None:
        """A picture was drawn and saved; see `run.watchers.Samples`."""

    def saved(self, progress: Progress, file: pathlib.Path) -> None:
        """A LoRA was written."""

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        """Once, whatever happened."""
