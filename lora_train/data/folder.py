"""Data: the folders a run learns from, and what is found in them."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lora_train.data import captions, pictures
from lora_train.data.buckets import Buckets, Fit, Size
from lora_train.data.captions import CaptionRules
from lora_train.data.pictures import Picture
from lora_train.errors import Mistake
from lora_train.knobs import knob, many

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST = 1_000_000  # repeats

# what is said of pictures that train all the same
BARE = "have no caption file, and train with the class tokens of their folder"
MUTE = "have neither caption file nor class tokens, and train with an empty caption"
EMPTY = "have an empty caption file, and train with an empty caption"
LONG = "have more than one line in their caption file, of which the first is read"


@dataclasses.dataclass(frozen=True)
class Rules(CaptionRules):
    """What may be set for one folder, or further out for all of them."""

    num_repeats: int = knob(
        1, "Times that each picture is shown in an epoch; folders named like 10_name say it themselves.",
        group="data", low=1, high=MOST, basic=True)  # fmt: skip
    flip_aug: bool = knob(
        False, "Show each picture mirrored half of the time; not for what has a left and a right, like text.",
        group="data")  # fmt: skip
    caption_extension: tuple[str, ...] = knob(
        (".txt", ".caption"), "Endings of caption files, in the order in which they are looked for.",
        group="captions")  # fmt: skip
    class_tokens: str | None = knob(
        None, "Caption of pictures without a caption file; folders named like 10_name say it themselves.",
        group="captions")  # fmt: skip

    def check(self) -> Iterable[str]:
        endings = self.caption_extension
        if not endings or not all(re.fullmatch(r"\.?\w[^/\\]*", ending) for ending in endings):
            yield f"caption_extension = {','.join(endings)}: expected endings such as .txt,.caption"


@dataclasses.dataclass(frozen=True)
class Subset(Rules):
    """One folder of pictures."""

    image_dir: pathlib.Path | None = knob(None, "Folder of the pictures.", group="data", place=True)


@dataclasses.dataclass(frozen=True)
class Layout(Buckets, Rules):
    """What may be set for one dataset, or for all of them."""

    batch_size: int = knob(
        1, "Pictures in one batch; all of one size.", group="data", low=1, high=4096, aka="train_batch_size",
        basic=True)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from Buckets.check(self)
        yield from Rules.check(self)


@dataclasses.dataclass(frozen=True)
class Dataset(Layout):
    """Folders that share batches."""

    subsets: tuple[Subset, ...] = many(Subset, "Folders of pictures.", group="data")


@dataclasses.dataclass(frozen=True)
class Data(Layout):
    """What to learn from: one folder of folders, or datasets one by one."""

    train_data_dir: pathlib.Path | None = knob(
        None, "Folder with folders of pictures named like 10_name (10 repeats; name is the caption where "
        "there is no caption file), or with the pictures themselves.",
        group="data", place=True, basic=True)  # fmt: skip
    datasets: tuple[Dataset, ...] = many(Dataset, "Datasets with settings of their own.", group="data")

    def check(self) -> Iterable[str]:
        if self.datasets:  # each checks what it inherits from here
            if self.train_data_dir is not None:
                yield f"train_data_dir = {self.train_data_dir}: expected none beside datasets; leave one out"
            return
        yield from super().check()


@dataclasses.dataclass(frozen=True)
class Item(Picture):
    """A picture, what is said of it, and the rules of its folder."""

    caption: str  # as found, before the rules
    subset: Subset


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset with its pictures."""

    dataset: Dataset
    items: tuple[Item, ...]


@dataclasses.dataclass(frozen=True)
class Planned:
    """All that a run learns from, before a pixel of it is read."""

    sources: tuple[Source, ...]
    folders: bool  # given as one folder of folders

    @property
    def items(self) -> list[Item]:
        """In order; repeats not counted out."""
        return [item for source in self.sources for item in source.items]

    def views(self) -> list[tuple[Item, bool]]:
        """Each picture as it can be seen: as it is, and mirrored (True) where that happens."""
        return [(item, flip) for item in self.items for flip in (False, True)[: 1 + item.subset.flip_aug]]


def plan(data: Data, *, decode: bool = False) -> Planned:
    """Find the pictures and captions, and choose buckets.

    Args:
        decode: also read every picture to its end, to find damaged ones now; caching does it anyway.

    Raises:
        Mistake: all that is wrong with folders and files, at most ten one by one and the rest as a number.
    """
    scan = Scan(decode)
    scan.complaints += _gaps(data)
    datasets = data.datasets or (_folders(data),)
    sources = [Source(d, tuple(i for s in d.subsets for i in scan.items(d, s))) for d in datasets]
    pictures.complain(scan.complaints)
    planned = Planned(tuple(sources), folders=not data.datasets)
    scan.tell(len(planned.items))
    return planned


def _gaps(data: Data) -> Iterator[str]:
    """What of the datasets is not filled in; a saved file leaves its maker's folders out."""
    for d, dataset in enumerate(data.datasets):
        if not dataset.subsets:
            yield f"data.datasets.{d}.subsets: expected at least one"
        for s, subset in enumerate(dataset.subsets):
            if subset.image_dir is None:
                yield f"data.datasets.{d}.subsets.{s}.image_dir: expected the folder of its pictures"


