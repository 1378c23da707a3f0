"""The filter line: which pictures of a folder."""

from __future__ import annotations

from collections.abc import Callable

from lora_train.workshop.opened import Entry, Opened

Holds = Callable[[Opened, Entry], bool]


def read(text: str) -> Holds:
    """What says of a picture whether it is meant.

    Raises:
        Mistake: the line cannot be read; the message says where.
    """
    words = text.split()
    return lambda opened, entry: all(word in opened.text(entry) for word in words)
