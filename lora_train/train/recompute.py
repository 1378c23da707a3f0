"""Gradient checkpointing: activations of a block are computed again in the backward pass and not kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Run the blocks' forward under `torch.utils.checkpoint` inside `with`; leaves no trace after it.

    `use_reentrant=False`, because the reentrant kind gives no gradient, silently, where a block's inputs need
    none: the first blocks of a frozen model, whose only trained weights are adapters that hooks add.
    """
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            vars(block).pop("forward", None)
            if own is not None:
                block.forward = own
