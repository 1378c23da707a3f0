"""The training loop. There is one."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.draws import draws, key
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.run.control import Control
from lora_train.train.events import Progress, Watcher
from lora_train.train.finite import Guard, Ruined, cause, gradient
from lora_train.train.learner import Learner
from lora_train.train.parallel import Team
from lora_train.transfer import Arriving, sent

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch, Batches, Group
    from lora_train.host import Lent
    from lora_train.train.lr import Constant

log = logging.getLogger(__name__)

SELDOM, WEIGHED = 20, 200  # steps between two looks at what blocks add, at least; looks in a run, about
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
    initial_step: int | None = knob(
        None, "Begin as if so many steps had been made: with the pictures, random numbers and rates of the "
        "next one. max_train_steps counts them. Overrides initial_epoch; a state knows its own step.",
        group="time", low=0, high=10_000_000, unit="steps")  # fmt: skip
    initial_epoch: int | None = knob(
        None, "Begin with this epoch, as if those before it had been gone through; 1 is the first.",
        group="time", low=1, high=1_000_000)  # fmt: skip
    stop_text_encoder_training: float | None = knob(
        None, "Steps after which the text encoder's adapters stay as they are, while the UNet's go on; below "
        "1 it is a share of the run's steps. Empty: they learn to the end.", group="time", low=0,
        high=10_000_000)  # fmt: skip
    gradient_accumulation_steps: int = knob(
        1, "Batches whose gradients are averaged before an optimizer step; saves memory, costs time.",
        group="time", low=1, high=4096)  # fmt: skip
    mixed_precision: str = knob(
        "no", "What the frozen model and the arithmetic are in; adapters stay in float32.", group="memory",
        choices=("no", "bf16", "fp16"), basic=True)  # fmt: skip
    max_grad_norm: float = knob(
        1.0, "Length to which a longer gradient is cut; 0: never.", group="optimizer", low=0, high=1e6
    )
    l1_penalty: float = knob(
        0.0, "Pull of every number of an adapter to 0, the same for large and small ones; 1e-6 to 1e-4.",
        group="optimizer", low=0, high=1)  # fmt: skip
    seed: int | None = knob(
        None, "Equal seeds and settings give equal files. Empty: one is drawn and written down.",
        group="time", low=0, high=2**63 - 1)  # fmt: skip

    def steps(self, steps_per_epoch: int) -> int:
        """Steps of the run: epochs win over steps, as in sd-scripts."""
        return (
            self.max_train_steps if self.max_train_epochs is None else self.max_train_epochs * steps_per_epoch
        )

    def begin(self, steps_per_epoch: int) -> int:
        """Steps that count as made when the run begins.

        Raises:
            Mistake: they are all there are.
        """
        found = self.initial_step
        if found is None:
            found = ((self.initial_epoch or 1) - 1) * steps_per_epoch
        if found and found >= (steps := self.steps(steps_per_epoch)):
            said = f"step = {found}" if self.initial_step is not None else f"epoch = {self.initial_epoch}"
            raise Mistake(
                f"training.initial_{said}: expected to begin before the run ends, at step {steps}; set "
                "training.max_train_steps above it"
            )
        return found

    def text_learns(self, step: int, steps: int) -> bool:
        """Whether text encoders' adapters learn in the step after `step` others, of a run of `steps`."""
        stop = self.stop_text_encoder_training
        return stop is None or step < (stop if stop >= 1 else stop * steps)


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """torch's global generators seeded inside `with` and given back after it. Adapter dropout draws from
    them: gradient checkpointing restores them when it runs a block again, and no generator of our own."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def train(  # noqa: PLR0913 (where all of a run meets)
    learner: Learner,
    lent: Lent,
    batches: Batches,
    *,
    training: Training,
    lr: Constant,
    watchers: Sequence[Watcher] = (),
    control: Control | None = None,
    between: Callable[[Progress], None] = lambda _: None,
    team: Team = Team(),  # noqa: B008 (a process by itself has no state)
    guard: Guard | None = None,
) -> None:
    """Go on from `learner.progress.step` to its last step, or until `control` says stop after a step.

    The network has to be attached. `between(progress)` is called after a step when `control` asks for
    something else than a stop, and may block; the numbers of all steps are there by then.

    Raises:
        Ruined: too many steps were not finite; watchers are told of a stop, at the last good state.
    """
    p, numbers = learner.progress, _Numbers(guard or Guard(learner), watchers, behind(lent.device))
    p.first, error, control = p.step, None, control or Control()
    for watcher in watchers:
        watcher.started(p)
    try:
        while p.step < p.steps and not (p.stopped or p.enough):
            epoch, done = divmod(p.step, p.steps_per_epoch)
            for group in batches.steps(epoch, skip=done):
                step = _Step(learner, lent, group, training, team)
                numbers.take(step.run(functools.partial(lr.at, p.step, p.steps)))
                last = p.step >= p.steps
                asked = control.asked and not last and team.world == 1  # others would give up waiting
                due = sum([w.due(p) for w in watchers]) > 0  # all of them are asked: they remember the answer
                if numbers.waiting and (asked or last or team.any(due)):
                    numbers.settle()
                _told(p, watchers, between if asked else None)
                p.stopped = team.any(not last and control.stopping)
                if p.stopped or last or p.enough:
                    break
        p.keep = control.keep or not p.stopped
        numbers.settle()
    except Ruined:
        p.stopped = True
        raise
    except BaseException as e:
        error = e
        raise
    finally:
        for watcher in watchers:
            watcher.finished(p, error)


def _told(p: Progress, watchers: Sequence[Watcher], between: Callable[[Progress], None] | None) -> None:
    for watcher in watchers:
        watcher.stepped(p)
    if between is not None:
        between(p)


def behind(device: torch.device) -> int:
    """Steps by which the numbers of a step come later: to ask a GPU for them at once is to wait for it, while
    it could have the next step's work already."""
    return 1 if device.type == "cuda" else 0


