"""Seeds made of words, so that what is drawn depends on what it is for and on nothing drawn before it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def key(*words: object) -> int:
    """A seed of 63 bits from anything that prints."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "little") >> 1


def drawn(*words: object) -> torch.Generator:
    """A generator seeded by `words`; on the CPU, so that a run repeats on any card."""
    return torch.Generator().manual_seed(key(*words))


def draws(seed: int, ordinals: Sequence[int]) -> list[torch.Generator]:
    """One generator per sample of the run, so that it repeats on another card, after a resume, with another
    micro-batch and on several processes."""
    return [drawn(seed, "sample", ordinal) for ordinal in ordinals]