def _folders(data: Data) -> Dataset:
    """`train_data_dir` as a dataset: its numbered folders, or where there are none itself.

    Raises:
        Mistake: neither numbered folders nor pictures.
    """
    root = data.train_data_dir
    if root is None:
        raise Mistake("data.train_data_dir: expected the folder of the pictures to learn from")
    if not root.is_dir():
        raise Mistake(f"data.train_data_dir = {root}: expected a folder")
    folders = [p for p in _inside(root) if p.is_dir()]
    named = {p: re.fullmatch(r"0*([1-9]\d*)(?:_(.*))?", p.name) for p in folders}
    loose = files(root)
    if not any(named.values()):
        if not loose:
            raise Mistake(_lost(root, folders))
        return _inherit(Dataset, data, subsets=(_inherit(Subset, data, image_dir=root),))

    ignored = [p.name for p in folders if not named[p]] + [p.name for p in loose]
    if ignored:
        log.warning(
            "%s: %s: ignored, because numbered folders are beside it; only those are learned from",
            root, _some(ignored))  # fmt: skip
    for p, m in named.items():
        if m and int(m[1]) > MOST:
            raise Mistake(f"{p}: expected 1 to {MOST} repeats in front of the name, not {m[1]}; rename it")
    subsets = [
        _inherit(Subset, data, image_dir=p, num_repeats=int(m[1]), class_tokens=m[2] or data.class_tokens)
        for p, m in named.items()
        if m
    ]
    return _inherit(Dataset, data, subsets=tuple(subsets))


def _lost(root: pathlib.Path, folders: list[pathlib.Path]) -> str:
    if not folders:
        return f"data.train_data_dir = {root}: no pictures in it; expected {' '.join(pictures.ENDINGS)}"
    return (
        f"data.train_data_dir = {root}: no pictures in it, and no folder with repeats in front of its name; "
        f"rename {folders[0].name} to 10_{folders[0].name} for 10 repeats, or give the pictures' own folder"
    )


def _inherit(cls: type, outer: Layout, **own: object) -> Dataset | Subset:
    """An inner item with the outer one's settings, but for its own."""
    taken = {f.name: getattr(outer, f.name) for f in dataclasses.fields(cls) if f.name not in own}
    return cls(**taken, **own)


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Pictures right in a folder, by name."""
    return [p for p in _inside(folder) if p.suffix.lower() in pictures.ENDINGS and p.is_file()]


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """What is not hidden, in an order that is the same on every system.

    Raises:
        Mistake: not a folder that may be read.
    """
    try:
        return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: p.name)
    except OSError as e:
        raise Mistake(f"{folder}: cannot be read: {e.strerror or e}") from e


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


@dataclasses.dataclass
class Scan:
    """Goes through folders, and remembers what has to be said about them."""

    decode: bool
    complaints: list[str] = dataclasses.field(default_factory=list)
    remarks: dict[str, list[pathlib.Path]] = dataclasses.field(default_factory=dict)

    def items(self, dataset: Dataset, subset: Subset) -> Iterator[Item]:
        """The pictures of one folder that nothing is wrong with."""
        folder = subset.image_dir
        if folder is None:
            return
        if not folder.is_dir():
            self.complaints.append(f"{folder}: no such folder")
            return
        found = self._tried(files, folder)
        if found == []:
            self.complaints.append(f"{folder}: no pictures in it; expected {' '.join(pictures.ENDINGS)}")
        for path in found or ():
            caption = self._tried(self._caption, path, subset)
            size = self._tried(self._size, path)
            fit = size and self._tried(self._fit, path, size, dataset)
            if caption is not None and fit is not None:
                name = f"{folder.resolve().name}/{path.name}"
                yield Item(path, name, size, fit, caption=caption, subset=subset)

    def tell(self, of: int) -> None:
        """One line for each kind of remark about some of so many pictures."""
        for remark, paths in self.remarks.items():
            log.warning("%d of %d pictures %s; the first: %s", len(paths), of, remark, paths[0])

    def _tried(self, look: Callable[..., T], *about: object) -> T | None:
        """None: there was a complaint."""
        try:
            return look(*about)
        except Mistake as e:
            self.complaints.append(str(e))
            return None

    def _size(self, path: pathlib.Path) -> Size:
        size = pictures.size(path)
        if self.decode:
            pictures.verify(path)
        return size

    def _fit(self, path: pathlib.Path, size: Size, dataset: Dataset) -> Fit:
        try:
            return dataset.fit(size)
        except Mistake as e:
            raise Mistake(f"{path}: {e}") from e

    def _caption(self, path: pathlib.Path, subset: Subset) -> str:
        for ending in subset.caption_extension:
            beside = path.with_suffix(ending if ending.startswith(".") else f".{ending}")
            if beside.is_file():
                lines = captions.read(beside)
                if len(lines) != 1:
                    self._remark(LONG if lines else EMPTY, path)
                return lines[0] if lines else ""
        self._remark(BARE if subset.class_tokens else MUTE, path)
        return subset.class_tokens or ""

    def _remark(self, text: str, path: pathlib.Path) -> None:
        self.remarks.setdefault(text, []).append(path)
