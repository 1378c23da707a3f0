"""What models said of pictures, kept: asking takes long, and asking with other thresholds should not."""

from __future__ import annotations

import logging
import pathlib
import sqlite3
import time

from lora_train.data.memory import LAST
from lora_train.workshop.opened import Entry, Opened

log = logging.getLogger(__name__)

FILE = "answers.sqlite"
LARGEST = 1 << 30  # bytes; then it begins anew
EVERY = 5.0  # seconds of work that a killed process may lose
VERSION = 1
TABLE = """CREATE TABLE IF NOT EXISTS found (
    model TEXT, folder TEXT, file TEXT, bytes INTEGER, changed INTEGER, answer BLOB,
    PRIMARY KEY (model, folder, file)
) WITHOUT ROWID"""


class Found:
    """One model's answers on a folder's pictures. It only saves time: where it cannot be written, nothing
    is kept. For one thread.

    Args:
        model: what the answers depend on beside the picture; "": nothing is kept.
    """

    def __init__(self, opened: Opened, model: str):
        self.opened, self.model, self.folder = opened, model, str(opened.folder)
        self.written = time.monotonic()
        beside = opened.memory.path
        self.base = self._connected(beside.with_name(FILE)) if beside and model else None

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *error: object) -> None:
        if self.base is not None:
            self._tried(self.base.commit)
        if self.base is not None:
            self.base.close()

    def of(self, entry: Entry) -> bytes | None:
        """What was said of a picture as it is now."""
        if self.base is None:
            return None
        ask = "SELECT answer FROM found WHERE model=? AND folder=? AND file=? AND bytes=? AND changed=?"
        rows = self._tried(lambda: self.base.execute(ask, self._key(entry)).fetchall()) or ()
        return rows[0][0] if rows else None

    def keep(self, entry: Entry, answer: bytes) -> None:
        if self.base is None:
            return
        row = (*self._key(entry), answer)
        self._tried(lambda: self.base.execute("REPLACE INTO found VALUES (?,?,?,?,?,?)", row))
        if self.base is not None and time.monotonic() - self.written > EVERY:
            self.written = time.monotonic()
            self._tried(self.base.commit)

    def _key(self, entry: Entry) -> tuple[object, ...]:
        size, changed = entry.status.st_size, entry.status.st_mtime_ns % LAST
        return self.model, self.folder, entry.name, size, changed

    def _tried(self, act: object) -> list | None:
        try:
            return act()
        except (sqlite3.Error, UnicodeEncodeError) as e:  # on Linux a file's name may be no text
            log.info("%s: not used (%s); models are asked again", FILE, e)
            self.base.close()
            self.base = None
            return None

    @staticmethod
    def _connected(path: pathlib.Path) -> sqlite3.Connection | None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and path.stat().st_size > LARGEST:
                path.unlink()
            base = sqlite3.connect(path, timeout=10)
            if base.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                base.execute("DROP TABLE IF EXISTS found")
                base.execute(f"PRAGMA user_version = {VERSION}")
            base.execute(TABLE)
        except (OSError, sqlite3.Error) as e:
            log.info("%s: not used (%s); models are asked again", path, e)
            return None
        return base
