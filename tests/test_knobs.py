"""Settings: declared once, listed, read from anything a person gives, and written down again."""

from __future__ import annotations

import dataclasses
import pathlib

import pytest

from lora_train.errors import Mistake
from lora_train.knobs import build, flat, kind_of, knob, many, one_of, settings


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two numbers, written a:b."""

    a: int
    b: int

    @classmethod
    def parse(cls, text: str) -> Pair:
        a, colon, b = text.partition(":")
        if not (colon and a.isdigit() and b.isdigit()):
            raise ValueError("expected two numbers, such as 1:2")
        return cls(int(a), int(b))

    def __str__(self) -> str:
        return f"{self.a}:{self.b}"


@dataclasses.dataclass(frozen=True)
class Narrow:
    dim: int = knob(4, "Rank.", group="g", low=1, high=512, aka="network_dim")


@dataclasses.dataclass(frozen=True)
class Wide(Narrow):
    factor: int = knob(-1, "Factor.", group="g")


KINDS = {"narrow": Narrow, "wide": Wide}


@dataclasses.dataclass(frozen=True)
class Inner:
    repeats: int = knob(1, "Times.", group="data", low=1)
    folder: pathlib.Path | None = knob(None, "Where.", group="data", place=True)


@dataclasses.dataclass(frozen=True)
class Middle:
    size: int = knob(8, "Side.", group="data", low=8)
    repeats: int = knob(1, "Times.", group="data", low=1)
    inner: tuple[Inner, ...] = many(Inner, "Folders.", group="data")


@dataclasses.dataclass(frozen=True)
class Outer:
    size: int = knob(8, "Side.", group="data", low=8)
    repeats: int = knob(1, "Times.", group="data", low=1)
    sets: tuple[Middle, ...] = many(Middle, "Sets.", group="data")


@dataclasses.dataclass(frozen=True)
class Values:
    whole: int = knob(1, "A whole number.", group="g", low=0, high=10)
    real: float = knob(1.0, "A number.", group="g")
    maybe: float | None = knob(None, "A number or nothing.", group="g", low=0)
    text: str = knob("a", "Text.", group="g")
    label: str | None = knob(None, "Text or nothing.", group="g")
    switch: bool = knob(False, "On or off.", group="g")
    either: bool | None = knob(None, "On, off, or nothing.", group="g")
    path: pathlib.Path = knob(pathlib.Path("x"), "A path.", group="g", place=True)
    choice: str = knob("no", "One of.", group="g", choices=("no", "fp16", "bf16"))
    sides: tuple[int, ...] = knob((1, 2), "Whole numbers.", group="g", low=0)
    rates: tuple[float, ...] | None = knob(None, "Numbers or nothing.", group="g")
    endings: tuple[str, ...] = knob((".txt",), "Texts.", group="g")
    pair: Pair = knob(Pair(1, 2), "Two numbers.", group="g")


@dataclasses.dataclass(frozen=True)
class Root:
    values: Values
    data: Outer
    network: Narrow = one_of(KINDS, "narrow", "Which.", group="g", aka="network_module")


def complaints(cls: type, values: dict, **how) -> list[str]:
    with pytest.raises(Mistake) as caught:
        build(cls, values, **how)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("whole", "7", 7), ("whole", 7.0, 7), ("whole", "7.0", 7), ("whole", 0, 0),
        ("real", 1, 1.0), ("real", "1e-4", 1e-4), ("real", "-3", -3.0),
        ("maybe", "", None), ("maybe", None, None), ("maybe", "none", None), ("maybe", "0", 0.0),
        ("text", 7, "7"), ("text", "", ""), ("label", "", None), ("label", "none", "none"),
        ("path", "a b/c", pathlib.Path("a b/c")), ("path", pathlib.Path("y"), pathlib.Path("y")),
        ("choice", "BF16", "bf16"),
        ("sides", "3,4", (3, 4)), ("sides", "3 4", (3, 4)), ("sides", [3, 4.0], (3, 4)), ("sides", 3, (3,)),
        ("rates", [1, "2"], (1.0, 2.0)), ("rates", "", None), ("rates", None, None),
        ("endings", ".txt,.caption", (".txt", ".caption")), ("endings", [".txt"], (".txt",)),
        ("pair", "3:4", Pair(3, 4)), ("pair", Pair(5, 6), Pair(5, 6)),
        *[("switch", word, True) for word in (True, "true", "True", 1, "1", "yes", "on")],
        *[("switch", word, False) for word in (False, "false", "False", 0, "0", "no", "off")],
        ("either", "", None), ("either", "false", False),
    ],
)  # fmt: skip
def test_a_value_is_read_from_whatever_a_person_or_a_file_gives(name, given, meant):
    found = vars(build(Values, {name: given}))[name]
    assert found == meant
    assert type(found) is type(meant)
    hash(found)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("whole", 7.5), ("whole", "7.5"), ("whole", "many"), ("whole", 11), ("whole", -1), ("whole", True),
        ("whole", "nan"), ("whole", "inf"), ("whole", None), ("whole", ""), ("whole", [1, 2]),
        ("whole", 1e400), ("real", "nan"), ("real", float("inf")), ("real", "x"), ("real", True),
        ("real", None), ("real", {}), ("maybe", -1), ("switch", "perhaps"), ("switch", 2), ("switch", None),
        ("switch", ""), ("text", True), ("text", ["a"]), ("path", ""), ("path", 3), ("choice", "fp8"),
        ("choice", None), ("sides", "1,x"), ("sides", [-1]), ("pair", "3"), ("pair", None), ("pair", 3),
        ("pair", [3, 4]),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_refused_by_path_and_value(name, given):
    lines = complaints(Root, {f"values.{name}": given})
    assert len(lines) == 1
    assert lines[0].startswith(f"values.{name} = ")
    assert ": expected " in lines[0]


def test_a_complaint_says_what_would_be_right():
    assert complaints(Narrow, {"dim": 0}) == ["dim = 0: expected 1 to 512"]
    assert complaints(Values, {"choice": "fp8"})[0].startswith("choice = fp8: expected no, fp16 or bf16")
    assert complaints(Values, {"whole": "many"})[0].startswith("whole = many: expected ")


def test_every_complaint_is_made_at_once():
    lines = complaints(Root, {
        "values.whole": "x", "values.choice": "y", "network.dim": 0, "network.factor": 2, "nothing": 1,
        "data.sets.0.size": 1, "data.sets.0.inner.0.repeats": 0, "values.hwole": 1,
    })  # fmt: skip
    assert {line.partition(" ")[0].rstrip(":") for line in lines} == {
        "values.whole", "values.choice", "network.dim", "network.factor", "data.sets.0.size",
        "data.sets.0.inner.0.repeats", "values.hwole", "nothing",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("network.dmi", "network.dim"), ("netwrok.dim", "network.dim"), ("dim", "network.dim"),
        ("data.sets.3.inner.1.repeat", "data.sets.3.inner.1.repeats"), ("values.hwole", "values.whole"),
    ],
)  # fmt: skip
def test_the_nearest_name_is_offered(wrong, right):
    assert f"{wrong}: no such setting; did you mean {right}?" in complaints(Root, {wrong: 1})


def test_what_is_like_no_name_is_not_likened_to_one():
    assert complaints(Root, {"values.zzzzzz": 1}) == ["values.zzzzzz: no such setting"]


def test_a_setting_of_another_kind_is_refused_with_the_reason():
    lines = complaints(Root, {"network.factor": 2})
    assert lines == ["network.factor belongs to wide; network.kind is narrow"]
    assert build(Root, {"network.kind": "WIDE", "network.factor": 2}).network == Wide(factor=2)


def test_a_form_that_posts_every_field_loses_those_of_other_kinds():
    posted = {"network.factor": "not read", "network.dim": 8}
    assert build(Root, posted, tolerant=True).network == Narrow(dim=8)
    assert complaints(Root, {"network.nothing": 1}, tolerant=True)


def test_an_unknown_kind_is_one_complaint_whatever_else_is_set_there():
    lines = complaints(Root, {"network.kind": "wede", "network.factor": 2})
    assert lines == ["network.kind = wede: expected narrow or wide; did you mean wide?"]


def test_items_inherit_outwards_what_they_leave_unset():
    built = build(Outer, {
        "repeats": 2, "size": 64, "sets.0.size": 128, "sets.0.inner.0.folder": "a",
        "sets.0.inner.1.repeats": 5, "sets.1.repeats": 3, "sets.1.inner.0.folder": "b",
    })  # fmt: skip
    first, second = built.sets
    assert (first.size, first.repeats, second.size, second.repeats) == (128, 2, 64, 3)
    assert [i.repeats for i in first.inner] == [2, 5]
    assert second.inner == (Inner(repeats=3, folder=pathlib.Path("b")),)


@pytest.mark.parametrize("given", [{"sets.1.size": 8}, {"sets.0.size": 8, "sets.2.size": 8}])
def test_items_are_numbered_without_a_gap(given):
    assert complaints(Outer, given)


@pytest.mark.parametrize("path", ["sets", "sets.x.size", "sets.0", "sets.0.inner.-1.repeats", "sets.00.size"])
def test_what_is_no_item_is_refused(path):
    assert any(line.startswith(path) for line in complaints(Outer, {path: 8}))


ROOTS = [
    {},
    {"network.kind": "wide", "network.factor": 3, "network.dim": 7},
    {"values.maybe": 0.1, "values.label": "none", "values.sides": [], "values.rates": "1,2",
     "values.pair": "7:8"},
    {"values.either": False, "values.switch": True, "values.text": "a, b = c", "values.real": 1e-300},
    {"data.repeats": 3, "data.sets.0.repeats": 3, "data.sets.0.inner.0.repeats": 3, "data.sets.1.size": 9},
    {"data.repeats": 3, "data.sets.0.repeats": 1, "data.sets.0.inner.0.repeats": 3,
     "data.sets.0.inner.1.folder": "a"},
]  # fmt: skip


@pytest.mark.parametrize("values", ROOTS)
def test_what_is_written_down_builds_the_same(values):
    root = build(Root, values)
    assert build(Root, flat(root)) == root
    assert hash(build(Root, flat(root))) == hash(root)
    plain = (bool, int, float, str, list, type(None))
    assert all(isinstance(value, plain) for value in flat(root).values())


def test_what_is_written_down_survives_json():
    import json

    root = build(Root, ROOTS[2])
    assert build(Root, json.loads(json.dumps(flat(root)))) == root


def test_items_are_written_with_no_more_than_what_differs():
    root = build(Root, ROOTS[-1])
    own = {path: value for path, value in flat(root).items() if path.startswith("data.sets")}
    assert own == {
        "data.sets.0.repeats": 1,
        "data.sets.0.inner.0.repeats": 3,
        "data.sets.0.inner.0.folder": None,
        "data.sets.0.inner.1.folder": "a",
    }


def test_without_places_nothing_of_this_machine_is_written_and_no_item_is_lost():
    root = build(Root, ROOTS[-1])
    written = flat(root, places=False)
    assert not any("folder" in path and value is not None for path, value in written.items())
    assert "values.path" not in written
    again = build(Root, written)
    assert [len(s.inner) for s in again.data.sets] == [2]
    assert [i.repeats for i in again.data.sets[0].inner] == [3, 1]


def test_equal_values_however_given_are_equal_settings():
    one, two = build(Root, {"values.real": 1, "values.sides": "1,2"}), build(Root, {"values.real": "1.0"})
    assert one == two
    assert repr(one) == repr(two)
    assert flat(one) == flat(two)


@dataclasses.dataclass(frozen=True)
class Checked:
    low: int = knob(0, "Low.", group="g")
    high: int = knob(1, "High.", group="g")

    def check(self):
        if self.low > self.high:
            yield f"low = {self.low}: expected at most high = {self.high}"


@dataclasses.dataclass(frozen=True)
class Twice:
    one: Checked
    items: tuple[Checked, ...] = many(Checked, "Some.", group="g")


def test_a_component_complains_of_what_does_not_go_together_under_its_own_path():
    assert complaints(Twice, {"one.low": 5, "items.0.low": 7, "items.0.high": 6}) == [
        "one.low = 5: expected at most high = 1",
        "items.0.low = 7: expected at most high = 6",
    ]


def test_what_goes_together_is_only_looked_at_when_every_value_is_read():
    assert complaints(Checked, {"low": 5, "high": "x"}) == ["high = x: expected a whole number"]


def test_every_setting_is_listed_with_all_that_was_declared():
    found = {s.path: s for s in settings(Root)}
    dim = found["network.dim"]
    assert (dim.type, dim.default, dim.help, dim.group, dim.low, dim.high) == (int, 4, "Rank.", "g", 1, 512)
    assert dim.aka == ("network_dim",)
    assert found["network.factor"].kinds == ("wide",)
    assert found["network.kind"].choices == ("narrow", "wide")
    assert found["values.path"].place
    assert found["values.whole"].aka == ("whole",)
    assert "data.sets.N.inner.N.repeats" in found
    assert len(found) == len(settings(Root))


def test_a_component_does_not_know_its_kind_and_is_told_by_its_class():
    assert kind_of(KINDS, Wide()) == "wide"
    assert kind_of(KINDS, Narrow()) == "narrow"
