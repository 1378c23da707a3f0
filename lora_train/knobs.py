"""How a setting is declared, listed, parsed, built and written down."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Iterable, Iterator, Mapping

from lora_train.errors import Mistake
from lora_train.values import Limits, either, expected, parsed, plain, shown, unwrapped

BAD = object()  # in place of a value that there was a complaint about


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mark(Limits):
    """What `knob`, `one_of` and `many` leave in a field's metadata."""

    help: str
    group: str
    unit: str | None = None
    aka: tuple[str, ...] = ()
    basic: bool = False
    place: bool = False
    table: Mapping[str, type] | None = None  # of `one_of`
    items: type | None = None  # of `many`


@dataclasses.dataclass(frozen=True)
class Setting(Mark):
    """One declared setting, under its full path; `aka` are the flat names it goes by, sd-scripts' first."""

    path: str = ""
    type: object = str
    default: object = None
    kinds: tuple[str, ...] = ()  # of the component it belongs to; () where there is no choice

    @classmethod
    def of(cls, path: str, kind: object, default: object, mark: Mark) -> Setting:
        own = () if mark.table else (path.rpartition(".")[2],)
        return cls(**{**vars(mark), "aka": mark.aka or own}, path=path, type=kind, default=default)

    @property
    def name(self) -> str:
        """The last word of its path."""
        return self.path.rpartition(".")[2]

    @property
    def expected(self) -> str:
        """What `parse` takes, in words."""
        return expected(self.type, self)

    @property
    def switch(self) -> bool:
        """Whether its name alone, with no value after it, means true."""
        return unwrapped(self.type)[0] is bool

    def parse(self, value: object) -> object:
        """Text, number, list or the value itself -> the value.

        Raises:
            ValueError: `path = value: expected …`.
        """
        try:
            return parsed(self.type, self, value)
        except ValueError as e:
            reason = e.args[0] if e.args else f"expected {self.expected}"
            raise ValueError(f"{self.path} = {shown(value)}: {reason}") from None


