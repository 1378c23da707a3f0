"""Asking a model for captions: which pictures, in batches, and what is written of its answers."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar, Protocol

from PIL import Image

from lora_train.data import pictures
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.workshop import words
from lora_train.workshop.found import Found
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import EXAMPLES, Touched, Work

DAMAGED = "cannot be read; the health report says why"
TWICE = "shares its caption file with a picture of the same name and another ending"
SEARCHED = 200  # pictures, for examples
READERS = 4  # threads that decode pictures while the model is at work


class Speaker(Protocol):
    """A model that says something of pictures; it is loaded when it is asked for the first time."""

    id: str  # what its answers depend on, beside the picture; "": they are not kept
    batch: int  # pictures that it is asked about at once

    def ready(self) -> None:
        """It is about to be asked.

        Raises:
            Mistake: it cannot be loaded.
        """
        ...

    def prepared(self, image: Image.Image) -> object:
        """Of an upright picture in RGB; called in threads."""
        ...

    def asked(self, batch: Sequence[object]) -> list[bytes | Mistake]:
        """Its answers; a Mistake where it refuses one picture.

        Raises:
            Mistake: it gives none.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Asking(Work):
    """What is the same of all that write what a model says."""

    append_tags: bool = knob(
        False, "Put what is new behind what stands in a caption already.", group="captions",
        basic=True)  # fmt: skip
    overwrite: bool = knob(
        False, "Replace captions that are there. Without it, and without append_tags, only pictures without "
        "a caption get one.", group="captions", basic=True)  # fmt: skip
    caption_separator: str = knob(", ", "What is written between tags.", group="captions")
    limit: int | None = knob(
        None, "Only the first so many pictures; with dry_run to see what would come of it. Empty: all.",
        group="captions", low=1, high=10**6)  # fmt: skip
    download: bool = knob(
        False, "Get a model that is not on this machine from the internet.", group="model",
        basic=True)  # fmt: skip
    again: bool = knob(
        False, "Ask about pictures that it was asked about before, too. Else what was said is kept, and "
        "other thresholds cost no time.", group="model")  # fmt: skip

    light = False
    quick: ClassVar[bool] = False
    keeps: ClassVar[bool] = True
    many: ClassVar[str] = "captions"
    nothing: ClassVar[str] = "nothing was said of it"

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.append_tags and self.overwrite:
            yield "overwrite = True: expected only one of it and append_tags"
        if not self.caption_separator.strip():
            yield "caption_separator: expected something between tags, such as a comma"

    def speaker(self) -> Speaker:
        """Raises Mistake: there is no such model."""
        raise NotImplementedError

    def spoken(self, speaker: Speaker, answer: bytes) -> list[str]:
        """The tags, or one text; empty: none."""
        return [answer.decode()] if answer else []

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        speaker, taken = self.speaker(), set()
        chosen, strange = _legible(opened, chosen)
        yield from strange
        due = self._due(opened, chosen)
        with contextlib.closing(self._answers(speaker, opened, due)) as answers:
            for n, (entry, answer) in enumerate(answers):
                told(n, len(due))
                path = opened.caption_of(entry)
                said = self.spoken(speaker, answer) if isinstance(answer, bytes) else []
                if path in taken or not said:
                    why = str(answer) if isinstance(answer, Mistake) else self.nothing
                    yield Touched(entry.name, TWICE if path in taken else why, left=True)
                    continue
                taken.add(path)
                before = opened.text(entry)
                after = self._written(before, said)
                if after != before:
                    draft.put(path, after.encode())
                    yield Touched(entry.name, before=before, after=after)
        told(len(due), len(due))

    def foreseen(self, opened: Opened) -> dict[str, object]:
        """The examples are of pictures that it was asked about before."""
        chosen, _ = _legible(opened, self.chosen(opened))
        due, examples = self._due(opened, chosen), []
        with contextlib.suppress(Mistake):  # there is no such model here, as yet
            examples = [dataclasses.asdict(touched) for touched in self._remembered(opened, due)]
        return {"of": len(chosen), "count": len(due), "examples": examples}

    def _remembered(self, opened: Opened, due: Sequence[Entry]) -> list[Touched]:
        speaker, touched = dataclasses.replace(self, download=False).speaker(), []
        with Found(opened, speaker.id) as found:
            for entry in due[:SEARCHED]:
                answer, before = found.of(entry), opened.text(entry)
                said = self.spoken(speaker, answer) if answer and len(touched) < EXAMPLES else []
                touched += (
                    [Touched(entry.name, before=before, after=self._written(before, said))] if said else []
                )
        return touched

    def _due(self, opened: Opened, chosen: Sequence[Entry]) -> list[Entry]:
        every = self.append_tags or self.overwrite
        return [*itertools.islice((e for e in chosen if every or not opened.text(e)), self.limit)]

    def _written(self, before: str, said: Sequence[str]) -> str:
        between = self.caption_separator
        if not self.append_tags or not before:
            return between.join(said)
        there = {words.plain(tag) for tag in words.tags(before, between.strip())}
        return between.join([before, *(tag for tag in said if words.plain(tag) not in there)])

    def _answers(
        self, speaker: Speaker, opened: Opened, due: Sequence[Entry]
    ) -> Iterator[tuple[Entry, bytes | Mistake]]:
        """Of each picture, first of those that it was asked about before."""

        def seen(entry: Entry) -> object:
            try:
                image = pictures.upright(opened.path(entry.name))
            except Mistake:
                return Mistake(DAMAGED)
            return speaker.prepared(image)

        with Found(opened, speaker.id) as found:
            rest, waiting = [], []
            for entry in due:
                if self.again or (known := found.of(entry)) is None:
                    rest.append(entry)
                else:
                    yield entry, known
            if rest:
                speaker.ready()
            for entry, picture in ahead(seen, rest, 2 * speaker.batch):
                if isinstance(picture, Mistake):
                    yield entry, picture
                    continue
                waiting.append((entry, picture))
                if len(waiting) == speaker.batch:
                    yield from _asked(speaker, found, waiting)
                    waiting = []
            yield from _asked(speaker, found, waiting)


def _legible(opened: Opened, chosen: Sequence[Entry]) -> tuple[list[Entry], list[Touched]]:
    """Those whose captions can be read, and what is to be said of the others."""
    found, strange = [], []
    for entry in chosen:
        try:
            opened.text(entry)
            found.append(entry)
        except Mistake as e:
            strange.append(Touched(entry.name, str(e).removeprefix(f"{opened.folder}/"), left=True))
    return found, strange


def _asked(
    speaker: Speaker, found: Found, waiting: Sequence[tuple[Entry, object]]
) -> Iterator[tuple[Entry, bytes | Mistake]]:
    entries = [entry for entry, _ in waiting]
    answers = speaker.asked([picture for _, picture in waiting]) if waiting else []
    for entry, answer in zip(entries, answers, strict=True):
        if answer and isinstance(answer, bytes):
            found.keep(entry, answer)
    yield from zip(entries, answers, strict=True)


def ahead(
    make: Callable[[Entry], object], entries: Iterable[Entry], most: int
) -> Iterator[tuple[Entry, object]]:
    """What is made of each, in order, by threads that are at most so many ahead."""
    with concurrent.futures.ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        waiting: collections.deque[tuple[Entry, concurrent.futures.Future]] = collections.deque()
        try:
            for entry in entries:
                waiting.append((entry, pool.submit(make, entry)))
                if len(waiting) > most:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
