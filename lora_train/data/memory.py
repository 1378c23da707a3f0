"""Memory: what was once found out about picture files, kept for the next time."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import operator
import os
import pathlib
import sqlite3
import sys
from collections.abc import Iterator

from lora_train.data import pictures
from lora_train.errors import Mistake

log = logging.getLogger(__name__)

LAST = 2**63  # nanoseconds since 1970, in the year 2262: no later date can be written down
VERSION = 3  # of the table; another one begins anew
TABLE = """CREATE TABLE IF NOT EXISTS known (
    folder TEXT, file TEXT, bytes INTEGER, changed INTEGER,
    width INTEGER, height INTEGER, frames INTEGER, whole INTEGER, digest TEXT, traits TEXT, cells BLOB,
    softness REAL, blocks REAL, quality INTEGER,
    PRIMARY KEY (folder, file)
) WITHOUT ROWID"""


@dataclasses.dataclass(slots=True)
class Known:
    """Of one file; None: not looked at yet. Holds as long as the file has this size and date."""

    bytes: int
    changed: int  # nanoseconds since 1970
    width: int | None = None  # upright
    height: int | None = None
    frames: int | None = None
    whole: bool | None = None  # decoded to its end without a fault
    digest: str | None = None  # sha256 of its content
    traits: str | None = None  # words; see traits.py
    cells: bytes | None = None  # see likeness.py
    softness: float | None = None  # these three: see measures.py
    blocks: float | None = None
    quality: int | None = None


FIELDS = tuple(f.name for f in dataclasses.fields(Known))
VALUES = operator.attrgetter(*FIELDS)


def usual() -> pathlib.Path:
    """Where the system keeps what can be made again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or pathlib.Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = pathlib.Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "sd-webui-lora-train" / "pictures.sqlite"


class Memory:
    """A file of what is known about pictures, folder by folder.

    It only saves time: where it cannot be read or written, everything is found out again.

    Args:
        path: None: nothing is kept.
    """

    def __init__(self, path: pathlib.Path | None = None):
        self.path = path
        self.folders: dict[str, dict[str, Known]] = {}
        self.written: dict[str, dict[str, int]] = {}  # hashes of what the file holds
        self.last: tuple[pathlib.Path | None, dict[str, Known]] = (None, {})  # folder that was asked about

    def of(self, folder: pathlib.Path, file: str, status: os.stat_result) -> Known:
        """What is known of a file as it is now; the caller writes into it what it finds out."""
        if folder is not self.last[0]:
            self.last = folder, self._files(os.path.abspath(folder))  # noqa: PTH100 (resolve() asks the disk)
        files = self.last[1]
        known = files.get(file)
        if known is None or (known.bytes, known.changed) != (status.st_size, status.st_mtime_ns):
            known = files[file] = Known(status.st_size, status.st_mtime_ns)
        return known

    def digest(self, path: pathlib.Path) -> str:
        """sha256 of a file's content.

        Raises:
            Mistake: cannot be read.
        """
        try:
            known = self.of(path.parent, path.name, path.stat())
        except OSError as e:
            raise Mistake(f"{path}: cannot be read: {e.strerror or e}") from e
        if known.digest is None:
            known.digest = pictures.digest(path)
        return known.digest

    def keep(self) -> None:
        """Write down what is new."""
        rows = []
        for folder, files in self.folders.items():
            written = self.written[folder]
            for file, known in files.items():
                values = VALUES(known)
                if written.get(file) != hash(values) and _text(file) and abs(known.changed) < LAST:
                    written[file] = hash(values)
                    rows.append((folder, file, *values))
        if not rows:
            return
        places = ",".join("?" * (len(FIELDS) + 2))
        with self._opened() as base:
            if base is not None:
                base.executemany(f"REPLACE INTO known VALUES ({places})", rows)

    def _files(self, folder: str) -> dict[str, Known]:
        if folder not in self.folders:
            rows = []
            with self._opened() as base:
                if base is not None:
                    query = f"SELECT file, {','.join(FIELDS)} FROM known WHERE folder = ?"
                    rows = base.execute(query, (folder,)).fetchall()
            self.folders[folder] = {file: Known(*values) for file, *values in rows}
            self.written[folder] = {file: hash(VALUES(known)) for file, known in self.folders[folder].items()}
        return self.folders[folder]

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection | None]:
        """The base inside a transaction; None where there is none."""
        base = self._connected()
        try:
            if base is None:
                yield None
                return
            with base:
                yield base
        except (sqlite3.Error, UnicodeEncodeError) as e:  # on Linux a file's name may be no text
            log.info("%s: not used (%s); pictures are looked at again", self.path, e)
            self.path = None
        finally:
            if base is not None:
                base.close()

    def _connected(self) -> sqlite3.Connection | None:
        if self.path is None:
            return None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(self.path, timeout=10)
            if base.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                base.execute("DROP TABLE IF EXISTS known")
                base.execute(f"PRAGMA user_version = {VERSION}")
            base.execute(TABLE)
        except (OSError, sqlite3.Error) as e:
            log.info("%s: not used (%s); pictures are looked at again", self.path, e)
            self.path = None
            return None
        return base


def _text(name: str) -> bool:
    """Whether a name can be written down: on Linux it may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
