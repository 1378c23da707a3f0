"""Footprint: how much memory a step will need, known before a weight is read.

The model runs on torch's device "meta", where tensors have shapes and no numbers: its own code says what it
keeps for the backward pass.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lora_train.adapters.file import begun
from lora_train.adapters.network import Network
from lora_train.data.buckets import GRAIN, Size
from lora_train.errors import Mistake
from lora_train.run.measure import largest

if TYPE_CHECKING:
    from lora_train.data.folder import Planned
    from lora_train.host import Host, Sketch
    from lora_train.job import Job

log = logging.getLogger(__name__)

MB = 2**20
SPARE = 1.05  # an allocator's gaps, kernels' own rooms
STATES = 8  # bytes that an optimizer keeps for a number, where it cannot be tried out: Adam's two
TEXT = "a"


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Megabytes of a step, by what they are for."""

    weights: float  # of the parts of the model that stay on the device
    learned: float  # adapters, their gradients, and what the optimizer keeps of them
    kept: float  # for the backward pass
    between: float  # of it, what is kept where blocks are computed again: their inputs, and what is in none
    block: float  # of it, the largest block's

    def peak(self, *, recomputed: bool) -> float:
        kept = self.between + self.block if recomputed else self.kept
        return SPARE * (self.weights + self.learned + kept)


def footprint(job: Job, host: Host, planned: Planned, count: int | None = None) -> Footprint | None:
    """
    Args:
        count: pictures that go through the model together; those of the largest batch if not given.

    Returns:
        None: this host cannot tell before its model is there, or the family not without its weights.
    """
    sketch = host.sketch(job.model, precision=job.training.mixed_precision)
    if sketch is None:
        return None
    whole, bucket = largest(planned)
    with sketch as lent, torch.random.fork_rng(devices=[]), _Flash():
        try:
            return _seen(job, lent, count or whole, bucket)
        except (NotImplementedError, RuntimeError) as e:  # a tensor's numbers were asked for
            log.debug("No estimate of memory: %s", e)
            return None


def _seen(job: Job, lent: Sketch, count: int, bucket: Size) -> Footprint:
    fresh = dataclasses.replace(job.network, weights=None, dim_from_weights=False)
    network = begun(fresh, lent.layers())
    trained = {part for part, parameters in network.parts().items() if parameters}
    weights = lent.weights({"unet", *trained})
    kept = _Kept([*weights, *network.parameters()], lent.checkpoint_blocks())
    size = (count, 4, bucket[1] // GRAIN, bucket[0] // GRAIN)
    x = torch.empty(size, dtype=lent.dtype, device="meta")
    with network.attached(), kept.watched():
        with torch.set_grad_enabled(trained != {"unet"}):
            cond = lent.encode([TEXT] * count)
        lent.denoise(x, torch.zeros(count, dtype=torch.long, device="meta"), cond).float().square().sum()
    held = sum(tensor.numel() * tensor.element_size() for tensor in weights) / MB
    return Footprint(held, _learned(job, network), *kept.found())


def _learned(job: Job, network: Network) -> float:
    """Of adapters and gradients in float32, and what the optimizer keeps of them after a step."""
    parameters = list(network.parameters())
    count, states = sum(p.numel() for p in parameters), None
    try:
        optimizer = job.optimizer.make([{"params": parameters, "name": "", "lr": 1e-4, "base_lr": 1e-4}])
        for p in parameters:
            p.grad = torch.empty_like(p)
        optimizer.step()
        tensors = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        states = sum(v.numel() * v.element_size() for v in tensors)
    except (Mistake, NotImplementedError, RuntimeError, TypeError):  # some look at the numbers
        states = count * STATES
    return (count * 2 * 4 + states) / MB


class _Kept:
    """What is saved for the backward pass, each tensor once, and within which block.

    Args:
        own: what is there in any case.
    """

    def __init__(self, own: Iterable[Tensor], blocks: Iterable[nn.Module]):
        self.own = {tensor.untyped_storage()._cdata for tensor in own}
        self.blocks, self.inside = list(blocks), -1
        self.saved: dict[int, tuple[Tensor, int]] = {}  # storage -> a tensor in it, and the block it is of
        self.inputs: dict[int, Tensor] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        handles = []
        for number, block in enumerate(self.blocks):
            handles.append(block.register_forward_pre_hook(self._entering(number), with_kwargs=True))
            handles.append(block.register_forward_hook(self._left))
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, number: int) -> Callable[..., None]:
        def enter(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            self.inside = number
            for value in (*args, *kwargs.values()):
                if isinstance(value, Tensor) and value.requires_grad:
                    self.inputs[value.untyped_storage()._cdata] = value

        return enter

    def _left(self, module: nn.Module, args: object, output: object) -> None:
        self.inside = -1

    def _save(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in self.own:
            self.saved.setdefault(storage, (tensor, self.inside))
        return tensor

    def found(self) -> tuple[float, float, float]:
        """`kept`, `between` and `block` of a Footprint."""
        shares = dict.fromkeys(range(-1, len(self.blocks)), 0.0)
        for tensor, number in self.saved.values():
            shares[number] += tensor.untyped_storage().nbytes() / MB
        entered = [
            tensor for storage, tensor in self.inputs.items() if self.saved.get(storage, (0, 0))[1] != -1
        ]
        between = shares.pop(-1) + sum(t.untyped_storage().nbytes() for t in entered) / MB
        whole = sum(tensor.untyped_storage().nbytes() for tensor, _ in self.saved.values()) / MB
        return whole, between, max(shares.values(), default=0.0)


class _Flash(TorchFunctionMode):
    """Attention keeps what its fast kernels keep; "meta" would take the plain one, which keeps all scores."""

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise RuntimeError("a sketch has no backward pass")
