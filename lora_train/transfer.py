"""Between host memory and a device, without waiting for what the device has still to do."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. An ordinary copy to a GPU waits for it; one from pinned memory does not."""
    if device.type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def held(tensor: Tensor) -> Tensor:
    """A copy in host memory, which is there once the device is done with all that was asked of it before."""
    copy = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
    return copy.copy_(tensor.detach(), non_blocking=True)


class Arriving:
    """Numbers on their way from a device; `read` waits for them alone."""

    def __init__(self, values: Tensor):
        self.values, self.event = held(values), None
        if values.is_cuda:
            self.event = torch.cuda.Event()
            self.event.record()

    def read(self) -> list[float]:
        if self.event is not None:
            self.event.synchronize()
        return self.values.tolist()
