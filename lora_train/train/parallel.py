"""Many processes that train one adapter: who is here, what is added up, what is agreed on.

torchrun and `accelerate launch` say in the environment who is who; nothing else of them is used.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lora_train.errors import Mistake

T = TypeVar("T")

# that processes wait for one that draws or saves; one that died they miss
PATIENCE = datetime.timedelta(hours=2)
REST = 0.5  # seconds


class Team:
    """One process that trains alone; see `team` for more of them."""

    rank, world = 0, 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def share(self, things: Sequence[T]) -> list[T]:
        """This process's of things that each has to be done once."""
        return list(things[self.rank :: self.world])

    def add(self, parameters: Sequence[torch.nn.Parameter], loss: Tensor) -> Tensor:
        """Gradients become the sums over all processes; returns the sum of `loss`."""
        return loss

    def any(self, wish: bool) -> bool:
        """Whether one of them wishes it."""
        return wish

    def all(self, mine: T) -> list[T]:
        """Everyone's, by rank."""
        return [mine]

    def same(self, tensors: Sequence[Tensor], what: str) -> None:
        """Raises Mistake: they are not the same to the bit in all processes."""


class Many(Team):
    """This process among others.

    Args:
        control: a group on the CPU, so that agreeing makes no GPU wait.
    """

    def __init__(self, control: dist.ProcessGroup):
        self.rank, self.world, self.control = dist.get_rank(), dist.get_world_size(), control

    def add(self, parameters: Sequence[torch.nn.Parameter], loss: Tensor) -> Tensor:
        """One all-reduce of all gradients, and on the CPU a small one of which there are, so that no GPU is
        waited for. What got no gradient in any process has none after it: an optimizer
        leaves such a parameter alone, and would not one whose gradient is 0."""
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        there = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([*(g.float().flatten() for g in grads), loss.float().reshape(1)])
        with asking():
            dist.all_reduce(there, group=self.control)
            dist.all_reduce(flat)
        *sums, loss = flat.split([*(g.numel() for g in grads), 1])
        for p, g, given in zip(parameters, sums, there.tolist(), strict=True):
            p.grad = g.view_as(p).to(p.dtype) if given else None
        return loss[0]

    def any(self, wish: bool) -> bool:
        wishes = torch.tensor([float(wish)])
        with asking():
            dist.all_reduce(wishes, group=self.control)
        return bool(wishes.item())

    def all(self, mine: T) -> list[T]:
        found: list[T | None] = [None] * self.world
        with asking():
            dist.all_gather_object(found, mine, group=self.control)
        return found

    def same(self, tensors: Sequence[Tensor], what: str) -> None:
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        if len(set(self.all(digest.hexdigest()))) > 1:
            raise Mistake(
                f"{what} are not the same in all processes; start them with the same files and settings"
            )


@contextlib.contextmanager
def asking() -> Iterator[None]:
    """Raises Mistake: another process is gone, or was waited for too long."""
    try:
        yield
    except RuntimeError as e:  # of every backend
        reason = "".join(str(e).splitlines()[:1])
        raise Mistake(
            f"another process of this run ended or does not answer ({reason}); what it says tells why, and "
            "what was saved before is whole"
        ) from e


@contextlib.contextmanager
def team(device: str) -> Iterator[Team]:
    """Everyone that the launcher started, or this process alone.

    Args:
        device: "auto", "cpu" or "cuda"; on CUDA each process of a machine takes a card of its own.

    Raises:
        Mistake: more processes than cards, or the others cannot be reached.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world < 2:
        yield Team()
        return
    cuda = torch.cuda.is_available() and device != "cpu"
    if cuda:
        local, cards = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= cards:
            raise Mistake(
                f"process {local + 1} on this machine has no card; it has {cards}: start as many processes"
            )
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        control = dist.new_group(backend="gloo", timeout=PATIENCE) if cuda else dist.group.WORLD
    except (RuntimeError, ValueError) as e:
        raise Mistake(
            f"the other processes cannot be reached ({e}); look at MASTER_ADDR and MASTER_PORT"
        ) from e
    try:
        yield Many(control)
    finally:
        # gloo's thread lets go of the last message's tensors after it has woken us, for which it needs the
        # interpreter; and a group that is destroyed waits for that thread and holds the interpreter (once in
        # some 100 runs on torch 2.1.2)
        time.sleep(REST)
        dist.destroy_process_group()
