"""Steps that go wrong: numbers that are not finite, what they come from, and adapters that do nothing."""

from __future__ import annotations

import collections
import copy
import dataclasses
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lora_train.draws import draws
from lora_train.errors import Mistake

if TYPE_CHECKING:
    from lora_train.data.batches import Batch
    from lora_train.host import Lent
    from lora_train.train.learner import Learner

log = logging.getLogger(__name__)

MOST, WITHIN = 3, 20  # so many bad steps among so many end a run
EVERY = 50  # steps between two states that are kept to go back to
OWN = "'s prediction"
LOOK = 50  # steps after which an adapter should have changed something

ADVICE = {
    "latent": "look at the picture; let the autoencoder run in float32 (in a WebUI: --no-half-vae), or give "
    "another one with model.vae",
    "cond": "the text encoder fails on this caption; use mixed_precision bf16 or no",
    "prediction": "the model overflows; use mixed_precision bf16 or no (in a WebUI: --no-half, or upcasting)",
    "gradient": "lower the learning rate, or use mixed_precision bf16 or no",
    "adapter": "without the adapter it is finite; lower the learning rate, or set scale_weight_norms 1",
}


class Ruined(Mistake):
    """Too many bad steps; the last good state is in place."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A state to go back to."""

    network: dict[str, Tensor]
    course: dict[str, Tensor]
    optimizer: dict
    average: dict[str, Tensor]
    place: dict[str, float]

    @classmethod
    def of(cls, learner: Learner) -> Kept:
        p = learner.progress
        mean = learner.average.state_dict() if learner.average else {}
        parts = (
            learner.network.state_dict(), learner.course.state_dict(), learner.optimizer.state_dict(), mean
        )  # fmt: skip
        return cls(*copy.deepcopy(parts), {name: getattr(p, name) for name in ("step", "images", "average")})

    def restore(self, learner: Learner) -> None:
        learner.network.load_state_dict(self.network)
        learner.course.load_state_dict(self.course)
        learner.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        if learner.average:
            learner.average.load_state_dict(self.average)
        for name, value in self.place.items():
            setattr(learner.progress, name, value)


class Guard:
    """Watches one run's numbers."""

    def __init__(self, learner: Learner):
        self.learner, self.kept, self.first = learner, Kept.of(learner), learner.progress.step
        self.fresh = self.kept
        self.bad: collections.deque[int] = collections.deque(maxlen=MOST)

    def good(self, step: int) -> None:
        """After a step whose loss and gradient were finite: so what it began with was good as well."""
        done = step - self.first
        if done == LOOK:
            idle(self.learner)
        if step > self.fresh.place["step"]:
            self.kept = self.fresh
        if done % EVERY == 0:
            self.fresh = Kept.of(self.learner)

    def skipped(self, step: int, cause: str) -> None:
        """In place of a step.

        Raises:
            Ruined: it was one too many.
        """
        self.bad.append(step)
        log.warning("step %d is skipped: %s", step, cause)
        if len(self.bad) == MOST and step - self.bad[0] < WITHIN:
            if cause.startswith("adapter") or not finite(self.learner.parameters):
                self.kept.restore(self.learner)  # else nothing has changed since the last good step
            raise Ruined(
                f"{MOST} of the last {WITHIN} steps were not finite, the last: {cause}\n"
                f"what was learned up to step {self.learner.progress.step} is saved"
            )


def finite(tensors: list[Tensor]) -> bool:
    return bool(torch.stack([t.detach().isfinite().all() for t in tensors]).all())


@torch.no_grad()
def cause(
    learner: Learner, lent: Lent, batches: list[Batch], losses: Callable[[Batch], Tensor], seed: int
) -> str | None:
    """Where a step's batches stop being finite, with picture and timestep; None: not in these.

    The batches are gone through once more, which only a step that is lost anyway has to pay.

    Args:
        losses: of a batch, [B].
    """
    for batch in batches:
        steps = learner.course.timesteps(lent, batch, draws(seed, batch.ordinals))
        named = [f"{name} at timestep {t}" for name, t in zip(batch.names, steps, strict=True)]
        conds = lent.encode(batch.captions) if batch.conds is None else batch.conds
        stations = (("latent", batch.latents), ("cond", conds.context), ("prediction", losses(batch)))
        for kind, values in stations:
            bad = [one for one, value in zip(named, values, strict=True) if not value.isfinite().all()]
            if bad and kind == "prediction":
                with learner.network.off():
                    kind = f"adapter{OWN}" if losses(batch).isfinite().all() else kind
            if bad:
                return f"{kind} of {bad[0]}: {ADVICE[kind.removesuffix(OWN)]}"
    return None


def gradient(names: list[str]) -> str:
    """What is said of a step's pictures where every number of the way to the loss was finite."""
    return f"gradient of {', '.join(dict.fromkeys(names))}: {ADVICE['gradient']}"


@torch.no_grad()
def idle(learner: Learner) -> None:
    """Report adapters that still add nothing.

    Raises:
        Mistake: that is all of them.
    """
    adapters = learner.network.adapters
    still = [key for key, norm in zip(adapters, learner.network.norms().tolist(), strict=True) if norm == 0]
    if len(still) == len(adapters):
        raise Mistake(
            f"after {LOOK} steps none of the {len(still)} adapters has changed anything; raise the learning "
            "rate, and look at what the first lines of the log say about layers without a gradient"
        )
    if still:
        log.warning(
            "after %d steps %d of %d adapters have changed nothing, the first is %s: leave such layers out "
            "with block_weights, or train longer", LOOK, len(still), len(adapters), still[0])  # fmt: skip
