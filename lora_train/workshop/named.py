"""Names of a set's files: which cannot stand side by side, or not on every system."""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from lora_train.workshop.kinds import Finding
from lora_train.workshop.opened import Opened
from lora_train.workshop.worded import stem

PATH = 259  # letters of a path on Windows, in UTF-16
NAME = 255 - len("_0000x0000_sdxl.npz")  # bytes of a name on Linux with room for a cache's ending
REFUSED = re.compile(r'[<>:"|?*\\\x00-\x1f\x7f\udc80-\udcff]|[ .]$')  # the last range: bytes that are no text
RESERVED = re.compile(r"(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", re.IGNORECASE)
UNSEEN = ("Cf", "Cc", "Co", "Cn")  # Unicode's categories of what cannot be seen
QUIET = (".npz", ".safetensors", ".json", ".jsonl", ".toml", ".yaml", ".csv", ".md")  # files that are no slip


def named(opened: Opened) -> Iterator[Finding]:
    """All that is to be said of names alone."""
    yield from _shared("stem", opened.entries, stem)
    stems = dict.fromkeys(map(stem, opened.entries))  # by which captions are named as well
    yield from _clashing(opened, "unicode", stems, composed)
    yield from _clashing(opened, "capitals", dict.fromkeys(map(composed, stems)), str.casefold)
    files = dict.fromkeys([*opened.entries, *opened.loose])
    for name in files:
        if _lengthy(opened, name):
            yield Finding("lengthy", (name,), {"letters": len(name)})
        if why := unusual(name.rpartition("/")[2]):
            yield Finding("unusual", (name,), {"letters": why})
    yield from (Finding("outside", (name,)) for name in opened.outside)
    for name in opened.loose:
        if not name.endswith((*QUIET, ".txt", ".caption", ".tags", opened.extension)):
            yield Finding("other", (name,))


def composed(name: str) -> str:
    """In Unicode's form NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def unusual(file: str) -> str:
    """The letters of a name that some systems refuse or do not show; "": there are none."""
    found = REFUSED.findall(file) or REFUSED.findall(stem(file))
    if RESERVED.match(file):
        found.append(file.partition(".")[0])
    if not file.isascii():
        joined = "\u200d"  # which holds the parts of an emoji together
        found += [c for c in file if unicodedata.category(c) in UNSEEN and c != joined]
    return " ".join(dict.fromkeys(ascii(c)[1:-1] if not c.isprintable() else c for c in found))


def _lengthy(opened: Opened, name: str) -> bool:
    whole = len(str(opened.folder)) + 1 + len(name)
    if whole <= PATH // 2 and len(name) <= NAME // 4:  # nothing to count, of nearly all
        return False
    units = len(f"{opened.folder}/{name}".encode("utf-16-le", "surrogatepass")) // 2
    return units > PATH or len(name.rpartition("/")[2].encode("utf-8", "surrogateescape")) > NAME


def _shared(kind: str, names: Iterable[str], key: Callable[[str], str]) -> Iterator[Finding]:
    groups = collections.defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    yield from (Finding(kind, tuple(group)) for group in groups.values() if len(group) > 1)


def _clashing(
    opened: Opened, kind: str, stems: Iterable[str], key: Callable[[str], str]
) -> Iterator[Finding]:
    """Pictures whose stems differ, and by this key do not."""
    groups = [finding.names for finding in _shared(kind, stems, key)]
    if not groups:
        return
    number = {key(group[0]): i for i, group in enumerate(groups)}
    found: list[list[str]] = [[] for _ in groups]
    for name in opened.entries:
        place = number.get(key(composed(stem(name)) if kind == "capitals" else stem(name)))
        if place is not None:
            found[place].append(name)
    yield from (Finding(kind, tuple(group)) for group in found)
