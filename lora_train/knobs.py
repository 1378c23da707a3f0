"""How a setting is declared, listed, parsed, built and written down."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import pathlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping

from lora_train.errors import Mistake

TRUE, FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "")


@dataclasses.dataclass(frozen=True)
class Mark:
    """What `knob`, `one_of` and `many` leave in a field's metadata."""

    help: str
    group: str
    low: float | None = None
    high: float | None = None
    choices: tuple | None = None
    unit: str | None = None
    aka: tuple[str, ...] = ()
    basic: bool = False
    place: bool = False
    table: Mapping[str, type] | None = None  # of `one_of`
    items: type | None = None  # of `many`


@dataclasses.dataclass(frozen=True)
class Setting:
    """One declared setting, under its full path."""

    path: str
    type: object
    default: object
    mark: Mark
    kinds: tuple[str, ...] = ()  # of the component it belongs to; () where there is no choice

    @property
    def help(self) -> str:
        return self.mark.help

    @property
    def group(self) -> str:
        return self.mark.group

    @property
    def name(self) -> str:
        """The last word of its path."""
        return self.path.rpartition(".")[2]

    @property
    def aka(self) -> tuple[str, ...]:
        """The flat names it goes by, sd-scripts' first."""
        return self.mark.aka or (self.name,)

    @property
    def expected(self) -> str:
        """What `parse` takes, in words."""
        return _expected(self.type, self.mark)

    def parse(self, value: object) -> object:
        """Text, number, list or the value itself -> the value.

        Raises:
            ValueError: `path = value: expected …`.
        """
        try:
            return _parsed(self.type, self.mark, value)
        except ValueError as e:
            raise ValueError(
                f"{self.path} = {value}: {e.args[0] if e.args else f'expected {self.expected}'}"
            ) from None


def knob(
    default: object,
    help: str,  # noqa: A002: it is what it is called everywhere
    *,
    group: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple | None = None,
    unit: str | None = None,
    aka: str | tuple[str, ...] = (),
    basic: bool = False,
    place: bool = False,
) -> typing.Any:
    """Declare a setting; its type is the annotation's.

    Args:
        low, high: bounds, both allowed; of each element where the value is a tuple.
        aka: its full flat names in sd-scripts, where they differ from the last word of the path.
        basic: shown before "more" is asked for.
        place: a path or device of this machine; never written into a file that is passed on.
    """  # fmt: skip
    names = (aka,) if isinstance(aka, str) else tuple(aka)
    mark = Mark(help, group, low, high, choices, unit, names, basic, place)
    return dataclasses.field(default=default, metadata={"mark": mark})


def one_of(
    table: Mapping[str, type],
    default: str,
    help: str,
    *,
    group: str,
    aka: str | tuple[str, ...] = (),
    basic: bool = False,  # noqa: A002, E501
) -> typing.Any:
    """Declare a component chosen by `<field>.kind` from a table of classes."""
    names = (aka,) if isinstance(aka, str) else tuple(aka)
    mark = Mark(help, group, choices=tuple(table), aka=names, basic=basic, table=table)
    return dataclasses.field(
        default_factory=lambda: table[default](), metadata={"mark": mark, "kind": default}
    )


def many(cls: type, help: str, *, group: str) -> typing.Any:  # noqa: A002
    """Declare any number of components, at `<field>.0`, `<field>.1`, …; what one of them leaves unset it takes
    from the knob of the same name around it, and so on outwards."""
    return dataclasses.field(default=(), metadata={"mark": Mark(help, group, items=cls)})


def settings(cls: type, lead: str = "") -> list[Setting]:
    """Every setting of a component and of what it is made of; items of a `many` stand under `….N.…`."""
    found: dict[str, Setting] = {}
    for name, hint, mark, default in _fields(cls):
        path = lead + name
        if mark is None:
            found.update({s.path: s for s in settings(hint, f"{path}.")})
        elif mark.items:
            found.update({s.path: s for s in settings(mark.items, f"{path}.N.")})
        elif mark.table:
            found[f"{path}.kind"] = Setting(f"{path}.kind", str, default, mark)
            for kind, component in mark.table.items():
                for s in settings(component, f"{path}."):
                    kinds = (*found[s.path].kinds, kind) if s.path in found else (kind,)
                    found[s.path] = dataclasses.replace(found.get(s.path, s), kinds=kinds)
        else:
            found[path] = Setting(path, hint, default, mark)
    return list(found.values())


