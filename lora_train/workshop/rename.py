"""Rename pictures by number, and with each what belongs to it: captions, masks, caches."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from lora_train.data import pictures
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.values import LONGEST_NAME, shown
from lora_train.workshop.journal import Draft, refuse
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Touched, Work

FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]$|^\.')  # to Windows, and a dot in front hides
FIELD = re.compile(r"\{\{|\}\}|\{n(?::0?\d{1,2}d?)?\}|\{name\}")  # no width that fills the memory
CACHE = ".npz"  # sd-scripts' latents and outputs of text encoders: name_0512x0768_sd.npz


@dataclasses.dataclass(frozen=True)
class Rename(Work):
    """Number pictures, and with them their captions, masks and caches."""

    prefix: str = knob("", "What names begin with.", group="names", basic=True)
    pattern: str = knob(
        "{n:04d}", "The rest of the name: {n} is the number, {n:04d} the number with four digits, {name} the "
        "name so far.", group="names", basic=True)  # fmt: skip
    start: int = knob(1, "The first number.", group="names", low=0, high=10**9)
    order: str = knob(
        "name", "What numbers follow: names, in which 2 comes before 10, or when files were last changed.",
        group="names", choices=("name", "date"))  # fmt: skip
    caches: str = knob(
        "move", "Latents that sd-scripts keeps beside pictures, .npz: they get the new names, or are taken "
        "away.", group="names", choices=("move", "drop"))  # fmt: skip
    mask_suffix: str | None = knob(
        "-masklabel", "What stands behind a picture's name in that of its mask.", group="masks")  # fmt: skip
    conditioning_data_dir: pathlib.Path | None = knob(
        None, "Folder of masks within the folder, named like their pictures.", group="masks",
        place=True)  # fmt: skip

    title: ClassVar[str] = "rename"

    about = """Number pictures in order. Captions of every ending, masks and caches keep their pictures;
        pictures that share a name share the new one. Names may be swapped."""

    def check(self) -> Iterable[str]:
        yield from super().check()
        if set("{}") & set(FIELD.sub("", self.pattern)):
            yield f"pattern = {shown(self.pattern)}: expected {{n}}, {{n:04d}} or {{name}} in it"
            return
        try:
            name = self._name(1, "a")
            if name == self._name(2, "b"):
                yield f"pattern = {shown(self.pattern)}: expected {{n}} or {{name}} in it"
            elif FORBIDDEN.search(name):
                yield (f"pattern = {shown(self.prefix + self.pattern)}: expected no / \\ : * ? \" < > |, "
                       "no dot in front, and no dot or blank at its end")  # fmt: skip
        except (ValueError, LookupError, AttributeError):
            yield f"pattern = {shown(self.pattern)}: expected {{n}}, {{n:04d}} or {{name}} in it"

    def _name(self, number: int, name: str) -> str:
        return self.prefix + self.pattern.format(n=number, name=name)

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        owned = _Owned(opened, self.mask_suffix, self.conditioning_data_dir)
        stems: dict[str, Entry] = {}  # what is renamed, in order; pictures that share a name count once
        for entry in chosen:
            if entry.name not in owned.masks:
                stems.setdefault(_stem(entry.name), entry)
        order = [*stems]
        if self.order == "date":
            order.sort(key=lambda stem: stems[stem].status.st_mtime_ns)
        complaints = []
        for i, stem in enumerate(order):
            told(i, len(order))
            lead, _, old = stem.rpartition("/")
            new = self._name(self.start + i, old)
            files = owned.of(stem)
            longest = max(len((new + end).encode("utf-8", "surrogateescape")) for _, end in files)
            if longest > LONGEST_NAME:
                complaints.append(f"{new}: a name of {longest} bytes; expected at most {LONGEST_NAME}")
                continue
            if new == old:
                continue
            for file, end in files:
                path = opened.path(file)
                if file.endswith(CACHE) and self.caches == "drop":
                    draft.remove(path)
                else:
                    draft.move(path, path.with_name(new + end))
            own = [file for file, _ in files if file in opened.entries and file not in owned.masks]
            more = len(files) - len(own)
            for file in own:
                end = os.path.splitext(file)[1]  # noqa: PTH122 (of 100,000 names)
                into = f"{lead}/{new}{end}" if lead else f"{new}{end}"
                yield Touched(file, f"-> {into}" + f", with {more} more" * bool(more))
        refuse(complaints)
        told(len(order), len(order))


class _Owned:
    """Which files belong to which picture, by its name without ending."""

    def __init__(self, opened: Opened, suffix: str | None, folder: pathlib.Path | None):
        self.files: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
        elsewhere, lead = _elsewhere(opened, folder)
        stems = {_stem(name) for name in opened.entries if not (lead and name.startswith(lead))}
        self.masks = {name for name in opened.entries if lead and name.startswith(lead)}
        for name in opened.entries:
            stem = _stem(name)
            of = stem.removesuffix(suffix) if suffix else stem
            if of != stem and of in stems:
                self.masks.add(name)
        captions = (entry.caption for entry in opened if entry.caption)
        every = dict.fromkeys([*(n for n in opened.entries if not (lead and n.startswith(lead))), *captions,
                               *(n for n in opened.loose if not (lead and n.startswith(lead)))])  # fmt: skip
        for name in every:
            of = self._of(name, stems, suffix if name in self.masks else None)
            if of is not None:
                self.files[of].append((name, name[len(of) :]))
        split = {stem: stem.rpartition("/") for stem in stems}
        by_title = {(lead.rpartition("/")[2], bare): stem for stem, (lead, _, bare) in split.items()}
        for name in elsewhere:
            above, _, file = name.rpartition("/")
            stem = _stem(file)
            bare = stem.removesuffix(suffix) if suffix else stem
            of = by_title.get((above.rpartition("/")[2], bare)) or by_title.get(("", bare))
            if of is not None:
                self.files[of].append((name, file[len(bare) :]))

    def of(self, stem: str) -> list[tuple[str, str]]:
        """(file within the folder, what stands behind the name)."""
        return self.files[stem]

    def _of(self, name: str, stems: set[str], suffix: str | None) -> str | None:
        """The picture's name that a file's begins with, with what may follow it."""
        if suffix:
            return _stem(name).removesuffix(suffix)
        stem = _stem(name)
        while stem not in stems:
            shorter = _stem(stem)
            if shorter == stem and name.endswith(CACHE):
                shorter = stem.rpartition("_")[0]
            if not shorter or shorter == stem:
                return None
            stem = shorter
        return stem


def _elsewhere(opened: Opened, folder: pathlib.Path | None) -> tuple[list[str], str]:
    """Pictures in a folder of masks, by their names within the opened one, and what these begin with.

    Raises:
        Mistake: no such folder, or not within it.
    """
    if folder is None:
        return [], ""
    path = folder if folder.is_absolute() else opened.folder / folder
    if not path.is_dir() or path == opened.folder or not path.is_relative_to(opened.folder):
        raise Mistake(
            f"conditioning_data_dir = {folder}: expected a folder of masks within {opened.folder}; what lies "
            "elsewhere is not renamed from here"
        )
    found = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in pictures.ENDINGS and p.is_file()]
    names = [p.relative_to(opened.folder).as_posix() for p in found if not p.name.startswith(".")]
    return names, path.relative_to(opened.folder).as_posix() + "/"


def _stem(name: str) -> str:
    """Without its last ending; with its folder."""
    return os.path.splitext(name)[0]  # noqa: PTH122 (of 100,000 names)
