"""Pictures of the class, as folders of a dataset: which there are, and which lack."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import pathlib
import re
from collections.abc import Iterator

from lora_train.data.buckets import Size
from lora_train.data.folder import Data, Dataset, Item, Planned, Rules, Source, Subset
from lora_train.data.pictures import ENDINGS

DRAWN = re.compile(r"class-([0-9a-f]{8})-(\d+)")  # a picture that was drawn, by its prompt
SIDE = 8  # pixels of which a drawn picture's sides are multiples


@dataclasses.dataclass(frozen=True)
class Lack:
    """A picture of the class that there is not."""

    folder: pathlib.Path
    prompt: str
    number: int  # among those of its prompt in its folder, from 0
    size: Size
    rules: Rules

    @property
    def stem(self) -> str:
        return f"class-{mark(self.prompt)}-{self.number:05d}"


def mark(prompt: str) -> str:
    """By which a prompt's pictures are told from others'."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:8]


def placed(data: Data, folder: pathlib.Path) -> Data:
    """With a folder for pictures of the class wherever none is said."""

    def own(rules: Rules) -> Rules:
        there = rules.class_data_dir or not rules.makes_class
        return rules if there else dataclasses.replace(rules, class_data_dir=folder)

    datasets = [dataclasses.replace(own(d), subsets=tuple(map(own, d.subsets))) for d in data.datasets]
    return dataclasses.replace(own(data), datasets=tuple(datasets))


def with_classes(dataset: Dataset) -> Dataset:
    """And with the folders of its pictures of the class, each once, as regularisation."""
    there = {subset.image_dir for subset in dataset.subsets}
    more: dict[pathlib.Path, Subset] = {}
    for subset in dataset.subsets:
        folder = subset.class_data_dir
        if not subset.is_reg and subset.makes_class and folder not in there and _pictures(folder):
            more.setdefault(folder, _reg(subset))
    return dataclasses.replace(dataset, subsets=(*dataset.subsets, *more.values())) if more else dataset


def _reg(subset: Subset) -> Subset:
    fresh = {"num_repeats": 1.0, "samples_per_epoch": None, "metadata_file": None, "caption_prefix": None,
             "caption_suffix": None, "alpha_mask": False, "conditioning_data_dir": None,
             "mask_suffix": None}  # fmt: skip
    return dataclasses.replace(
        subset, image_dir=subset.class_data_dir, is_reg=True, caption_extension=(".txt",),
        class_tokens=subset.of_class("").strip(" ,") or None, **fresh)  # fmt: skip


def _pictures(folder: pathlib.Path | None) -> bool:
    return bool(folder and folder.is_dir() and any(p.suffix.lower() in ENDINGS for p in folder.iterdir()))


def lacking(planned: Planned) -> list[Lack]:
    """In order; of a folder that several use each is counted once.

    A picture that was drawn counts for its prompt. Others, a person's own, count for the prompt that their
    caption is, and for any where all of the folder have one prompt.
    """
    wanted: dict[pathlib.Path, dict[str, list[Item]]] = {}
    for source in planned.sources:
        for subset, items in _subjects(source):
            prompts = wanted.setdefault(subset.class_data_dir, {})
            for i in range(subset.many(len(items))):
                item = items[i % len(items)]
                prompts.setdefault(subset.of_class(item.own.split("\n")[0]), []).append(item)
    found = []
    for folder, prompts in wanted.items():
        drawn, own = _there(planned, folder)
        loose = sum(own.values()) if len(prompts) == 1 else 0
        for prompt, items in prompts.items():
            there = len(drawn[mark(prompt)]) + (loose or own[prompt])
            numbers = (number for number in itertools.count() if number not in drawn[mark(prompt)])
            found += [
                Lack(folder, prompt, next(numbers), _even(item.fit.bucket), item.subset)
                for item in items[there:]
            ]
    return found


def strange(planned: Planned) -> dict[pathlib.Path, int]:
    """{folder: how many of its pictures were drawn with prompts that are not asked for any more}."""
    wanted: dict[pathlib.Path, set[str]] = {}
    for source in planned.sources:
        for subset, items in _subjects(source):
            marks = {mark(subset.of_class(item.own.split("\n")[0])) for item in items}
            wanted.setdefault(subset.class_data_dir, set()).update(marks)
    found = {}
    for folder, marks in wanted.items():
        drawn, _ = _there(planned, folder)
        found[folder] = sum(len(numbers) for known, numbers in drawn.items() if known not in marks)
    return {folder: count for folder, count in found.items() if count}


def _subjects(source: Source) -> Iterator[tuple[Subset, list[Item]]]:
    """Folders of the subject that there are to be pictures of the class for."""
    for subset in source.dataset.subsets:
        items = [item for item in source.items if item.subset is subset]
        if items and not subset.is_reg and subset.makes_class and subset.class_data_dir:
            yield subset, items


def _there(planned: Planned, folder: pathlib.Path) -> tuple[dict[str, set[int]], collections.Counter[str]]:
    """{mark of a prompt: numbers of pictures drawn with it}, {caption: pictures that are a person's own}."""
    drawn, own = collections.defaultdict(set), collections.Counter()
    every = {item.path: item for item in planned.items if item.subset.is_reg and item.path.parent == folder}
    for path, item in every.items():
        if made := DRAWN.fullmatch(path.stem):
            drawn[made[1]].add(int(made[2]))
        else:
            own[item.caption] += 1
    return drawn, own


def _even(size: Size) -> Size:
    width, height = (max(64, side - side % SIDE) for side in size)
    return width, height
