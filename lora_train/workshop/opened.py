"""An opened folder: its pictures and their captions, as they lie on the disk now."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from lora_train.data import captions, pictures
from lora_train.data.health import LABEL
from lora_train.data.memory import Known, Memory, usual
from lora_train.errors import Mistake

NUMBERS = re.compile(r"(\d+)")
NO_ENDING = re.compile(r'[/\\:*?"<>|\x00-\x1f]')  # what an ending of a name cannot have
ASIDE = "_aside"  # a folder of pictures that were put aside, which is not looked into
SHELVED = 2  # folders whose captions are remembered; of 100,000 pictures those are some 60 MB

_shelf: dict[tuple, Opened] = {}  # the one that was asked for last stands last
_lock = threading.Lock()
_versions = itertools.count(1)  # none is had twice, be it by a folder that was forgotten and opened anew


@dataclasses.dataclass(slots=True)
class Entry:
    """One picture; 100,000 of them are some 40 MB."""

    name: str  # within the folder, with / between
    status: os.stat_result
    caption: str | None = None  # its caption file, likewise
    written: int | None = None  # when that was changed, in nanoseconds since 1970
    text: str | None = None  # what stands in it; None: not read yet
    encoding: str = "utf-8"  # of CODECS; what it is written in


class Opened:
    """A folder whose pictures are worked on. Nothing of it is held open.

    Args:
        recursive: folders within it count as well, but for hidden ones.
        links: files and folders that are links to outside count as well.
        extension: of caption files.

    Raises:
        Mistake: it is none, or cannot be read.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        memory: Memory | None = None,
        *,
        recursive: bool = False,
        links: bool = False,
        extension: str = ".txt",
    ):
        self.folder = folder.absolute()
        self.memory = memory or Memory()
        self.recursive, self.links = recursive, links
        self.extension = extension if extension.startswith(".") else f".{extension}"
        self.entries: dict[str, Entry] = {}  # by name, in natural order
        self.version = 0  # another one when a look finds something changed
        self.problems: dict[str, set[str]] = {}  # picture -> kinds that the last report found of it
        self.judged = 0  # reports that there were
        self.dated = 0  # when the folder was changed last, in nanoseconds since 1970
        self.outside: list[str] = []  # links that lead out of the folder, which are left alone
        self.masks: set[str] = set()  # pictures that are masks of others beside them
        self.loose: dict[str, os.stat_result] = {}  # files that are neither pictures nor their captions
        self._folders: dict[str, pathlib.Path] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def refresh(self) -> None:
        """Look at the folder again; captions that have not changed are not read again."""
        self.dated = self._changed()
        before, found, loose, outside = self.entries, [], {}, []
        for name, status in self._files(outside):
            if os.path.splitext(name)[1].lower() in pictures.ENDINGS:  # noqa: PTH122 (of 100,000 names)
                found.append(Entry(name, status))
            else:
                loose[name] = status
        for entry in found:
            caption = os.path.splitext(entry.name)[0] + self.extension  # noqa: PTH122
            if caption in loose:
                entry.caption, entry.written = caption, loose[caption].st_mtime_ns
            old = before.get(entry.name)
            if old and (old.caption, old.written) == (entry.caption, entry.written):
                entry.text, entry.encoding = old.text, old.encoding
        stems = {os.path.splitext(entry.name)[0] for entry in found}  # noqa: PTH122
        ends = ((entry.name, os.path.splitext(entry.name)[0]) for entry in found)  # noqa: PTH122
        self.masks = {n for n, stem in ends if stem.endswith(LABEL) and stem[: -len(LABEL)] in stems}
        taken = {entry.caption for entry in found}
        self.outside = outside
        self.loose = {name: status for name, status in loose.items() if name not in taken}
        self.entries = {entry.name: entry for entry in sorted(found, key=lambda e: natural(e.name))}
        if [*map(_mark, before.values())] != [*map(_mark, self)]:
            self.version = next(_versions)

    def judge(self, problems: dict[str, set[str]]) -> None:
        """What a report found, for the filter and the gallery."""
        self.problems, self.judged = problems, self.judged + 1

    def fresh(self) -> Opened:
        """Itself, looked at again if something in the folder came, went or was written anew."""
        if self._changed() != self.dated:
            self.refresh()
        return self

    def path(self, name: str) -> pathlib.Path:
        """Of a picture or another file of the folder."""
        return self.folder / name

    def named(self, name: str) -> Entry:
        """Raises Mistake: there is no such picture."""
        if name not in self.entries:
            raise Mistake(f"{name}: no such picture in {self.folder}; open the folder again")
        return self.entries[name]

    def caption_of(self, entry: Entry) -> pathlib.Path:
        """Where its caption is, or would be written."""
        return self.folder / (os.path.splitext(entry.name)[0] + self.extension)  # noqa: PTH122

    def text(self, entry: Entry) -> str:
        """What stands in its caption file, all of it but blanks at the ends; "" where there is none.

        Raises:
            Mistake: cannot be read, or is no text.
        """
        if entry.text is None:
            if entry.caption is None:
                entry.text = ""
            else:
                entry.text, entry.encoding = captions.whole(self.folder / entry.caption)
        return entry.text

    def known(self, entry: Entry) -> Known:
        """What is remembered of its file."""
        folder, _, file = entry.name.rpartition("/")
        return self.memory.of(self._below(folder), file, entry.status)

    def size(self, entry: Entry) -> tuple[int, int] | None:
        """Width and height, upright; None: the picture cannot be read."""
        known = self.known(entry)
        if known.width is None:
            with contextlib.suppress(Mistake):
                known.width, known.height = pictures.size(self.path(entry.name))
        return None if known.width is None else (known.width, known.height)

    def chosen(
        self,
        holds: Callable[[Entry], bool] | None = None,
        names: Sequence[str] = (),
        *,
        masks: bool = False,
    ) -> list[Entry]:
        """Those that are named, or all, of which something holds.

        Args:
            masks: with those that are masks of others.

        Raises:
            Mistake: one that is named is not there.
        """
        some: Iterable[Entry] = [self.named(name) for name in names] if names else self
        apart = () if names or masks else self.masks
        return [e for e in some if e.name not in apart and (holds is None or holds(e))]

    def _below(self, folder: str) -> pathlib.Path:
        """One object for each folder, by which `memory` knows that it is the same again."""
        return self._folders.setdefault(folder, self.folder / folder if folder else self.folder)

    def _changed(self) -> int:
        try:
            return self.folder.stat().st_mtime_ns
        except OSError as e:
            raise Mistake(f"{self.folder}: expected a folder that can be read ({e.strerror})") from e

    def _files(self, outside: list[str]) -> Iterator[tuple[str, os.stat_result]]:
        """Names within the folder; hidden ones, what was put aside and links to outside are left out."""
        real = os.path.realpath(self.folder)
        waiting, seen = [""], {real}
        while waiting:
            lead = waiting.pop()
            try:
                inside = sorted(os.scandir(self.folder / lead), key=lambda e: e.name)
            except OSError as e:
                if not lead:
                    raise Mistake(f"{self.folder}: expected a folder that can be read ({e.strerror})") from e
                continue
            for entry in inside:
                name = lead + entry.name
                if entry.name.startswith(".") or entry.name == ASIDE:
                    continue
                if entry.is_symlink():
                    target = os.path.realpath(entry.path)
                    if not self.links and not pathlib.Path(target).is_relative_to(real):
                        outside.append(name)
                        continue
                with contextlib.suppress(OSError):  # a link to nothing; a file that has just gone
                    if entry.is_file():
                        yield name, entry.stat()
                    elif self.recursive and os.path.realpath(entry.path) not in seen:
                        seen.add(os.path.realpath(entry.path))
                        waiting.append(f"{name}/")


