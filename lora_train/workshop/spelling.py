"""Spelling: tags held against a list of known ones, and what an unknown one was likely meant to be."""

from __future__ import annotations

import collections
import csv
import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.workshop import words
from lora_train.workshop.filter import said
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Touched, Work

SURE = 5  # letters of the shortest tag that is compared
LONG = 9  # letters from which on two slips are allowed
TRIED = 60  # tags with most letters in common that are looked at closely


class Known:
    """Tags that are right, with how often each is used, and other names of theirs.

    Args:
        tags: tag -> its count; 0 where that is not known.
        aliases: other name -> tag.
    """

    def __init__(self, tags: dict[str, int], aliases: dict[str, str]):
        self.forms = {words.plain(tag): tag for tag in tags}
        self.counts = {words.plain(tag): count for tag, count in tags.items()}
        self.aliases = {words.plain(a): t for a, t in aliases.items() if words.plain(a) not in self.forms}

    @classmethod
    def read(cls, path: pathlib.Path) -> Known:
        """A list of the WebUI's tag completion (name, kind, count, "other, names"), a tagger's
        selected_tags.csv (with a row of titles), or a text file with a tag a line.

        Raises:
            Mistake: it is no such list.
        """
        try:
            rows = [row for row in csv.reader(path.read_text(encoding="utf-8-sig").splitlines()) if row]
        except (OSError, UnicodeError, csv.Error) as e:
            raise Mistake(f"tag_list = {path}: cannot be read as a list of tags ({e})") from e
        titles = [cell.strip().lower() for cell in rows[0]] if rows else []
        name, count, other = 0, 2, 3
        if "name" in titles or "tag" in titles:
            name = titles.index("name" if "name" in titles else "tag")
            count = next((i for i, title in enumerate(titles) if "count" in title), -1)
            other = next((i for i, title in enumerate(titles) if "alias" in title), -1)
            rows = rows[1:]
        tags, aliases = {}, {}
        for row in rows:
            tag = row[name].strip() if len(row) > name else ""
            if not tag:
                continue
            tags[tag] = int(row[count]) if 0 <= count < len(row) and row[count].strip().isdecimal() else 0
            if 0 <= other < len(row):
                aliases.update((a.strip(), tag) for a in row[other].split(",") if a.strip())
        if not tags:
            raise Mistake(f"tag_list = {path}: expected tags, one a line or the first of each row")
        return cls(tags, aliases)

    def has(self, tag: str) -> bool:
        """Short ones, such as faces, are never wrong."""
        key = words.plain(tag)
        return len(key) <= words.FACE or key in self.forms

    def nearest(self, tag: str) -> str | None:
        """What it was likely meant to be, with blanks or underscores as it has them; None: nobody knows."""
        key = words.plain(tag)
        found = self.aliases.get(key) or self._near(key)
        if found is None:
            return None
        return found if "_" in tag else words.respaced(found, underscores=False)

    def _near(self, key: str) -> str | None:
        if len(key) < SURE:
            return None
        most = 2 if len(key) >= LONG else 1
        shared: collections.Counter[str] = collections.Counter()
        for piece in _pieces(key):
            shared.update(self._index.get(piece, ()))
        best: tuple[int, int, str] | None = None
        turned = sorted(key.split())
        for other, _ in shared.most_common(TRIED):
            slips = 1 if turned == sorted(other.split()) else distance(key, other, most)
            if slips <= most and (best is None or (slips, -self.counts[other], other) < best):
                best = slips, -self.counts[other], other
        return best and self.forms[best[2]]

    @functools.cached_property
    def _index(self) -> dict[str, list[str]]:
        """Three letters -> the tags that have them; of 100,000 tags it is made in a second or two."""
        found = collections.defaultdict(list)
        for key in self.forms:
            for piece in _pieces(key):
                found[piece].append(key)
        return dict(found)


def _pieces(key: str) -> set[str]:
    text = f" {key} "
    return {text[i : i + 3] for i in range(len(text) - 2)}


def distance(one: str, other: str, most: int) -> int:
    """Letters to put in, take out, change, or swap with their neighbour, to make one of the other (optimal
    string alignment); `most` + 1 where there are more."""
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: Sequence[int] = []
    last = [*range(len(other) + 1)]
    for i, a in enumerate(one, 1):
        now = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, now[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            now.append(cost)
        if min(min(now), min(last) + 1) > most:  # a swap goes on from the row before
            return most + 1
        before, last = last, now
    return min(last[-1], most + 1)


@dataclasses.dataclass(frozen=True)
class Spelling(Work):
    """Mend tags that a list does not have, where a known one is near."""

    tag_list: pathlib.Path | None = knob(
        None, "List of known tags: .csv of the WebUI's tag completion, a tagger's selected_tags.csv, or "
        ".txt with a tag a line.", group="tags", basic=True, place=True)  # fmt: skip
    spare: str = knob(
        "", "Tags that stay as they are, such as the trigger word, with commas between; * stands for "
        "anything.", group="tags", basic=True)  # fmt: skip
    rare: float = knob(
        0.25, "Only tags that at most this share of captions have are taken for slips.", group="tags", low=0,
        high=1)  # fmt: skip
    separator: str = knob(",", "What stands between tags.", group="tags")

    title: ClassVar[str] = "spelling"
    many: ClassVar[str] = "captions"

    about = """Mend tags that a list does not have: another name of a tag becomes that tag; one that is a slip
        or two away from a known one becomes that. Sentences are left alone. Look with dry_run first; what the
        list has nothing near to is named by the work tags."""

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.tag_list is None:
            yield "tag_list: expected a list of tags, .csv or .txt"
        if not self.separator.strip():
            yield "separator: expected something between tags, such as a comma"

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        mended, seen = self._mended(opened), set()
        for i, entry in enumerate(chosen):
            told(i, len(chosen))
            path, text = opened.caption_of(entry), said(opened, entry)
            after = "\n".join(self._line(line, mended) for line in text.splitlines())
            if after != text and path not in seen:
                seen.add(path)
                draft.put(path, after.encode())
                yield Touched(entry.name, "", text, after)
        told(len(chosen), len(chosen))

    def _mended(self, opened: Opened) -> dict[str, str]:
        """Plain tag -> what it becomes."""
        known = Known.read(self.tag_list)
        counts: collections.Counter[str] = collections.Counter()
        spared, forms, of = [*map(words.like, words.listed(self.spare))], {}, 0
        for entry in opened:
            lines = [x for x in said(opened, entry).splitlines() if not words.sentences(x, self.separator)]
            tags = {words.plain(tag): tag for line in lines for tag in words.told(line, self.separator)}
            counts.update(tags.keys())
            forms |= tags
            of += bool(tags)
        slips = [
            key for key, count in counts.items()
            if (count <= max(1, self.rare * of) or key in known.aliases)
            and not known.has(key) and not any(one.fullmatch(key) for one in spared)
        ]  # fmt: skip
        return {key: near for key in slips if (near := known.nearest(forms[key])) is not None}

    def _line(self, line: str, mended: dict[str, str]) -> str:
        if words.sentences(line, self.separator):
            return line
        before = words.told(line, self.separator)
        there = {words.plain(tag) for tag in before}
        after: list[str] = []
        for tag in before:
            right = mended.get(words.plain(tag), tag)
            if right == tag or words.plain(right) not in there:
                after.append(right)
                there.add(words.plain(right))
        return line if after == before else words.joined(after, self.separator)
