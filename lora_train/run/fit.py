"""What is traded for memory, so that a run fits into what is free; the result stays the same."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import pathlib
import sys
from typing import TYPE_CHECKING

import torch

from lora_train.run.footprint import Footprint, footprint
from lora_train.run.measure import largest

if TYPE_CHECKING:
    from lora_train.data.folder import Planned
    from lora_train.host import Host
    from lora_train.job import Job, Place

log = logging.getLogger(__name__)

MB = 2**20


def fitted(job: Job, place: Place, host: Host, planned: Planned) -> tuple[Place, int | None]:
    """The place as this run will have it, and how many pictures go through the model together, where that is
    fewer than a batch. What was chosen is said, in a line each.
    """
    if not place.fit_memory:
        return place, None
    there = free(place.device)
    count, _ = largest(planned)
    found = footprint(job, host, planned)
    if found is None or there is None:
        log.info("place.fit_memory: what a step needs is not known before it is tried; a step that does not "
                 "fit is taken in smaller pieces.")  # fmt: skip
        return place, None
    return _chosen(job, place, host, planned, found, there, count)


def _chosen(  # noqa: PLR0913 (what there is to choose from)
    job: Job, place: Place, host: Host, planned: Planned, found: Footprint, there: float, count: int
) -> tuple[Place, int | None]:
    again = place.gradient_checkpointing
    need = found.peak(recomputed=again)
    log.info("A step needs about %s MB, and %s MB are free.", f"{need:,.0f}", f"{there:,.0f}")
    if need > there and not again:
        place, again = dataclasses.replace(place, gradient_checkpointing=True), True
        need = found.peak(recomputed=True)
        log.info("place.gradient_checkpointing is set: with it a step needs about %s MB.", f"{need:,.0f}")
    most = None
    while need > there and (most or count) > 1:
        most = (most or count) // 2
        found = footprint(job, host, planned, most)
        need = found.peak(recomputed=again)
    if most:
        log.info("%d of %d pictures go through the model at a time: with that a step needs about %s MB.",
                 most, count, f"{need:,.0f}")  # fmt: skip
    if need > there:
        log.warning(
            "That is more than is free; what would help more: mixed_precision bf16, network_train_unet_only, "
            "a smaller resolution, quantized_base, optimizer AdamW8bit."
        )
    return place, most


def free(device: str) -> float | None:
    """Megabytes that a run may take of the device it will be on; None where the system does not tell."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / MB
    if sys.platform == "win32":
        return _windows()
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    except (OSError, ValueError, IndexError):
        return None
    return found["MemAvailable"] / 1024


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX of Windows' sysinfoapi.h."""

    _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
        (name, ctypes.c_ulonglong)
        for name in ("physical", "free", "limit", "commit", "virtual", "unused", "extended")
    ]


def _windows() -> float | None:
    """The less of free memory and of what may still be promised: Windows gives no memory that its page file
    could not hold, and the error then is about a paging file that is too small."""
    status = _Status(length=ctypes.sizeof(_Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None
    return min(status.free, status.commit) / MB
