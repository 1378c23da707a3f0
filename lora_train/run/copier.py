"""Copier: the first of two passes, in which an adapter learns to draw the original pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.file import begun, save
from lora_train.adapters.lora import Lora
from lora_train.data.batches import Batches, numbers
from lora_train.objectives.difference import Difference, originals
from lora_train.run.base import Base
from lora_train.run.caches import Caches
from lora_train.train.arithmetic import quick
from lora_train.train.events import Progress, Watcher
from lora_train.train.learner import Learner, scaler
from lora_train.train.loop import train
from lora_train.train.parked import parked
from lora_train.train.recompute import recomputed

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.folder import Planned
    from lora_train.host import Lent
    from lora_train.job import Job, Place
    from lora_train.run.control import Control
    from lora_train.run.store import RunStore
    from lora_train.train.parallel import Team

log = logging.getLogger(__name__)

LEARNING = "learning the original pictures"


@dataclasses.dataclass
class Copier:
    """One run's; `report(what, done, of)` is told of each step."""

    job: Job
    place: Place
    store: RunStore
    lent: Lent
    crew: Team
    control: Control
    report: Callable[[str, int, int], None]

    @property
    def path(self) -> pathlib.Path:
        return self.store.records / f"{self.store.name}-copier.safetensors"

    def made(self, planned: Planned, resumed: bool) -> Job:
        """The job with its copier, which is learned where there is none. A resumed run has that of the run it
        goes on from, or learns the same again.

        Raises:
            Ended: asked to stop before it was done.
        """
        objective = self.job.objective
        if not isinstance(objective, Difference) or objective.copier is not None:
            return self.job
        if not (resumed and self.path.is_file()):
            self.learn(objective, originals(planned))
        self.crew.all(None)  # the others wait for the first one's file
        found = dataclasses.replace(objective, copier=self.path)
        return dataclasses.replace(self.job, objective=found)

    def learn(self, objective: Difference, planned: Planned) -> None:
        job, training = self.job, self.job.training
        accumulation, steps = training.gradient_accumulation_steps, objective.copier_steps
        log.info("First the copier learns the original pictures, in %d steps", steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(training.seed)
            network = begun(self.family(objective), self.lent.layers())
        progress = Progress(steps, numbers(planned, accumulation * self.crew.world).steps)
        alone = not any(params for part, params in network.parts().items() if part != "unet")
        base = Base.of(job.model, self.lent.layers())
        with contextlib.ExitStack() as on:
            self.attach(on, base, network)
            course = objective.alone().begin(self.lent, network)
            learner = Learner.new(network, course, optimizer=job.optimizer, lr=self.rate(), progress=progress)
            if training.mixed_precision == "fp16":
                learner.scaler = scaler()
            caches = Caches(
                job, self.place, self.store, self.lent, planned, self.crew, self.cached)  # fmt: skip
            batches = Batches(
                planned, caches.latents(), seed=training.seed, accumulation=accumulation,
                conds=caches.conds() if alone else None, steps=steps, rank=self.crew.rank,
                world=self.crew.world)  # fmt: skip
            train(
                learner, self.lent, batches, training=training, lr=self.rate(), team=self.crew,
                watchers=[_Told(self.report, self.control)], control=self.control,
                between=lambda _: self.rest(on, base, network, [learner, caches.made]))  # fmt: skip
        self.control.heed()
        if self.crew.first:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save(network, self.path, metadata={}, dtype=torch.float32)

    def cached(self, what: str, done: int, of: int) -> None:
        """Told while latents and conds are made; a stop is a stop here too."""
        self.report(what, done, of)
        if self.crew.world == 1:
            self.control.heed()

    def attach(self, on: contextlib.ExitStack, base: Base, network: Network) -> None:
        """All that is changed of the model and of torch; `on.close()` takes it back."""
        place = self.place
        blocks = self.lent.checkpoint_blocks() if place.gradient_checkpointing else []
        again = recomputed(blocks, away=place.cpu_offload_checkpointing)
        for change in (quick(self.lent.device), base.attached(), network.attached(), again):
            on.enter_context(change)

    def rest(self, on: contextlib.ExitStack, base: Base, network: Network, held: list[object]) -> None:
        """A pause, in which the host has its model to itself; see `Session.rest`.

        Raises:
            Ended: asked to stop.
        """
        control = self.control
        if not control.paused:
            return
        on.close()
        held = [*held, list(base.networks)] if self.place.park_on_pause else []
        with parked(*held), self.lent.given_back(control.heed), control.rest():
            while control.paused and not control.stopping:
                control.wait(1.0)
        control.heed()
        for own in (network, *base.networks):
            own.move(self.lent.layers())
        self.attach(on, base, network)

    def family(self, objective: Difference) -> Lora:
        """A LoRA on the layers that the other one is on."""
        own = self.job.network
        return Lora(
            dim=objective.copier_dim,
            alpha=objective.copier_alpha,
            train_unet_only=not own.trains("te1"),
            train_text_encoder_only=not own.trains("unet"),
        )

    def rate(self) -> object:
        rate, lr = self.job.objective.copier_learning_rate, self.job.lr
        if rate is None:
            return lr
        return dataclasses.replace(
            lr, learning_rate=rate, unet_lr=None, text_encoder_lr=None, text_encoder_lr2=None
        )


class _Told(Watcher):
    """A stop is a stop here too."""

    def __init__(self, report: Callable[[str, int, int], None], control: Control):
        self.report, self.control = report, control

    def stepped(self, progress: Progress) -> None:
        self.report(LEARNING, progress.step, progress.steps)
