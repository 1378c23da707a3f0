"""Goes through the folders of a dataset, and writes down all there is to say about what lies in them."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, TypeVar

from PIL import ImageColor

from lora_train.data import captions, pictures
from lora_train.data.buckets import Fit, Size
from lora_train.data.folder import Dataset, Item, Subset
from lora_train.data.memory import Known, Memory
from lora_train.errors import Mistake

T = TypeVar("T")

# kinds of findings that nothing can be trained with; of `LOOSE` the file may be left out if that is asked for
FATAL = ("folder", "picture", "caption", "mask", "small", "metadata")
LOOSE = ("picture", "caption", "mask")

REMARKS = {  # kind -> what is said of files that do not stop a run
    "bare": "have no caption file, and train with the class tokens of their folder",
    "mute": "have neither caption file nor class tokens, and train with an empty caption",
    "empty": "have an empty caption file, and train with an empty caption",
    "long": "have more than one line in their caption file, of which the first is read",
    "still": "are animated, of which the first frame is taken",
    "orphan": "caption files have no picture",
    "unnamed": "are not in their metadata file, and left out",
    "unused": "are regularisation pictures that are not used: the others' samples are fewer",
    "ignored": "folders and pictures are ignored, for they are beside numbered folders",
    "inner": "folders are inside folders of pictures, and not looked into",
    "left": "files cannot be read, and are left out",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to say about a file or folder."""

    kind: str  # of FATAL or REMARKS
    path: pathlib.Path
    text: str = ""  # the whole complaint, of a fatal one

    @property
    def fatal(self) -> bool:
        return self.kind in FATAL


class Scan:
    """One look at a run's folders.

    Args:
        decode: also read every picture to its end, to find damaged ones now; caching does it anyway.
        skip: leave out what cannot be read.
    """

    def __init__(self, *, decode: bool, skip: bool, memory: Memory):
        self.decode, self.skip, self.memory = decode, skip, memory
        self.findings: list[Finding] = []
        self.seen: set[tuple[str, pathlib.Path]] = set()

    def items(self, dataset: Dataset, subset: Subset) -> Iterator[Item]:
        """The pictures of one folder that nothing is wrong with."""
        folder = subset.image_dir
        if folder is None:
            return
        if not folder.is_dir():
            self.found("folder", folder, f"{folder}: no such folder")
            return
        every = self.tried("folder", folder, functools.partial(_every, folder))
        if every is None:
            return
        of = _Of(self, dataset, subset, {e.name: e for e in every if _whole(e)})
        of.others([e for e in every if e.name not in of.entries])
        if not of.pictures:
            self.found(
                "folder", folder, f"{folder}: no pictures in it; expected {' '.join(pictures.ENDINGS)}"
            )
        for name in of.pictures:
            item = of.item(name)
            if item is not None:
                yield item
        of.leftovers()

    def one(self, dataset: Dataset, subset: Subset, path: pathlib.Path) -> Item | None:
        """A single picture with its caption; None: there was a complaint."""
        if not path.is_file():
            self.found("folder", path, f"{path}: no such picture")
            return None
        every = self.tried("folder", path, functools.partial(listing, path.parent)) or {}
        own = {name: e for name, e in every.items() if pathlib.Path(name).stem == path.stem}
        of = _Of(self, dataset, dataclasses.replace(subset, image_dir=path.parent), own)
        if path.name not in of.pictures:
            self.found("folder", path, f"{path}: expected a picture, {' '.join(pictures.ENDINGS)}")
            return None
        return of.item(path.name)

    def found(self, kind: str, path: pathlib.Path, text: str = "") -> None:
        """Once for each file, however many datasets look at it."""
        if kind in LOOSE and self.skip:
            kind = "left"
        if (kind, path) not in self.seen:
            self.seen.add((kind, path))
            self.findings.append(Finding(kind, path, text))

    def but(self, used: Iterable[pathlib.Path]) -> None:
        """Forget of folders inside others those that are looked into after all, or hold such."""
        above = {folder for path in used for folder in (path.absolute(), *path.absolute().parents)}
        self.findings = [f for f in self.findings if f.kind != "inner" or f.path.absolute() not in above]

    def tried(self, kind: str, path: pathlib.Path, look: Callable[[], T]) -> T | None:
        """None: there was a complaint."""
        try:
            return look()
        except Mistake as e:
            self.found(kind, path, str(e))
            return None