class _Numbers:
    """Losses and norms of steps, which are judged and shown to the watchers once they are there."""

    def __init__(self, guard: Guard, watchers: Sequence[Watcher], lag: int):
        self.guard, self.watchers, self.lag = guard, watchers, lag
        self.waiting: collections.deque[_Step] = collections.deque()

    def take(self, step: _Step) -> None:
        self.waiting.append(step)
        self.settle(self.lag)

    def settle(self, keep: int = 0) -> None:
        """Wait for all but the last `keep` steps.

        Raises:
            Ruined: one too many was not finite.
        """
        found: list[tuple[int, str | None]] = []
        while len(self.waiting) > keep:
            step = self.waiting.popleft()
            fault = step.judged()
            found.append((step.after.step, fault))
            for watcher in self.watchers:
                watcher.measured(step.after)
            if fault is not None:
                keep = 0  # the run may end here, and then these are not to be missing
        for number, fault in found:
            if fault is None:
                self.guard.good(number)
            else:
                self.guard.skipped(number, fault)


@dataclasses.dataclass
class _Step:
    """One optimizer step over the micro-batches of `group`."""

    learner: Learner
    lent: Lent
    group: Group
    training: Training
    team: Team
    names: list[str] = dataclasses.field(default_factory=list)  # of the numbers behind loss and norm
    numbers: Arriving | None = None
    seen: list[tuple[Batch, torch.Tensor]] = dataclasses.field(default_factory=list)  # with losses, [B]
    after: Progress | None = None  # how things stood

    def run(self, at: Callable[[float], float]) -> _Step:
        """Nothing in here waits for a GPU, with an optimizer that can leave a step out by itself.

        Args:
            at: the rate of this step for parameters whose own rate is given.
        """
        learner, p = self.learner, self.learner.progress
        self.rested()
        loss = self.team.add(learner.parameters, self.backward())
        if p.step == p.first:
            _tell(learner.network)
        if learner.scaler is not None:
            learner.scaler.unscale_(learner.optimizer)
        self.penalized()
        # a length that nothing reaches: clip_grad_norm_ is also what measures the gradient
        limit = self.training.max_grad_norm or float("inf")
        norm = torch.nn.utils.clip_grad_norm_(learner.parameters, limit)
        self.update(torch.stack([loss, norm.to(loss)]), at)
        learner.optimizer.zero_grad(set_to_none=True)
        p.step, p.images = p.step + 1, p.images + self.group.images
        learner.restarted(self.training.seed)
        if learner.average is not None:
            learner.average.update(p.step)
        self.after = dataclasses.replace(p)
        return self

    def rested(self) -> None:
        """Adapters that learn no more have no gradient, so every optimizer leaves them alone, and nothing is
        computed back to them."""
        if self.training.stop_text_encoder_training is None:
            return
        learner, p = self.learner, self.learner.progress
        learns = self.training.text_learns(p.step, p.steps)
        for part, parameters in learner.network.parts().items():
            for parameter in parameters if part != "unet" else ():
                parameter.requires_grad_(learns)

    def judged(self) -> str | None:
        """Wait for the numbers, and write down those of a good step; what was wrong with it otherwise."""
        p = self.learner.progress
        loss, norm, *more = self.numbers.read()
        norms, losses = more[: len(self.names)], more[len(self.names) :]
        good = math.isfinite(loss) and (math.isfinite(norm) or self.overflowed)
        if good:
            p.saw(self.after.step, loss, norm)
            p.norms = dict(zip(self.names, norms, strict=True))
        for name in ("loss", "average", "norm", "norms"):
            setattr(self.after, name, getattr(p, name))
        self.after.samples = [*self.samples(losses)]
        return None if good else self.why()

    def backward(self) -> torch.Tensor:
        """Gradients of this process's batches; returns their share of the loss, []."""
        learner = self.learner
        return learner.pieces.tried(self.group.batches, self.summed, learner.optimizer.zero_grad)

    def summed(self, batches: Sequence[Batch]) -> torch.Tensor:
        total = torch.zeros((), device=self.lent.device)
        self.seen = []  # this may be the second try
        for batch in batches:
            seed = key(self.training.seed, "adapter", batch.ordinals[0])
            with seeded(self.lent.device, seed), self.learner.course.during(batch):
                losses = self.losses(batch)
                self.seen.append((batch, losses.detach()))
                loss = weighed(losses, batch).sum() / self.group.images
                (loss if self.learner.scaler is None else self.learner.scaler.scale(loss)).backward()
            total += loss.detach()
        return total

    def losses(self, batch: Batch) -> torch.Tensor:
        """[B] float32, before the samples' weights."""
        dtype = DTYPES[self.training.mixed_precision]
        mixed = dtype is not torch.float32  # which torch 2.1 refuses on a CPU, even where it is off
        with torch.autocast(self.lent.device.type, dtype=dtype if mixed else None, enabled=mixed):
            rngs = draws(self.training.seed, batch.ordinals)
            with self.learner.course.during(batch):
                return self.learner.course.losses(self.lent, batch, rngs)

    @torch.no_grad()
    def penalized(self) -> None:
        """The gradient of l1_penalty times the sum of adapters' absolute numbers, beside that of the loss."""
        pull = self.training.l1_penalty
        for p in (p for part in self.learner.network.parts().values() for p in part) if pull else ():
            if p.grad is not None:
                p.grad.add_(p.sign(), alpha=pull)

    def update(self, values: torch.Tensor, at: Callable[[float], float]) -> None:
        """values: loss and norm of the gradient; where they are not finite, nothing changes."""
        learner, optimizer = self.learner, self.learner.optimizer
        for rates in optimizer.param_groups:
            learns = learner.progress.step < rates.get("share", 1) * learner.progress.steps
            learns = learns and any(p.requires_grad for p in rates["params"])
            rates["lr"] = at(rates["base_lr"]) * learns
        if learner.scaler is not None:
            learner.scaler.step(optimizer)
            learner.scaler.update()
        elif getattr(optimizer, "_step_supports_amp_scaling", False):  # torch's own mark of those that can
            optimizer.found_inf = 1 - values.isfinite().all().float()
            optimizer.step()
            del optimizer.found_inf
        elif values.isfinite().all():
            optimizer.step()
        learner.progress.rates = learner.rates()
        limit = learner.network.family.scale_weight_norms
        norms = {} if limit is None else learner.network.max_norm(limit)
        if self.team.first and looked(learner.progress.step + 1, learner.progress.steps):
            norms |= learner.network.regions()
        self.names = list(norms)
        found = torch.stack([*values, *(norm.to(values) for norm in norms.values())])
        self.numbers = Arriving(torch.cat([found, *(losses.to(values) for _, losses in self.seen)]))

    def samples(self, losses: Sequence[float]) -> Iterator[tuple[str, int, float]]:
        """Picture, timestep, which is drawn once more, and loss of the step's samples, in the order seen."""
        coming = iter(losses)
        for batch, _ in self.seen:
            rngs = draws(self.training.seed, batch.ordinals)
            steps = self.learner.course.timesteps(self.lent, batch, rngs)
            yield from zip(batch.paths or batch.names, steps, coming, strict=False)

    @property
    def overflowed(self) -> bool:
        """Whether loss scaling explains a gradient that is not finite: the scaler then skips the step itself,
        and tries a smaller scale."""
        return self.learner.scaler is not None and self.learner.scaler.get_scale() > 1

    def why(self) -> str:
        """What is not finite; asked of all processes alike, for one of them has the batch that failed."""
        found = cause(self.learner, self.lent, self.group.batches, self.losses, self.training.seed)
        told = self.team.all((found, [name for batch in self.group.batches for name in batch.names]))
        return next((f for f, _ in told if f), None) or gradient(
            [name for _, names in told for name in names]
        )


def weighed(losses: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Losses [B] times the samples' weights."""
    return losses if batch.weights is None else losses * sent(batch.weights, losses.device).to(losses)


def looked(step: int, steps: int) -> bool:
    """Whether what each block adds is written down after a step: the first, the last, and some 200 between,
    seldom enough that it costs nothing to speak of."""
    return step in (1, steps) or step % max(SELDOM, -(-steps // WEIGHED)) == 0


def _tell(network: Network) -> None:
    """Of adapters that learn nothing: after the first backward pass, while the gradients are there."""
    if silent := network.silent():
        log.warning(
            "%d of %d layers got no gradient, the first is %s: the model does not use them as it is set up",
            len(silent), len(network.adapters), silent[0])  # fmt: skip
