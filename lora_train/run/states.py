"""A run's states: what is kept of a run to go on from, and what a state has to be to be gone on from."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.errors import Mistake
from lora_train.job import Job, Place
from lora_train.knobs import flat, kind_of, settings
from lora_train.objectives import OBJECTIVES
from lora_train.run.store import State, optimizer_state, restore_optimizer
from lora_train.values import plain

if TYPE_CHECKING:
    from lora_train.host import Origin
    from lora_train.train.learner import Learner

log = logging.getLogger(__name__)

WIDE = {"bf16": "bfloat16", "no": "full precision"}
PRECISE = "mixed_precision = fp16: {kind} learns from small differences, which float16 loses; {wide} is used"
KEPT = ("step", "images", "average", "best", "stale")  # of the progress
LONGER = ("training.max_train_steps", "training.max_train_epochs")  # may differ from those of a resumed state


def settled(job: Job, resumed: State | None, processes: int = 1) -> Job:
    """The job with the seed it will have, and with what its files say; a resumed one has its own seed, and
    has to be the same otherwise.

    Raises:
        Mistake: the settings are not those of the state, or a file is not what it should be.
    """
    if job.training.seed is None:
        before = resumed.plain["job"]["training.seed"] if resumed else random.SystemRandom().randrange(2**32)
        job = dataclasses.replace(job, training=dataclasses.replace(job.training, seed=before))
    job = _precise(dataclasses.replace(job.usual(processes), objective=job.objective.settled()))
    if resumed:
        # settings that came later are missing in an older state: they were as they are by default
        now, then = flat(job, places=False), {s.path: plain(s.default) for s in settings(Job)}
        then.update(resumed.plain["job"])
        changed = [
            p
            for p in sorted(now.keys() | resumed.plain["job"].keys())
            if p not in LONGER and now.get(p) != then.get(p)
        ]
        if changed:
            lines = [f"{p} = {now.get(p)}: the state was saved with {then.get(p)}" for p in changed]
            raise Mistake(
                "\n".join([*lines, "resume with the state's settings, or start anew with network_weights"])
            )
    return job


def _precise(job: Job) -> Job:
    """In bfloat16, or where the card has none in full precision, what float16 is too coarse for."""
    if not job.objective.precise or job.training.mixed_precision != "fp16":
        return job
    wide = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    log.warning("%s", PRECISE.format(kind=kind_of(OBJECTIVES, job.objective), wide=WIDE[wide]))
    return dataclasses.replace(job, training=dataclasses.replace(job.training, mixed_precision=wide))


@dataclasses.dataclass(frozen=True)
class States:
    """What of a run a state depends on, beside what is learned."""

    job: Job
    place: Place
    origin: Origin
    samples: int  # an epoch
    together: int  # batches to a step, of all processes
    world: int  # processes
    base: Sequence[Mapping[str, object]] = ()  # what `Base.said` says of LoRAs that are on the model

    def of(self, learner: Learner, values: Mapping[str, object]) -> State:
        """All that is needed to go on from here.

        Args:
            values: of job, output and place, as `assemble` takes them.
        """
        progress = learner.progress
        tensors, optimizer = optimizer_state(learner.optimizer)
        tensors.update({f"network.{k}": v for k, v in learner.network.state_dict().items()})
        tensors.update({f"objective.{k}": v for k, v in learner.course.state_dict().items()})
        if learner.average:
            tensors.update({f"ema.{k}": v for k, v in learner.average.state_dict().items()})
        plain = {
            "progress": {name: vars(progress)[name] for name in KEPT},
            "model": {"name": self.origin.name, "hash": self.origin.new_hash},
            "samples_per_epoch": self.samples,
            "batches_per_step": self.together,
            "base_weights": [*self.base],
            "job": flat(self.job, places=False),
            "values": dict(values),
            "optimizer": optimizer,
            "scaler": learner.scaler.state_dict() if learner.scaler else None,
        }
        return State(tensors, plain)

    def restore(self, learner: Learner, state: State) -> None:
        """Raises Mistake: the state is not of this run."""
        if other := state.refusal(self.origin.name, self.origin.new_hash):
            raise Mistake(f"place.resume = {self.place.resume}: {other}")
        before, now = ([f["hash"] for f in said] for said in (state.plain.get("base_weights", []), self.base))
        if before != now:
            raise Mistake(
                f"place.resume = {self.place.resume}: the state was saved with other files in "
                "model.base_weights; give those, or start anew with network_weights"
            )
        before, now = state.plain.get("batches_per_step", self.together), self.together
        if before != now:
            raise Mistake(
                f"place.resume = {self.place.resume}: the state was saved with {before} batches to a step, "
                f"and {self.world} processes make {now} of them; start as many processes as then"
            )
        before, now = state.plain["samples_per_epoch"], self.samples
        if before != now:
            raise Mistake(
                f"place.resume = {self.place.resume}: the state was saved with {before} samples an epoch, "
                f"and now there are {now}; put the pictures back, or start anew with network_weights"
            )

        if (step := state.plain["progress"]["step"]) > learner.progress.steps:
            raise Mistake(
                f"place.resume = {self.place.resume}: the state is at step {step} and the run ends at "
                f"{learner.progress.steps}; set training.max_train_steps above it"
            )
        try:
            self._take(learner, state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as e:
            reason = "".join(str(e).splitlines()[:1])
            raise Mistake(
                f"place.resume = {self.place.resume}: expected a state of this model and these settings; "
                f"this one is of others, or damaged ({reason})"
            ) from e

    def _take(self, learner: Learner, state: State) -> None:
        def part(lead: str) -> dict[str, torch.Tensor]:
            return {k[len(lead) :]: v for k, v in state.tensors.items() if k.startswith(lead)}

        learner.network.load_state_dict(part("network."))
        learner.course.load_state_dict(part("objective."))
        if learner.average:
            learner.average.load_state_dict(part("ema."))
        restore_optimizer(learner.optimizer, state.tensors, state.plain["optimizer"])
        if learner.scaler:
            learner.scaler.load_state_dict(state.plain["scaler"])
        for name, value in state.plain["progress"].items():
            setattr(learner.progress, name, value)
