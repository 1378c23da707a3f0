"""Plan: from folders to pictures, captions, buckets, and how often each is shown."""

from __future__ import annotations

import collections
import dataclasses
import fractions
import logging
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

from lora_train.data import pictures
from lora_train.data.buckets import Size
from lora_train.data.classes import with_classes
from lora_train.data.folder import MOST, Data, Dataset, Item, Layout, Planned, Share, Source, Subset
from lora_train.data.held import split
from lora_train.data.memory import Memory
from lora_train.data.scan import REMARKS, Finding, Scan, listing
from lora_train.errors import Mistake

log = logging.getLogger(__name__)


def plan(
    data: Data,
    *,
    decode: bool = False,
    memory: Memory | None = None,
    look: Callable[..., tuple[Planned, list[Finding]]] | None = None,
) -> Planned:
    """Find the pictures and captions, choose buckets, count samples.

    Args:
        decode: also read every picture to its end, to find damaged ones now; caching does it anyway.
        look: what finds them; `survey` if not given.

    Raises:
        Mistake: all that is wrong with folders and files, at most ten one by one and the rest as a number.
    """
    planned, findings = (look or survey)(data, decode=decode, memory=memory)
    pictures.complain([f.text for f in findings if f.fatal])
    tell(findings, len(planned.items))
    if out := sum(len(source.items) for source in planned.held):
        log.info("%d pictures are held out, to try what is learned on", out)
    return planned


def survey(
    data: Data, *, decode: bool = False, memory: Memory | None = None
) -> tuple[Planned, list[Finding]]:
    """`plan` that raises nothing about files: what can be trained with, and all there is to say.

    Raises:
        Mistake: no folder is given, or none with pictures.
    """
    scan = Scan(decode=decode, skip=data.skip_unreadable, memory=memory or Memory())
    for gap in _gaps(data):
        scan.found("folder", pathlib.Path(gap), gap)
    datasets = [with_classes(dataset) for dataset in data.datasets or (_folders(data, scan),)]
    sources, held = [], []
    for dataset in datasets:
        every = [i for subset in dataset.subsets for i in scan.items(dataset, subset)]
        learned, out = split(dataset, every)
        source = sourced(dataset, learned)
        held += [Source(dataset, tuple(out), ())] * bool(out)
        for item in source.unused():
            scan.found("unused", item.path)
        sources.append(source)
    scan.but(subset.image_dir for dataset in datasets for subset in dataset.subsets if subset.image_dir)
    scan.memory.keep()
    planned = Planned(tuple(sources), folders=not data.datasets, prior=data, held=tuple(held))
    if not planned.items and not any(f.fatal for f in scan.findings):
        folder = datasets[0].subsets[0].image_dir
        scan.found("folder", folder, f"{folder}: no picture is left to learn from")
    return planned, scan.findings


def tell(findings: Sequence[Finding], of: int) -> None:
    """One line for each kind of remark about some of so many pictures."""
    kinds: dict[str, list[Finding]] = collections.defaultdict(list)
    for finding in findings:
        kinds[finding.kind].append(finding)
    for kind, those in kinds.items():
        if kind in REMARKS:
            among = " pictures" if kind == "unnamed" else f" of {of} pictures"
            among = "" if kind in ("orphan", "left", "ignored", "inner") else among
            log.warning("%d%s %s; the first: %s", len(those), among, REMARKS[kind], those[0].path)
    for finding in kinds["left"][: pictures.SHOWN]:
        log.warning("left out: %s", finding.text)


# ── folders ─────────────────────────────────────────────────────────────────────────────────────────────────


def _gaps(data: Data) -> Iterator[str]:
    """What of the datasets is not filled in; a saved file leaves its maker's folders out."""
    for d, dataset in enumerate(data.datasets):
        if not dataset.subsets:
            yield f"data.datasets.{d}.subsets: expected at least one"
        for s, subset in enumerate(dataset.subsets):
            if subset.image_dir is None:
                yield f"data.datasets.{d}.subsets.{s}.image_dir: expected the folder of its pictures"
        if dataset.subsets and all(subset.is_reg for subset in dataset.subsets):
            yield (
                f"data.datasets.{d}.subsets: expected one that is not is_reg; regularisation pictures are "
                "shown as often as the others of their dataset"
            )


def _folders(data: Data, scan: Scan) -> Dataset:
    """`train_data_dir` and `reg_data_dir` as a dataset.

    Raises:
        Mistake: neither numbered folders nor pictures.
    """
    if data.train_data_dir is None:
        raise Mistake("data.train_data_dir: expected the folder of the pictures to learn from")
    if data.in_json is not None:
        subsets = [_inherit(Subset, data, image_dir=data.train_data_dir, metadata_file=data.in_json)]
    else:
        subsets = _numbered(data, "train_data_dir", scan)
    if data.reg_data_dir is not None:
        subsets += _numbered(data, "reg_data_dir", scan)
    return _inherit(Dataset, data, subsets=tuple(subsets))


