"""Health: what of pictures and captions is worth a look before a run, though it stops none."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from PIL import Image

from lora_train.data import captions, likeness, pictures
from lora_train.data.folder import Dataset, Item, Planned, Subset
from lora_train.data.held import steady
from lora_train.data.memory import Known, Memory
from lora_train.data.scan import listing
from lora_train.data.traits import traits as own
from lora_train.errors import Mistake

ENLARGED = 1.5  # times; beyond it the softness of enlarged pictures is what is learned
CUT = 0.25  # share of its area that a picture may lose to the shape of its bucket

LABEL = "-masklabel"  # behind the names of OneTrainer's masks

REMARKS = {  # kind -> what is said of pictures, files or groups of them, after their number
    "enlarged": f"pictures are enlarged more than {ENLARGED:g} times",
    "cut": f"pictures lose more than {CUT:.0%} of their area to the shape of their bucket",
    "turned": "pictures lie on their side or head, and are turned as their EXIF data say",
    "transparent": "pictures have transparent parts, which are laid on transparent_color",
    "opaque": "pictures have no transparent parts, so alpha_mask hides nothing of them",
    "labels": f"pictures end in {LABEL}, as masks do, and are learned from; set mask_suffix",
    "deep": "pictures have more than 8 bits a channel, of which 8 are kept",
    "cmyk": "pictures are in CMYK, and converted to RGB",
    "same": "groups of picture files have the same content",
    "differing": "groups of picture files have the same content and different captions",
    "near": "groups of pictures look nearly the same",
    "stem": "groups of pictures share one name, and so one caption file",
    "over": "captions have more tokens than are read",
    "uncalled": "pictures have a caption without the trigger word, which is put to it",
    "encoding": "caption files are not in UTF-8",
    "other": "files are neither pictures nor captions, and not read",
}
GROUPS = ("same", "differing", "near", "stem")


@dataclasses.dataclass(frozen=True)
class Found:
    """Something to see about one file, or about several together."""

    kind: str  # of REMARKS
    paths: tuple[pathlib.Path, ...]
    text: str = ""
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)  # the numbers in the text


class Tokens(Protocol):
    """What tells the tokens of a text; no model is needed for it."""

    def count(self, text: str) -> int: ...

    def cut(self, text: str, limit: int) -> tuple[str, str]:
        """What of it is read, and what is lost."""
        ...


def health(planned: Planned, memory: Memory, tokens: Tokens | None, limit: int) -> list[Found]:
    """All there is to see. Pictures that cannot be read are not in the plan, and not looked at.

    Args:
        tokens: None: they are not counted.
        limit: tokens of a caption that are read.
    """
    known = {item.path: of for item in planned.items if (of := remembered(memory, item.path))}
    once = [*{item.path: item for item in planned.items if item.path in known}.values()]
    found = [
        *stretched(planned),
        *peculiar(once, known),
        *alike(once, known),
        *namesakes(once),
        *labels(once),
        *uncalled(once),
        *encoded(once),
        *aside([source.dataset for source in planned.sources]),
    ]
    if tokens is not None:
        found += over(once, tokens, limit)
    memory.keep()
    return found


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────


def remembered(memory: Memory, path: pathlib.Path) -> Known | None:
    """None: it has gone since."""
    with contextlib.suppress(OSError):
        return memory.of(path.parent, path.name, path.stat())


def scale(item: Item) -> float:
    """How much larger its bucket shows it; below 1 it is made smaller."""
    return max(item.fit.resized[0] / item.size[0], item.fit.resized[1] / item.size[1])


def lost(item: Item) -> float:
    """Share of its area that is cut off."""
    (width, height), (wide, tall) = item.fit.bucket, item.fit.resized
    return 1 - width * height / (wide * tall)


def stretched(planned: Planned) -> Iterator[Found]:
    """Of each dataset, for each has sizes of its own."""
    for number, source in enumerate(planned.sources):
        among = {"dataset": number} if len(planned.sources) > 1 else {}
        for item in source.items:
            how = f"{_sized(item.size)} in {_sized(item.fit.bucket)}"
            if scale(item) > ENLARGED:
                times = round(scale(item), 2)
                yield Found("enlarged", (item.path,), f"{how}: {times:g} times", {**among, "times": times})
            if lost(item) > CUT:
                share = round(lost(item), 3)
                yield Found("cut", (item.path,), f"{how}: {share:.0%} is cut off", {**among, "share": share})


def peculiar(items: Iterable[Item], known: Mapping[pathlib.Path, Known]) -> Iterator[Found]:
    """What is done to pictures that are not plain RGB, upright and of 8 bits."""
    for item in items:
        of = known[item.path]
        if of.traits is None:
            of.traits = " ".join(traits(item.path))
        kinds = [kind for kind in of.traits.split() if kind in REMARKS]
        if item.subset.alpha_mask:  # to be transparent means something else there
            kinds = [kind for kind in kinds if kind != "transparent"] + ["opaque"] * (
                "transparent" not in kinds
            )
        for kind in kinds:
            yield Found(kind, (item.path,))


def traits(path: pathlib.Path) -> Iterator[str]:
    """What is peculiar about a picture; see traits.py."""
    try:
        with Image.open(path) as image:
            yield from own(image)
    except pictures.BROKEN:  # has become unreadable since
        return


def alike(items: Sequence[Item], known: Mapping[pathlib.Path, Known]) -> Iterator[Found]:
    """Groups with the same content, and groups that look alike, in which each content stands once."""
    sizes = collections.Counter(of.bytes for of in known.values())
    contents: dict[str, list[Item]] = collections.defaultdict(list)
    for item in items:
        of = known[item.path]
        if sizes[of.bytes] > 1 and of.digest is None:
            with contextlib.suppress(Mistake):  # has gone since
                of.digest = pictures.digest(item.path)
        contents[of.digest or str(item.path)].append(item)
    for group in contents.values():
        if len(group) > 1:
            paths = tuple(item.path for item in group)
            yield Found("same", paths)
            if len({item.caption for item in group}) > 1:
                yield Found("differing", paths, " / ".join(item.caption or "(empty)" for item in group))
    yield from near([first.path for first, *_ in contents.values()], known)


def near(paths: Iterable[pathlib.Path], known: Mapping[pathlib.Path, Known]) -> Iterator[Found]:
    """Those that look alike, of pictures with different contents."""
    cells = {}
    for path in paths:
        of = known[path]
        with contextlib.suppress(Mistake):  # has gone since
            if of.cells is None:
                of.cells = likeness.seen(path)
            cells[path] = of.cells
    for group in likeness.copies(cells):
        yield Found("near", tuple(group))


def namesakes(items: Iterable[Item]) -> Iterator[Found]:
    """a.png and a.jpg, for which there is but one a.txt."""
    stems: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
    for item in items:
        if item.subset.metadata_file is None:
            stems[os.path.splitext(item.path)[0]].append(item.path)  # noqa: PTH122 (of 100,000 paths)
    for group in stems.values():
        if len(group) > 1:
            yield Found("stem", tuple(group))


def labels(items: Sequence[Item]) -> Iterator[Found]:
    """a-masklabel.png beside a.png, where it is no mask."""
    stems = {item.path.with_suffix("") for item in items}
    for item in items:
        stem = item.path.stem
        if stem.endswith(LABEL) and item.path.with_name(stem[: -len(LABEL)]) in stems:
            yield Found("labels", (item.path,))


def _sized(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


# ── captions ────────────────────────────────────────────────────────────────────────────────────────────────


class _Longest(random.Random):
    """Where one of several is drawn, the longest."""

    def choice(self, seq: Sequence[str]) -> str:
        return max(seq, key=len)


def texts(item: Item) -> list[str]:
    """What the text encoder may read of a picture's caption, with all its tags: one text, or where a line is
    drawn one for each."""
    several = item.subset.enable_wildcard
    lines = item.caption.split("\n") if several else [item.caption]
    return [steady(item.subset).apply(line, _Longest(0)) for line in lines]


def over(items: Iterable[Item], tokens: Tokens, limit: int) -> Iterator[Found]:
    """Captions beyond the limit, with the place where they are cut."""
    counted: dict[str, int] = {}
    for item in items:
        for text in texts(item):
            # no token is shorter than a byte, but BREAK fills up what is before it
            if text not in counted and (len(text.encode()) > limit or "BREAK" in text):
                counted[text] = tokens.count(text)
            if counted.get(text, 0) > limit:
                read, gone = tokens.cut(text, limit)
                facts = {"tokens": counted[text], "lost": gone}
                yield Found("over", (item.path,), cut_at(counted[text], read, gone), facts)


def cut_at(count: int, read: str, gone: str) -> str:
    """The place where a text is cut, with a few words around it."""
    before = read if len(read) <= 40 else f"…{read[-40:]}"
    after = gone if len(gone) <= 60 else f"{gone[:60]}…"
    return f"{count} tokens: {before} | {after}"


def uncalled(items: Iterable[Item]) -> Iterator[Found]:
    """But for empty captions, of which there is another word."""
    for item in items:
        rules = item.subset
        if not rules.call or not item.caption:
            continue
        around = f"{rules.caption_prefix or ''} {rules.caption_suffix or ''}"
        if not rules.holds(around) and not all(
            rules.holds(line) or captions.SLOT in line for line in item.caption.split("\n")
        ):
            yield Found("uncalled", (item.path,))


def encoded(items: Iterable[Item]) -> Iterator[Found]:
    """Where they may be in something else; where they may not, planning complains."""
    for item in items:
        subset = item.subset
        if subset.caption_encoding == "utf-8" or subset.metadata_file is not None:
            continue
        for ending in subset.caption_extension:
            path = item.path.with_suffix(ending if ending.startswith(".") else f".{ending}")
            if path.is_file():
                like = captions.detected(path.read_bytes())
                if like != "utf-8":
                    yield Found("encoding", (path,), f"looks like {captions.LABELS[like]}", {"like": like})
                break


def tags(planned: Planned) -> list[tuple[str, int]]:
    """Each tag and the number of pictures that have it, the most frequent first."""
    counts: collections.Counter[str] = collections.Counter()
    for item in {item.path: item for item in planned.items}.values():
        text = item.caption.replace("\n", item.subset.caption_separator)
        counts.update({tag for part in text.split(item.subset.caption_separator) if (tag := part.strip())})
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────────


def aside(datasets: Sequence[Dataset]) -> Iterator[Found]:
    """What lies in the folders of pictures and is not read."""
    subsets = {subset.image_dir: subset for dataset in datasets for subset in dataset.subsets}
    for folder, subset in ((f, s) for f, s in subsets.items() if f is not None):
        with contextlib.suppress(Mistake):  # planning complains
            yield from _aside(folder, subset)


def _aside(folder: pathlib.Path, subset: Subset) -> Iterator[Found]:
    own = {path for path in (subset.metadata_file,) if path is not None}
    endings = {e if e.startswith(".") else f".{e}" for e in subset.caption_extension}
    for name in listing(folder):
        ending = os.path.splitext(name)[1]  # noqa: PTH122 (of 100,000 names)
        if ending.lower() not in pictures.ENDINGS and ending not in endings and folder / name not in own:
            yield Found("other", (folder / name,))
