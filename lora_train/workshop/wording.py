"""From what a tagger thinks of a picture to the tags that are written, by sd-scripts' options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lora_train.knobs import knob
from lora_train.workshop import words

FLOOR = 0.01  # chances below are not kept
ANSWER = np.dtype([("label", "<u4"), ("chance", "<f4")])

GENERAL, CHARACTER, RATING = "general", "character", "rating"

SPELT = re.compile(r"[^\W_]{2}")  # what a face such as (o)_(o) or ||_|| has not
SERIES = re.compile(r"(.+?)_?\(([^()]*)\)$")
UNESCAPED = re.compile(r"(?<!\\)([()])")


@dataclasses.dataclass(frozen=True)
class Label:
    """One of the things that a tagger knows."""

    name: str  # as the tagger's own list has it
    kind: str = GENERAL


def answer(chances: np.ndarray, labels: Sequence[Label]) -> bytes:
    """What is remembered of a tagger's answer: ratings, and what is not quite out of the question.

    Args:
        chances: [labels] in 0..1.
    """
    kept = (chances >= FLOOR) | np.array([label.kind == RATING for label in labels])
    every = np.empty(int(kept.sum()), ANSWER)
    every["label"], every["chance"] = np.flatnonzero(kept), chances[kept]
    return every.tobytes()


def scored(answer: bytes, labels: Sequence[Label]) -> list[tuple[Label, float]]:
    """In the order that the tagger has its labels in."""
    return [(labels[int(n)], float(p)) for n, p in np.frombuffer(answer, ANSWER)]


@dataclasses.dataclass(frozen=True)
class Wording:
    """Which tags are taken, how they are spelled, and in which order they stand."""

    thresh: float | None = knob(
        None, "Chance from which on a tag is taken. Empty: what suits the tagger; 0.35 of WD14's, 0.7 of "
        "ML-Danbooru's, 0.5 of DeepDanbooru's, 0.15 of objects.",
        group="tags", low=FLOOR, high=1, basic=True)  # fmt: skip
    general_threshold: float | None = knob(
        None, "Of tags that are no character's. Empty: as thresh.", group="tags", low=FLOOR,
        high=1)  # fmt: skip
    character_threshold: float | None = knob(
        None, "Of tags of characters. Empty: as thresh; 0.85 is safer.", group="tags", low=FLOOR,
        high=1, basic=True)  # fmt: skip
    max_tags: int | None = knob(
        None, "At most so many tags, those with the best chances. Empty: all.", group="tags", low=1,
        high=1000)  # fmt: skip
    undesired_tags: str = knob(
        "", "Tags that are never written, with commas between.", group="tags", basic=True)  # fmt: skip
    remove_underscore: bool = knob(
        False, "Blanks in place of _, but in faces such as o_o.", group="tags", basic=True)  # fmt: skip
    escape_brackets: bool = knob(
        False, "Write \\( and \\), as prompts and weighted_captions need them.", group="tags")  # fmt: skip
    character_tag_expand: bool = knob(
        False, "A character's tag with its series, name_(series), becomes two: name, series.",
        group="tags")  # fmt: skip
    tag_replacement: str | None = knob(
        None, "Tags to write for others: from,to;from,to. A comma or semicolon of a tag is written \\, and "
        "\\;.", group="tags")  # fmt: skip
    tag_order: str = knob(
        "model", "Order of tags: that of the tagger's own list, by chance, or by name.", group="tags",
        choices=("model", "chance", "name"))  # fmt: skip
    character_tags_first: bool = knob(
        False, "Characters' tags before all others.", group="tags")  # fmt: skip
    use_rating_tags: bool = knob(False, "Write the rating, as the first tag.", group="tags")
    use_rating_tags_as_last_tag: bool = knob(False, "Write the rating, as the last tag.", group="tags")
    always_first_tags: str = knob(
        "", "Tags that come first wherever they are found, in this order, with commas between, such as "
        "1girl, 1boy.", group="tags")  # fmt: skip

    def wrong(self) -> Iterator[str]:
        """Complaints."""
        if self.use_rating_tags and self.use_rating_tags_as_last_tag:
            yield "use_rating_tags_as_last_tag = True: expected only one of it and use_rating_tags"
        for pair in _pairs(self.tag_replacement or ""):
            if len(pair) != 2:  # noqa: PLR2004 (from and to)
                yield f"tag_replacement = {','.join(pair)}: expected from,to, and ; between such pairs"

    def tags(self, scored: Sequence[tuple[Label, float]], usual: float) -> list[str]:
        """What is written of what a tagger thinks.

        Args:
            usual: the tagger's own threshold.
        """
        taken = [(label, chance) for label, chance in scored if chance >= self._least(label, usual)]
        taken = taken if self.max_tags is None else self._best(taken)
        if self.tag_order == "chance":
            taken.sort(key=lambda pair: -pair[1])
        if self.tag_order == "name":
            taken.sort(key=lambda pair: pair[0].name)
        if self.character_tags_first:
            taken.sort(key=lambda pair: pair[0].kind != CHARACTER)
        names = [tag for label, _ in taken for tag in self._spelled(label)]
        if ratings := [pair for pair in scored if pair[0].kind == RATING]:
            spelled = self._spelled(max(ratings, key=lambda pair: pair[1])[0])
            names = spelled * self.use_rating_tags + names + spelled * self.use_rating_tags_as_last_tag
        return self._ordered(self._wanted(names))

    def _least(self, label: Label, usual: float) -> float:
        own = {GENERAL: self.general_threshold, CHARACTER: self.character_threshold}
        if label.kind == RATING:
            return 2.0  # those are chosen otherwise
        return own[label.kind] or self.thresh or usual

    def _best(self, taken: list[tuple[Label, float]]) -> list[tuple[Label, float]]:
        best = sorted(taken, key=lambda pair: -pair[1])[: self.max_tags]
        return [pair for pair in taken if pair in best]

    def _spelled(self, label: Label) -> list[str]:
        found = SERIES.match(label.name) if self.character_tag_expand and label.kind == CHARACTER else None
        return [self._blank(name) for name in (found.groups() if found else [label.name]) if name]

    def _blank(self, name: str) -> str:
        return name.replace("_", " ") if self.remove_underscore and SPELT.search(name) else name

    def _wanted(self, names: Iterable[str]) -> Iterator[str]:
        """Replaced, without what is not wanted or stands there twice."""
        others = {words.plain(one): other for one, other in _pairs(self.tag_replacement or "")}
        seen = {words.plain(tag) for tag in self.undesired_tags.split(",")}  # "" among them, whoever says it
        seen.add("")
        for name in names:
            tag = others.get(words.plain(name), name)
            if words.plain(tag) not in seen:
                seen.add(words.plain(tag))
                yield UNESCAPED.sub(r"\\\1", tag) if self.escape_brackets else tag

    def _ordered(self, names: Iterable[str]) -> list[str]:
        """sd-scripts puts the last of always_first_tags first; here they keep their order."""
        first = [words.plain(tag) for tag in self.always_first_tags.split(",") if tag.strip()]
        place = {tag: n for n, tag in reversed([*enumerate(first)])}
        return sorted(names, key=lambda name: place.get(words.plain(name), len(first)))


def _pairs(text: str) -> list[list[str]]:
    """from,to;from,to; a mark with a \\ before it is none."""
    every = [re.split(r"(?<!\\),", pair) for pair in re.split(r"(?<!\\);", text) if pair.strip()]
    return [[part.replace("\\,", ",").replace("\\;", ";").strip() for part in pair] for pair in every]