def _numbered(data: Data, name: str, scan: Scan) -> list[Subset]:
    """A folder's numbered folders, or where there are none itself."""
    root, reg = vars(data)[name], name == "reg_data_dir"
    if not root.is_dir():
        raise Mistake(f"data.{name} = {root}: expected a folder")
    folders = _inside(root)
    loose = [p for p in listing(root) if pathlib.Path(p).suffix.lower() in pictures.ENDINGS]
    named = {p: re.fullmatch(r"0*([1-9]\d*)(?:_(.*))?", p.name) for p in folders}
    if not any(named.values()):
        if not loose:
            raise Mistake(_lost(f"data.{name} = {root}", folders))
        return [_inherit(Subset, data, image_dir=root, is_reg=reg)]
    for path in (*(p for p in folders if not named[p]), *(root / name for name in loose)):
        scan.found("ignored", path)
    found = []
    for p, m in named.items():
        if m and int(m[1]) > MOST:
            raise Mistake(f"{p}: expected 1 to {MOST} repeats in front of the name, not {m[1]}; rename it")
        if m:
            tokens = m[2] or data.class_tokens
            found.append(
                _inherit(Subset, data, image_dir=p, num_repeats=float(m[1]), class_tokens=tokens, is_reg=reg)
            )
    return found


def _lost(what: str, folders: list[pathlib.Path]) -> str:
    if not folders:
        return f"{what}: no pictures in it; expected {' '.join(pictures.ENDINGS)}"
    return (
        f"{what}: no pictures in it, and no folder with repeats in front of its name; "
        f"rename {folders[0].name} to 10_{folders[0].name} for 10 repeats, or give the pictures' own folder"
    )


def _inherit(cls: type, outer: Layout, **own: object) -> Dataset | Subset:
    """An inner item with the outer one's settings, but for its own."""
    names = {f.name for f in dataclasses.fields(outer)}
    taken = {f.name: getattr(outer, f.name) for f in dataclasses.fields(cls) if f.name in names - own.keys()}
    return cls(**taken, **own)


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """Folders that are not hidden, in an order that is the same on every system.

    Raises:
        Mistake: not a folder that may be read.
    """
    try:
        inside = [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir()]
    except OSError as e:
        raise Mistake(f"{folder}: cannot be read: {e.strerror or e}") from e
    return sorted(inside, key=lambda p: p.name)


# ── how often each is shown ─────────────────────────────────────────────────────────────────────────────────


def sourced(dataset: Dataset, items: Sequence[Item]) -> Source:
    """A dataset with its pictures, and the samples they make: bucket by bucket, so that every epoch has the
    same batches."""
    shares, total = [], 0
    for subset in dataset.subsets:
        buckets: dict[Size, list[int]] = collections.defaultdict(list)
        for i, item in enumerate(items):
            if item.subset is subset and not subset.is_reg:
                buckets[item.fit.bucket].append(i)
        if buckets:
            wanted = _samples(subset, sum(map(len, buckets.values())))
            counts = apportioned([*map(len, buckets.values())], wanted)
            total += sum(counts)
            shares += [
                Share(b, tuple(those), n) for (b, those), n in zip(buckets.items(), counts, strict=True)
            ]
    return Source(dataset, tuple(items), (*shares, *_regularising(items, total)))


def _regularising(items: Sequence[Item], wanted: int) -> Iterator[Share]:
    reg = [i for i, item in enumerate(items) if item.subset.is_reg]
    repeats = balanced([round(items[i].subset.num_repeats) or 1 for i in reg], wanted)
    padded: dict[tuple[Size, int], list[int]] = collections.defaultdict(list)
    for i, times in zip(reg, repeats, strict=True):
        if times:
            padded[items[i].fit.bucket, times].append(i)
    for (bucket, times), those in padded.items():
        yield Share(bucket, tuple(those), times * len(those))


def _samples(subset: Subset, count: int) -> int:
    """Of so many pictures of a folder, in an epoch; at least one."""
    if subset.samples_per_epoch is not None:
        return subset.samples_per_epoch
    exact = fractions.Fraction(str(subset.num_repeats)) * count
    return max(1, math.floor(exact + fractions.Fraction(1, 2)))


def apportioned(sizes: Sequence[int], total: int) -> list[int]:
    """`total` among groups in proportion to their sizes; what is left of whole numbers goes to those that
    lost most by rounding, as with seats in a parliament (Hare and Niemeyer). Each gets at least one, be it
    from the largest or beyond the total: a picture whose bucket makes no sample would never be seen."""
    whole = sum(sizes)
    counts = [total * size // whole for size in sizes]
    lost = sorted(range(len(sizes)), key=lambda i: (-(total * sizes[i] % whole), i))
    for i in lost[: total - sum(counts)]:
        counts[i] += 1
    for i in [i for i, count in enumerate(counts) if not count]:
        largest = max(range(len(counts)), key=counts.__getitem__)
        counts[largest] -= counts[largest] > 1
        counts[i] = 1
    return counts


def balanced(repeats: Sequence[int], wanted: int) -> list[int]:
    """How often each regularisation picture is shown, until they make as many samples as the others.

    As sd-scripts (`DreamBoothDataset.__init__`): one after another with its own repeats; where all are
    through and too few, once more each; what comes after there are enough is not used.
    """
    found = [0] * len(repeats)
    made, first = 0, True
    while repeats and made < wanted:
        for i, own in enumerate(repeats):
            more = own if first else 1
            found[i] += more
            made += more
            if made >= wanted:
                break
        first = False
    return found
