"""Aside: pictures out of the way, with all that belongs to them, into a folder that is not looked into."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.values import either, shown
from lora_train.workshop import worded
from lora_train.workshop.beside import Beside
from lora_train.workshop.journal import Draft
from lora_train.workshop.kinds import SIDELINED
from lora_train.workshop.opened import ASIDE, Entry, Opened
from lora_train.workshop.report import Check
from lora_train.workshop.work import Touched, Work


@dataclasses.dataclass(frozen=True)
class Aside(Work):
    """Put pictures aside with their captions, masks and caches: into the folder _aside within the folder,
    which is not read."""

    problems: tuple[str, ...] = knob(
        (), f"Only those that check, with its usual bounds, finds to be: {', '.join(SIDELINED)}. Of several "
        "that are the same one stays.", group="pictures", basic=True)  # fmt: skip
    mask_suffix: str | None = knob(
        "-masklabel", "What stands behind a picture's name in that of its mask, which goes with it.",
        group="masks")  # fmt: skip

    title = "put aside"
    many = "files"

    def check(self) -> Iterable[str]:
        yield from super().check()
        for kind in (kind for kind in self.problems if kind not in SIDELINED):
            yield f"problems = {shown(kind)}: expected {either(SIDELINED)}"

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        if not self.problems and not self.names and not self.only:
            raise Mistake("names, only or problems: expected one, for else all would be put aside")
        names, others = self._meant(opened, chosen, told)
        beside = Beside(opened, self.mask_suffix)
        going, moved = {*names}, set()
        for name in names:
            every = [opened.path(name), *beside.masks(name), *beside.caches(name)]
            if going.issuperset(beside.twins.get(worded.stem(name), ())):  # no picture that stays needs them
                every += beside.captions(name)
            files = [path.relative_to(opened.folder).as_posix() for path in every]
            self._move(opened, [file for file in files if file not in moved], draft, moved)
            yield Touched(name, f"to {ASIDE}")
        for file in others:
            self._move(opened, [file], draft, moved)
            yield Touched(file, f"to {ASIDE}")

    def foreseen(self, opened: Opened) -> dict[str, object]:
        if self.problems and {*self.problems} != {"orphan"}:  # pictures would have to be looked at
            return {"of": len(self.chosen(opened)), "count": None, "examples": []}
        return super().foreseen(opened)

    def _meant(self, opened: Opened, chosen: Sequence[Entry], told: Told) -> tuple[list[str], list[str]]:
        """Pictures, and other files."""
        if not self.problems:
            return [entry.name for entry in chosen], []
        files = [finding.names[0] for finding in worded.orphans(opened)] if "orphan" in self.problems else []
        kinds = [kind for kind in self.problems if kind != "orphan"]
        if not kinds:
            return [], files
        check = Check(
            folder=self.folder, recursive=self.recursive, follow_links=self.follow_links,
            caption_extension=self.caption_extension, only=self.only, names=self.names,
            mask_suffix=self.mask_suffix)  # fmt: skip
        found = check.found(opened, told)
        return [*dict.fromkeys(name for kind in kinds for name in found.mended(kind))], files

    def _move(self, opened: Opened, files: Sequence[str], draft: Draft, moved: set[str]) -> None:
        """Files that belong together, under names that are free there, all with the same number behind."""
        for number in itertools.count(1):
            to = [f"{ASIDE}/{_numbered(file, files[0], number)}" for file in files]
            if not any(name in moved or (opened.folder / name).exists() for name in to):
                break
        for file, name in zip(files, to, strict=True):
            draft.move(opened.path(file), opened.folder / name)
        moved.update(files, to)


def _numbered(file: str, first: str, number: int) -> str:
    """All of them begin with the stem of the first."""
    begin = worded.stem(first)
    return file if number == 1 else f"{begin} ({number}){file.removeprefix(begin)}"
