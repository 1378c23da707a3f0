"""Captions of a set: which are missing, empty, too long, not to be read, or without the trigger word."""

from __future__ import annotations

import collections
import random
from collections.abc import Iterable, Iterator, Mapping

from lora_train.data.captions import LABELS, SLOT, CaptionRules
from lora_train.errors import Mistake
from lora_train.run.trigger import Counter
from lora_train.workshop.beside import CAPTIONS, Beside
from lora_train.workshop.kinds import Finding
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.tags import Counted


def read(opened: Opened, entries: Iterable[Entry], beside: Beside) -> Iterator[Finding]:
    """Findings about files of captions; afterwards each entry has its text."""
    for entry in entries:
        if entry.caption is None:
            others = [path.name for path in beside.captions(entry.name)]
            yield Finding("missing", (entry.name,), {"beside": others} if others else {})
            continue
        try:
            text = opened.text(entry)
        except Mistake as e:
            yield Finding("garbled", (entry.name,), {"reason": str(e).removeprefix(f"{opened.folder}/")})
            continue
        if entry.encoding != "utf-8":
            yield Finding("encoding", (entry.name,), {"like": LABELS[entry.encoding]})
        if not text:
            yield Finding("empty", (entry.name,))
        elif "\n" in text:
            yield Finding("lines", (entry.name,), {"lines": len(text.splitlines())})


def orphans(opened: Opened) -> Iterator[Finding]:
    """Caption files of no picture."""
    stems = {stem(name) for name in opened.entries}
    for name in opened.loose:
        if name.endswith((opened.extension, *CAPTIONS)) and stem(name) not in stems:
            yield Finding("orphan", (name,))


def stem(name: str) -> str:
    """Without its ending, of which a folder's full stop is none."""
    lead, _, file = name.rpartition("/")
    head, dot, _ = file.rpartition(".")
    return f"{lead}/{head if dot else file}" if lead else head if dot else file


def long(said: Mapping[str, str], rules: CaptionRules, limit: int) -> Iterator[Finding]:
    """Captions of more tokens than are read, the trigger word counted in."""
    counter, counts = Counter(), {}
    for name, text in said.items():
        for line in text.splitlines():
            whole = rules.apply(line, random.Random(0))
            if len(whole.encode("utf-8", "surrogatepass")) <= limit:  # no token is shorter than a byte
                continue
            if whole not in counts:
                counts[whole] = counter.count(whole)
            if counts[whole] > limit:
                lost = counter.cut(whole, limit)[1].strip()
                yield Finding("long", (name,), {"tokens": counts[whole], "lost": lost})
                break


def uncalled(said: Mapping[str, str], rules: CaptionRules) -> Iterator[Finding]:
    """Captions without the trigger word; of empty ones there is another word."""
    for name, text in said.items():
        if text and not all(rules.holds(line) or SLOT in line for line in text.splitlines()):
            yield Finding("uncalled", (name,))


def unique(said: Mapping[str, str], separator: str) -> Iterator[Finding]:
    """Pictures with tags that no other has."""
    counted = Counted()
    for name, text in said.items():
        counted.put(name, text, separator)
    tags: dict[str, list[str]] = collections.defaultdict(list)
    for tag, name in counted.unique().items():
        tags[name].append(tag)
    for name, alone in tags.items():
        yield Finding("unique", (name,), {"tags": alone})
