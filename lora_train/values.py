"""What text, numbers and lists become: the types that a setting can have."""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
import difflib
import functools
import math
import os
import pathlib
import re
import types
import typing
from collections.abc import Iterable

from lora_train.errors import Mistake

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
NOTHING = "none"  # a word for None where the type is not free text
LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes of a file's name and of a path, about as systems have it
LONGEST = 200  # characters of a value that a complaint repeats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What of its type a setting takes; of each element where it is a tuple."""

    low: float | None = None
    high: float | None = None
    choices: tuple | None = None


def parsed(kind: object, limits: Limits, value: object) -> object:
    """Text, number, list or the value itself -> the value.

    Args:
        kind: int, float, bool, str, pathlib.Path, a tuple of one of them, a class with `parse`, or any of
            these `| None`.

    Raises:
        ValueError: `expected …`.
    """
    inner, optional = unwrapped(kind)
    if optional and _nothing(inner, limits, value):
        return None
    if typing.get_origin(inner) is not tuple:
        return _single(inner, limits, value)
    each = several(inner, value)
    try:
        return tuple(_single(typing.get_args(inner)[0], limits, word) for word in each)
    except ValueError:
        raise ValueError(f"expected {expected(kind, limits)}") from None


def several(kind: object, value: object) -> list | tuple:
    """The elements of what is given for a tuple. Paths may have blanks in them, and have commas or line ends
    between; what has commas of its own, ; or line ends; all else commas or blanks."""
    if isinstance(value, str) and typing.get_args(kind)[0] not in READERS:
        return [word.strip() for word in value.replace("\n", ";").split(";") if word.strip()]
    if isinstance(value, str) and typing.get_args(kind)[0] is pathlib.Path:
        return parted(value, ",\n")
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    return words if isinstance(words, list | tuple) else [words]


def parted(text: str, between: str) -> list[str]:
    """Words with one of the letters `between` them. A word in "quotes" may have these in it, and "" for ".

    >>> parted('one, "two, or three", four', ",;")
    ['one', 'two, or three', 'four']
    """
    end = rf"\s*(?:[{re.escape(between)}]|$)"
    found = re.finditer(rf'\s*(?:"((?:[^"]|"")+)"(?={end})|([^{re.escape(between)}]+))', text)
    words = (one[2].strip() if one[1] is None else one[1].replace('""', '"') for one in found)
    return [word for word in words if word]


def quoted(word: str, between: str) -> str:
    """A word that `parted` takes for one.

    >>> quoted("two, or three", ",;")
    '"two, or three"'
    """
    plain = parted(word, between) == [word]
    return word if plain else '"{}"'.format(word.replace('"', '""'))


def expected(kind: object, limits: Limits) -> str:
    """What `parsed` takes, in words."""
    inner, optional = unwrapped(kind)
    low, high = limits.low, limits.high
    if limits.choices:
        text = either(limits.choices)
    elif typing.get_origin(inner) is tuple:
        text = f"a list, each {expected(typing.get_args(inner)[0], limits)}"
    elif low is not None:
        text = f"{numeral(low)} or more" if high is None else f"{numeral(low)} to {numeral(high)}"
    else:
        words = {int: "a whole number", float: "a number", bool: "true or false", pathlib.Path: "a path"}
        text = words.get(inner, "text")
    return f"{text}, or nothing" if optional else text


def plain(value: object) -> object:
    """A value as JSON and TOML have it; `parsed` makes the same of it again."""
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def shown(value: object) -> str:
    """A value in a sentence, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    text = str(value)
    if not text.strip() or not text.isprintable():
        text = repr(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def either(words: Iterable[object]) -> str:
    *most, last = map(str, words)
    return f"{', '.join(most)} or {last}" if most else last


def numeral(number: float) -> str:
    """As a person writes it: every digit, no exponent, no fraction that is 0."""
    return format(decimal.Decimal(repr(number)), "f").removesuffix(".0")


def unwrapped(kind: object) -> tuple[typing.Any, bool]:
    """`T | None` -> (T, True); T -> (T, False)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return inner[0], True
    return kind, False


def _nothing(inner: object, limits: Limits, value: object) -> bool:
    if value is None or value == "":
        return True
    free = inner in (str, pathlib.Path) and not limits.choices
    return not free and isinstance(value, str) and value.lower() == NOTHING


def _single(inner: typing.Any, limits: Limits, value: object) -> object:
    read = READERS.get(inner) or functools.partial(_custom, inner)
    if limits.choices:
        with contextlib.suppress(ValueError):
            value = read(value)
        return _chosen(limits.choices, value)
    found = read(value)
    low, high = limits.low, limits.high
    if (low is not None and found < low) or (high is not None and found > high):
        raise ValueError(f"expected {expected(inner, limits)}")
    return found


def _chosen(choices: tuple, value: object) -> object:
    known = {str(choice).lower(): choice for choice in choices}
    word = str(value).lower()
    if word in known:
        return known[word]
    near = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {known[near[0]]}?" if near else ""
    raise ValueError(f"expected {either(choices)}{hint}")


def _custom(cls: typing.Any, value: object) -> object:
    if isinstance(value, cls):
        return value
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    try:
        return cls.parse(text)
    except Mistake as e:
        raise ValueError(str(e)) from None


def _bool(value: object) -> bool:
    word = str(value).strip().lower()
    if word in TRUE or word in FALSE:
        return word in TRUE
    raise ValueError("expected true or false")


def _float(value: object) -> float:
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("expected a number") from None
    if not math.isfinite(number):
        raise ValueError("expected a number that is finite")
    return number


def _int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    with contextlib.suppress(ValueError):
        return int(str(value))
    with contextlib.suppress(ValueError):
        number = _float(value)
        if number == int(number):
            return int(number)
    raise ValueError("expected a whole number")


def _str(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | pathlib.Path):
        raise ValueError("expected text")
    if not str(value).isascii() and any("\ud800" <= letter <= "\udfff" for letter in str(value)):
        raise ValueError("expected text; a part of it is none in any encoding")
    return str(value)


def _path(value: object) -> pathlib.Path:
    if not isinstance(value, str | pathlib.Path) or not str(value) or "\0" in str(value):
        raise ValueError("expected a path")
    try:
        names = [len(os.fsencode(name)) for name in pathlib.Path(value).parts]
    except UnicodeEncodeError:  # JSON can hold what no system has in a name
        raise ValueError("expected a path") from None
    if max(names, default=0) > LONGEST_NAME or sum(names) + len(names) > LONGEST_PATH:
        raise ValueError("expected a path; this one is too long for a file system")
    try:
        return pathlib.Path(value).expanduser()
    except RuntimeError:  # ~name of a person who is not here
        return pathlib.Path(value)


READERS = {bool: _bool, int: _int, float: _float, str: _str, pathlib.Path: _path}
