"""Where a part of a lent model is: nowhere yet, on its device, or parked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from lora_train.models.files import Part


class Slot:
    """One part of the model. Its weights come when they are first used, and go when it is parked."""

    def __init__(self, module: nn.Module, part: Part, *, device: torch.device, dtype: torch.dtype):
        self.module, self.part, self.device, self.dtype = module, part, device, dtype

    @property
    def here(self) -> bool:
        return next(self.module.parameters()).device.type == self.device.type

    def use(self) -> nn.Module:
        from lora_train.hosts.standalone.load import fill

        if self.device.type == "meta":
            return nn.Module.to(self.module, self.dtype)
        if next(self.module.parameters()).is_meta:
            fill(self.module, self.part, dtype=self.dtype, device=self.device)
        elif not self.here:
            self.module.to(self.device)
        return self.module

    def park(self) -> None:
        """Weights leave a GPU for the computer's memory, and a CPU for good: the file has them.

        The module itself, and hooks on it, stay.
        """
        if self.here:
            self.module.to("cpu" if self.device.type == "cuda" else "meta")

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """A part that is parked before is parked again after."""
        here = self.here
        yield
        if not here:
            self.park()