class _Of:
    """One folder of one dataset."""

    def __init__(self, scan: Scan, dataset: Dataset, subset: Subset, entries: dict[str, os.DirEntry]):
        self.scan, self.dataset, self.subset, self.entries = scan, dataset, subset, entries
        self.folder = subset.image_dir
        self.title = self.folder.resolve().name
        self.background = None if subset.alpha_mask else ImageColor.getrgb(subset.transparent_color)[:3]
        self.endings = tuple(e if e.startswith(".") else f".{e}" for e in subset.caption_extension)
        split = ((name, *os.path.splitext(name)) for name in entries)  # noqa: PTH122 (of 100,000 names)
        self.pictures = {name: stem for name, stem, end in split if end.lower() in pictures.ENDINGS}
        self.masks = Masks(scan, subset)
        self.pictures = {name: stem for name, stem in self.pictures.items() if not self.masks.holds(stem)}
        self.fits: dict[Size, Fit] = {}  # pictures of one size share one: of 100,000 that is 40 MB
        self.said = None
        if subset.metadata_file is not None:
            read = functools.partial(said, subset.metadata_file, subset)
            self.said = scan.tried("metadata", subset.metadata_file, read) or {}
            self._named()

    def item(self, name: str) -> Item | None:
        scan, path = self.scan, self.folder / name
        if self.said is not None and (name not in self.said):
            scan.found("unnamed", path)
            return None
        status = self.entries[name].stat()
        known = scan.memory.of(self.folder, name, status)
        caption = scan.tried("caption", path, functools.partial(self._caption, path))
        size = scan.tried("picture", path, functools.partial(self._size, path, known))
        fit = size and scan.tried("small", path, functools.partial(self._fit, path, size))
        mask = size and scan.tried("mask", path, functools.partial(self._mask, path, size))
        if caption is None or fit is None or mask is None:
            return None
        if (known.frames or 1) > 1:
            scan.found("still", path)
        return Item(
            path, f"{self.title}/{name}", size, fit, background=self.background, mask=mask or None,
            interpolation=self.subset.resize_interpolation, subset=self.subset,
            caption=self.subset.told(caption), own=caption)  # fmt: skip

    def others(self, entries: list[os.DirEntry]) -> None:
        """What is no file, and may be named like one that is wanted."""
        for entry in entries:
            path, ending = self.folder / entry.name, os.path.splitext(entry.name)[1]  # noqa: PTH122
            like = "picture" if ending.lower() in pictures.ENDINGS else "caption"
            if like == "picture" or ending in self.endings:
                what = (
                    "a folder" if path.is_dir() else "a link to nothing" if path.is_symlink() else "no file"
                )
                self.scan.found(
                    like, path, f"{path}: {what}, named like a {like}; rename it or take it out of the folder"
                )
            elif path.is_dir():
                self.scan.found("inner", path)

    def leftovers(self) -> None:
        """Caption files of no picture."""
        if self.said is not None:
            return
        stems = {*self.pictures.values()}
        for name in (name for name in self.entries if name not in self.pictures):
            stem, ending = os.path.splitext(name)  # noqa: PTH122
            if ending in self.endings and stem not in stems:
                self.scan.found("orphan", self.folder / name)

    def _mask(self, path: pathlib.Path, size: Size) -> pathlib.Path | Literal[False]:
        """False: all of the picture counts.

        Raises:
            Mistake: there is none, or it is not of the picture.
        """
        if self.subset.alpha_mask:
            return path
        mask = self.masks.of(path, self.pictures[path.name])
        if mask is None:
            return False
        known = self.scan.memory.of(mask.parent, mask.name, mask.stat())
        if (found := self._size(mask, known)) != size:
            (width, height), (wide, high) = found, size
            raise Mistake(f"{mask}: a mask of {width}x{height} pixels, and its picture {path.name} has "
                          f"{wide}x{high}; save it at the picture's size")  # fmt: skip
        return mask

    def _size(self, path: pathlib.Path, known: Known) -> Size:
        if known.width is None:
            known.width, known.height = pictures.size(path)
            known.frames = pictures.frames(path)
        if self.scan.decode and not known.whole:
            pictures.verify(path)
            known.whole = True
        return known.width, known.height

    def _fit(self, path: pathlib.Path, size: Size) -> Fit:
        if size not in self.fits:
            try:
                self.fits[size] = self.dataset.fit(size)
            except Mistake as e:
                raise Mistake(f"{path}: {e}") from e
        return self.fits[size]

    def _caption(self, path: pathlib.Path) -> str:
        """All lines where wildcards choose among them, else the first."""
        subset = self.subset
        if self.said is not None:
            lines = self.said[path.name]
            if not lines:
                self.scan.found("empty", path)
            return "\n".join(lines)
        stem = self.pictures[path.name]
        for ending in self.endings:
            if stem + ending in self.entries:
                lines = captions.read(self.folder / (stem + ending), subset.caption_encoding)
                if not lines:
                    self.scan.found("empty", path)
                if subset.enable_wildcard:
                    return "\n".join(lines)
                if len(lines) > 1:
                    self.scan.found("long", path)
                return lines[0] if lines else ""
        if subset.is_reg or subset.fixed_prompt is None:
            self.scan.found("bare" if subset.class_tokens else "mute", path)
        return subset.class_tokens or ""

    def _named(self) -> None:
        """Names of a metadata file -> those of the folder's pictures; complains of those that are none."""
        stems = {stem: name for name, stem in self.pictures.items()}
        matched, lost = {}, []
        for key, lines in self.said.items():
            name = key if key in self.entries else stems.get(key)
            path = pathlib.Path(key)
            if name is None and path.is_absolute() and path.parent == self.folder.absolute():
                name = path.name if path.name in self.entries else stems.get(path.name)
            if name is None:
                lost.append(key)
            else:
                matched[name] = lines
        for key in lost:
            source = self.subset.metadata_file
            self.scan.found("metadata", source / key, f"{source}: {key}: no such picture in {self.folder}")
        self.said = matched


