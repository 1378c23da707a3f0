"""Captions: what is done to the text of one picture or of many."""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import ClassVar

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.values import shown
from lora_train.workshop import words
from lora_train.workshop.filter import said
from lora_train.workshop.journal import Draft, refuse
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Touched, Work

Change = Callable[[str], str]
ENDS = re.compile(r"(\r\n|\r|\n)")


@dataclasses.dataclass(frozen=True)
class Captions(Work):
    """Edit captions: set, replace, remove, add, sort, put the trigger word in front."""

    set: str | None = knob(
        None, "The whole caption, in place of what there is.", group="text", basic=True)  # fmt: skip
    clear: bool = knob(False, "Empty the captions.", group="text")
    to_utf8: bool = knob(
        False, "Write caption files of other encodings anew in UTF-8; what is changed for another reason "
        "is so in any case.", group="text")  # fmt: skip
    regex: str = knob(
        "", "Regular expression; what it finds in a caption becomes regex_with. Repeats of repeats, such as "
        "(a+)+, may take forever.", group="text")  # fmt: skip
    regex_with: str = knob(
        "", r"What takes the place of what regex finds; \1 is its first group.", group="text")  # fmt: skip
    replace: str = knob(
        "", "Tags that become others: old => new, with commas between, or one in quotes that has commas: "
        '"cat => cat ears, tail". Nothing behind => takes the tag out. In sentences it is done to words.',
        group="tags", basic=True)  # fmt: skip
    underscores: str = knob(
        "keep", "In tags: blanks for underscores (long_hair becomes long hair), or underscores for blanks. "
        "Tags of up to 3 letters, such as ^_^, stay.", group="tags",
        choices=("keep", "to blanks", "from blanks"))  # fmt: skip
    remove: str = knob(
        "", "Tags to take out, with commas between; * stands for anything: *hair, simple background.",
        group="tags", basic=True)  # fmt: skip
    traits: str = knob(
        "", "Tags of what always belongs to the character or thing, such as hair and eyes; strategy says "
        "what becomes of them.", group="trigger")  # fmt: skip
    strategy: str = knob(
        "absorb", "absorb: traits are taken out of the captions, so that the trigger word comes to mean "
        "them, and calls them alone; they can hardly be changed in a prompt then. keep: traits stay, right "
        "behind the trigger word, and are learned under their own names, so that a prompt must say them, "
        "and may say others.", group="trigger", choices=("absorb", "keep"))  # fmt: skip
    add: str = knob(
        "", "Tags to add where a caption has them not, with commas between.", group="tags",
        basic=True)  # fmt: skip
    first: bool = knob(False, "Added tags go in front of the others, and not behind.", group="tags")
    dedupe: bool = knob(False, "Tags that stand twice stand once.", group="tags")
    sort: str = knob(
        "no", "Order of the tags: by the alphabet, or those first that most captions of the folder have. "
        "Sentences are not sorted.", group="tags", choices=("no", "alphabet", "frequency"))  # fmt: skip
    sort_from: int = knob(
        0, "So many tags at the front are not sorted.", group="tags", low=0, high=255,
        unit="tags")  # fmt: skip
    trigger_word: str = knob(
        "", "Put in front of every caption; moved there where it is a tag already, left where a sentence has "
        "it.", group="trigger", basic=True)  # fmt: skip
    prepend: str = knob(
        "", "Text in front of each caption, with a blank between, such as: a photo of.",
        group="text")  # fmt: skip
    append: str = knob("", "Text behind each caption.", group="text")
    separator: str = knob(",", "What stands between tags.", group="tags")
    new_separator: str = knob("", "What is to stand between them from now on.", group="tags")

    title: ClassVar[str] = "captions"
    many: ClassVar[str] = "captions"

    about = """Edit captions. What is asked for is done in this order: set or clear, regex, replace,
        underscores, remove (and traits that are absorbed), add, dedupe, sort, trigger word (and traits that
        are kept), prepend, append, separator."""

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.set is not None and self.clear:
            yield "clear: expected false beside set"
        try:
            re.compile(self.regex)
            re.sub(self.regex, self.regex_with, "")
        except (re.error, IndexError, OverflowError, RecursionError) as e:
            yield f"regex = {shown(self.regex)}: expected a regular expression ({e})"
        if self.regex_with and not self.regex:
            yield "regex_with: expected a regex beside it"
        try:
            words.pairs(self.replace)
        except ValueError as e:
            yield f"replace = {shown(str(e))}: expected old => new"
        if self.strategy == "keep" and self.traits and not self.trigger_word:
            yield "strategy = keep: expected a trigger_word, which traits then stand behind"
        if not self.separator.strip():
            yield "separator: expected something between tags, such as a comma"
        if not self.to_utf8 and not self.asked:
            yield "captions: expected something to do, such as add, remove or trigger_word"

    @property
    def asked(self) -> bool:
        """Whether anything is to be done to texts."""
        some = (self.set is not None, self.clear, self.regex, self.replace, self.underscores != "keep",
                self.remove, self.traits, self.add, self.dedupe, self.sort != "no", self.trigger_word,
                self.prepend, self.append, self.new_separator)  # fmt: skip
        return any(some)

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        change, seen, complaints = self._change(opened), set(), []
        for i, entry in enumerate(chosen):
            told(i, len(chosen))
            path = opened.caption_of(entry)
            if path in seen:  # a.png and a.jpg have one caption
                continue
            seen.add(path)
            try:
                before, after = self._both(opened, entry, change)
            except Mistake as e:
                complaints.append(str(e))
                continue
            recoded = self.to_utf8 and entry.caption is not None and _foreign(opened, entry)
            if after == before and not recoded:
                continue
            draft.put(path, after.encode())
            what = f"{entry.encoding} -> utf-8" if recoded else ""
            yield Touched(entry.name, what, *((None, None) if after == before else (before, after)))
        refuse(complaints)
        told(len(chosen), len(chosen))

    def _both(self, opened: Opened, entry: Entry, change: Change) -> tuple[str, str]:
        """Its caption, and what becomes of it.

        Raises:
            Mistake: it cannot be read, and has to be.
        """
        if self.set is not None or self.clear:
            before, after = said(opened, entry), (self.set or "").strip()
            if entry.caption is None and not after:  # a new empty file says as little
                return "", ""
        else:
            before = after = opened.text(entry)
        return before, change(after)

    def _change(self, opened: Opened) -> Change:
        """All that is asked for, of a caption of one line or more."""
        whole: list[Change] = []
        if self.regex:
            pattern = re.compile(self.regex)
            whole.append(lambda text: pattern.sub(self.regex_with, text))
        each = [*self._of_lines(opened)]

        def change(text: str) -> str:
            for one in whole:
                text = one(text)
            parts = ENDS.split(text)  # lines, and what ends them, which stays
            lines = parts[::2]
            for one in each:
                lines = [one(line) if line.strip() or len(lines) == 1 else line for line in lines]
            parts[::2] = lines
            return "".join(parts).strip()

        return change

    def _of_lines(self, opened: Opened) -> Iterator[Change]:
        between = self.separator
        for old, new in words.pairs(self.replace):
            yield functools.partial(words.replaced, old=old, new=new, separator=between)
        if self.underscores != "keep":
            to = self.underscores == "from blanks"
            yield functools.partial(words.respaced, underscores=to, separator=between)
        traits = [*map(words.like, words.listed(self.traits))]
        gone = [*map(words.like, words.listed(self.remove)), *(traits if self.strategy == "absorb" else ())]
        if gone:
            yield functools.partial(words.without, gone=gone, separator=between)
        if self.add:
            tags = words.listed(self.add)
            yield functools.partial(words.put, tags=tags, separator=between, first=self.first)
        if self.dedupe:
            yield functools.partial(words.once, separator=between)
        if self.sort != "no":
            key = self._key(opened)
            yield functools.partial(words.ordered, key=key, keep=self.sort_from, separator=between)
        if self.trigger_word:
            kept = traits if self.strategy == "keep" else ()
            yield functools.partial(
                words.called, word=self.trigger_word.strip(), traits=kept, separator=between
            )
        if self.prepend or self.append:
            yield functools.partial(words.around, before=self.prepend, after=self.append)
        if self.new_separator:
            yield functools.partial(words.parted_by, old=between, new=self.new_separator)

    def _key(self, opened: Opened) -> Callable[[str], object]:
        """What tags are sorted by."""
        if self.sort == "alphabet":
            return words.plain
        counts: collections.Counter[str] = collections.Counter()
        for entry in opened:
            counts.update({words.plain(tag) for tag in words.tags(said(opened, entry), self.separator)})
        return lambda tag: -counts[words.plain(tag)]


def _foreign(opened: Opened, entry: Entry) -> bool:
    """Whether its caption file is not plain UTF-8."""
    opened.text(entry)
    if entry.encoding != "utf-8":
        return True
    with opened.path(entry.caption).open("rb") as file:
        return file.read(3) == b"\xef\xbb\xbf"
