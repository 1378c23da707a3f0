"""Work: what is done to the pictures and captions of a folder; a component that declares its settings."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.run.control import Ended
from lora_train.tools.tool import Report, Told, Tool, unheard
from lora_train.values import shown
from lora_train.workshop import filter as filters
from lora_train.workshop.journal import Draft, Journal
from lora_train.workshop.opened import Entry, Opened, endless, shelved

EXAMPLES = 20  # that are shown of what would be done


@dataclasses.dataclass(frozen=True)
class Touched:
    """A picture that something was, or would be, done to."""

    name: str
    what: str = ""  # in a few words, where before and after do not say it
    before: str | None = None  # of its caption
    after: str | None = None
    left: bool = False  # it was left as it is, for a reason that `what` says


Edit = Callable[[Opened, Sequence[Entry], Draft, Told], Iterator[Touched]]


@dataclasses.dataclass(frozen=True)
class Look(Tool):
    """What only looks at a folder."""

    folder: pathlib.Path | None = knob(
        None, "Folder of pictures.", group="pictures", basic=True, place=True)  # fmt: skip
    recursive: bool = knob(False, "Folders within it, too.", group="pictures")
    follow_links: bool = knob(
        False, "Links that lead out of the folder count as well; else they are left alone.",
        group="pictures")  # fmt: skip
    caption_extension: str = knob(".txt", "Ending of caption files.", group="pictures")
    only: str = knob(
        "", 'Which pictures, in words of the filter line: cat -dog, "long hair" OR /regex/, is:uncaptioned, '
        "width<512, problem:blurred. Empty: all.", group="pictures")  # fmt: skip
    names: tuple[str, ...] = knob(
        (), "Only these pictures, by their names within the folder.", group="pictures")  # fmt: skip

    alone = "folder"
    light = True
    masked: ClassVar[bool] = False  # whether masks count as pictures of their own

    def check(self) -> Iterable[str]:
        if self.folder is None:
            yield "folder: expected a folder of pictures"
        if endless(self.caption_extension):
            yield (f"caption_extension = {shown(self.caption_extension)}: expected the ending of caption "
                   "files, such as .txt, and of no pictures")  # fmt: skip

    def opened(self, *, anew: bool = True) -> Opened:
        """Raises Mistake: no such folder."""
        return shelved(
            self.folder, recursive=self.recursive, links=self.follow_links, extension=self.caption_extension,
            anew=anew)  # fmt: skip

    def chosen(self, opened: Opened) -> list[Entry]:
        """Raises Mistake: the filter cannot be read, or a name is not there."""
        holds = filters.read(self.only)
        return opened.chosen(lambda entry: holds(opened, entry), self.names, masks=self.masked)


@dataclasses.dataclass(frozen=True)
class Work(Look):
    """What changes files, through the folder's journal, so that it can be undone."""

    dry_run: bool = knob(False, "Say what would be done, and do nothing.", group="output")

    title: ClassVar[str] = "change"  # what the list of changes calls it
    quick: ClassVar[bool] = True  # whether what it would do is found out while a person types
    keeps: ClassVar[bool] = False  # whether what was done until a stop is kept
    many: ClassVar[str] = "pictures"  # what it touches

    def makes(self) -> Iterable[tuple[str, pathlib.Path]]:
        return [("folder", self.folder)] if self.folder else ()

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        """Put into the draft what is to be done, and give what that touches.

        Raises:
            Mistake: it cannot be done; nothing is then.
        """
        raise NotImplementedError

    def run(self, told: Told = unheard) -> Report:
        return self.done_by(self.edit, told)

    def done_by(self, edit: Edit, told: Told) -> Report:
        """The work, by `edit` or by what stands for it where there is a host."""
        opened = self.opened()
        chosen, touched, stopped = self.chosen(opened), [], False

        def gather(draft: Draft) -> None:
            nonlocal stopped
            try:
                touched.extend(edit(opened, chosen, draft, told))
            except Ended:
                if not self.keeps:
                    raise
                stopped = True

        self._within(opened, gather)
        opened.memory.keep()
        done, left = [t for t in touched if not t.left], [t for t in touched if t.left]
        count = len({t.name for t in done})
        lines = [f"{_count(count, self.many)} of {len(chosen)} {'would be changed' * self.dry_run}"
                 f"{'changed' * (not self.dry_run)}{', then stopped' * stopped}"]  # fmt: skip
        lines += [_line(t) for t in done[:EXAMPLES]] if self.dry_run else []
        lines += [f"{len(left)} left as they are:", *(_line(t) for t in left[:EXAMPLES])] if left else []
        facts = {"changed": count, "of": len(chosen), "touched": [dataclasses.asdict(t) for t in done],
                 "left": [dataclasses.asdict(t) for t in left]}  # fmt: skip
        return Report(tuple(lines), facts)

    def foreseen(self, opened: Opened) -> dict[str, object]:
        """What would be done, to how many: `{of, count or null, examples}`.

        Raises:
            Mistake: it cannot be done.
        """
        chosen = self.chosen(opened)
        if not self.quick:
            return {"of": len(chosen), "count": None, "examples": []}
        journal = Journal(opened.folder, links=self.follow_links)
        draft = journal.dry()
        touched = [t for t in self.edit(opened, chosen, draft, unheard) if not t.left]
        journal.allow(draft)
        shown = [dataclasses.asdict(t) for t in touched[:EXAMPLES]]
        return {"of": len(chosen), "count": len({t.name for t in touched}), "examples": shown}

    def _within(self, opened: Opened, gather: Callable[[Draft], None]) -> None:
        journal = Journal(opened.folder, links=self.follow_links)
        if self.dry_run:
            draft = journal.dry()
            gather(draft)
            journal.allow(draft)
            return
        with journal.change(self.title) as draft:
            gather(draft)


def needed(module: str, package: str, what: str) -> Mistake:
    """What is raised where a package lacks that only some work needs."""
    return Mistake(f"{what} needs the package {module}; install it with: pip install {package}")


def _count(count: int, many: str) -> str:
    return f"{count} {many.removesuffix('s') if count == 1 else many}"


def _line(touched: Touched) -> str:
    if touched.before is None and touched.after is None:
        return f"  {touched.name}: {touched.what}" if touched.what else f"  {touched.name}"
    return f"  {touched.name}: {touched.before or '(none)'} -> {touched.after or '(none)'}"
