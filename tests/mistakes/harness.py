"""One bad input at a time: what is planted, which command meets it, and what has to come of it."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import hashlib
import io
import os
import pathlib
import random
import signal
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy
from PIL import Image

from lora_train.cli import main

SEED = 20261121
SLOWEST = 20  # seconds; a case that takes longer hangs
DONE, MISTAKE = 0, 2
REFUSED, TAKEN, EITHER = (MISTAKE,), (DONE,), (DONE, MISTAKE)


class Hung(BaseException):
    """Not an Exception: nothing in the program may catch it."""


class Ground:
    """A folder with a training that works: two pictures with captions, and the result of an earlier run."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.set = folder / "pictures"
        self.pictures = self.set / "2_thing"
        self.output = folder / "output"
        self.pictures.mkdir(parents=True)
        for name in "ab":
            picture(name).save(self.pictures / f"{name}.png")
            (self.pictures / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
        (self.output / "x-run").mkdir(parents=True)
        (self.output / "x.safetensors").write_bytes(b"of an earlier run")
        (self.output / "x-run" / "metrics.jsonl").write_text('{"step": 1}\n', encoding="utf-8")

    def write(self, name: str, content: bytes | str) -> pathlib.Path:
        """A file at a path below the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def train(self, *more: object, **others: object) -> list[str]:
        """The words of a training of one step; None leaves an option out."""
        usual = {
            "pretrained_model_name_or_path": "model.safetensors", "train_data_dir": self.set,
            "resolution": 64, "max_train_steps": 1, "seed": 1, "output_dir": self.output, "output_name": "x",
        }  # fmt: skip
        given = {name: value for name, value in {**usual, **others}.items() if value is not None}
        return ["train", *(str(w) for n, v in given.items() for w in (f"--{n}", v)), *map(str, more)]

    def draw(self, command: str, *more: object) -> list[str]:
        """The words of `sample` or `plot` of a small picture."""
        where = ["--outdir", self.output] if command == "sample" else ["--output", self.output / "sheet.png"]
        words = [command, "--pretrained_model_name_or_path", "model.safetensors", *where, *more]
        return list(map(str, words))


Plant = Callable[[Ground], Sequence[str] | None]


@dataclasses.dataclass(frozen=True)
class Case:
    """A bad input.

    Args:
        plant: puts it into the ground; returns the command's words, None for the plain training.
        says: all of it stands in the message, or where the command does its work in the log.
        ends: exit statuses that are right.
        model: "light", or "heavy" where the model is read from files.
        writes: whether results are expected although it is refused.
    """

    name: str
    plant: Plant
    says: tuple[str, ...]
    ends: tuple[int, ...] = REFUSED
    model: str = "light"
    writes: bool = False


def chance(*key: object) -> random.Random:
    """The same draws for the same key, whatever else is drawn."""
    return random.Random(zlib.crc32(repr((SEED, *key)).encode()))


def picture(name: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    pixels = numpy.random.default_rng(list(name.encode())).integers(
        0, 256, (size[1], size[0], 3), numpy.uint8
    )
    return Image.fromarray(pixels)


def outcome(words: Sequence[str], seconds: int = SLOWEST) -> tuple[int, str]:
    """The exit status of a command, and what it wrote on stderr."""
    said = io.StringIO()  # the real stderr escapes what it cannot encode; this takes it as it is
    with watched(seconds), contextlib.redirect_stderr(said):
        status = main(list(words))
    return status, said.getvalue()


@contextlib.contextmanager
def watched(seconds: int) -> Iterator[None]:
    """Raises Hung after so long; what is stuck outside of Python ends the tests with a trace."""

    def bark(signum: int, frame: object) -> None:
        raise Hung(f"still running after {seconds} s")

    faulthandler.dump_traceback_later(3 * seconds, exit=True)
    before = signal.signal(signal.SIGALRM, bark) if hasattr(signal, "SIGALRM") else None
    try:
        if before is not None:
            signal.alarm(seconds)
        yield
    finally:
        if before is not None:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


def kept(folder: pathlib.Path) -> Mapping[str, object]:
    """Everything below a folder: kind, rights, time and content. Latents of good pictures may come to it."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != "latents"]
        for name in (*folders, *files):
            path = os.path.join(place, name)  # noqa: PTH118 (names that are no text)
            status = os.lstat(path)
            about: tuple[object, ...] = (stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode))
            if stat.S_ISREG(status.st_mode):
                about += (status.st_mtime_ns, status.st_size, digest(path) if status.st_size < 1e6 else "")
            elif stat.S_ISLNK(status.st_mode):
                about += (os.readlink(path),)  # noqa: PTH115
            found[path] = about
    return found


def digest(path: str) -> str:
    try:
        return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    except PermissionError:
        return ""
