"""Seeds made of words, so that what is drawn depends on what it is for and on nothing drawn before it."""

from __future__ import annotations

import hashlib

import torch


def key(*words: object) -> int:
    """A seed of 63 bits from anything that prints."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "little") >> 1


def drawn(*words: object) -> torch.Generator:
    """A generator seeded by `words`; on the CPU, so that a run repeats on any card."""
    return torch.Generator().manual_seed(key(*words))
