"""Gradient checkpointing: activations of a block are computed again in the backward pass and not kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint


@contextlib.contextmanager
def recomputed(blocks: Sequence[nn.Module], *, away: bool = False) -> Iterator[None]:
    """Run the blocks' forward under `torch.utils.checkpoint` inside `with`; leaves no trace after it.

    Args:
        away: what a block is given waits for the backward pass in the computer's memory.

    `use_reentrant=False`, because the reentrant kind gives no gradient, silently, where a block's inputs need
    none: the first blocks of a frozen model, whose only trained weights are adapters that hooks add.
    """
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            run = functools.partial(checkpoint, block.forward, use_reentrant=False)
            block.forward = functools.partial(_away, block.forward) if away else run
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            vars(block).pop("forward", None)
            if own is not None:
                block.forward = own


def _away(forward: Callable, *args: object, **kwargs: object) -> object:
    """`checkpoint`, which keeps what it is given; so it is given copies in the computer's memory."""
    places: dict[int, torch.device] = {}

    def leave(value: object) -> object:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        copy = value.cpu()
        places[id(copy)] = value.device
        return copy

    def back(value: object) -> object:
        return value.to(places[id(value)]) if id(value) in places else value

    def run(args: object, kwargs: object) -> object:
        args, kwargs = tree_map(back, (args, kwargs))
        return forward(*args, **kwargs)

    return checkpoint(run, *tree_map(leave, (args, kwargs)), use_reentrant=False)
