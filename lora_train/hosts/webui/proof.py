"""Proof that a model is as it was: a checksum of every weight, and the memory there is."""

from __future__ import annotations

import threading
import zlib

import torch
from torch import Tensor, nn

LANES, PIECE = 512, 1 << 23  # sums of 8 bytes each beside each other; how many of 8 bytes are read at a time


def weights(model: nn.Module) -> dict[str, Tensor]:
    """What every parameter and buffer holds now, wherever it is moved to later; each once, for SDXL's text
    encoders go by two names."""
    found = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value.detach() for name, value in found.items() if not value.is_meta}


def checksums(values: dict[str, Tensor]) -> dict[str, int]:
    """Read piece by piece."""
    return {name: _of(value) for name, value in values.items()}


def _of(value: Tensor) -> int:
    """Of 8 bytes each, sums in lanes, where the tensor is: as fast as memory is read, and on a card without
    its bus; of the lanes and of what is left, their CRC."""
    flat, found = value.detach().reshape(-1), zlib.crc32(str(value.dtype).encode())
    if flat.storage_offset() * flat.element_size() % 8:
        flat = flat.clone()
    words = flat.view(torch.uint8)
    whole = len(words) // (8 * LANES) * (8 * LANES)
    longs = words[:whole].view(torch.int64)
    for at in range(0, len(longs), PIECE):
        lanes = longs[at : at + PIECE].view(-1, LANES).sum(0)
        found = zlib.crc32(lanes.cpu().numpy(), found)
    return zlib.crc32(words[whole:].cpu().numpy(), found)


class Proof:
    """A checksum that is made beside other work, and compared at the end."""

    def __init__(self, model: nn.Module):
        values = weights(model)
        self.before: dict[str, int] = {}
        self.thread = threading.Thread(
            target=self._read, args=[values], name="lora_train checksum", daemon=True
        )
        self.thread.start()

    def _read(self, values: dict[str, Tensor]) -> None:
        self.before = checksums(values)

    def wait(self) -> None:
        """Until everything was read."""
        self.thread.join()

    def changed(self, model: nn.Module) -> list[str]:
        """Names of what differs."""
        self.wait()
        before, now = self.before, checksums(weights(model))
        return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def used(device: torch.device) -> int | None:
    """Megabytes that are taken on the device by anyone; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return round((total - free) / 2**20)
