"""A person's Ctrl-C, or a system's request to end, as a wish that what goes on heeds."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

from lora_train.run.control import Control


@contextlib.contextmanager
def interruptible(said: str) -> Iterator[Control]:
    """The first Ctrl-C, or a launcher's or system's request to end, asks for a stop after what is under way;
    the second Ctrl-C stops at once.

    Args:
        said: what follows of the first.
    """
    control = Control()

    def ask(signum: int, frame: object) -> None:
        if control.stopping and signum == signal.SIGINT:
            raise KeyboardInterrupt
        control.stop()
        sys.stderr.write(f"\n{said}; press again to stop at once.\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield control
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
