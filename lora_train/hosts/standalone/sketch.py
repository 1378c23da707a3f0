"""A model of the standalone host without its numbers: torch's device "meta" has their shapes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

import torch

from lora_train.host import Model
from lora_train.hosts.standalone.loan import Loan
from lora_train.models.files import Found
from lora_train.noise import Schedule


class Sketched(Loan):
    """See `lora_train.host.Sketch`. No tensor of the file is read."""

    def __init__(self, found: Found, model: Model, dtype: torch.dtype):
        super().__init__(found, model, device=torch.device("meta"), dtype=dtype)

    def _predicts(self) -> None:
        """Whatever it is, it takes the same room."""
        self.schedule = Schedule.scaled_linear()

    def _hashed(self) -> list[None]:
        """Nobody asks where it came from."""
        return [None, None]

    def _autocast(self) -> contextlib.AbstractContextManager[None]:
        """There is none of this device; what runs under it has the weights' dtype."""
        return contextlib.nullcontext()

    def weights(self, parts: Collection[str]) -> list[torch.Tensor]:
        modules = [self.slots[part].module for part in parts]
        return [t for module in modules for t in (*module.parameters(), *module.buffers())]
