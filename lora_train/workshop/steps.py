"""What is done to the files of a folder, one by one, and how each is taken back, however far it had come."""

from __future__ import annotations

import dataclasses
import filecmp
import os
import pathlib
import shutil
from collections.abc import Container, Sequence

SMALL = 65536  # bytes of contents that stand in the record; larger ones are files beside it


@dataclasses.dataclass
class Step:
    """One file's. Small contents are text of latin-1, in which every byte is a letter; large ones are files
    in the change's folder, `old` and `new`, of which always that one is there that is not in its place."""

    path: str  # within the folder, with / between
    to: str | None = None  # where it is moved to
    before: str | None = None  # None: there was no file
    after: str | None = None
    number: int | None = None  # of those files; None: contents are small
    there: bool = True  # whether there was a file
    gone: bool = False  # whether it is taken away
    stamp: tuple[int, int] | None = None  # size and date of a large one as it was left

    def old(self, home: pathlib.Path) -> pathlib.Path:
        return home / f"{self.number}.old"

    def new(self, home: pathlib.Path) -> pathlib.Path:
        return home / f"{self.number}.new"

    def forth(self, folder: pathlib.Path, home: pathlib.Path) -> None:
        """Put, take away or move; moved files that stand in each other's way are not moved by this."""
        path = folder / self.path
        if self.to is not None:
            renamed(path, folder / self.to)
        elif self.number is None:
            replace(path, self.after.encode("latin-1"))
        elif self.new(home).exists():
            swapped(path, self.new(home), self.old(home))
        elif self.gone and not there(self.old(home)):
            path.rename(self.old(home))
        self.stamp = self.seen(folder)

    def back(self, folder: pathlib.Path, home: pathlib.Path) -> None:
        """Take it back, if it was done; what something else has made of the file since is left as it is."""
        path = folder / self.path
        beside(path).unlink(missing_ok=True)  # of a process that was killed
        if self.to is not None:
            if not there(path) and there(folder / self.to):
                renamed(folder / self.to, path)
        elif self.number is None:
            # an empty file may be what is left of a new one when the power failed
            if path.exists() and path.read_bytes() in (self.after.encode("latin-1"), b""):
                if self.before is None:
                    path.unlink()
                else:
                    replace(path, self.before.encode("latin-1"))
        elif self.new(home).exists() and not self._half(path, home):
            self.old(home).unlink(missing_ok=True)  # it was not done
        elif there(self.old(home)) and not there(path):
            renamed(self.old(home), path)
        elif there(self.old(home)):
            swapped(path, self.old(home), self.new(home))
        elif not self.there and path.exists():
            path.rename(self.new(home))
        self.stamp = self.seen(folder)

    def _half(self, path: pathlib.Path, home: pathlib.Path) -> bool:
        """Whether taking it back was broken off when what is there now was kept, and not yet replaced."""
        both = self.old(home).exists() and path.exists()
        return both and filecmp.cmp(path, self.new(home), shallow=False)

    def seen(self, folder: pathlib.Path) -> tuple[int, int] | None:
        """Size and date of what is there now, of large contents."""
        path = folder / (self.to or self.path)
        if self.number is None or not path.exists():
            return None
        about = path.stat()
        return about.st_size, about.st_mtime_ns

    def strange(self, folder: pathlib.Path, news: Container[str], *, done: bool) -> str | None:
        """What of the file is not as it was left; None: it is.

        Args:
            news: names that other files were moved to by the same change.
        """
        path = folder / self.path
        if self.gone and done:
            return f"{path}: is there again" if there(path) and self.path not in news else None
        if self.to is not None:
            here, other = (folder / self.to, path) if done else (path, folder / self.to)
            if not there(here):
                return f"{here}: is not there any more"
            return f"{other}: is there again" if there(other) and not same(here, other) else None
        if self.number is not None:
            stamp = tuple(self.stamp) if self.stamp else None
            return None if self.seen(folder) == stamp else f"{path}: was changed since by something else"
        found = path.read_bytes().decode("latin-1") if path.exists() else None
        return None if found == (self.after if done else self.before) else (
            f"{path}: was changed since by something else")  # fmt: skip


def tangled(steps: Sequence[Step]) -> list[Step]:
    """Moved files of which one's new name is another's old one, be that moved or taken away, or is the same
    but for capitals."""
    moved = [step for step in steps if step.to is not None]
    olds, news = {step.path for step in steps if step.to is not None or step.gone}, {s.to for s in moved}
    return [s for s in moved if s.to in olds or s.path in news or s.to.casefold() == s.path.casefold()]


def stashed(steps: Sequence[Step], folder: pathlib.Path, home: pathlib.Path, *, done: bool) -> None:
    """Tangled files go out of each other's way, from their new names or their old ones."""
    for step in steps:
        here = folder / (step.to if done else step.path)
        if not there(step.old(home)) and there(here):
            here.rename(step.old(home))


def unstashed(steps: Sequence[Step], folder: pathlib.Path, home: pathlib.Path, *, done: bool) -> None:
    """And to their new names, or to their old ones."""
    for step in steps:
        if there(step.old(home)):
            renamed(step.old(home), folder / (step.to if done else step.path))


def beside(path: pathlib.Path) -> pathlib.Path:
    """Where a file is written before it takes its place; hidden, and gone when that has happened."""
    real = path.resolve()
    begin = os.fsencode(real.name)[:80].decode("utf-8", "ignore")  # all of it might make the name too long
    return real.with_name(f".{begin}.lt_part")


def replace(path: pathlib.Path, content: bytes) -> None:
    """All or nothing; a link stays one, and rights stay as they were."""
    real = path.resolve()
    part = beside(path)
    real.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.write_bytes(content)
        if real.exists():
            shutil.copymode(real, part)
        part.replace(real)
    finally:
        part.unlink(missing_ok=True)


def swapped(path: pathlib.Path, coming: pathlib.Path, going: pathlib.Path) -> None:
    """`coming` takes the place of what is at `path`, which is kept as `going`; at no time is none there."""
    real = path.resolve()
    going.unlink(missing_ok=True)
    if real.exists():
        try:
            os.link(real, going)
        except OSError:  # a file system without links
            part = going.with_suffix(".part")
            shutil.copy2(real, part)
            part.replace(going)
        shutil.copymode(real, coming)
    else:
        real.parent.mkdir(parents=True, exist_ok=True)
    try:
        coming.replace(real)
    except OSError:  # what the path leads to lies on another disk
        part = beside(path)
        shutil.copy2(coming, part)
        part.replace(real)
        coming.unlink()


def renamed(path: pathlib.Path, to: pathlib.Path) -> None:
    """Raises FileExistsError: there is a file of this name."""
    if to.exists() and not same(path, to):
        raise FileExistsError(17, "there is a file of this name", str(to))
    to.parent.mkdir(parents=True, exist_ok=True)
    path.rename(to)


def there(path: pathlib.Path) -> bool:
    """Also a link whose target has gone, or is on its way as well."""
    return os.path.lexists(path)


def same(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Whether two names are one file's, as they are where capitals do not count."""
    try:
        return one.samefile(other)
    except OSError:
        return False
