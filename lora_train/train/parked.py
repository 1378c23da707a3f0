"""Parking: what a run holds on the card waits in the computer's memory, and comes back as it was."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.vera import shared
from lora_train.host import Cond
from lora_train.train.finite import Guard, Kept
from lora_train.train.learner import Learner


@contextlib.contextmanager
def parked(*held: object) -> Iterator[None]:
    """The tensors in `held` leave the card for `with`. They stay the same objects, so that an optimizer finds
    its state by them. After an error they stay where they are: what is saved then needs no card.

    Args:
        held: tensors, modules, learners, and dicts and lists of those.
    """
    there = [(tensor, tensor.device) for tensor in {id(t): t for t in tensors(held)}.values() if away(tensor)]
    for tensor, _ in there:
        tensor.data = fetched(tensor.data, torch.device("cpu"))
    if there:
        shared.cache_clear()
        torch.cuda.empty_cache()
    yield
    for tensor, device in there:
        tensor.data = fetched(tensor.data, device)


def away(tensor: Tensor) -> bool:
    """Whether it takes memory of a card."""
    return tensor.device.type != "cpu"


def fetched(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.to(device)


def tensors(held: object) -> Iterator[Tensor]:
    """All in it, gradients too, some of them more than once. Models of others that it may know are left."""
    if isinstance(held, Tensor):
        yield held
        if held.is_leaf and held.grad is not None:
            yield held.grad
    for part in _parts(held):
        yield from tensors(part)


def _parts(held: object) -> list[object]:
    if isinstance(held, nn.Module):
        return [*held.parameters(), *held.buffers()]
    if isinstance(held, Mapping):
        return [*held.values()]
    if isinstance(held, list | tuple):
        return [*held]
    if isinstance(held, Learner):
        course, scaler = vars(held.course), held.scaler and vars(held.scaler)
        mean = held.average and held.average.mean
        return [held.network, course, held.optimizer, scaler, mean]
    if isinstance(held, Guard):
        return [held.learner, held.kept, held.fresh]
    if isinstance(held, torch.optim.Optimizer):
        return [*vars(held).values()]
    if isinstance(held, Cond | Kept):
        return [getattr(held, field.name) for field in dataclasses.fields(held)]
    return []
