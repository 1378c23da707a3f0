"""Words of a caption: its tags, told apart and put together again; and whether it is sentences instead."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from lora_train.data.captions import SLOT, CaptionRules
from lora_train.values import parted

SEPARATOR = ","  # between tags
LONG = 6  # words; no usual tag has as many
ALONE = 4  # words of a caption without a separator
FACE = 3  # letters; shorter tags are faces rather than words, as in sd-scripts' tagger
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
    """By which tags are the same: capitals, ways to write accents, _ and \\ before brackets do not count.

    >>> plain(r"Hatsune_Miku_\\(Vocaloid\\)")
    'hatsune miku (vocaloid)'
    """
    return folded(text).replace("_", " ").replace("\\", "").strip()


def folded(text: str) -> str:
    """Small letters, each with its accent in one."""
    return unicodedata.normalize("NFC", text.casefold())


def like(tag: str) -> re.Pattern[str]:
    """What a plain tag must match to be this one; `*` stands for anything."""
    stars = re.sub(r"[\[?]", r"[\g<0>]", plain(tag))
    return re.compile(fnmatch.translate(stars))  # which never goes back over what a * has taken


def listed(text: str) -> list[str]:
    """Tags that a person names, commas or line ends between; one in "quotes" may have a comma in it."""
    return parted(text, ",\n")


def pairs(text: str) -> list[tuple[str, str]]:
    """`old => new, other => ` -> what takes the place of what.

    Raises:
        ValueError: one without =>; its text.
    """
    found = []
    for part in listed(text):
        old, arrow, new = part.partition("=>")
        if not arrow or not old.strip():
            raise ValueError(part)
        found.append((old.strip(), new.strip()))
    return found


# ── what is done to a line ──────────────────────────────────────────────────────────────────────────────────


def without(line: str, gone: Sequence[re.Pattern[str]], separator: str = SEPARATOR) -> str:
    """Tags are taken out; of sentences only what stands between separators."""
    before = told(line, separator)
    after = [tag for tag in before if not any(one.fullmatch(plain(tag)) for one in gone)]
    return line if after == before else joined(after, separator)


def put(line: str, tags: Sequence[str], separator: str = SEPARATOR, *, first: bool = False) -> str:
    """Tags are added where they are not there: at the end, or in front, where then also those go that are."""
    before = told(line, separator)
    there, new = {plain(tag) for tag in before}, list(dict.fromkeys(tags))
    if first:
        own = {plain(tag) for tag in new}
        after = [*new, *(tag for tag in before if plain(tag) not in own)]
        return line if after == before else joined(after, separator)
    lacking = [tag for tag in new if plain(tag) not in there]
    if not lacking:
        return line
    if line.rstrip().endswith((".", "!", "?")) and sentences(line, separator):
        return f"{line.rstrip()} {joined(lacking, separator)}"  # a comma behind a full stop says nothing
    return joined([*before, *lacking], separator)


def replaced(line: str, old: str, new: str, separator: str = SEPARATOR) -> str:
    """A tag becomes another one, or several; in sentences words do."""
    pattern = like(old)
    before = told(line, separator)
    after: list[str] = []
    for tag in before:
        for one in told(new, separator) if pattern.fullmatch(plain(tag)) else [tag]:
            if one == tag or plain(one) not in map(plain, (*before, *after)):
                after.append(one)
    if after != before:
        return joined(after, separator)
    if not sentences(line, separator):
        return line
    words = r"[\s_]+".join(re.escape(word).replace(r"\*", r"\w*") for word in re.split(r"[\s_]+", old))
    return re.sub(rf"(?<!\w){words}(?!\w)", lambda match: new, line, flags=re.IGNORECASE)


def respaced(line: str, underscores: bool, separator: str = SEPARATOR) -> str:
    """Underscores for blanks in tags, or blanks for underscores; faces such as ^_^ stay."""
    if underscores and sentences(line, separator):
        return line
    before = told(line, separator)
    old, new = " _" if underscores else "_ "
    after = [tag if len(tag) <= FACE else tag.replace(old, new) for tag in before]
    return line if after == before else joined(after, separator)


def once(line: str, separator: str = SEPARATOR) -> str:
    """Each tag stands once, where it stands first."""
    before = told(line, separator)
    first = {plain(tag): tag for tag in reversed(before)}
    after = [first[one] for one in dict.fromkeys(map(plain, before))]
    return line if after == before or sentences(line, separator) else joined(after, separator)


def ordered(
    line: str, key: Callable[[str], object], keep: int = 0, separator: str = SEPARATOR
) -> str:  # fmt: skip
    """Tags sorted, but for the first so many; sentences stay as they are."""
    before = told(line, separator)
    after = [*before[:keep], *sorted(before[keep:], key=key)]
    return line if after == before or sentences(line, separator) else joined(after, separator)


def called(line: str, word: str, traits: Sequence[re.Pattern[str]] = (), separator: str = SEPARATOR) -> str:
    """The trigger word stands first, and behind it the tags that are traits; within a sentence it stays."""
    before = told(line, separator)
    own = [tag for tag in before if plain(tag) == plain(word)]
    if not own and (CaptionRules(trigger_word=word).holds(line) or SLOT in line):
        return line
    traits_there = [tag for tag in before if any(one.fullmatch(plain(tag)) for one in traits)]
    rest = [tag for tag in before if tag not in own and tag not in traits_there]
    after = [word, *traits_there, *rest]
    return line if after == before else joined(after, separator)


def parted_by(line: str, old: str, new: str) -> str:
    """Another separator between tags; the commas of sentences stay."""
    return line if sentences(line, old) else joined(told(line, old), new)


def around(line: str, before: str, after: str) -> str:
    """Text in front and behind, if it is not there already, with a blank between where there is none."""
    if before and not line.startswith(before.strip()):
        line = f"{before.rstrip()} {line}".rstrip()
    if after and not line.endswith(after.strip()):
        line = f"{line}{after.rstrip()}" if after[0] in " ,.;:!?" else f"{line} {after.rstrip()}".lstrip()
    return line
