"""Small copies of pictures, for pages that show many; kept on the disk, and made ahead of time."""

from __future__ import annotations

import collections
import contextlib
import functools
import hashlib
import io
import logging
import os
import pathlib
import threading
from collections.abc import Callable, Iterable

from lora_train.data.memory import usual
from lora_train.errors import Mistake

WIDEST, HELD = 2048, 512  # pixels; copies of some 10 kB that are held in memory
ONCE = 512  # pixels; larger copies are made each time
ROOM = 100_000  # copies on the disk, of some 10 kB; beyond it those go that were used longest ago
AHEAD = 2000  # that wait to be made
QUALITY = 85

log = logging.getLogger(__name__)


def small(path: pathlib.Path, width: int) -> bytes:
    """A JPEG that is no wider and no higher than so many pixels.

    Raises:
        Mistake: not a picture that can be read.
    """
    width = max(16, min(width, WIDEST))
    about = path.stat()
    return (_held if width <= ONCE else _made)(path, (about.st_mtime_ns, about.st_size), width)


class Ahead:
    """Makes copies in a thread of its own before the page asks for them; what was asked for last comes first.

    Args:
        busy: whether the machine has something better to do.
    """

    def __init__(self, busy: Callable[[], bool]):
        self.busy = busy
        self.waiting: collections.deque[tuple[pathlib.Path, int]] = collections.deque(maxlen=AHEAD)
        self.thread: threading.Thread | None = None
        self.lock = threading.Lock()

    def make(self, paths: Iterable[pathlib.Path], width: int) -> None:
        with self.lock:
            self.waiting.extend((path, width) for path in reversed([*paths]))
            if self.thread is None and self.waiting:
                self.thread = threading.Thread(target=self._work, name="lora-train small copies", daemon=True)
                self.thread.start()

    def _work(self) -> None:
        while True:
            with self.lock:
                if not self.waiting or self.busy():
                    self.waiting.clear()
                    self.thread = None
                    return
                path, width = self.waiting.pop()
            with contextlib.suppress(Mistake, OSError):  # which is said when it is asked for
                small(path, width)


@functools.lru_cache(HELD)
def _held(path: pathlib.Path, state: tuple[int, int], width: int) -> bytes:
    """state: of the file, so that another picture of the same name is read anew."""
    text = f"{path}\0{state}\0{width}"
    name = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:40]
    file = usual().parent / "small" / name[:2] / f"{name}.jpg"
    with contextlib.suppress(OSError):
        data = file.read_bytes()
        if data:
            return data
    data = _made(path, state, width)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
        part.write_bytes(data)
        part.replace(file)
        _thin(file.parent)
    except OSError as e:  # it only saves time
        log.debug("%s: not kept: %s", file, e)
    return data


def _thin(folder: pathlib.Path) -> None:
    """Of one of the 256 folders those that were made first, when there are too many."""
    with os.scandir(folder) as inside:
        files = [entry for entry in inside if entry.is_file()]
    most = ROOM // 256
    if len(files) > most * 1.25:
        for entry in sorted(files, key=lambda e: e.stat().st_mtime_ns)[:-most]:
            pathlib.Path(entry.path).unlink(missing_ok=True)


def _made(path: pathlib.Path, state: tuple[int, int], width: int) -> bytes:
    from PIL import Image, ImageOps  # a WebUI's start does not wait for it

    from lora_train.data import pictures

    try:
        pictures.plugged(path)
        with Image.open(path) as picture:
            picture.draft("RGB", (width, width))  # a JPEG is read at about that size
            shown = ImageOps.exif_transpose(picture).convert("RGBA")
    except pictures.BROKEN as e:
        raise Mistake(f"path = {path}: expected a picture that can be read ({e})") from e
    shown.thumbnail((width, width))
    paper = Image.new("RGB", shown.size, "white")
    paper.paste(shown, mask=shown.getchannel("A"))
    out = io.BytesIO()
    paper.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
