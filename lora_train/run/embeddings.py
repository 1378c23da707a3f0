"""Learned words of a run, and of files that bring some along: begun, and put on a lent model."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lora_train.adapters.file import load
from lora_train.adapters.word import Embedding, Word, begun, bundled, continued
from lora_train.errors import Mistake

if TYPE_CHECKING:
    from torch import Tensor

    from lora_train.data.folder import Planned
    from lora_train.host import Lent
    from lora_train.job import Job

FEW = 10_000  # captions that are looked at for the word


def word(job: Job, lent: Lent) -> Word | None:
    """The word that a run learns: from the file that the network goes on from where that has it.

    Raises:
        Mistake: the file's is of another model.
    """
    settings, file = job.embedding, job.network.weights
    if settings.token_string is None:
        return None
    with lent.spoken(settings.token_string, None):
        read = lent.vectors(settings.init_word or settings.token_string)
    there = bundled(load(file)[0]).get(settings.token_string) if file else None
    if there is None:
        return begun(settings, read).to(lent.device)
    return continued(settings, there, widths(read), str(file)).to(lent.device)


def widths(vectors: Mapping[str, Tensor]) -> dict[str, int]:
    return {part: v.shape[1] for part, v in vectors.items()}


@contextlib.contextmanager
def spoken(lent: Lent, learned: Word | None) -> Iterator[None]:
    """The model reads it, with gradients."""
    if learned is None:
        yield
        return
    with lent.spoken(learned.name, learned.live):
        yield


@contextlib.contextmanager
def unspoken(lent: Lent, learned: Word | None) -> Iterator[None]:
    """The model reads its tokens again."""
    if learned is None:
        yield
        return
    with lent.spoken(learned.name, None):
        yield


@contextlib.contextmanager
def worn(lent: Lent, found: Mapping[str, Mapping[str, Tensor]]) -> Iterator[None]:
    """The embeddings that a file brings along, {word: {part: [n, D]}}, are read by the model.

    Raises:
        Mistake: they are of another model.
    """
    with contextlib.ExitStack() as on:
        for name, vectors in found.items():
            held = continued(Embedding(token_string=name), vectors, widths(lent.vectors(name)), "the file")
            on.enter_context(lent.spoken(name, held.to(lent.device).requires_grad_(False).live))
        yield


def unread(job: Job, planned: Planned) -> list[str]:
    """What is said of a word that no caption holds."""
    name = job.embedding.token_string
    if name is None:
        return []
    held, rng = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)", re.IGNORECASE), random.Random(0)
    items = (item for item in planned.items if not item.subset.is_reg)
    if any(held.search(item.subset.apply(item.caption, rng)) for item in itertools.islice(items, FEW)):
        return []
    return [
        f"embedding.token_string = {name}: none of the captions holds it; set data.trigger_word = {name}, or "
        "write it into them"
    ]


def checked(job: Job, planned: Planned) -> None:
    """Raises Mistake: no caption holds the word."""
    if said := unread(job, planned):
        raise Mistake("\n".join(said))
