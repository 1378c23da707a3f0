"""Learner: all that changes while training, so all that a saved state holds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.network import Network
from lora_train.train.events import Progress
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
