"""torch.compile around the denoiser, adapters and all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn


@contextlib.contextmanager
def compiled(modules: Sequence[nn.Module], backend: str) -> Iterator[None]:
    """The modules' forward, compiled when it is first called inside `with`; leaves no trace after it.

    Whole, and not block by block: torch gives up on a function that it has compiled anew for each of many
    modules. A second size of pictures is compiled for any size.
    """
    before = [vars(module).get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = torch.compile(module.forward, backend=backend)
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            vars(module).pop("forward", None)
            if own is not None:
                module.forward = own