def build(cls: type, values: Mapping[str, object], *, tolerant: bool = False) -> typing.Any:
    """{path: value} -> the component, whole and checked.

    Args:
        tolerant: drop settings of kinds that are not chosen, as a form that posts every widget needs.

    Raises:
        Mistake: every complaint there is, one a line.
    """
    work = _Build(dict(values), tolerant)
    built = work.component(cls, "", {})
    known = {s.path for s in settings(cls)}
    for path in sorted(values.keys() - work.used):
        near = difflib.get_close_matches(path, known, n=1)
        work.complaints.append(f"{path}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    if work.complaints:
        raise Mistake("\n".join(work.complaints))
    return built


def flat(obj: object, *, places: bool = True) -> dict[str, object]:
    """`build`'s inverse, in plain values.

    Args:
        places: False leaves out what only means something on this machine.
    """
    return dict(_flat(obj, "", places, None))


def kind_of(table: Mapping[str, type], obj: object) -> str:
    """The name of a component's class in its table."""
    return next(kind for kind, cls in table.items() if cls is type(obj))


@functools.cache
def _fields(cls: type) -> tuple[tuple[str, typing.Any, Mark | None, object], ...]:
    """(name, type, mark or None for a plain part, default or default kind) of each field."""
    hints = typing.get_type_hints(cls)
    return tuple(
        (f.name, hints[f.name], f.metadata.get("mark"), f.metadata.get("kind", f.default))
        for f in dataclasses.fields(cls)
    )


class _Build:
    """One call of `build`: what was given, what of it was used, what is wrong."""

    def __init__(self, values: dict[str, object], tolerant: bool):
        self.values, self.tolerant = values, tolerant
        self.used: set[str] = set()
        self.complaints: list[str] = []

    def component(self, cls: type, lead: str, around: Mapping[str, object]) -> typing.Any:
        """The component at `lead`; None after a complaint. `around`: values an item inherits."""
        before, given = len(self.complaints), {}
        later = []
        for name, hint, mark, default in _fields(cls):
            path = lead + name
            if mark is None:
                given[name] = self.component(hint, f"{path}.", {})
            elif mark.items:
                later.append((name, mark.items))
            elif mark.table:
                given[name] = self.chosen(path, mark.table, default)
            else:
                given[name] = self.value(Setting(path, hint, around.get(name, default), mark))
        for name, items in later:  # they inherit what was given above
            given[name] = self.items(f"{lead}{name}", items, {**around, **given})
        if len(self.complaints) > before:
            return None
        built = cls(**given)
        if hasattr(cls, "check"):
            self.complaints += [lead + complaint for complaint in built.check()]
        return built

    def value(self, setting: Setting) -> object:
        if setting.path not in self.values:
            return setting.default
        self.used.add(setting.path)
        try:
            return setting.parse(self.values[setting.path])
        except ValueError as e:
            self.complaints.append(str(e))
            return None

    def chosen(self, path: str, table: Mapping[str, type], default: object) -> typing.Any:
        self.used.add(f"{path}.kind")
        asked = str(self.values.get(f"{path}.kind", default))
        kind = next((k for k in table if k.lower() == asked.lower()), None)
        if kind is None:
            near = difflib.get_close_matches(asked.lower(), table, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.complaints.append(f"{path}.kind = {asked}: expected {_either(table)}{hint}")
            self.used.update(p for p in self.values if p.startswith(f"{path}."))
            return None
        built = self.component(table[kind], f"{path}.", {})
        owners: dict[str, list[str]] = {}
        for other, component in table.items():
            for s in settings(component, f"{path}."):
                owners.setdefault(s.path, []).append(other)
        for p in [p for p in self.values if p in owners and kind not in owners[p]]:
            self.used.add(p)
            if not self.tolerant:
                self.complaints.append(f"{p} belongs to {_either(owners[p])}; {path}.kind is {kind}")
        return built

    def items(self, path: str, cls: type, around: Mapping[str, object]) -> tuple:
        heads = {p[len(path) + 1 :].partition(".")[0] for p in self.values if p.startswith(f"{path}.")}
        numbers = sorted(int(head) for head in heads if head.isdecimal())
        if numbers != list(range(len(numbers))):
            self.complaints.append(f"{path}: expected items numbered from 0 without a gap; got {numbers}")
        return tuple(self.component(cls, f"{path}.{i}.", around) for i in numbers)


def _flat(
    obj: object, lead: str, places: bool, around: Mapping[str, object] | None
) -> Iterator[tuple[str, object]]:
    """`around`: None outside of items; in an item, what it would inherit."""
    own = dict(vars(obj))
    for name, _, mark, _ in _fields(type(obj)):
        path, value = lead + name, own[name]
        if mark is None:
            yield from _flat(value, f"{path}.", places, None)
        elif mark.table:
            yield f"{path}.kind", kind_of(mark.table, value)
            yield from _flat(value, f"{path}.", places, None)
        elif mark.items:
            for i, item in enumerate(value):
                yield from _flat_item(item, f"{path}.{i}.", places, {**(around or {}), **own})
        elif (places or not mark.place) and not (
            around is not None and name in around and around[name] == value
        ):
            yield path, _plain(value)


def _flat_item(
    item: object, lead: str, places: bool, around: Mapping[str, object]
) -> Iterator[tuple[str, object]]:
    """What differs from `around`; where nothing does, one setting all the same, so that the item is not lost."""
    own = dict(_flat(item, lead, places, around))
    name = next(name for name, _, mark, _ in _fields(type(item)) if mark and not (mark.place or mark.items))
    yield from (own or {lead + name: _plain(vars(item)[name])}).items()


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _either(words: Iterable[object]) -> str:
    *most, last = [str(word) for word in words]
    return f"{', '.join(most)} or {last}" if most else last


def _expected(kind: object, mark: Mark) -> str:
    inner, optional = _unwrapped(kind)
    if mark.choices:
        text = _either(mark.choices)
    elif typing.get_origin(inner) is tuple:
        text = f"a list, each {_expected(typing.get_args(inner)[0], mark)}"
    elif mark.low is not None and mark.high is not None:
        text = f"{mark.low:g} to {mark.high:g}"
    elif mark.low is not None:
        text = f"{mark.low:g} or more"
    else:
        words = {int: "a whole number", float: "a number", bool: "true or false", pathlib.Path: "a path"}
        text = words.get(inner, "text")
    return f"{text}, or nothing" if optional and not mark.choices else text


def _unwrapped(kind: object) -> tuple[typing.Any, bool]:
    """`T | None` -> (T, True); T -> (T, False)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [a for a in typing.get_args(kind) if a is not type(None)]
        return inner[0], True
    return kind, False


def _parsed(kind: object, mark: Mark, value: object) -> object:
    inner, optional = _unwrapped(kind)
    if optional and (value is None or value == "" or (isinstance(value, str) and value.lower() == "none")):
        return None
    if typing.get_origin(inner) is tuple:
        of = typing.get_args(inner)[0]
        words = value.replace(",", " ").split() if isinstance(value, str) else value
        each = words if isinstance(words, list | tuple) else [words]
        return tuple(_parsed(of, mark, w) for w in each)
    parse = READERS.get(inner) or functools.partial(_custom, inner)
    found = parse(value)
    if mark.choices:
        match = [c for c in mark.choices if str(c).lower() == str(found).lower()]
        if not match:
            near = difflib.get_close_matches(str(found).lower(), [str(c) for c in mark.choices], n=1)
            raise ValueError(
                f"expected {_expected(kind, mark)}" + (f"; did you mean {near[0]}?" if near else "")
            )
        return match[0]
    if (mark.low is not None and found < mark.low) or (mark.high is not None and found > mark.high):
        raise ValueError(f"expected {_expected(kind, mark)}")
    return found


def _custom(cls: typing.Any, value: object) -> object:
    if isinstance(value, cls):
        return value
    try:
        return cls.parse(value)
    except Mistake as e:
        raise ValueError(str(e)) from None


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in TRUE or word in FALSE[:-1]:
        return word in TRUE
    raise ValueError("expected true or false")


def _float(value: object) -> float:
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise ValueError("expected a number") from None
    if not math.isfinite(number):
        raise ValueError("expected a number that is finite")
    return number


def _int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        return int(str(value))
    except ValueError:
        number = _number(value)
    if number != int(number):
        raise ValueError("expected a whole number")
    return int(number)


def _number(value: object) -> float:
    try:
        return _float(value)
    except ValueError:
        raise ValueError("expected a whole number") from None


def _str(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | pathlib.Path):
        raise ValueError("expected text")
    return str(value)


def _path(value: object) -> pathlib.Path:
    if not isinstance(value, str | pathlib.Path) or not str(value):
        raise ValueError("expected a path")
    return pathlib.Path(value).expanduser()


READERS = {bool: _bool, int: _int, float: _float, str: _str, pathlib.Path: _path}
