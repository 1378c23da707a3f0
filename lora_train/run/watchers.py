"""Who watches a run: saves, states, samples, the metrics file, the tracker, the progress bar."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.run.store import RunStore
from lora_train.train.events import Progress, Watcher

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.job import Output
    from lora_train.prompts import Prompt

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
        o = output
        self.clocks = (
            Every(
                o.save_every_n_epochs,
                o.save_last_n_epochs,
                o.save_last_n_epochs_state or o.save_last_n_epochs,
                "epoch",
            ),
            Every(
                o.save_every_n_steps,
                o.save_last_n_steps,
                o.save_last_n_steps_state or o.save_last_n_steps,
                "step",
            ),
        )

    def stepped(self, progress: Progress) -> None:
        for clock in self.clocks:
            now = clock.now(progress)
            if now is None:
                continue
            path = self.store.at_epoch if clock.unit == "epoch" else self.store.at_step
            self.write(path(now), progress)
            if self.output.save_state:
                self.write_state(self.store.state_of(path(now)), progress)
            self._forget(path, now, clock)

    def _forget(self, path: Callable[[int], pathlib.Path], now: int, clock: Every) -> None:
        """As sd-scripts: what lies `keep` or more behind goes, back to the first save."""
        for number in range(clock.every, now, clock.every):
            if clock.keep is not None and number <= now - clock.keep:
                self.store.remove(path(number))
            if clock.keep_states is not None and number <= now - clock.keep_states:
                self.store.remove_state(path(number))

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        if error is not None:
            return
        if progress.stopped:
            at = self.store.at_step(progress.step)
            self.write(at, progress)
            self.write_state(self.store.state_of(at), progress)
            return
        self.write(self.store.result, progress)
        if self.output.save_state or self.output.save_state_on_train_end:
            self.write_state(self.store.state_of(self.store.result), progress)


class Metrics(Watcher):
    """One line of JSON for every step. Time and memory in it differ from run to run; the rest does not."""

    def __init__(self, store: RunStore, device: torch.device):
        self.store, self.device, self.file = store, device, None
        self.last = 0.0

    def started(self, progress: Progress) -> None:
        self.store.records.mkdir(parents=True, exist_ok=True)
        if progress.step:
            self.store.cut_metrics(progress.step)
        self.file = self.store.metrics.open("a" if progress.step else "w", encoding="utf-8", buffering=1)
        self.last, self.images = time.monotonic(), progress.images

    def stepped(self, progress: Progress) -> None:
        now = time.monotonic()
        line = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": progress.loss,
            "average": progress.average,
            "norm": progress.norm,
            **{f"lr/{part}": rate for part, rate in progress.rates.items()},
            **progress.norms,
            "images_per_second": round((progress.images - self.images) / max(now - self.last, 1e-9), 3),
            "megabytes": memory(self.device),
        }
        self.file.write(json.dumps(line) + "\n")
        self.last, self.images = now, progress.images

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        if self.file is not None:
            self.file.close()


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


class Samples(Watcher):
    """Draws the prompts with the adapters as they are."""

    def __init__(
        self,
        output: Output,
        store: RunStore,
        prompts: Sequence[Prompt],
        draw: Callable[[Prompt], Image.Image],
    ):
        self.output, self.store, self.prompts, self.draw = output, store, prompts, draw

    def started(self, progress: Progress) -> None:
        if self.output.sample_at_first and progress.step == 0:
            self._sample("000000")

    def stepped(self, progress: Progress) -> None:
        steps, epochs = self.output.sample_every_n_steps, self.output.sample_every_n_epochs
        if epochs is not None:  # as sd-scripts: epochs win over steps
            if progress.ends_epoch and progress.epoch % epochs == 0:
                self._sample(f"e{progress.epoch:06d}")
        elif steps is not None and progress.step % steps == 0:
            self._sample(f"{progress.step:06d}")

    def _sample(self, moment: str) -> None:
        self.store.samples.mkdir(parents=True, exist_ok=True)
        for i, prompt in enumerate(self.prompts):
            stamp = time.strftime("%Y%m%d%H%M%S")
            seed = "" if prompt.seed is None else f"_{prompt.seed}"
            self.draw(prompt).save(
                self.store.samples / f"{self.store.name}_{moment}_{i:02d}_{stamp}{seed}.png"
            )


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


class TensorBoard(Watcher):
    """Loss and rates for TensorBoard, under the names sd-scripts gives them."""

    def __init__(self, folder: pathlib.Path):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / time.strftime("%Y%m%d%H%M%S") / "network_train"))

    def stepped(self, progress: Progress) -> None:
        self.writer.add_scalar("loss/current", progress.loss, progress.step)
        self.writer.add_scalar("loss/average", progress.average, progress.step)
        for part, rate in progress.rates.items():
            self.writer.add_scalar(
                f"lr/{'textencoder' if part.startswith('te') else part}", rate, progress.step
            )

    def finished(self, progress: Progress, error: BaseException | None) -> None:
        self.writer.close()
