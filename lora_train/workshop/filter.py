"""The filter line: which pictures of a folder."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import operator
import re
from collections.abc import Callable, Mapping, Sequence

from lora_train.data.buckets import Buckets
from lora_train.errors import Mistake
from lora_train.knobs import nearest
from lora_train.run.trigger import Counter
from lora_train.values import either, shown
from lora_train.workshop.kinds import KINDS
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.words import folded, like, plain, sentences, tags, told

Holds = Callable[[Opened, Entry], bool]

COMPARED: Mapping[str, Callable[[object, object], bool]] = {
    "<=": operator.le, ">=": operator.ge, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
    "=": operator.eq,
}  # fmt: skip
NUMBERS = ("width", "height", "ratio", "pixels", "tags", "tokens")
FIELDS = ("text", "name", "is", "bucket", "problem")
STATES = ("captioned", "empty", "uncaptioned")
DEEP = 50  # brackets within each other
USUAL = Buckets(enable_bucket=True)
TOKEN = re.compile(
    r"""(?P<blank>\s+) | (?P<bracket>[()]) | (?P<comma>,) | (?P<minus>-(?=\S))
    | (?P<number>[a-z]+\s*(?:<=|>=|!=|<|>|=)\s*-?[\d.]+(?![^\s,()]))
    | /(?P<regex>(?:[^/\\]|\\.)+)/(?=[\s,)]|$)
    | (?:(?P<field>[a-z]+):)?"(?P<quoted>(?:[^"\\]|\\.)*)"
    | (?P<word>[^\s,()"](?:[^\s,()]|\([^\s()]*\))*)""",
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class Token:
    """A word of the line."""

    kind: str  # a group of TOKEN, or "and", "or", "not", "end"
    text: str
    at: int  # letters before it
    field: str = ""  # what stands before a quoted text's colon


def read(text: str, buckets: Buckets = USUAL) -> Holds:
    """What says of a picture whether it is meant.

    `cat` is a whole tag, in small letters or capitals, with _ or blanks; `*` stands for anything in it. Words
    beside each other must all hold, as with AND; OR binds less, and a comma least. `-` or NOT is before what
    must not hold. In a caption of sentences a tag is any word or words of it. Between quotes \\" is a quote.

    Args:
        buckets: what `bucket:` asks about.

    Raises:
        Mistake: the line cannot be read; the message says where.
    """
    if not text.strip():
        return lambda opened, entry: True
    return _Line(text, buckets).read()


class _Line:
    """One line that is read."""

    def __init__(self, text: str, buckets: Buckets):
        self.text, self.buckets = text, buckets
        self.tokens = self._split()
        self.next = self.deep = 0

    def read(self) -> Holds:
        holds = self._all()
        if self._now.kind != "end":  # only a bracket ends what can be read before the line does
            raise self._wrong(self._now, "a ( before it, or none of it")
        return holds

    # ── grammar ──

    def _all(self) -> Holds:
        parts = [self._either()]
        while self._took("comma"):
            if self._now.kind in ("end", "bracket") and self._now.text != "(":  # a comma behind the last
                break
            parts.append(self._either())
        return _every(parts)

    def _either(self) -> Holds:
        parts = [self._both()]
        while self._took("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else lambda o, e: any(part(o, e) for part in parts)

    def _both(self) -> Holds:
        parts = [self._one()]
        while self._now.kind not in ("or", "comma", "end") and self._now.text != ")":
            self._took("and")
            parts.append(self._one())
        return _every(parts)

    def _one(self) -> Holds:
        self.deep += 1
        if self.deep > DEEP:
            raise self._wrong(self._now, f"at most {DEEP} of ( - NOT within each other")
        holds = self._inner()
        self.deep -= 1
        return holds

    def _inner(self) -> Holds:
        token = self._now
        if token.kind == "end":
            raise self._wrong(token, "something behind it")
        self.next += 1
        if token.kind in ("minus", "not"):
            inner = self._one()
            return lambda o, e: not inner(o, e)
        if token.text == "(" and token.kind == "bracket":
            holds = self._all()
            if self._now.kind != "bracket":
                raise self._wrong(token, "a ) that closes it")
            self.next += 1
            return holds
        if token.kind in ("and", "or", "comma", "bracket"):
            raise self._wrong(token, "a word before it" if token.kind != "bracket" else "a word in it")
        return self._leaf(token)

    @property
    def _now(self) -> Token:
        return self.tokens[self.next]

    def _took(self, kind: str) -> bool:
        took = self._now.kind == kind
        self.next += took
        return took

    def _split(self) -> list[Token]:
        found, at = [], 0
        while at < len(self.text):
            match = TOKEN.match(self.text, at)
            if match is None:  # all else is a word, but for a quote that stands alone
                raise self._wrong(Token("quoted", self.text[at:], at), 'a second " that closes it')
            kind, text = match.lastgroup, match[match.lastgroup]
            if kind == "word" and text in ("AND", "OR", "NOT"):
                kind = text.lower()
            if kind == "quoted":
                text = re.sub(r'\\(["\\])', r"\1", text)
            if kind == "word" and text.startswith("/") and len(text) > 1:
                raise self._wrong(Token(kind, text, at), "a second / that closes it; a tag with / in quotes")
            if kind != "blank":
                found.append(Token(kind, text, at, match["field"] or ""))
            at = match.end()
        return [*found, Token("end", "", len(self.text))]

    def _wrong(self, token: Token, what: str) -> Mistake:
        at = "at its end" if token.kind == "end" else f"at letter {token.at + 1}, {shown(token.text)}"
        return Mistake(f"only = {shown(self.text)}: {at}: expected {what}")

    # ── what is asked ──

    def _leaf(self, token: Token) -> Holds:
        if token.kind == "regex":
            return self._regex(token)
        if token.kind == "number":
            return self._number(token)
        field, text = token.field, token.text
        if token.kind == "word":
            head, colon, rest = text.partition(":")
            if head in FIELDS and colon:
                field, text = head, rest
            elif rest and head.isalpha() and (near := difflib.get_close_matches(head, FIELDS, 1, 0.75)):
                raise self._wrong(token, f"{near[0]}:, or the tag in quotes")
            elif found := re.match(rf"({'|'.join(NUMBERS)})\s*[<>=!]", text):
                raise self._wrong(token, f"a number, such as {found[1]}>2")
        elif field and field not in FIELDS:
            field, text = "", f"{field}:{text}"
        if not text.strip():
            raise self._wrong(token, f"something behind {field}:" if field else "a tag between the quotes")
        by = {"": _tag, "text": _part, "name": _name}
        if field in by:
            return by[field](text)
        own = {"is": self._state, "bucket": self._bucket, "problem": self._problem}
        return own[field](text, token)

    def _regex(self, token: Token) -> Holds:
        try:
            pattern = re.compile(token.text, re.IGNORECASE)
        except (re.error, OverflowError, RecursionError) as e:
            raise self._wrong(token, f"a regular expression ({e})") from e
        return lambda opened, entry: bool(pattern.search(said(opened, entry)))

    def _number(self, token: Token) -> Holds:
        name, sign, number = re.fullmatch(r"([a-z]+)\s*([<>=!]+)\s*(.+)", token.text).groups()
        if name not in NUMBERS:
            near = difflib.get_close_matches(name, NUMBERS, 1)
            raise self._wrong(token, f"{near[0]}" if near else f"{either(NUMBERS)}, or the tag in quotes")
        try:
            bound = float(number)
        except ValueError:
            raise self._wrong(token, f"a number, such as {name}{sign}2") from None
        measured, compared = MEASURED[name], COMPARED[sign]

        def holds(opened: Opened, entry: Entry) -> bool:
            value = measured(opened, entry)
            return value is not None and compared(value, bound)

        return holds

    def _state(self, text: str, token: Token) -> Holds:
        if text not in STATES:
            raise self._wrong(token, f"is: and {either(STATES)}")
        if text == "uncaptioned":
            return lambda opened, entry: entry.caption is None
        full = text == "captioned"
        return lambda opened, entry: entry.caption is not None and bool(said(opened, entry)) is full

    def _bucket(self, text: str, token: Token) -> Holds:
        sides = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
        if sides is None:
            raise self._wrong(token, "a bucket, such as bucket:512x768")
        bucket, fit = (int(sides[1]), int(sides[2])), self.buckets.fit

        def holds(opened: Opened, entry: Entry) -> bool:
            size = opened.size(entry)
            try:
                return size is not None and fit(size).bucket == bucket
            except Mistake:  # too small for any
                return False

        return holds

    def _problem(self, text: str, token: Token) -> Holds:
        if text not in KINDS:
            raise self._wrong(token, f"a kind of problem{nearest(text, KINDS)}")

        def holds(opened: Opened, entry: Entry) -> bool:
            if not opened.judged:
                raise self._wrong(token, "a report of the folder first, which finds problems")
            return text in opened.problems.get(entry.name, ())

        return holds


def _every(parts: Sequence[Holds]) -> Holds:
    return parts[0] if len(parts) == 1 else lambda o, e: all(part(o, e) for part in parts)


def said(opened: Opened, entry: Entry) -> str:
    """Its caption; "" where that cannot be read, which the report says."""
    try:
        return opened.text(entry)
    except Mistake:
        return ""


def _tag(text: str) -> Holds:
    """A whole tag, or of sentences a word or several."""
    parts = plain(text).split("*")
    whole = like(text)
    some = r"\w*".join(map(re.escape, parts))
    within = re.compile(rf"(?<!\w){some}(?!\w)")
    sure = max(parts, key=len)

    def holds(opened: Opened, entry: Entry) -> bool:
        text = said(opened, entry)
        return sure in plain(text) and any(
            any(whole.fullmatch(plain(tag)) for tag in told(line))
            or (sentences(line) and within.search(plain(line)) is not None)
            for line in text.splitlines()
        )

    return holds


def _part(text: str) -> Holds:
    part = folded(text)
    return lambda opened, entry: part in folded(said(opened, entry))


def _name(text: str) -> Holds:
    """Of the file, or within the folder where there is a / in it; part of it where there is no * in it."""
    part = folded(text)
    part = part if "*" in part else f"*{part}*"
    like = re.compile(fnmatch.translate(part.replace("[", "[[]")))
    if "/" in part:
        return lambda opened, entry: bool(like.match(folded(entry.name)))
    return lambda opened, entry: bool(like.match(folded(entry.name.rpartition("/")[2])))


def _sized(measure: Callable[[int, int], float]) -> Callable[[Opened, Entry], float | None]:
    def measured(opened: Opened, entry: Entry) -> float | None:
        size = opened.size(entry)
        return None if size is None else measure(*size)

    return measured


MEASURED: Mapping[str, Callable[[Opened, Entry], float | None]] = {
    "width": _sized(lambda width, height: width),
    "height": _sized(lambda width, height: height),
    "ratio": _sized(lambda width, height: width / height),
    "pixels": _sized(lambda width, height: width * height),
    "tags": lambda opened, entry: len(tags(said(opened, entry))),
    "tokens": lambda opened, entry: Counter().count(said(opened, entry)),
}