def knob(  # noqa: PLR0913 (what there is to say of a setting)
    default: object,
    help: str,
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
    """
    names = (aka,) if isinstance(aka, str) else tuple(aka)
    mark = Mark(
        help=help, group=group, low=low, high=high, choices=choices, unit=unit, aka=names, basic=basic,
        place=place)  # fmt: skip
    return dataclasses.field(default=default, metadata={"mark": mark})


def one_of(
    table: Mapping[str, type], default: str, help: str, *, group: str, aka: str | tuple[str, ...] = ()
) -> typing.Any:
    """Declare a component chosen by `<field>.kind` from a table of classes."""
    names = (aka,) if isinstance(aka, str) else tuple(aka)
    mark = Mark(help=help, group=group, choices=tuple(table), aka=names, table=table)
    return dataclasses.field(
        default_factory=lambda: table[default](), metadata={"mark": mark, "kind": default}
    )


def many(cls: type, help: str, *, group: str) -> typing.Any:
    """Declare any number of components, at `<field>.0`, `<field>.1`, …; what one of them leaves unset it
    takes from the knob of the same name around it, and so on outwards."""
    return dataclasses.field(default=(), metadata={"mark": Mark(help=help, group=group, items=cls)})


def settings(cls: type, lead: str = "") -> list[Setting]:
    """Every setting of a component and of what it is made of; items of a `many` stand under `….N.…`."""
    return [*_settings(cls, lead)]


@functools.cache  # there are hundreds, and every job that is built asks for them
def _settings(cls: type, lead: str) -> tuple[Setting, ...]:
    found: dict[str, Setting] = {}
    for name, hint, mark, default in _fields(cls):
        path = lead + name
        if mark is None:
            found.update({s.path: s for s in settings(hint, f"{path}.")})
        elif mark.items:
            found.update({s.path: s for s in settings(mark.items, f"{path}.N.")})
        elif mark.table:
            found[f"{path}.kind"] = Setting.of(f"{path}.kind", str, default, mark)
            for kind, component in mark.table.items():
                for s in settings(component, f"{path}."):
                    kinds = (*found[s.path].kinds, kind) if s.path in found else (kind,)
                    found[s.path] = dataclasses.replace(found.get(s.path, s), kinds=kinds)
        else:
            found[path] = Setting.of(path, hint, default, mark)
    return tuple(found.values())


def build(cls: type, values: Mapping[str, object], *, tolerant: bool = False) -> typing.Any:
    """{path: value} -> the component, whole and checked.

    Args:
        tolerant: drop settings of kinds that are not chosen, as a form that posts every widget needs.

    Raises:
        Mistake: every complaint there is, one a line.
    """
    work = _Build(dict(values), tolerant)
    built = work.component(cls, "", {})
    known = [s.path for s in settings(cls)]
    work.complaints += [
        f"{path}: no such setting{nearest(path, known)}" for path in sorted(values.keys() - work.used)
    ]
    if work.complaints:
        raise Mistake("\n".join(work.complaints))
    return built


def flat(obj: object, *, places: bool = True) -> dict[str, object]:
    """`build`'s inverse, in plain values.

    Args:
        places: False leaves out what only means something on this machine.
    """
    return dict(_flat(obj, "", places, None))


def nearest(path: str, known: Iterable[str]) -> str:
    """The words "did you mean …?" for a name that is not among the known ones; none where nothing is like it.

    First its neighbours are looked through, then what has the same last word elsewhere, then everything.
    """
    places = re.findall(r"(?<=\.)\d+(?=\.)", path)
    path = general(path)
    lead, _, last = path.rpartition(".")
    ends = [(other, *other.rpartition(".")[::2]) for other in known]
    near = difflib.get_close_matches(last, [end for _, at, end in ends if at == lead], n=1)
    found = [other for other, at, end in ends if [at, end] == [lead, *near]]
    found += [other for other, _, end in ends if end == last]
    found += difflib.get_close_matches(path, [other for other, at, _ in ends if at != lead], n=1, cutoff=0.75)
    if not found:
        return ""
    for place in places:
        found[0] = found[0].replace(".N.", f".{place}.", 1)
    return f"; did you mean {found[0]}?"


def general(path: str) -> str:
    """`data.datasets.0.resolution` -> `data.datasets.N.resolution`, as `settings` lists it."""
    return re.sub(r"(?<=\.)\d+(?=\.)", "N", path)


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
        """The component at `lead`; BAD after a complaint. `around`: values an item inherits."""
        before, given, later = len(self.complaints), {}, []
        for name, hint, mark, default in _fields(cls):
            path = lead + name
            if mark is None:
                given[name] = self.component(hint, f"{path}.", {})
            elif mark.items:
                later.append((name, mark.items))
            elif mark.table:
                given[name] = self.chosen(path, mark.table, default)
            else:
                given[name] = self.value(Setting.of(path, hint, around.get(name, default), mark))
        for name, items in later:  # they inherit what was given above
            given[name] = self.items(f"{lead}{name}", items, {**around, **given})
        if len(self.complaints) > before or any(value is BAD for value in given.values()):
            return BAD
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
            return BAD

    def chosen(self, path: str, table: Mapping[str, type], default: object) -> typing.Any:
        self.used.add(f"{path}.kind")
        asked = str(self.values.get(f"{path}.kind", default))
        kind = next((k for k in table if k.lower() == asked.lower()), None)
        if kind is None:
            near = difflib.get_close_matches(asked.lower(), table, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            self.complaints.append(f"{path}.kind = {shown(asked)}: expected {either(table)}{hint}")
            self.used.update(p for p in self.values if p.startswith(f"{path}."))
            return BAD
        built = self.component(table[kind], f"{path}.", {})
        owners: dict[str, list[str]] = {}
        for other, component in table.items():
            for s in settings(component, f"{path}."):
                owners.setdefault(s.path, []).append(other)
        for p in [p for p in self.values if p in owners and kind not in owners[p]]:
            self.used.add(p)
            if not self.tolerant:
                self.complaints.append(f"{p} belongs to {either(owners[p])}; {path}.kind is {kind}")
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
            yield path, plain(value)


def _flat_item(
    item: object, lead: str, places: bool, around: Mapping[str, object]
) -> Iterator[tuple[str, object]]:
    """What differs from `around`; where nothing does, one setting all the same, for an item is not lost."""
    own = dict(_flat(item, lead, places, around))
    knobs = [(mark.place, name) for name, _, mark, _ in _fields(type(item)) if mark and not mark.items]
    if knobs and not own:
        place, name = min(knobs, key=lambda knob: knob[0])
        own[lead + name] = plain(vars(item)[name]) if places or not place else None
    yield from own.items()
