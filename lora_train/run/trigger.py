"""Trigger words: what pieces CLIP reads one in, whether it means something already, and words that do not."""

from __future__ import annotations

import difflib
import functools
import json
import pathlib
import re
from collections.abc import Callable, Sequence

CLIP = pathlib.Path(__file__).parents[1] / "hosts" / "standalone" / "clip"
END = "</w>"  # of a word's last piece
SPLIT = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)
COMMON = 40_000  # numbers below it are of words that were seen often enough to mean something
BYTES = 512  # numbers of single bytes, alone and at a word's end; after them they follow how often they are
MANY = 5  # pieces
SHOWN = 8
# one piece each, seldom, and the end of longer words rather than a word
FREE = (
    "ohwx", "rizio", "drie", "mably", "ellin", "eming", "crae", "mley", "nold", "stino", "shma", "avel",
    "endon", "phol", "ynna", "chner", "iyaki", "erra", "arum", "rith", "inem", "naire", "peth", "adish",
    "arama", "toid", "adero", "asar", "olis", "engen", "uous", "aties", "dler", "ocre", "tros", "euve",
    "aest", "aroa", "eners", "enei", "folia", "lisse",
)  # fmt: skip

Split = Callable[[str], Sequence[str]]


def look(text: str, split: Split | None = None) -> dict[str, list[str]]:
    """What there is to know of a trigger word.

    Args:
        split: the pieces of a text, with `</w>` behind those that end a word; CLIP's where None.

    Returns:
        tokens: the pieces; warnings: sentences; free: words of one piece that mean nothing.
    """
    text = " ".join(text.split())
    found = pieces(text, split or clip)
    return {"tokens": found, "warnings": warnings(text, found), "free": free(text)}


def pieces(text: str, split: Split) -> list[str]:
    """`okara` -> ["ok", "ara"]."""
    return [piece.removesuffix(END) for piece in split(text)]


def warnings(text: str, found: Sequence[str]) -> list[str]:
    """Sentences on what a trigger word is likely to go wrong with; none of it is forbidden."""
    said = []
    if text != text.lower():
        said.append(f"CLIP reads capitals as small letters: {text} is the same word as {text.lower()}.")
    ranks = {word: common(word) for word in re.findall(r"[^\W_]+", text.lower())}
    if ranks and None not in ranks.values():  # beside a word that means nothing, a common one says what it is
        many, places = len(ranks) > 1, ", ".join(f"{rank:,}" for rank in ranks.values())
        noun, mean = ("are common words", "they mean") if many else ("is a common word", "it means")
        said.append(
            f"{' and '.join(ranks)} {noun}, number {places} of {len(vocabulary()) - BYTES:,} that the model "
            f"knows best: what {mean} now mixes with what is learned. A word that means nothing is learned "
            "cleaner."
        )
    if len(found) > MANY:
        said.append(f"It takes {len(found)} of the 75 tokens of a caption; two or three are enough.")
    if "," in text:
        said.append("A comma ends a tag: after it stands another one, which may be shuffled or left out.")
    if set(text) & set("()[]"):
        said.append(
            "In a prompt of the WebUI brackets are emphasis: there they have to be written \\( \\) \\[ \\]."
        )
    return said


def common(word: str) -> int | None:
    """How many words are more frequent than one that the model knows as a whole; None for others."""
    number = vocabulary().get(word + END)
    return number - BYTES if number is not None and BYTES <= number < COMMON else None


def free(text: str) -> list[str]:
    """Words of one piece that mean nothing, those first that look like it."""
    word = text.lower()
    near = sorted(FREE, key=lambda other: -difflib.SequenceMatcher(None, word, other).ratio())
    return [other for other in near if other != word][:SHOWN]


# ── CLIP's byte pair encoding ───────────────────────────────────────────────────────────────────────────────


def clip(text: str) -> list[str]:
    """The pieces of a text, as every Stable Diffusion up to XL reads it; no package and no model is needed.

    Source: Sennrich et al. 2016, arXiv:1508.07909, over bytes; the files are CLIP's.
    """
    return [_readable(piece) for word in SPLIT.findall(text.lower()) for piece in _joined(word)]


@functools.lru_cache(maxsize=100_000)
def _joined(word: str) -> tuple[str, ...]:
    """The pieces of a word, in the vocabulary's letters."""
    letters, ranks = _letters(), _ranks()
    parts = [letters[byte] for byte in word.encode("utf-8", "replace")]
    parts[-1] += END
    while len(parts) > 1:
        pairs = zip(parts, parts[1:], strict=False)
        rank, at = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(pairs))
        if rank == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return tuple(parts)


class Counter:
    """What `data.health` counts tokens with, where no model is at hand."""

    def count(self, text: str) -> int:
        return sum(len(_joined(word)) for word in SPLIT.findall(text.lower()))

    def cut(self, text: str, limit: int) -> tuple[str, str]:
        """(what of a caption is within the limit, the rest); between two words."""
        seen = at = 0
        for match in SPLIT.finditer(text):
            seen += len(_joined(match[0].lower()))
            if seen > limit:
                return text[:at], text[at:]
            at = match.end()
        return text, ""


@functools.cache
def vocabulary() -> dict[str, int]:
    """Piece -> its number."""
    return json.loads((CLIP / "vocab.json").read_text(encoding="utf-8"))


@functools.cache
def _ranks() -> dict[tuple[str, str], int]:
    """Pair of pieces -> when it is joined."""
    lines = (CLIP / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    return {tuple(line.split(" ")): i for i, line in enumerate(lines) if line}


@functools.cache
def _letters() -> dict[int, str]:
    """A printable letter for each byte: itself, or for those that have none one from behind Latin-1."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + i) for i, byte in enumerate(rest)}


def _readable(piece: str) -> str:
    """The text of a piece; a part of a letter stays as it is."""
    bare, end = piece.removesuffix(END), piece[len(piece.removesuffix(END)) :]
    back = {letter: byte for byte, letter in _letters().items()}
    try:
        return bytes(back[letter] for letter in bare).decode() + end
    except UnicodeDecodeError:
        return piece
