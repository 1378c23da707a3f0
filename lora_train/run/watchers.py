"""Who watches a run: saves, states, the metrics file, the progress bar."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.errors import Mistake
from lora_train.run.store import Grown, RunStore, Unwritable
from lora_train.train.events import Progress, Watcher

if TYPE_CHECKING:
    from lora_train.job import Output

log = logging.getLogger(__name__)

PATIENCE, PAUSE = 600.0, 5.0  # seconds: how long the last file waits for its folder; between two tries

Write = Callable[[pathlib.Path, Progress], None]


@dataclasses.dataclass(frozen=True)
class Every:
    """One of the two clocks files are saved by."""

    every: int | None
    keep: int | None  # of the files, those of the last so many epochs or steps
    keep_states: int | None
    unit: str  # "epoch" or "step"

    def now(self, progress: Progress) -> int | None:
        """The number this moment has on the clock, if it is one to save at."""
        if self.every is None or progress.step >= progress.steps:
            return None  # the end has its own name
        if self.unit == "step":
            return progress.step if progress.step % self.every == 0 else None
        return progress.epoch if progress.ends_epoch and progress.epoch % self.every == 0 else None


class Saves(Watcher):
    """Writes files and states as `Output` says, and removes those it no longer keeps."""

    def __init__(self, output: Output, store: RunStore, *, write: Write, write_state: Write):
        self.output, self.store, self.write, self.write_state = output, store, write, write_state
        self.missed, self.patience = 0, PATIENCE
        self.clocks: tuple[Every, ...] = ()  # known once the number of epochs is
        self.others: Sequence[Watcher] = ()  # who is told of each file
        self.kept, self.late = time.monotonic(), False  # when the last state was kept; whether one is wanted

    def started(self, progress: Progress) -> None:
        o, self.kept = self.output, time.monotonic()
        epochs = o.save_every_n_epochs
        if o.save_n_epoch_ratio is not None:
            epochs = progress.epochs // o.save_n_epoch_ratio or 1
        if epochs is not None and o.save_every_n_steps is not None:
            log.info("save_every_n_steps has no effect here: files are saved by epoch")
        states = o.save_last_n_epochs_state or o.save_last_n_epochs
        by_epoch = Every(epochs, o.save_last_n_epochs, states, "epoch")
        states = o.save_last_n_steps_state or o.save_last_n_steps
        by_step = Every(o.save_every_n_steps, o.save_last_n_steps, states, "step")
        self.clocks = (by_step if epochs is None else by_epoch,)

    def due(self, progress: Progress) -> bool:
        minutes = self.output.save_state_every_n_minutes
        old = minutes is not None and time.monotonic() - self.kept >= 60 * minutes
        self.late = old and progress.step < progress.steps
        return self.late or any(clock.now(progress) is not None for clock in self.clocks)

    def stepped(self, progress: Progress) -> None:
        if self.late:
            self.keep(progress)
        for clock in self.clocks:
            now = clock.now(progress)
            if now is None:
                continue
            path = self.store.at_epoch if clock.unit == "epoch" else self.store.at_step
            if self._saved(path(now), progress):
                self._forget(path, now, clock)

    def _saved(self, path: pathlib.Path, progress: Progress) -> bool:
        """Whether a file of a run that is still going on could be written; it goes on without one."""
        try:
            self.write(path, progress)
            self._tell(path, progress)
            if self.output.save_state:
                self.write_state(self.store.state_of(path), progress)
        except Unwritable as e:
            if not self.missed:
                log.warning("%s. The run goes on; the file saved before this one is kept", e)
            self.missed += 1
            return False
        if self.missed:
            log.info("%s is saved; %d saves before it failed", path, self.missed)
            self.missed = 0
        return True

    def _forget(self, path: Callable[[int], pathlib.Path], now: int, clock: Every) -> None:
        """As sd-scripts: what lies `keep` or more behind goes, back to the first save."""
        for number in range(clock.every, now, clock.every):
            if clock.keep is not None and number <= now - clock.keep:
                self.store.remove(path(number))
            if clock.keep_states is not None and number <= now - clock.keep_states:
                self.store.remove_state(path(number))

    def now(self, progress: Progress) -> None:
        """Because a person asks for it."""
        self._saved(self.store.at_step(progress.step), progress)

    def best(self, progress: Progress) -> None:
        """The file with the lowest validation loss so far, in place of the one before."""
        try:
            self.write(self.store.best, progress)
        except Unwritable as e:
            log.warning("%s. The run goes on; the best file before this one is kept", e)
            return
        self._tell(self.store.best, progress)

    def keep(self, progress: Progress) -> None:
        """The state that a run which is cut off goes on from, in place of the one before."""
        if self.output.save_state_every_n_minutes is None:
            return
        with contextlib.suppress(Unwritable):  # a full disk is told of when a file is saved
            self.write_state(self.store.last, progress)
        self.kept, self.late = time.monotonic(), False

    def _tell(self, path: pathlib.Path, progress: Progress) -> None:
        for watcher in self.others:
            watcher.saved(progress, path)

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        if error is not None or not progress.keep:
            return
        path = self.store.at_step(progress.step) if progress.stopped else self.store.result
        self._insist(self.write, path, progress)
        self._tell(path, progress)
        if progress.stopped or self.output.save_state or self.output.save_state_on_train_end:
            self._insist(self.write_state, self.store.state_of(path), progress)
        shutil.rmtree(self.store.last, ignore_errors=True)

    def _insist(self, write: Write, path: pathlib.Path, progress: Progress) -> None:
        """Write what a run must not end without: wait for its folder, and at last take another one."""
        end, told = time.monotonic() + self.patience, False
        while True:
            try:
                write(path, progress)
                return
            except Unwritable as e:
                reason = e
            if time.monotonic() >= end or not self._waited(reason, told):
                break
            told = True
        self.patience = 0.0  # what else is to be saved does not wait again
        self._elsewhere(write, path, progress, reason)

    def _waited(self, reason: Unwritable, told: bool) -> bool:
        """False: a person does not want to wait."""
        if not told:
            log.warning(
                "%s. Trying again for %.0f minutes; Ctrl-C, twice if need be, saves it elsewhere",
                reason, self.patience / 60)  # fmt: skip
        try:
            time.sleep(PAUSE)
        except KeyboardInterrupt:
            return False
        return True

    def _elsewhere(self, write: Write, path: pathlib.Path, progress: Progress, reason: Unwritable) -> None:
        try:
            other = self.store.elsewhere() / path.name
            write(other, progress)
        except (OSError, Unwritable) as e:
            raise Mistake(f"{reason}\n{e}\nall that is left of the run is what was saved before") from e
        log.warning("%s could not be written; saved as %s, move it to where it belongs", path, other)


class Metrics(Watcher):
    """One line of JSON for every step. Time and memory in it differ from run to run; the rest does not."""

    def __init__(self, store: RunStore, device: torch.device):
        self.store, self.device = store, device
        self.last, self.told = 0.0, False
        self.file = Grown(store.metrics)

    def started(self, progress: Progress) -> None:
        if progress.step:
            self.store.cut_metrics(progress.step)
        self.last, self.images = time.monotonic(), progress.images
        self.file.begin(anew=not progress.step)

    def measured(self, progress: Progress) -> None:
        now = time.monotonic()
        line = {
            **numbers(progress),
            "images_per_second": round((progress.images - self.images) / max(now - self.last, 1e-9), 3),
            "megabytes": memory(self.device),
        }
        self.last, self.images = now, progress.images
        self._add(line)

    def validated(self, progress: Progress, numbers: dict[str, float]) -> None:
        """A line of its own, with the same step as that before it."""
        self._add({"step": progress.step, "epoch": progress.epoch, **numbers})

    def _add(self, line: dict[str, object]) -> None:
        if self.file.gone:
            log.warning("%s: gone in the midst of the run; it begins anew", self.store.metrics)
        try:
            self.file.add(f"{json.dumps(line)}\n".encode())
        except OSError as e:
            if not self.told:
                log.warning(
                    "%s: cannot be written (%s); the run goes on, and its lines are kept until they can be",
                    self.store.metrics, e.strerror or e)  # fmt: skip
            self.told = True


def numbers(progress: Progress) -> dict[str, float]:
    """What a step's line says of the training itself."""
    return {
        "step": progress.step,
        "epoch": progress.epoch,
        "loss": progress.loss,
        "average": progress.average,
        "norm": progress.norm,
        **{f"lr/{part}": rate for part, rate in progress.rates.items()},
        **progress.norms,
    }


def memory(device: torch.device) -> float:
    """Most megabytes used so far: of the device, or of this process where training runs on the CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


class Bar(Watcher):
    """The progress bar of the command line."""

    def started(self, progress: Progress) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=progress.steps, initial=progress.step, desc="steps", dynamic_ncols=True)

    def stepped(self, progress: Progress) -> None:
        self.bar.set_postfix(
            loss=f"{progress.average:.4f}", epoch=f"{progress.epoch}/{progress.epochs}", refresh=False
        )
        self.bar.update(progress.step - self.bar.n)

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        self.bar.close()
