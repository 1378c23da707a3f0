"""What objectives share: what they learn from, how a run of one is begun, and what it may keep."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from lora_train.data.plan import survey

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.data.cache import Latents
    from lora_train.data.folder import Data, Planned
    from lora_train.data.memory import Memory
    from lora_train.data.scan import Finding
    from lora_train.host import Lent


class Pass:
    """One run of an objective."""

    rate: float | None = None  # of `parameters`; None: the learning rate of all else

    def losses(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> Tensor:
        """One loss per sample, [B] float32; the loop takes the mean.

        Args:
            rngs: each sample's own, on the CPU, so that a sample's draws are the same in any batch and on any
                card.
        """
        raise NotImplementedError

    def timesteps(self, lent: Lent, batch: Batch, rngs: Sequence[torch.Generator]) -> list[int]:
        """Those that `losses` draws."""
        raise NotImplementedError

    def during(self, batch: Batch) -> contextlib.AbstractContextManager[object]:
        """Around a batch's losses and their gradients: gradient checkpointing runs the forward again in the
        backward pass, and what was set for the first has to be set then. May be entered twice."""
        return contextlib.nullcontext()

    def networks(self) -> list[Network]:
        """Other adapters that it puts on the model at times."""
        return []

    def tried(self, lent: Lent) -> list[int]:
        """Timesteps at which `losses_of` is asked for, of an objective that `validates`."""
        raise NotImplementedError

    def losses_of(self, lent: Lent, batch: Batch, t: int, rngs: Sequence[torch.Generator]) -> Tensor:
        """Of samples at one timestep, [B] float32, with nothing drawn but noise: one from each generator."""
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

    pictures: ClassVar[bool] = True  # whether it learns from pictures
    validates: ClassVar[bool] = False  # whether its loss on pictures that are held out says something
    precise: ClassVar[bool] = False  # whether float16 is too coarse for it
    keeps: ClassVar[bool] = False  # whether it knows pictures that are to stay as the model has them

    @property
    def folders(self) -> bool:
        """Whether it learns from the folders of `data`, and not from files or words of its own."""
        return self.pictures

    def settled(self) -> Objective:
        """The same with what it names files for.

        Raises:
            Mistake: they are not what they should be.
        """
        return self

    def survey(
        self, data: Data, *, decode: bool = False, memory: Memory | None = None
    ) -> tuple[Planned, list[Finding]]:
        """What there is to learn from; see `data.plan.survey`."""
        return survey(data, decode=decode, memory=memory)

    def seen(self, latents: Latents) -> Latents:
        """Where its batches get their latents, and with them masks of its own."""
        return latents

    def files(self) -> list[pathlib.Path]:
        """Files and folders of its own that it learns from."""
        return []

    @property
    def window(self) -> tuple[int, int]:
        """Timesteps that are drawn: from the first to before the second."""
        return 0, 1000

    def record(self) -> dict[str, object]:
        """`ss_*` entries of a saved file."""
        return {}

    def refusals(self, prediction: str, last_is_noise: bool) -> list[str]:
        """What is undefined for a model that predicts "epsilon" or "v"; complaints by their last word.

        Args:
            last_is_noise: whether no signal is left at its last step.
        """
        return []

    def begin(self, lent: Lent, network: Network) -> Pass:
        """A run of it; `network.off()` is the model without what is learned."""
        raise NotImplementedError
