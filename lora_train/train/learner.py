"""Learner: all that changes while training, so all that a saved state holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
    from lora_train.train.lr import Constant


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

    @classmethod
    def new(
        cls, network: Network, course: object, *, optimizer: object, lr: Constant, progress: Progress
    ) -> Learner:
        """Adapters in float32; one group of parameters for each part, or block, with its own rate."""
        groups = [
            {"params": pace.parameters, "name": pace.name, "lr": rate, "base_lr": rate}
            for pace in network.paces()
            for rate in [lr.rate(pace.part) * pace.times]
        ]
        if network.word is not None:
            groups.append(network.word.group())
        learned = list(course.parameters())
        if learned:
            groups.append(
                {"params": learned, "name": "objective", "lr": lr.learning_rate, "base_lr": lr.learning_rate}
            )
        return cls(network, course, optimizer.make(groups), None, progress)

    def growing(self, relora: Relora, make: Callable[[Layer], Adapter | None] | None) -> None:
        """Have fresh adapters start every so often, where that is asked for.

        Raises:
            Mistake: the optimizer knows no fresh start.
        """
        if relora.steps is not None and (reason := unable(self.optimizer)):
            raise Mistake(f"relora.steps = {relora.steps}: {reason}; choose another optimizer, or no restarts")
        self.relora, self.make = relora, make

    def restarted(self, seed: int) -> None:
        """After a step: fresh adapters, where they are due."""
        p = self.progress
        if self.relora.due(p.step, p.steps):
            restart(self.network, self.optimizer, self.relora.prune_ratio, seed, p.step, self.make)

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
