"""Dry steps: how long a step takes and how much memory, measured on the model itself and remembered."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.file import begun
from lora_train.data.batches import Batch, Group
from lora_train.data.buckets import GRAIN, Size
from lora_train.data.folder import Planned
from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place
from lora_train.knobs import flat
from lora_train.run.embeddings import spoken, word
from lora_train.run.store import whole
from lora_train.train.arithmetic import quick
from lora_train.train.events import Progress, Watcher
from lora_train.train.learner import Learner, scaler
from lora_train.train.loop import train
from lora_train.train.recompute import recomputed
from lora_train.train.room import full

if TYPE_CHECKING:
    from lora_train.host import Cond, Host, Lent

WARM, STEPS = (
    1,
    2,
)  # steps that are not counted, for memory is found and kernels are chosen in them; and counted
MOST = 200  # shapes that are remembered
EVERY = 0.02  # seconds between looks at the memory
# of layers with adapters, inputs and outputs together, so parameters at rank 1: UNet, its convolutions, text
WIDTHS = {
    "sd1": (423_936, 626_880, 165_888),
    "sd2": (432_128, 626_880, 423_936),
    "sdxl": (2_659_840, 414_400, 903_168),
}


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is known of steps that were measured, in a file."""

    folder: pathlib.Path

    @property
    def file(self) -> pathlib.Path:
        return self.folder / "measured.json"

    def estimate(self, key: str, steps: int) -> dict[str, float | None] | None:
        """Of a run of so many steps; None where no step like its was measured."""
        found = self._read().get(key)
        if not isinstance(found, dict) or not isinstance(found.get("seconds"), float):
            return None
        return {
            "seconds": found["seconds"] * steps,
            "seconds_per_step": found["seconds"],
            "peak_megabytes": found.get("megabytes"),
        }

    def keep(self, key: str, found: Mapping[str, float | None]) -> None:
        every = self._read()
        every.pop(key, None)
        every[key] = dict(found)
        with whole(self.file) as part:
            part.write_text(json.dumps(dict([*every.items()][-MOST:]), indent=1), encoding="utf-8")

    def _read(self) -> dict[str, object]:
        """A file that is damaged is as none: it only saves time."""
        try:
            found = json.loads(self.file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def shape(job: Job, output: Output, place: Place, planned: Planned, header: Mapping[str, object]) -> str:
    """A name for all that the time and memory of a step depend on."""
    network = {path: value for path, value in flat(job.network).items() if path != "weights"}
    of = {
        "model": header.get("hash") or header.get("name"),
        "file": str(job.model.pretrained_model_name_or_path),
        "device": (place.device, header.get("device"), header.get("dtype")),
        "precision": job.training.mixed_precision,
        "together": job.training.gradient_accumulation_steps,
        "checkpointing": place.gradient_checkpointing,
        "tokens": job.model.max_token_length,
        "network": network,
        "optimizer": type(job.optimizer).__name__,
        "objective": (
            type(job.objective).__name__ if planned.pictures else flat(job.objective.settled(), places=False)
        ),
        "batch": largest(planned),
    }
    return hashlib.sha256(json.dumps(of, default=str, sort_keys=True).encode()).hexdigest()[:16]


def largest(planned: Planned) -> tuple[int, Size]:
    """(pictures of a batch, bucket) that need most memory."""
    every = [
        (min(source.dataset.batch_size, share.count), share.bucket)
        for source in planned.sources
        for share in source.shares
    ]
    return max(every, key=lambda found: (found[0] * math.prod(found[1]), found))


def parameters(job: Job, header: Mapping[str, object]) -> int:
    """About how many numbers a file will have."""
    count = job.network.numbers(*WIDTHS.get(str(header.get("family")), WIDTHS["sd1"]))
    return count * (1 + job.relora.restarts(job.training.max_train_steps))


def dry(job: Job, place: Place, host: Host, planned: Planned) -> dict[str, float | None]:
    """Real steps on noise in place of pictures, at the largest bucket; nothing is written, nothing is kept.

    Returns:
        seconds of a step; megabytes at most, None where the system does not tell.

    Raises:
        Mistake: there is not enough memory for one.
    """
    with enough(job, place, planned):
        return _dry(job, place, host, planned)


@contextlib.contextmanager
def enough(job: Job, place: Place, planned: Planned) -> Iterator[None]:
    """Raises Mistake where memory runs out inside `with`: what to change."""
    try:
        yield
        return
    except (MemoryError, RuntimeError) as e:
        if not full(e):
            raise
        why = room(job, place, largest(planned))
    raise Mistake(why)  # out here the error's frames, and what they hold, are gone


def room(job: Job, place: Place, batch: tuple[int, Size]) -> str:
    """What to change where a step does not fit, what costs least first."""
    count, bucket = batch
    moves = []
    if not place.gradient_checkpointing:
        moves.append("set place.gradient_checkpointing")
    if job.training.mixed_precision == "no":
        moves.append("set training.mixed_precision to bf16 or fp16")
    if count > 1:
        moves.append("set data.batch_size to 1, and training.gradient_accumulation_steps for the rest")
    if job.network.trains("te1") and job.network.trains("unet"):
        moves.append("set network.train_unet_only")
    moves.append("choose a smaller data.resolution")
    size = f"{bucket[0]}x{bucket[1]}" + f" in batches of {count}" * (count > 1)
    said = f"data.resolution = {job.data.resolution}: a step at {size} needs more memory than is free"
    return f"{said}; {', or '.join(moves)}"


def _dry(job: Job, place: Place, host: Host, planned: Planned) -> dict[str, float | None]:
    training, objective = dataclasses.replace(job.training, seed=0), job.objective.settled()
    job = dataclasses.replace(job.usual(), training=training, objective=objective)
    count, bucket = largest(planned)
    progress = Progress(WARM + STEPS, WARM + STEPS)
    with (
        host.borrow(job.model, device=place.device, precision=training.mixed_precision) as lent,
        quick(lent.device),
    ):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = begun(job.network, lent.layers())
            network.word = word(job, lent)
        alone = not network.word and not any(p for part, p in network.parts().items() if part != "unet")
        batches = _Noise(count, bucket, training.gradient_accumulation_steps, _cond(lent) if alone else None)
        batches.name = planned.items[0].name  # by which an objective may know its prompt
        batches.paired = planned.items[0].twin is not None
        batches.text = job.embedding.token_string or ""
        lent.park("vae")
        blocks = lent.checkpoint_blocks() if place.gradient_checkpointing else []
        with network.attached(), spoken(lent, network.word), recomputed(blocks):
            course = job.objective.begin(lent, network)
            if alone and not planned.pictures:
                lent.park("text")  # which its prompts have just used
            learner = Learner.new(network, course, optimizer=job.optimizer, lr=job.lr, progress=progress)
            if training.mixed_precision == "fp16":
                learner.scaler = scaler()
            learner.averaged(job.ema)
            clock = _Clock(lent.device)
            with _peak(lent.device) as peak:
                train(learner, lent, batches, training=training, lr=job.lr, watchers=[clock])
    return {"seconds": clock.seconds, "megabytes": peak[0] if peak else None}


def _cond(lent: Lent) -> Cond:
    """Of one caption; the text encoder then makes room, as in a run."""
    with torch.no_grad():
        cond = lent.encode([""])
    lent.park("text")
    return cond


class _Noise:
    """As `Batches`, and no pictures behind it."""

    def __init__(self, count: int, bucket: Size, accumulation: int, cond: Cond | None):
        self.count, self.accumulation, self.cond, self.name = count, accumulation, cond, "noise"
        self.text, self.paired = "", False
        self.latents = torch.randn(
            count, 4, bucket[1] // GRAIN, bucket[0] // GRAIN, generator=torch.Generator().manual_seed(0)
        )

    def steps(self, epoch: int, skip: int = 0) -> Iterator[Group]:
        for step in range(WARM + STEPS):
            batches = [self._batch(step * self.accumulation + i) for i in range(self.accumulation)]
            yield Group(batches, self.count * self.accumulation)

    def _batch(self, number: int) -> Batch:
        conds = None if self.cond is None else type(self.cond).stack([self.cond] * self.count)
        ordinals = [number * self.count + i for i in range(self.count)]
        words = [self.text] * self.count, conds, ordinals, [self.name] * self.count
        batch = Batch(self.latents.clone(), *words, strengths=torch.ones(self.count))
        return dataclasses.replace(batch, twins=Batch(-self.latents, *words)) if self.paired else batch


class _Clock(Watcher):
    """The mean time of the steps that count."""

    def __init__(self, device: torch.device):
        self.device, self.at, self.seconds = device, 0.0, 0.0

    def stepped(self, progress: Progress) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if progress.step == WARM:
            self.at = time.perf_counter()
        elif progress.step == WARM + STEPS:
            self.seconds = (time.perf_counter() - self.at) / STEPS


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[Sequence[float]]:
    """A list that holds, after `with`, the most megabytes in use: of the card, without one of the process."""
    found: list[float] = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        found.append(round(torch.cuda.max_memory_allocated(device) / 2**20, 1))
        return
    done = threading.Event()

    def watch() -> None:
        most = 0.0
        while True:
            most = max(most, resident())
            if done.wait(EVERY):
                break
        found.extend([round(most, 1)] * (most > 0))

    thread = threading.Thread(target=watch, name="lora-train memory", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def resident() -> float:
    """Megabytes of this process; 0 where the system does not tell."""
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
