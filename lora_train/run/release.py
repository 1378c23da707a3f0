"""What a run leaves behind in memory goes back to the system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

import torch

from lora_train.adapters.vera import shared


def release() -> None:
    """VeRA's matrices; objects that know each other in a circle; torch's cache on a card; free pages, which
    glibc's heap otherwise keeps: half a gigabyte after a short run on a CPU."""
    shared.cache_clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # other C libraries have no such word
            ctypes.CDLL(None).malloc_trim(0)
