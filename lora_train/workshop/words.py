"""Words of a caption: its tags, told apart and put together again; and whether it is sentences instead."""

from __future__ import annotations

import re
from collections.abc import Iterable

SEPARATOR = ","  # between tags
LONG = 6  # words; no usual tag has as many
ALONE = 4  # words of a caption without a separator
END = re.compile(r"\w[\"')]*[.!?]$|\w[.!?]\s")


def told(line: str, separator: str = SEPARATOR) -> list[str]:
    """The tags of a line."""
    return [tag for part in line.split(separator) if (tag := part.strip())]


def tags(text: str, separator: str = SEPARATOR) -> list[str]:
    """Of a caption, with those of all its lines."""
    return [tag for line in text.splitlines() for tag in told(line, separator)]


def joined(tags: Iterable[str], separator: str = SEPARATOR) -> str:
    """A line of them."""
    return f"{separator} ".join(tags) if separator.strip() else separator.join(tags)


def sentences(line: str, separator: str = SEPARATOR) -> bool:
    """Whether it is told in sentences, of which tags cannot be taken apart or sorted.

    >>> [sentences(line) for line in ("a cat on the mat", "1girl, cat ears", "A cat, which sleeps.")]
    [True, False, True]
    """
    parts = told(line, separator)
    longest = max((len(part.split()) for part in parts), default=0)
    words = sum(len(part.split()) for part in parts)
    return longest >= (ALONE if len(parts) == 1 else LONG) or (words >= ALONE and bool(END.search(line)))


def plain(text: str) -> str:
    """By which tags are the same: neither capitals nor _ nor the \\ before brackets count.

    >>> plain(r"Hatsune_Miku_\\(Vocaloid\\)")
    'hatsune miku (vocaloid)'
    """
    return text.casefold().replace("_", " ").replace("\\", "").strip()
