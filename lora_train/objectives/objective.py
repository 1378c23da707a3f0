"""What objectives share: how a run of one is begun, and what it may keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.host import Lent


class Pass:
    """One run of an objective."""

    def losses(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> Tensor:
        """One loss per sample, [B] float32; the loop takes the mean.

        Args:
            rngs: each sample's own, on the CPU, so that a sample's draws are the same in any batch and on any
                card.
        """
        raise NotImplementedError

    def parameters(self) -> list[nn.Parameter]:
        """What the objective learns itself."""
        return []

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run goes on with, beyond what the job says."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Objective:
    """What an adapter learns."""

    def begin(self, lent: Lent, network: Network) -> Pass:
        """A run of it; `network.off()` is the model without what is learned."""
        raise NotImplementedError
