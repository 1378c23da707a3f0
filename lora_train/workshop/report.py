"""Report: all that is wrong with a folder's pictures and captions, and which work mends it."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from lora_train.data import measures, pictures
from lora_train.data.buckets import Buckets
from lora_train.data.captions import CaptionRules
from lora_train.data.exam import examined, fault
from lora_train.data.memory import Known
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop import alike, faulty, named, worded
from lora_train.workshop.beside import Beside
from lora_train.workshop.kinds import ASIDE, ERROR, KINDS, NOTE, WARN, Finding
from lora_train.workshop.opened import ASIDE as SHELF
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Look

AT_ONCE = 64  # pictures that are handed to the threads together
KEEP = 2000  # pictures after which what was found out is written down
THREADS = 8
DETAILS = 1000  # findings of a kind whose facts are told
SAID = 3  # files of a kind that are named to a person
CONVERT = "convert"  # a work that would change other pictures as well
SIGNS = {ERROR: "!!", WARN: "! ", NOTE: "  "}


@dataclasses.dataclass(frozen=True)
class Check(Look, Buckets):
    """Say what is wrong with pictures and captions, and what mends it. Nothing is changed."""

    enable_bucket: bool = knob(
        True, "Give each picture a size near its own shape, with about the resolution's area.",
        group="buckets", basic=True)  # fmt: skip
    max_token_length: int = knob(
        75, "Tokens of a caption that are read.", group="captions", choices=(75, 150, 225))  # fmt: skip
    trigger_word: str | None = knob(
        None, "Word that is to be in every caption.", group="captions", basic=True)  # fmt: skip
    caption_separator: str = knob(",", "What stands between the tags of a caption.", group="captions")
    mask_suffix: str | None = knob(
        "-masklabel", "What stands behind a picture's name in that of its mask, which is not judged.",
        group="captions")  # fmt: skip
    least_side: int = knob(
        256, "Pictures with a shorter side below this are too small.", group="bounds", low=1, high=8192,
        unit="pixels")  # fmt: skip
    most_aspect: float = knob(
        3.0, "Pictures whose longer side is more than so many times the shorter one are very long or wide.",
        group="bounds", low=1, high=100)  # fmt: skip
    softest: float = knob(
        measures.BLURRED, "Blur, from 0 to 1, above which a picture is called blurred: 0.1 to 0.4 is sharp, "
        "at 512 pixels a blur of 3 pixels makes 0.57 and more.", group="bounds", low=0, high=1)  # fmt: skip
    least_pictures: int = knob(
        10, "Fewer pictures are few.", group="bounds", low=0, high=1_000_000)  # fmt: skip

    masked: ClassVar[bool] = True

    def check(self) -> Iterable[str]:
        yield from Look.check(self)
        yield from Buckets.check(self)

    def run(self, told: Told = unheard) -> Report:
        opened = self.opened()
        found = self.found(opened, told)
        rows = [row for kind in KINDS if (row := found.row(kind)) is not None]
        facts = {
            "of": len(found.chosen), "pictures": len(opened), "findings": rows,
            "buckets": faulty.counted(found.sizes, self),
        }  # fmt: skip
        return Report((*self._lines(found, rows),), facts)

    def found(self, opened: Opened, told: Told = unheard) -> Found:
        """Look at all of them, and let `opened` know."""
        chosen = self.chosen(opened)
        beside = Beside(opened, self.mask_suffix)
        judged = [entry for entry in chosen if not beside.follows(entry.name)]
        masks = [Finding("labels", (entry.name,)) for entry in chosen if beside.follows(entry.name)]
        known = {entry.name: opened.known(entry) for entry in judged}
        try:
            faults = _examined(opened, known, told)
            digests = _digests(opened, {name: own for name, own in known.items() if name not in faults})
        finally:
            opened.memory.keep()
        found = Found(opened, chosen, known, self.trigger_word)
        found.put([*faults.values(), *masks])
        whole = {name: own for name, own in known.items() if name not in faults}
        bounds = faulty.Bounds(self.least_side, self.most_aspect, self.softest)
        for name, own in whole.items():
            found.put(faulty.strange(name, own, self, bounds))
        found.put(self._worded(opened, judged, beside))
        said = {entry.name: entry.text or "" for entry in judged}
        found.put(alike.repeated(whole, digests, said))
        if len(chosen) == len(opened):
            found.put([*self._whole(whole), *worded.orphans(opened), *named.named(opened)])
        found.sizes = [(own.width, own.height) for own in whole.values()]
        found.judge()
        return found

    def _worded(self, opened: Opened, judged: Sequence[Entry], beside: Beside) -> Iterator[Finding]:
        yield from worded.read(opened, judged, beside)
        said = {entry.name: entry.text for entry in judged if entry.text}
        rules = CaptionRules(trigger_word=self.trigger_word)
        yield from worded.long(said, rules, self.max_token_length)
        if self.trigger_word:
            yield from worded.uncalled(said, rules)
        if len(said) >= self.least_pictures:
            yield from worded.unique(said, self.caption_separator)

    def _whole(self, known: Mapping[str, Known]) -> Iterator[Finding]:
        """Of the set itself."""
        if len(known) < self.least_pictures:
            yield Finding("few", (), {"pictures": len(known)})
        cells = [own.cells for own in known.values() if own.cells is not None]
        like = alike.similar(cells)
        if like is not None and like > alike.SIMILAR:
            yield Finding("similar", (), {"likeness": round(like, 2)})

    def _lines(self, found: Found, rows: Sequence[Mapping[str, object]]) -> Iterator[str]:
        count = len(found.chosen)
        ill = len({name for row in rows for name in row["files"] if row["severity"] != NOTE})
        yield f"{count} picture{'s' * (count != 1)}, {ill} file{'s' * (ill != 1)} with something to mend"
        if not count and not self.recursive and any(map(_folder, found.opened.folder.iterdir())):
            yield "   There are folders in this folder: --recursive looks into them."
        for row in sorted(rows, key=lambda row: [*SIGNS].index(row["severity"])):
            count = f": {row['count']}" * bool(row["files"])  # of the set itself there is one
            yield f"{SIGNS[row['severity']]} {row['title']}{count}{_examples(row)}"
            yield f"     {row['text']}"
            if row["fix"]:
                yield f"     {self._command(row)}"

    def _command(self, row: Mapping[str, object]) -> str:
        fix = row["fix"]
        values = {name: value for name, value in fix["values"].items() if name != "names"}
        if fix["work"] == ASIDE:
            values = {"problems": [row["kind"]]}
        elif only := KINDS[row["kind"]].only or f"problem:{row['kind']}" * (fix["work"] == CONVERT):
            values |= {"only": f"({self.only}) {only}" if self.only else only}
        if self.only and "only" not in values:
            values["only"] = self.only
        usual = {"names": (), "follow_links": False, "caption_extension": ".txt"}
        own = {name: vars(self)[name] for name, value in usual.items() if vars(self)[name] != value}
        values |= {name: [*value] if isinstance(value, tuple) else value for name, value in own.items()}
        words = ["lora-train", "dataset", fix["work"], str(self.folder), *["--recursive"] * self.recursive]
        for name, value in values.items():
            given = () if value is True else value if isinstance(value, list) else (str(value),)
            words += [f"--{name}", *given]
        return shlex.join(words)


class Found:
    """What a report found."""

    def __init__(
        self, opened: Opened, chosen: Sequence[Entry], known: Mapping[str, Known], trigger: str | None
    ):
        self.opened, self.chosen, self.known, self.trigger = opened, chosen, known, trigger
        self.kinds: dict[str, list[Finding]] = collections.defaultdict(list)
        self.sizes: list[tuple[int, int]] = []

    def put(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self.kinds[finding.kind].append(finding)

    def mended(self, kind: str) -> list[str]:
        """Files that its work is to do something about: of groups all but the best."""
        every = self.kinds.get(kind, ())
        if not KINDS[kind].groups:
            return [name for finding in every for name in finding.names]
        return [
            name for finding in every
            for best in [alike.best(finding.names, self.known, self.opened)]
            for name in finding.names if name != best
        ]  # fmt: skip

    def row(self, kind: str) -> dict[str, object] | None:
        """As programs are told of it; None: there is none."""
        every, about = self.kinds.get(kind), KINDS[kind]
        if not every:
            return None
        files = [*dict.fromkeys(name for finding in every for name in finding.names)]
        return {
            "kind": kind, "title": about.title, "text": about.text, "severity": about.severity,
            "count": len(every), "files": files, "filter": about.pictures and bool(files),
            "groups": [finding.names for finding in every] if about.groups else [],
            "details": [
                {"names": finding.names, **finding.facts} for finding in every[:DETAILS] if finding.facts],
            "fix": self._fix(kind),
        }  # fmt: skip

    def _fix(self, kind: str) -> dict[str, object] | None:
        about = KINDS[kind]
        if not about.work:
            return None
        values = dict(about.values)
        if kind == "uncalled":
            values["trigger_word"] = self.trigger
        if about.pictures:
            values["names"] = self.mended(kind)
        return {"work": about.work, "values": values}

    def judge(self) -> None:
        """For the filter `problem:` and the gallery."""
        entries = self.opened.entries
        names = {entry.name for entry in self.chosen}
        problems = {name: kinds for name, kinds in self.opened.problems.items() if name not in names}
        for kind, findings in self.kinds.items():
            for name in (name for finding in findings for name in finding.names if name in entries):
                problems.setdefault(name, set()).add(kind)
        self.opened.judge(problems)


def _examined(opened: Opened, known: Mapping[str, Known], told: Told) -> dict[str, Finding]:
    """Look at the pixels of all that are not known, several at once; those that cannot be read."""
    faults: dict[str, Finding] = {}
    new = [name for name, own in known.items() if not examined(own)]

    def look(name: str) -> tuple[str, tuple[str, str] | None]:
        return name, fault(opened.path(name), known[name])

    told(len(known) - len(new), len(known))
    with concurrent.futures.ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        for begin in range(0, len(new), AT_ONCE):
            for name, wrong in pool.map(look, new[begin : begin + AT_ONCE]):
                if wrong is not None:
                    faults[name] = Finding(wrong[0], (name,), {"reason": wrong[1]})
            done = min(len(new), begin + AT_ONCE)
            told(len(known) - len(new) + done, len(known))
            if begin % KEEP >= KEEP - AT_ONCE:
                opened.memory.keep()
    return faults


def _digests(opened: Opened, known: Mapping[str, Known]) -> dict[str, str]:
    """Of files that have as many bytes as another."""
    sizes = collections.Counter(own.bytes for own in known.values())
    for name, own in known.items():
        if sizes[own.bytes] > 1 and own.digest is None:
            with contextlib.suppress(Mistake):  # has gone since
                own.digest = pictures.digest(opened.path(name))
    return {name: own.digest for name, own in known.items() if own.digest and sizes[own.bytes] > 1}


def _examples(row: Mapping[str, object]) -> str:
    files = row["files"]
    more = f" and {len(files) - SAID} more" if len(files) > SAID else ""
    return f" ({', '.join(files[:SAID])}{more})" if files else ""


def _folder(path: pathlib.Path) -> bool:
    """Whether it is one that recursive looks into."""
    return path.is_dir() and not path.name.startswith(".") and path.name != SHELF
