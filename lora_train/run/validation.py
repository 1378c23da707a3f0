"""Tries what is learned on the pictures that are held out: always the same noise, at the same timesteps."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.draws import drawn
from lora_train.train.events import Progress, Watcher
from lora_train.train.loop import DTYPES, seeded

if TYPE_CHECKING:
    from lora_train.data.batches import Batch, Batches
    from lora_train.host import Lent
    from lora_train.train.learner import Learner
    from lora_train.train.parallel import Team
    from lora_train.train.validation import Validation

log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Validating(Watcher):
    """A watcher in each process of a run; training is the same to the bit with it and without.

    Args:
        best: keeps the weights as they are as the best ones.
        watchers: are told the numbers.
    """

    settings: Validation
    learner: Learner
    lent: Lent
    batches: Batches
    precision: str
    crew: Team
    best: Callable[[Progress], None]
    watchers: Sequence[Watcher] = ()

    def due(self, progress: Progress) -> bool:
        return self.settings.due(progress)

    def stepped(self, progress: Progress) -> None:
        if self.settings.due(progress):
            self.now(progress)

    def now(self, progress: Progress) -> None:
        losses = self.losses(progress)
        mean = sum(losses.values()) / len(losses)
        numbers = {
            "loss/validation/average": mean,
            "loss/validation/divergence": mean - progress.average,
            **{f"loss/validation/{t}": loss for t, loss in losses.items()},
        }
        if self.settings.heard(progress, mean) and self.settings.save_best:
            self.best(progress)
        for watcher in self.watchers:
            watcher.validated(progress, numbers)
        if progress.enough and progress.step < progress.steps:
            log.info(
                "The validation loss was not lower than %.5f for %d times: the run ends at step %d, as "
                "validation.early_stopping_patience asks", progress.best, progress.stale, progress.step
            )  # fmt: skip

    def losses(self, progress: Progress) -> dict[int, float]:
        """Timestep -> the mean loss of a picture there."""
        batches = self.batches.held()[: self.settings.max_validation_steps]
        mine = {}
        with self.learner.shown():
            for number, entries in self.crew.share([*enumerate(batches)]):
                self._say("validating", number, len(batches))
                mine[number] = self._of(self.batches.whole(entries))
        self._say("", 0, 0)
        # added up in one order, however many processes there are
        every = {number: sums for some in self.crew.all(mine) for number, sums in some.items()}
        count = sum(map(len, batches))
        steps = self.learner.course.tried(self.lent)
        return {t: sum(every[number][i] for number in sorted(every)) / count for i, t in enumerate(steps)}

    def _say(self, what: str, done: int, of: int) -> None:
        for watcher in self.watchers:
            watcher.preparing(what, done, of)

    @torch.no_grad()
    def _of(self, batch: Batch) -> list[float]:
        """Sums of the samples' losses, by timestep."""
        learner, device, dtype = self.learner, self.lent.device, DTYPES[self.precision]
        mixed = dtype is not torch.float32  # which torch 2.1 refuses on a CPU, even where it is off
        found = []
        learner.network.eval()
        try:
            with seeded(device, 0), torch.autocast(device.type, dtype if mixed else None, enabled=mixed):
                for t in learner.course.tried(self.lent):
                    rngs = [drawn("validation", name, t) for name in batch.names]
                    found.append(learner.course.losses_of(self.lent, batch, t, rngs).double().sum().item())
        finally:
            learner.network.train()
        return found
