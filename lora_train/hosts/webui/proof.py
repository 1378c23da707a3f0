"""Proof that a model is as it was: a checksum of every weight, and the memory there is."""

from __future__ import annotations

import threading
import zlib

import torch
from torch import Tensor, nn

PIECE = 1 << 24  # elements that are read at a time


def checksum(model: nn.Module) -> dict[str, int]:
    """Of every parameter and buffer, read piece by piece."""
    return {name: _of(value) for name, value in model.state_dict().items() if not value.is_meta}


def _of(value: Tensor) -> int:
    flat, found = value.detach().reshape(-1).view(torch.uint8), zlib.crc32(str(value.dtype).encode())
    for at in range(0, len(flat), PIECE):
        found = zlib.crc32(flat[at : at + PIECE].cpu().numpy(), found)
    return found


class Proof:
    """A checksum that is made beside other work, and compared at the end."""

    def __init__(self, model: nn.Module):
        values = dict(model.state_dict())  # what is there now, wherever a part is moved to meanwhile
        self.before: dict[str, int] = {}
        self.thread = threading.Thread(
            target=self._read, args=[values], name="lora_train checksum", daemon=True
        )
        self.thread.start()

    def _read(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            if not value.is_meta:
                self.before[name] = _of(value)

    def wait(self) -> None:
        """Until everything was read."""
        self.thread.join()

    def changed(self, model: nn.Module) -> list[str]:
        """Names of what differs."""
        self.wait()
        before, now = self.before, checksum(model)
        return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def used(device: torch.device) -> int | None:
    """Megabytes that are taken on the device by anyone; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return round((total - free) / 2**20)
