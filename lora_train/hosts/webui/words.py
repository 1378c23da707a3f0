"""Learned words, among those that the WebUI finds in captions and prompts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

Vectors = Callable[[], Mapping[str, Tensor]]  # part -> [n, D]
KEYS = {"te1": "clip_l", "te2": "clip_g"}  # what SDXL's text encoders look for


class Learned:
    """What the WebUI asks of an embedding, whose vectors are made anew each time."""

    shorthash = None  # no hash in infotexts: it changes with each step

    def __init__(self, name: str, made: Vectors):
        self.name, self.made = name, made

    @property
    def vec(self) -> Tensor | dict[str, Tensor]:
        found = self.made()
        return found["te1"] if len(found) == 1 else {KEYS[part]: v for part, v in found.items()}

    @property
    def vectors(self) -> int:
        return len(next(iter(self.made().values())))


@contextlib.contextmanager
def known(text: nn.Module, learned: Mapping[str, Vectors]) -> Iterator[None]:
    """Inside `with` the WebUI reads these words so, in place of a person's own of the same names. Its list
    of embeddings, which a page may read anew at any time, is not touched.

    Args:
        text: the text encoder, or all of them as one.
    """
    with contextlib.ExitStack() as on:
        for name, made in learned.items():
            on.enter_context(_known(text, Learned(name, made)))
        yield


@contextlib.contextmanager
def _known(text: nn.Module, mine: Learned) -> Iterator[None]:
    from modules import sd_hijack

    lookup, ids = sd_hijack.model_hijack.embedding_db.ids_lookup, text.tokenize([mine.name])[0]
    before = lookup.get(ids[0], [])
    rows = [(ids, mine), *(row for row in before if row[1].name != mine.name)]
    lookup[ids[0]] = sorted(rows, key=lambda row: len(row[0]), reverse=True)
    try:
        yield
    finally:
        if not any(row[1] is mine for row in lookup.get(ids[0], [])):
            pass  # the list was read anew meanwhile
        elif before:
            lookup[ids[0]] = before
        else:
            del lookup[ids[0]]


def count(text: nn.Module, caption: str) -> int:
    """Tokens of a caption, with as many for an embedding as it has vectors."""
    from modules import sd_hijack

    ids, found, at = text.tokenize([caption])[0], 0, 0
    while at < len(ids):
        embedding, length = sd_hijack.model_hijack.embedding_db.find_embedding_at_position(ids, at)
        found += 1 if embedding is None else embedding.vectors
        at += 1 if embedding is None else length
    return found
