"""Tokens: what CLIP's text encoder reads of a text. Needs no checkpoint."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re

from lora_train.emphasis import BREAK, Piece, pieces

VOCABULARY = pathlib.Path(__file__).with_name("clip")
CHUNK = 75  # tokens that CLIP takes at once, beside start and end
WRAP = 20  # tokens after a comma that move to the next chunk together: the WebUI's usual setting
ENDS = re.compile(r"[^\s,]+|,+")  # after these a text may be cut


@dataclasses.dataclass
class Chunk:
    """What goes through the text encoder at once, without start and end."""

    ids: list[int]
    weights: list[float]

    def split(self, at: int) -> Chunk:
        """Takes what is behind `at` out of it."""
        rest = Chunk(self.ids[at:], self.weights[at:])
        del self.ids[at:], self.weights[at:]
        return rest

    def padded(self, end: int) -> Chunk:
        lack = CHUNK - len(self.ids)
        return Chunk([*self.ids, *[end] * lack], [*self.weights, *[1.0] * lack])


class Tokens:
    """CLIP's tokenizer, with the files in this package.

    Args:
        weighted: captions are read with emphasis, so brackets and weights are no tokens.

    Raises:
        ImportError: transformers is not there.
    """

    def __init__(self, *, weighted: bool = False):
        from transformers import CLIPTokenizer

        self.weighted = weighted
        self.tokenizer = CLIPTokenizer.from_pretrained(str(VOCABULARY), local_files_only=True)
        self.start, self.end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        self.comma = self.ids(",")[0]
        self.learned: dict[str, int] = {}  # word -> how many vectors stand for it

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    def runs(self, text: str) -> list[list[int]]:
        """Its tokens, one by one, and of each learned word what stays together: -1 for its first vector, and
        so on; the next word's go on from there. Found by tokens, as the WebUI does, the longest first."""
        words, at = [], 0
        for word, count in self.learned.items():
            words.append((self.ids(word), [-1 - i for i in range(at, at + count)]))
            at += count
        words.sort(key=lambda word: -len(word[0]))
        ids, found = self.ids(text), []
        while ids:
            known, stands = next(((w, s) for w, s in words if w and ids[: len(w)] == w), (ids[:1], ids[:1]))
            found.append(stands)
            ids = ids[len(known) :]
        return found

    def count(self, text: str) -> int:
        """How many tokens a caption takes, start and end not counted; before a BREAK a chunk is full."""
        chunks = self.chunks(self._read(text, self.weighted))
        return CHUNK * (len(chunks) - 1) + len(chunks[-1].ids)

    def cut(self, text: str, limit: int) -> tuple[str, str]:
        """(what of a caption is within `limit` tokens, the rest). Of a word that is only partly read, all is
        in the rest."""
        if self.count(text) <= limit:
            return text, ""
        ends = [0, *(match.end() for match in ENDS.finditer(text))]
        low, high = 0, len(ends) - 1  # within the limit, and beyond
        while high - low > 1:
            middle = (low + high) // 2
            if self.count(text[: ends[middle]]) <= limit:
                low = middle
            else:
                high = middle
        return text[: ends[low]], text[ends[low] :]

    def caption(self, text: str, limit: int, *, weighted: bool | None = None) -> list[Chunk]:
        """As sd-scripts reads it: `limit` tokens in chunks, what lacks is filled up with ends.

        Args:
            weighted: None: as in `__init__`.
        """
        chunks = self.chunks(self._read(text, self.weighted if weighted is None else weighted))
        count = math.ceil(limit / CHUNK)
        return [c.padded(self.end) for c in [*chunks, *(Chunk([], []) for _ in range(count))][:count]]

    def prompts(self, *texts: str) -> list[list[Chunk]]:
        """As the WebUI reads them: with emphasis, in as many chunks as the longest needs."""
        every = [self.chunks(pieces(text), wrap=WRAP) for text in texts]
        count = max(map(len, every))
        blank = [Chunk([], []) for _ in range(count)]
        return [[c.padded(self.end) for c in [*chunks, *blank][:count]] for chunks in every]

    def _read(self, text: str, weighted: bool) -> list[Piece]:
        return pieces(text) if weighted else [(text, 1.0)]

    def chunks(self, read: list[Piece], *, wrap: int = 0) -> list[Chunk]:
        """At least one. Only those before a BREAK, or before a comma's words that moved on, are filled up.

        Args:
            wrap: up to so many tokens after the last comma of a full chunk go to the next with the word
                that has no room, as in the WebUI.
        """
        full: list[Chunk] = []
        now, comma = Chunk([], []), None  # where in it the last comma is
        for text, weight in read:
            if (text, weight) == BREAK:
                full.append(now.padded(self.end))
                now, comma = Chunk([], []), None
                continue
            for run in self.runs(text):
                if run[0] == self.comma:
                    comma = len(now.ids)
                elif len(now.ids) == CHUNK and comma is not None and CHUNK - comma <= wrap:
                    moved = now.split(comma + 1)
                    full.append(now.padded(self.end))
                    now, comma = moved, None
                if len(now.ids) + len(run) > CHUNK:
                    full.append(now.padded(self.end))
                    now, comma = Chunk([], []), None
                now.ids += run
                now.weights += [weight] * len(run)
        return [*full, now] if now.ids or not full else full
