"""Held out: pictures that are not learned from, so that it can be seen what is learned beyond them."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Sequence

from lora_train.data.folder import Dataset, Item, Subset


def split(dataset: Dataset, items: Sequence[Item]) -> tuple[list[Item], list[Item]]:
    """(what is learned from, what is held out), folder by folder.

    A folder's pictures, by name, are shuffled by `validation_seed`, and the last of them held out: with the
    same seed those that sd-scripts holds out (`split_train_val` at 48d368f). At least one is, and unless all
    are to be, at least one is learned from. Regularisation pictures are never held out.
    """
    held: set[int] = set()
    for subset in dataset.subsets:
        share = 0.0 if subset.is_reg else subset.validation_split
        order = [i for i, item in enumerate(items) if item.subset is subset]
        if not share or not order:
            continue
        count = len(order) if share == 1 else min(max(1, round(len(order) * share)), len(order) - 1)
        random.Random(dataset.validation_seed or 0).shuffle(order)
        held.update(order[len(order) - count :])
    learned = [item for i, item in enumerate(items) if i not in held]
    return learned, [item for i, item in enumerate(items) if i in held]


@functools.lru_cache(maxsize=256)
def steady(subset: Subset) -> Subset:
    """Its rules, without those that leave something out or change the order."""
    return dataclasses.replace(
        subset, shuffle_caption=False, caption_dropout_rate=0.0, caption_dropout_every_n_epochs=0,
        caption_tag_dropout_rate=0.0, token_warmup_step=0.0)  # fmt: skip


def caption(item: Item) -> str:
    """What is said of a picture that is held out: always the same."""
    return steady(item.subset).apply(item.caption, random.Random(0))
