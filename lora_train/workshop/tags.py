"""Tags of a folder: how often, with which others, in which picture alone, what a trigger word takes up."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lora_train.data.captions import SLOT, CaptionRules
from lora_train.knobs import knob
from lora_train.run.trigger import Counter
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop import spelling, words
from lora_train.workshop.filter import said
from lora_train.workshop.work import Look

LISTED = 5000  # tags of the facts
PAIRED = 100  # most frequent tags whose pairs are counted; more take seconds at 100,000 captions
PAIRS = 50  # that are said
LIMITS = (75, 150, 225)
FREE = 2  # captions that a pair must have in common


@dataclasses.dataclass
class Counted:
    """What the captions of some pictures hold."""

    captions: list[frozenset[int]] = dataclasses.field(default_factory=list)  # plain tags, by number
    names: list[str] = dataclasses.field(default_factory=list)  # of the pictures
    forms: list[str] = dataclasses.field(default_factory=list)  # tag by number, as it stands first
    counts: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)
    numbers: dict[str, int] = dataclasses.field(default_factory=dict)
    sentences: int = 0

    def put(self, name: str, text: str, separator: str) -> None:
        every, told = set(), False
        for line in text.splitlines():
            of_sentences = words.sentences(line, separator)
            told |= of_sentences
            for tag in words.told(line, separator):
                if of_sentences and len(tag.split()) >= words.ALONE:
                    continue
                number = self.numbers.setdefault(words.plain(tag), len(self.numbers))
                if number == len(self.forms):
                    self.forms.append(tag)
                every.add(number)
        self.sentences += told
        self.counts.update(every)
        self.captions.append(frozenset(every))
        self.names.append(name)

    @property
    def frequent(self) -> list[tuple[str, int]]:
        """(tag, captions that have it), the most frequent first."""
        order = sorted(self.counts.items(), key=lambda pair: (-pair[1], self.forms[pair[0]]))
        return [(self.forms[number], count) for number, count in order]

    def unique(self) -> dict[str, str]:
        """Tag that one caption alone has -> the picture."""
        alone = {number for number, count in self.counts.items() if count == 1}
        each = zip(self.names, self.captions, strict=True)
        return {self.forms[number]: name for name, tags in each for number in sorted(tags & alone)}

    def beside(self, tag: str) -> list[tuple[str, int, float]]:
        """(another tag, captions that have both, how many times as often as by chance)."""
        number = self.numbers.get(words.plain(tag))
        if number is None:
            return []
        own = [tags for tags in self.captions if number in tags]
        both = collections.Counter(itertools.chain.from_iterable(own))
        del both[number]
        found = [(self.forms[n], count, self._lift(number, n, count)) for n, count in both.items()]
        return sorted(found, key=lambda row: (-row[1], -row[2], row[0]))

    def pairs(self) -> list[tuple[str, str, int, float]]:
        """(tag, tag, captions that have both, share of those with either), the closest first, of frequent
        tags."""
        kept = {number for number, _ in self.counts.most_common(PAIRED)}
        both: collections.Counter[tuple[int, int]] = collections.Counter()
        for tags in self.captions:
            both.update(itertools.combinations(sorted(tags & kept), 2))
        found = [
            (self.forms[a], self.forms[b], n, n / (self.counts[a] + self.counts[b] - n))
            for (a, b), n in both.items() if n >= FREE
        ]  # fmt: skip
        return sorted(found, key=lambda row: (-row[3], -row[2], row[0], row[1]))[:PAIRS]

    def _lift(self, a: int, b: int, both: int) -> float:
        return both * len(self.captions) / (self.counts[a] * self.counts[b])


@dataclasses.dataclass(frozen=True)
class Tags(Look):
    """Count tags: which are frequent, which stand together, what a trigger word would take up."""

    beside: str = knob("", "Tag whose company is listed: how often others stand with it.", group="tags",
                       basic=True)  # fmt: skip
    trigger_word: str = knob("", "Word that calls the LoRA.", group="tags", basic=True)
    everywhere: float = knob(
        0.9, "Share of captions from which on a tag is proposed for the trigger word to take up.",
        group="tags", low=0.01, high=1)  # fmt: skip
    tag_list: pathlib.Path | None = knob(
        None, "List of known tags, .csv or .txt; those that are not in it are named.", group="tags",
        place=True)  # fmt: skip
    max_token_length: int = knob(
        75, "Tokens of a caption that training reads.", group="tags", choices=LIMITS)  # fmt: skip
    separator: str = knob(",", "What stands between tags.", group="tags")
    shown: int = knob(20, "Rows of each list that are printed.", group="output", low=1, high=LISTED)

    about = """Count the tags of captions: which are frequent, which stand together, which one picture alone
        has, which a trigger word would take up, and how many tokens captions have."""

    def check(self) -> Iterable[str]:
        yield from super().check()
        if not self.separator.strip():
            yield "separator: expected something between tags, such as a comma"

    def run(self, told: Told = unheard) -> Report:
        opened = self.opened()
        chosen, counted, lengths, uncalled = self.chosen(opened), Counted(), {}, []
        count = Counter().count
        rules = CaptionRules(trigger_word=self.trigger_word.strip() or None)
        for i, entry in enumerate(chosen):
            told(i, len(chosen))
            text = said(opened, entry)
            if not text:
                continue
            counted.put(entry.name, text, self.separator)
            lengths[entry.name] = max(map(count, text.splitlines()))
            if rules.call and not (rules.holds(text) or SLOT in text):
                uncalled.append(entry.name)
        told(len(chosen), len(chosen))
        facts = self._facts(counted, lengths, len(chosen))
        if rules.call:
            facts["without_trigger"] = uncalled
        if self.tag_list:
            known = spelling.Known.read(self.tag_list)
            facts["unknown"] = [
                {"tag": tag, "captions": n, "nearest": known.nearest(tag)}
                for tag, n in counted.frequent if not known.has(tag) and not self._own(tag)
            ]  # fmt: skip
        return Report(tuple(self._lines(facts)), facts)

    def _own(self, tag: str) -> bool:
        return words.plain(tag) == words.plain(self.trigger_word)

    def _facts(self, counted: Counted, lengths: Mapping[str, int], pictures: int) -> dict[str, object]:
        of, limit = len(counted.captions), self.max_token_length
        frequent = counted.frequent
        over = sorted(((n, name) for name, n in lengths.items() if n > limit), reverse=True)
        ordered = sorted(lengths.values())
        taken = [
            {"tag": tag, "captions": n, "share": n / of}
            for tag, n in frequent if n >= max(FREE, self.everywhere * of) and not self._own(tag)
        ]  # fmt: skip
        return {
            "pictures": pictures, "captions": of, "sentences": counted.sentences, "different": len(frequent),
            "tags": [[tag, n] for tag, n in frequent[:LISTED]],
            "unique": dict(itertools.islice(counted.unique().items(), LISTED)),
            "pairs": [
                {"tags": [a, b], "captions": n, "share": share} for a, b, n, share in counted.pairs()
            ],
            "beside": [
                {"tag": tag, "captions": n, "times": times}
                for tag, n, times in (counted.beside(self.beside) if self.beside else ())[:LISTED]
            ],
            "absorb": taken,
            "tokens": {
                "limit": limit, "most": ordered[-1] if ordered else 0,
                "middle": ordered[len(ordered) // 2] if ordered else 0,
                "over": [{"name": name, "tokens": n} for n, name in over],
            },
        }  # fmt: skip

    def _lines(self, facts: Mapping[str, object]) -> Iterator[str]:
        of = facts["captions"]
        yield f"{facts['pictures']} pictures, {of} with a caption, {facts['different']} different tags"
        if facts["sentences"]:
            yield f"{facts['sentences']} captions are sentences, of which only short parts count as tags"
        yield from self._some("Tags:", [f"{n:6d}  {tag}" for tag, n in facts["tags"]])
        company = [f"{r['captions']:6d}  {r['tag']} ({r['times']:.1f} times as often as by chance)"
                   for r in facts["beside"]]  # fmt: skip
        yield from self._some(f"Beside {self.beside}:", company)
        pairs = [f"{r['captions']:6d}  {' + '.join(r['tags'])} ({r['share']:.0%} of those with either)"
                 for r in facts["pairs"]]  # fmt: skip
        yield from self._some("Closest pairs:", pairs)
        alone = [f"        {tag}: {name}" for tag, name in facts["unique"].items()]
        yield from self._some(f"In one caption alone ({len(alone)}):", alone)
        yield from self._taken(facts["absorb"], of)
        yield from self._some("Not in the list of tags:", [
            f"{r['captions']:6d}  {r['tag']}" + (f" -> {r['nearest']}" if r["nearest"] else "")
            for r in facts.get("unknown", ())
        ])  # fmt: skip
        without = facts.get("without_trigger", ())
        yield from self._some(f"Without {self.trigger_word} ({len(without)}):",
                              [f"        {name}" for name in without])  # fmt: skip
        t = facts["tokens"]
        over = f"; {len(t['over'])} captions are cut off at {t['limit']}" if t["over"] else ""
        yield f"Tokens: {t['middle']} in the middle, {t['most']} at most{over}"
        yield from self._some("", [f"{r['tokens']:6d}  {r['name']}" for r in t["over"]])

    def _taken(self, absorb: Sequence[Mapping[str, object]], of: int) -> Iterator[str]:
        """How tags move into the trigger word, with numbers."""
        if not absorb:
            return
        yield (
            f"In nearly all captions (at least {self.everywhere:.0%} of {of}). What is said in all of them "
            "is learned under its own name; taken out of them, the trigger word comes to mean it. Take out "
            "what always belongs to the subject, and keep what is to be changed in a prompt:"
        )
        yield from [f"{r['captions']:6d}  {r['tag']} ({r['share']:.0%})" for r in absorb[: self.shown]]

    def _some(self, title: str, rows: Sequence[str]) -> Iterator[str]:
        if not rows:
            return
        if title:
            yield title
        yield from rows[: self.shown]
        if len(rows) > self.shown:
            yield f"        ... and {len(rows) - self.shown} more"