def _mark(entry: Entry) -> tuple[object, ...]:
    return entry.name, entry.status.st_mtime_ns, entry.status.st_size, entry.caption, entry.written


def shelved(
    folder: pathlib.Path, *, recursive: bool, links: bool, extension: str, anew: bool = True
) -> Opened:
    """The same object again while the program lives: what was read is not read again.

    Args:
        anew: look at the whole folder again, and not only where it says itself that it was changed.

    Raises:
        Mistake: it is no folder, or cannot be read.
    """
    key = (folder.absolute(), recursive, links, extension)
    with _lock:
        opened = _shelf.pop(key, None)
        if opened is None:
            opened = Opened(
                folder, Memory(usual()), recursive=recursive, links=links, extension=extension)  # fmt: skip
        elif anew:
            opened.refresh()
        else:
            opened.fresh()
        _shelf[key] = opened
        while len(_shelf) > SHELVED:
            del _shelf[next(iter(_shelf))]
        return opened


def endless(extension: str) -> bool:
    """Whether caption files cannot end so: it would name other files, or pictures themselves."""
    return bool(NO_ENDING.search(extension)) or f".{extension.lstrip('.').lower()}" in (
        ".",
        *pictures.ENDINGS,
    )


def natural(name: str) -> list[object]:
    """An order in which 2 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part.casefold()) for part in NUMBERS.split(name)]
