"""The training loop. There is one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.draws import drawn, key
from lora_train.knobs import knob
from lora_train.train.events import Progress, Watcher

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch, Batches, Group
    from lora_train.host import Lent
    from lora_train.train.lr import Constant

log = logging.getLogger(__name__)

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Training:
    """How long, how precise, and from which seed."""

    max_train_steps: int = knob(
        1600, "Optimizer steps of the run.", group="time", low=1, high=10_000_000, unit="steps",
        basic=True)  # fmt: skip
    max_train_epochs: int | None = knob(
        None, "Times that every picture is gone through; overrides max_train_steps.", group="time", low=1,
        high=1_000_000, unit="epochs", basic=True)  # fmt: skip
    gradient_accumulation_steps: int = knob(
        1, "Batches whose gradients are averaged before an optimizer step; saves memory, costs time.",
        group="time", low=1, high=4096)  # fmt: skip
    mixed_precision: str = knob(
        "no", "What the frozen model and the arithmetic are in; adapters stay in float32.", group="memory",
        choices=("no", "bf16", "fp16"), basic=True)  # fmt: skip
    max_grad_norm: float = knob(
        1.0, "Length to which a longer gradient is cut; 0: never.", group="optimizer", low=0, high=1e6
    )
    seed: int | None = knob(
        None, "Equal seeds and settings give equal files. Empty: one is drawn and written down.",
        group="time", low=0, high=2**63 - 1)  # fmt: skip

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the run: epochs win over steps, as in sd-scripts."""
        return (
            self.max_train_steps if self.max_train_epochs is None else self.max_train_epochs * steps_per_epoch
        )


def draws(seed: int, ordinals: Sequence[int]) -> list[torch.Generator]:
    """One generator per sample of the run, on the CPU, so that a run repeats on another card, after a resume,
    with another micro-batch and on several processes."""
    return [drawn(seed, "sample", ordinal) for ordinal in ordinals]


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global generators seeded inside `with` and given back after it. Adapter dropout draws from
    them: gradient checkpointing restores them when it runs a block again, and no generator of our own."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@dataclasses.dataclass
class Learner:
    """All that changes while training, so all that a saved state holds."""

    network: Network
    course: object  # the objective's Pass
    optimizer: torch.optim.Optimizer
    scaler: object | None
    progress: Progress

    @classmethod
    def new(
        cls, network: Network, course: object, *, optimizer: object, lr: Constant, progress: Progress
    ) -> Learner:
        """Adapters in float32; one group of parameters for each part, with its own rate."""
        groups = [
            {"params": list(params), "name": part, "lr": lr.rate(part), "base_lr": lr.rate(part)}
            for part, params in network.parts().items()
            if params
        ]
        learned = list(course.parameters())
        if learned:
            groups.append(
                {"params": learned, "name": "objective", "lr": lr.learning_rate, "base_lr": lr.learning_rate}
            )
        return cls(network, course, optimizer.make(groups), None, progress)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def scaler() -> object:
    """Loss scaling for float16 gradients, which underflow without it.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, section 3.2.
    """
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda")
    return torch.cuda.amp.GradScaler()  # torch < 2.3


def train(  # noqa: PLR0913 (where all of a run meets)
    learner: Learner,
    lent: Lent,
    batches: Batches,
    *,
    training: Training,
    lr: Constant,
    watchers: Sequence[Watcher] = (),
    between: Callable[[Progress], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Go on from `learner.progress.step` to its last step, or until `stop()` says so after a step.

    The network has to be attached. `between(progress)` is called after each step and may block.
    """
    p = learner.progress
    p.first, error = p.step, None
    for watcher in watchers:
        watcher.started(p)
    try:
        while p.step < p.steps and not p.stopped:
            epoch, done = divmod(p.step, p.steps_per_epoch)
            for group in batches.steps(epoch, skip=done):
                _step(learner, lent, group, training, lr.factor(p.step, p.steps))
                for watcher in watchers:
                    watcher.stepped(p)
                between(p)
                p.stopped = p.step < p.steps and stop()
                if p.stopped or p.step >= p.steps:
                    break
    except BaseException as e:
        error = e
        raise
    finally:
        for watcher in watchers:
            watcher.finished(p, error)


def _step(learner: Learner, lent: Lent, group: Group, training: Training, factor: float) -> None:
    """One optimizer step over the micro-batches of `group`."""
    p, optimizer, scaled = learner.progress, learner.optimizer, learner.scaler
    total, images = 0.0, group.images
    for batch in group.batches:
        with seeded(lent.device, key(training.seed, "adapter", batch.ordinals[0])):
            loss = _losses(learner, lent, batch, training).sum() / images
            (loss if scaled is None else scaled.scale(loss)).backward()
        total += loss.item()
    if p.step == p.first:
        _tell(learner.network)

    if scaled is not None:
        scaled.unscale_(optimizer)
    # a length that nothing reaches: clip_grad_norm_ is also what measures the gradient
    limit = training.max_grad_norm or float("inf")
    p.norm = torch.nn.utils.clip_grad_norm_(learner.parameters, limit).item()
    for rates in optimizer.param_groups:
        rates["lr"] = rates["base_lr"] * factor
        p.rates[rates["name"]] = rates["lr"]
    if scaled is None:
        optimizer.step()
    else:
        scaled.step(optimizer)
        scaled.update()
    optimizer.zero_grad(set_to_none=True)

    limit = learner.network.family.scale_weight_norms
    if limit is not None:
        p.norms = learner.network.max_norm(limit)
    p.saw(total)
    p.step, p.images = p.step + 1, p.images + images


def _tell(network: Network) -> None:
    """Of adapters that learn nothing: after the first backward pass, while the gradients are there."""
    if silent := network.silent():
        log.warning(
            "%d of %d layers got no gradient, the first is %s: the model does not use them as it is set up",
            len(silent), len(network.adapters), silent[0])  # fmt: skip


def _losses(learner: Learner, lent: Lent, batch: Batch, training: Training) -> torch.Tensor:
    """[B] float32."""
    dtype = DTYPES[training.mixed_precision]
    mixed = dtype is not torch.float32  # which torch 2.1 refuses on a CPU, even where it is off
    with torch.autocast(lent.device.type, dtype=dtype if mixed else None, enabled=mixed):
        losses = learner.course.losses(lent, batch, draws(training.seed, batch.ordinals))
    return losses if batch.weights is None else losses * batch.weights.to(losses)
