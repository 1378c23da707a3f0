"""Control: what a person asks of a run while it goes on; faces set it, the run reads it between steps."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Ended(Exception):
    """Asked to stop while there is nothing to do that could be stopped."""


class Control:
    """Wishes, from any thread. A stop is for good; the rest is taken back or done once."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # re-entrant, so a signal's handler may ask too
        self.stopping = False
        self.keep = True  # what was learned so far is saved before the run ends
        self.paused = False
        self.resting = False  # the run is in the pause that was asked for
        self._save = self._sample = False

    def stop(self, save: bool = True) -> None:
        """End after the step that is under way. The last word on `save` holds."""
        with self.changed:
            self.keep = save
            self.stopping = True
            self.changed.notify_all()

    def pause(self) -> None:
        with self.changed:
            self.paused = True
            self.changed.notify_all()

    def go_on(self) -> None:
        with self.changed:
            self.paused = False
            self.changed.notify_all()

    def save_now(self) -> None:
        with self.changed:
            self._save = True
            self.changed.notify_all()

    def sample_now(self) -> None:
        with self.changed:
            self._sample = True
            self.changed.notify_all()

    def heed(self) -> None:
        """Raises Ended: a stop is asked for."""
        if self.stopping:
            raise Ended

    @property
    def asked(self) -> bool:
        """Whether there is something to do before the next step, other than to stop."""
        return self.paused or self._save or self._sample

    def take_save(self) -> bool:
        """Whether a file is wished; the wish is then done with."""
        with self.changed:
            asked, self._save = self._save, False
            return asked

    def take_sample(self) -> bool:
        with self.changed:
            asked, self._sample = self._sample, False
            return asked

    @contextlib.contextmanager
    def rest(self) -> Iterator[None]:
        self.resting = True
        try:
            yield
        finally:
            self.resting = False

    def wait(self, seconds: float) -> None:
        """Until something is asked, or for so long."""
        with self.changed:
            self.changed.wait(seconds)
