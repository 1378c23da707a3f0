"""Learner: all that changes while training, so all that a saved state holds."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.family import Adapter
from lora_train.adapters.layer import Layer
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.train.events import Progress
from lora_train.train.relora import Relora, restart, unable
from lora_train.train.room import Pieces

if TYPE_CHECKING:
    from lora_train.train.ema import Average, Ema
    from lora_train.train.optimizer import Optimizer
    from lora_train.train.rates import Constant

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Learner:
    """Adapters, objective, optimizer, loss scale and position of a run."""

    network: Network
    course: object  # the objective's Pass
    optimizer: torch.optim.Optimizer
    scaler: object | None
    progress: Progress
    pieces: Pieces = dataclasses.field(default_factory=Pieces)  # that a step's samples go through in
    relora: Relora = Relora()  # when fresh adapters start
    make: Callable[[Layer], Adapter | None] | None = None  # them, as Network's
    average: Average | None = None  # of the adapters, to be saved and looked at in their place

    @classmethod
    def new(
        cls, network: Network, course: object, *, optimizer: Optimizer, lr: Constant, progress: Progress
    ) -> Learner:
        """Adapters in float32; one group of parameters for each part, or block, with its own rate.

        Raises:
            Mistake: the optimizer or the schedule cannot be made for these.
        """
        lr = lr.filled(optimizer.RATE)
        groups = [
            {"params": pace.parameters, "name": pace.name, "lr": rate, "base_lr": rate}
            for pace in network.paces()
            for rate in [lr.rate(pace.part) * pace.times]
        ]
        if network.word is not None:
            groups.append(network.word.group(lr.learning_rate if optimizer.ALONE else None))
        learned = list(course.parameters())
        if learned:
            rate = lr.learning_rate if course.rate is None else course.rate
            groups.append({"params": learned, "name": "objective", "lr": rate, "base_lr": rate})
        return cls(network, course, _made(optimizer, groups, lr, progress), None, progress)

    def averaged(self, ema: Ema) -> None:
        """Have a running mean of the adapters, where one is asked for.

        Raises:
            Mistake: the optimizer has one of its own.
        """
        if ema.decay is not None and self.free:
            name = type(self.optimizer).__name__
            raise Mistake(f"ema.decay = {ema.decay}: expected nothing; {name} averages weights by itself")
        self.average = ema.of(self.network)

    @property
    def free(self) -> bool:
        """Whether the optimizer averages weights in place of a schedule, and steps on others than those."""
        return all(callable(getattr(self.optimizer, name, None)) for name in ("train", "eval"))

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Inside `with` the weights as they are saved and looked at; after it those that training goes on
        with, to the bit, for the optimizer's own way back only comes near them."""
        if self.average is not None:
            with self.average.shown():
                yield
            return
        if not self.free:
            yield
            return
        kept = [p.detach().clone() for p in self.parameters]
        self.optimizer.eval()
        try:
            yield
        finally:
            self.optimizer.train()
            with torch.no_grad():
                for p, before in zip(self.parameters, kept, strict=True):
                    p.copy_(before)

    def rates(self) -> dict[str, float]:
        """Of each group the rate of the step that was made, and where the optimizer finds one, what that came
        to, under sd-scripts' name."""
        found = {}
        for group in self.optimizer.param_groups:
            name, rate = group["name"], group["lr"]
            if group.get("relative_step"):  # Adafactor's own, arXiv:1804.04235, section 8
                step = self.progress.step + 1
                rate = min(1e-6 * step if group["warmup_init"] else 1e-2, 1 / math.sqrt(step))
            found[name] = rate
            if "d" in group:
                found[f"d*lr/{name}"] = float(group["d"]) * rate
        return found

    def growing(self, relora: Relora, make: Callable[[Layer], Adapter | None] | None) -> None:
        """Have fresh adapters start every so often, where that is asked for.

        Raises:
            Mistake: the optimizer knows no fresh start.
        """
        if relora.steps is not None and (reason := unable(self.optimizer)):
            raise Mistake(f"relora.steps = {relora.steps}: {reason}; choose another optimizer")
        self.relora, self.make = relora, make

    def restarted(self, seed: int) -> None:
        """After a step: fresh adapters, where they are due."""
        p = self.progress
        if self.relora.due(p.step, p.steps):
            restart(self.network, self.optimizer, self.relora.prune_ratio, seed, p.step, self.make)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _made(
    optimizer: Optimizer, groups: list[dict], lr: Constant, progress: Progress
) -> torch.optim.Optimizer:
    device = groups[0]["params"][0].device.type
    if said := optimizer.instead(device):
        log.info("%s", said)
    used = optimizer.on(device)
    if complaints := used.refusals({group["name"]: group["lr"] for group in groups}):
        raise Mistake("\n".join(complaints))
    for group in groups:
        lr.at(progress.steps - 1, progress.steps, group["lr"])
    made = used.make(groups)
    if callable(getattr(made, "train", None)):
        made.train()
    return made


def scaler() -> object:
    """Loss scaling for float16 gradients, which underflow without it.

    Source: Micikevicius et al. 2017, arXiv:1710.03740, section 3.2.
    """
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda")
    return torch.cuda.amp.GradScaler()  # torch < 2.3