class Masks:
    """The mask files of one folder's pictures."""

    def __init__(self, scan: Scan, subset: Subset):
        self.suffix, self.needed = subset.mask_suffix or "", not subset.is_reg
        self.folder = self.found = None
        if subset.conditioning_data_dir is None and not self.suffix:
            return
        below = (subset.conditioning_data_dir or subset.image_dir) / subset.image_dir.resolve().name
        self.folder = below if below.is_dir() else below.parent
        self.beside = self.folder.resolve() == subset.image_dir.resolve()
        files = scan.tried("folder", self.folder, functools.partial(listing, self.folder))
        if files is None:
            return
        split = (os.path.splitext(name) for name in files)  # noqa: PTH122 (of 100,000 names)
        self.found = {stem: stem + end for stem, end in split if end.lower() in pictures.ENDINGS}

    def holds(self, stem: str) -> bool:
        """Whether a picture of this name is a mask of another one."""
        return bool(self.suffix and self.folder and self.beside and stem.endswith(self.suffix))

    def of(self, path: pathlib.Path, stem: str) -> pathlib.Path | None:
        """None: all of the picture counts.

        Raises:
            Mistake: there is none.
        """
        if self.found is None:
            return None
        if self.beside and not self.suffix:
            raise Mistake(
                f"{self.folder}: the pictures' own folder; give that of their masks, or mask_suffix"
            )
        name = self.found.get(stem + self.suffix)
        if name is None and self.needed:
            raise Mistake(f"{path}: no mask {stem + self.suffix}.png in {self.folder}; put one there, all "
                          "white where all of the picture is to be learned from")  # fmt: skip
        return self.folder / name if name else None


def listing(folder: pathlib.Path) -> dict[str, os.DirEntry]:
    """Files that are not hidden, by name, in an order that is the same on every system.

    Raises:
        Mistake: not a folder that may be read.
    """
    return {e.name: e for e in _every(folder) if _whole(e)}


def _every(folder: pathlib.Path) -> list[os.DirEntry]:
    """All that is not hidden.

    Raises:
        Mistake: not a folder that may be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    except OSError as e:
        raise Mistake(f"{folder}: cannot be read: {e.strerror or e}") from e


def _whole(entry: os.DirEntry) -> bool:
    """Whether it is a file, be it by a link."""
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def said(path: pathlib.Path, subset: Subset) -> dict[str, list[str]]:
    """Picture's name, as the file has it -> the lines of its caption, tags put to it as sd-scripts does.

    Raises:
        Mistake: not a metadata file.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise Mistake(f"{path}: expected a JSON file of captions ({e.strerror or e})") from e
    except (ValueError, RecursionError) as e:
        raise Mistake(f"{path}: expected a JSON file of captions; not JSON: {e}") from e
    if not isinstance(entries, dict):
        raise Mistake(f"{path}: expected names and captions in braces, {{name: {{caption, tags}}}}")
    return {name: _lines(path, name, entry, subset) for name, entry in entries.items()}


def _lines(path: pathlib.Path, name: str, entry: object, subset: Subset) -> list[str]:
    entry = {"caption": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        raise Mistake(f"{path}: {name}: expected {{caption, tags}}")
    texts = [entry.get("caption"), entry.get("tags")]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise Mistake(f"{path}: {name}: expected caption and tags to be text")
    caption, tags = (text or "" for text in texts)
    if not caption:
        caption, tags = tags, ""
    lines = [line.strip() for line in caption.split("\n") if line.strip()] or [""]
    if not subset.enable_wildcard:
        lines = [" ".join(lines)]
    tags = tags.replace("\n", subset.caption_separator).strip()
    lines = [f"{line}{subset.caption_separator} {tags}" if line and tags else line or tags for line in lines]
    return [line for line in lines if line]
