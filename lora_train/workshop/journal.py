"""The journal of a folder: every change to its files is whole or not at all, and can be undone."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import shutil
import stat
import time
from collections.abc import Iterable, Iterator

from lora_train.errors import Mistake
from lora_train.workshop import steps
from lora_train.workshop.changed import BACK, BEGUN, DONE, MOVING, UNDOING, UNDONE, Change, written
from lora_train.workshop.steps import SMALL, Step

HOME = ".lora_train"  # within the folder, so that it moves with it; hidden, so that no trainer looks into it
LOCK = "lock"
KEPT = 200  # changes that can be undone
LEAVE = "nothing was undone; undo with leave_changed takes back the others, and leaves these as they are"
SAID = 10  # files that are named where something is in the way


class Draft:
    """A change that is being put together; nothing of the folder is touched yet. A file is named once.

    Args:
        home: where large contents wait; None: they are thrown away, for nothing is to be done.
    """

    def __init__(self, journal: Journal, home: pathlib.Path | None):
        self.journal, self.home = journal, home
        self.steps: list[Step] = []
        self.named: set[str] = set()
        self.complaints: list[str] = []

    def put(self, path: pathlib.Path, content: bytes) -> None:
        """This file is to hold this; there may be none yet. Nothing is done where it does already."""
        before = path.read_bytes() if path.exists() else None
        name = self._named(path)
        if before == content or name is None:
            return
        step = Step(name, there=before is not None)
        if max(len(content), len(before or b"")) <= SMALL:
            step.before = None if before is None else before.decode("latin-1")
            step.after = content.decode("latin-1")
        else:
            step.number = len(self.steps)
            step.stamp = step.seen(self.journal.folder)
            if self.home:
                written(step.new(self.home), content)
        self.steps.append(step)

    def remove(self, path: pathlib.Path) -> None:
        """This file is to go; the journal keeps it."""
        if name := self._named(path):
            step = Step(name, number=len(self.steps), gone=True)
            step.stamp = step.seen(self.journal.folder)
            self.steps.append(step)

    def move(self, path: pathlib.Path, to: pathlib.Path) -> None:
        """This file is to have another name. Names may be swapped, or go round."""
        if path != to and (name := self._named(path)) and (into := self._allowed(to)):
            self.steps.append(Step(name, to=into, number=len(self.steps)))

    def _named(self, path: pathlib.Path) -> str | None:
        """None: there is a complaint."""
        name = self._allowed(path)
        if name in self.named:
            raise ValueError(f"{name} is named twice in one change")
        if name is not None:
            self.named.add(name)
        return name

    def _allowed(self, path: pathlib.Path) -> str | None:
        try:
            name = self.journal.name(path)
            self.journal.may(path)
        except Mistake as e:
            self.complaints.append(str(e))
            return None
        return name


class Journal:
    """Changes to the files of a folder.

    Args:
        folder: all that is changed lies in it or below it.
        links: whether files that are links to outside may be changed where they lead to.
    """

    def __init__(self, folder: pathlib.Path, *, links: bool = False):
        self.folder, self.links = folder, links
        self.home = folder / HOME

    @contextlib.contextmanager
    def change(self, title: str) -> Iterator[Draft]:
        """What is put into the draft is done when the block ends well, and nothing otherwise.

        Raises:
            Mistake: something is in the way, a file was changed meanwhile by something else, or the disk is
                full; nothing is done then.
        """
        with self._alone():
            self._recovered()
            number = max((int(p.name.split(".")[0]) for p in self._homes()), default=0) + 1
            home = self.home / f"{number:06d}.part"
            try:
                home.mkdir(parents=True)
                draft = Draft(self, home)
                yield draft
                self.allow(draft)
                refuse(text for _, text in self._strange(draft.steps, done=False))
                if draft.steps:
                    self._do(draft, title)
            finally:
                shutil.rmtree(home, ignore_errors=True)

    def dry(self) -> Draft:
        """One that nothing comes of."""
        return Draft(self, None)

    def allow(self, draft: Draft) -> None:
        """Raises Mistake: something is in the way of it."""
        refuse(draft.complaints)
        refuse([*self._blocked(draft.steps)])

    def undo(self, *, leave: bool = False) -> Change | None:
        """Take back the last change; None: there is none.

        Args:
            leave: files that something else has changed since stay as they are, and no longer belong to it.

        Raises:
            Mistake: a file has been changed since by something else; nothing is done then.
        """
        with self._last(DONE) as change:
            if change is not None:
                strange = self._strange(change.steps, done=True)
                if leave:
                    change.steps = [step for step in change.steps if not any(step is s for s, _ in strange)]
                elif strange:
                    refuse([*(text for _, text in strange), LEAVE])
                self._back(change)
        return change

    def redo(self) -> Change | None:
        """Do again what was undone last; None: there is nothing.

        Raises:
            Mistake: a file has been changed since by something else; nothing is done then.
        """
        with self._last(UNDONE) as change:
            if change is not None:
                refuse(text for _, text in self._strange(change.steps, done=False))
                self._forth(change)
        return change

    @contextlib.contextmanager
    def _last(self, state: str) -> Iterator[Change | None]:
        """The change that is done last, or that was undone last, while nothing else is at the folder."""
        if not self.home.is_dir():
            yield None
            return
        with self._alone():
            self._recovered()
            some = [change for change in self.changes() if change.state == state]
            yield some[-1 if state == DONE else 0] if some else None

    def recover(self) -> list[Change]:
        """Take back what was broken off; gives what that was. A folder that is only read, or that something
        is at which has not touched its files yet, is left alone."""
        if not self._broken():
            return []
        with self._alone():
            return self._recovered()

    def changes(self) -> list[Change]:
        """The oldest first; those that are undone stand last."""
        found = []
        for home in self._homes():
            if home.name.isdecimal():
                with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                    found.append(Change.read(home))
        return found

    def forget(self) -> None:
        """Give the room back that undoing takes; the folder's files stay as they are."""
        with self._alone():
            self._recovered()
            for change in self.changes():
                shutil.rmtree(change.home, ignore_errors=True)

    # ── names ──

    def name(self, path: pathlib.Path) -> str:
        """Within the folder, with / between.

        Raises:
            Mistake: it lies outside.
        """
        if not path.is_relative_to(self.folder) or ".." in path.relative_to(self.folder).parts:
            raise Mistake(f"{path}: lies outside {self.folder}, and is not changed from here")
        return path.relative_to(self.folder).as_posix()

    def may(self, path: pathlib.Path) -> None:
        """Raises Mistake: this file may not be changed."""
        real = path.resolve()
        if not self.links and not real.is_relative_to(self.folder.resolve()):
            raise Mistake(
                f"{path}: a link to outside the folder; set follow_links to change what it leads to"
            )
        if real.exists() and not real.stat().st_mode & stat.S_IWRITE:
            raise Mistake(f"{path}: may only be read; take its write protection away")

    # ── at work ──

    def _do(self, draft: Draft, title: str) -> None:
        for change in self.changes():  # which could be done again until now
            if change.state == UNDONE:
                shutil.rmtree(change.home, ignore_errors=True)
        # of pictures it may be the only copy that a change keeps: such a one goes when it is told to
        texts = [change for change in self.changes() if not any(change.home.glob("*.old"))]
        for change in texts[: 1 - KEPT]:
            shutil.rmtree(change.home, ignore_errors=True)
        change = Change(title, when=time.time(), home=draft.home)
        change.steps = draft.steps
        change.now(BEGUN)
        change.home = draft.home.with_suffix("")
        draft.home.rename(change.home)  # from here on a look at the folder finds it, and can take it back
        self._forth(change)

    def _blocked(self, every: list[Step]) -> Iterator[str]:
        """What is where something is to be moved to."""
        leaving = {step.path for step in every if step.to is not None or step.gone}
        targets: set[str] = set()
        for step in every:
            if step.to is None:
                continue
            to = self.folder / step.to
            if step.to in targets:
                yield f"{to}: two files would have this name"
            elif to.exists() and step.to not in leaving and not steps.same(self.folder / step.path, to):
                yield f"{to}: is there already"
            targets.add(step.to)

    def _strange(self, every: list[Step], *, done: bool) -> list[tuple[Step, str]]:
        """Those whose file is not as it was left, and what of it."""
        news = {step.to for step in every}
        looks = ((step, step.strange(self.folder, news, done=done)) for step in self._loose(every))
        return [(step, text) for step, text in looks if text]

    def _loose(self, every: list[Step]) -> list[Step]:
        """Those whose state their names alone tell."""
        fast = {id(step) for step in steps.tangled(every)}
        return [step for step in every if id(step) not in fast]

    def _forth(self, change: Change) -> None:
        """Raises OSError: the disk is full, or a file is in use; what was done is taken back."""
        fast, loose = steps.tangled(change.steps), self._loose(change.steps)
        try:
            change.now(BEGUN)
            steps.stashed(fast, self.folder, change.home, done=False)
            change.now(MOVING)
            for step in (s for s in loose if s.gone):
                step.forth(self.folder, change.home)
            steps.unstashed(fast, self.folder, change.home, done=True)
            for step in (s for s in loose if not s.gone):
                step.forth(self.folder, change.home)
        except BaseException:
            with contextlib.suppress(OSError):  # then it is taken back at the next look
                self._back(change)
            raise
        change.now(DONE)

    def _back(self, change: Change) -> None:
        """Whatever of it has been done; may itself be broken off, and begun again."""
        fast, loose = steps.tangled(change.steps), self._loose(change.steps)
        if change.state in (MOVING, DONE, UNDOING):
            change.now(UNDOING)
            for step in reversed([s for s in loose if not s.gone]):
                step.back(self.folder, change.home)
            steps.stashed(fast, self.folder, change.home, done=True)
            for step in (s for s in loose if s.gone):
                step.back(self.folder, change.home)
            change.now(BACK)
        steps.unstashed(fast, self.folder, change.home, done=False)
        change.now(UNDONE)

    def _recovered(self) -> list[Change]:
        for home in self._homes():
            if home.suffix == ".part":
                shutil.rmtree(home, ignore_errors=True)
        broken = self._broken()
        for change in broken:
            self._back(change)
        return broken

    def _broken(self) -> list[Change]:
        return [change for change in self.changes() if change.state not in (DONE, UNDONE)]

    def _homes(self) -> list[pathlib.Path]:
        found = self.home.iterdir() if self.home.is_dir() else ()
        return sorted(home for home in found if home.is_dir() and home.name.split(".")[0].isdecimal())

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One at a time changes a folder, of all programs; the system frees the lock of one that is killed.

        Raises:
            Mistake: another is at it, or the folder cannot be written to.
        """
        try:
            self.home.mkdir(exist_ok=True)
            with (self.home / LOCK).open("ab") as file:
                if not _locked(file.fileno()):
                    raise Mistake(f"{self.folder}: another program is changing it; wait until it has ended")
                yield
        except OSError as e:
            left = "nothing was changed" if not self._broken() else (
                "what was begun is taken back as soon as that can be done, when the folder is opened again"
            )  # fmt: skip
            raise Mistake(f"{e.filename or self.folder}: {e.strerror or e}; {left}. Check its rights, "
                          "the disk's room, and whether the file is open elsewhere") from e  # fmt: skip


def refuse(complaints: Iterable[str]) -> None:
    """Raises Mistake: there are some."""
    every = [*complaints]
    if every:
        more = len(every) - SAID
        raise Mistake("\n".join([*every[:SAID], *([f"... and {more} more"] if more > 0 else [])]))


def _locked(number: int) -> bool:
    """Whether the lock of an open file could be had; it goes when the file is closed."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:  # some network drives know no locks; that is nobody else's being at it
        return e.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True
