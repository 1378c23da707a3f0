"""What another program's option can mean here: the kinds of rules, and how they are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from lora_train.errors import Mistake
from lora_train.values import shown

Values = dict[str, object]

OFF = ("", "false", "none")
LATER = "not in this version"


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Taken without effect; one line says so, unless it is given as off or as what is done anyway."""

    reason: str
    off: tuple[str, ...] = ()  # such values, beyond those that mean it everywhere


@dataclasses.dataclass(frozen=True)
class Refused:
    """Cannot be done, unless it is given with a value that means it is off."""

    reason: str = LATER
    off: tuple[str, ...] = ()  # such values, beyond those that mean it everywhere


@dataclasses.dataclass(frozen=True)
class Translated:
    """Means something here under other paths. The function raises Mistake where it does not."""

    into: Callable[[object], Values]
    notes: Callable[[object], list[str]] = lambda value: []  # lines about what of it has no effect


Rule = Ignored | Refused | Translated | str  # a path or flat name that means the same
Rules = dict[str, "Ignored | Refused | Translated"]
BLANK = (None, "", "None")


def pairs(value: object) -> dict[str, str]:
    """`["conv_dim=4", "conv_alpha=1"]` -> {name: text}."""
    if value is True:  # the flag, and nothing after it
        return {}
    words = value if isinstance(value, list | tuple) else str(value).split()
    found = {}
    for word in words:
        name, equals, text = str(word).partition("=")
        if not equals:
            raise Mistake(f"{shown(word)}: expected name=value")
        found[name.strip()] = text.strip(" \"'()[]")
    return found


def only(name: str, *allowed: str) -> Translated:
    """For options of which only a value that changes nothing is there yet."""

    def into(value: object) -> Values:
        if str(value).lower() not in allowed:
            raise Mistake(f"{name} = {shown(value)}: {LATER}; expected {allowed[0]}")
        return {}

    return Translated(into)


def unless_off(path: str) -> Translated:
    """For options whose 0 is sd-scripts' way to leave them unset."""
    return Translated(lambda value: {path: None if off(value) else value})


def named(path: str) -> Translated:
    """For options whose empty name is sd-scripts' default."""
    return Translated(lambda value: {path: value} if value else {})


def ignored(reason: str, *names: str, off: tuple[str, ...] = ()) -> dict[str, Ignored]:
    return dict.fromkeys(names, Ignored(reason, off))


def off(value: object, rule: Ignored | Refused | None = None) -> bool:
    """Whether an option that was given is given as switched off, or as a number that changes nothing."""
    if value is None or isinstance(value, list | tuple | dict):
        return not value
    word = str(value).lower()
    if word in OFF or (rule and word in rule.off):
        return True
    try:
        return float(word) == 0
    except ValueError:
        return False
