"""The report: planted problems of every kind are found, and nothing else; what mends them does."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from lora_train.data import exam
from lora_train.data.memory import Memory
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.run.control import Ended
from lora_train.workshop import WORKS, alike
from lora_train.workshop.filter import read
from lora_train.workshop.kinds import KINDS
from lora_train.workshop.named import unusual
from lora_train.workshop.opened import Opened
from lora_train.workshop.report import Check
from tests.troubled import FUZZY, TRIGGER, Troubled, encoded, scene, wrong

VALUES = {"trigger_word": TRIGGER}


def found(folder, memory=None, **values):
    check = build(Check, {"folder": folder, **values})
    return check.found(Opened(folder, memory or Memory()))


def sets(report) -> dict:
    return {kind: {frozenset(f.names) for f in every} for kind, every in report.kinds.items()}


@pytest.fixture(scope="module")
def troubled(tmp_path_factory):
    made = Troubled(tmp_path_factory.mktemp("troubled") / "set", 90, 1)
    made.make()
    return made


def test_every_planted_problem_is_found_and_nothing_else(troubled):
    report = found(troubled.root, **VALUES)
    rows = {kind: row for kind, *row in wrong(troubled.truth, sets(report))}
    missed = {kind: row for kind, row in rows.items() if row[0] != row[1] or row[2]}
    assert not missed
    assert {*FUZZY} <= {*rows}


def test_what_the_report_says_can_be_told_to_programs(troubled):
    check = build(Check, {"folder": troubled.root, **VALUES})
    report = check.run()
    facts = json.loads(json.dumps(report.facts))
    assert facts["of"] == facts["pictures"] == len(Opened(troubled.root))
    rows = {row["kind"]: row for row in facts["findings"]}
    for kind, planted in troubled.truth.items():
        row = rows[kind]
        assert row["count"] == len(planted)
        assert {*row["files"]} == {name for names in planted for name in names}
        assert row["filter"] is KINDS[kind].pictures
        assert row["title"] in "\n".join(report.lines)
    assert sum(count for _, count in facts["buckets"]) == len(Opened(troubled.root)) - 6  # damaged, or a mask


def test_a_mending_is_a_work_with_settings_that_it_has(troubled):
    facts = build(Check, {"folder": troubled.root, **VALUES}).run().facts
    fixes = {row["kind"]: row["fix"] for row in facts["findings"] if row["fix"]}
    assert {"unreadable", "same", "near", "encoding", "orphan", "cmyk", "turned", "missing"} <= {*fixes}
    for kind, fix in fixes.items():
        work = build(WORKS[fix["work"]], {"folder": troubled.root, **fix["values"]})
        assert not [*work.check()], kind


def test_the_filter_knows_what_was_found(troubled):
    check = build(Check, {"folder": troubled.root, **VALUES})
    opened = check.opened()
    check.run()
    for kind in ("blurred", "same", "empty"):
        holds = read(f"problem:{kind}")
        names = {entry.name for entry in opened.chosen(lambda entry: holds(opened, entry))}  # noqa: B023
        assert names == {name for group in troubled.truth[kind] for name in group}
    seen = next(iter(next(iter(troubled.truth["blurred"]))))
    build(Check, {"folder": troubled.root, "names": (seen,)}).run()
    assert "same" in {kind for kinds in opened.problems.values() for kind in kinds}  # of others it stays


def test_pictures_are_looked_at_once(troubled, tmp_path, monkeypatch):
    memory = tmp_path / "memory.sqlite"
    first = sets(found(troubled.root, Memory(memory), **VALUES))

    def examined(path, known):
        assert path.name in str(troubled.truth["unreadable"]) + str(troubled.truth["truncated"])
        raise Mistake(f"{path}: again")

    monkeypatch.setattr(exam, "examine", examined)
    again = sets(found(troubled.root, Memory(memory), **VALUES))
    assert again == first


def test_a_stop_keeps_what_was_found_out(troubled, tmp_path):
    memory = tmp_path / "memory.sqlite"

    def told(done, of):
        if done >= 64:
            raise Ended

    check = build(Check, {"folder": troubled.root})
    with pytest.raises(Ended):
        check.found(Opened(troubled.root, Memory(memory)), told)
    known = [opened.known(entry) for opened in [Opened(troubled.root, Memory(memory))] for entry in opened]
    assert 40 < sum(own.softness is not None for own in known) <= 64


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────


def few(folder, count, make=lambda i: scene(i, (300, 300))):
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"{i}.png").write_bytes(encoded(make(i), "PNG"))
        (folder / f"{i}.txt").write_text("sky")
    return folder


def test_few_pictures_and_none(tmp_path):
    assert found(few(tmp_path / "a", 3)).kinds["few"][0].facts == {"pictures": 3}
    assert "few" not in found(tmp_path / "a", least_pictures=3).kinds
    (tmp_path / "b" / "10_dog").mkdir(parents=True)
    lines = build(Check, {"folder": tmp_path / "b"}).run().lines
    assert lines[0].startswith("0 pictures")
    assert "--recursive" in lines[1]


def test_pictures_that_are_all_alike(tmp_path):
    base = np.asarray(scene(1, (320, 320))).astype(float)
    small = few(tmp_path / "a", 6, lambda i: Image.fromarray(
        (0.75 * base + 0.25 * np.asarray(scene(50 + i, (320, 320)))).astype(np.uint8)))  # fmt: skip
    cells = [known.cells for known in found(small).known.values()]
    each = [np.frombuffer(own, np.uint8).astype(float) for own in cells]
    pairs = [np.corrcoef(a, b)[0, 1] for i, a in enumerate(each) for b in each[:i]]
    assert alike.similar(cells) == pytest.approx(np.mean(pairs), abs=1e-4)
    assert "similar" in found(small).kinds
    assert "similar" not in found(few(tmp_path / "b", 6)).kinds


def test_bounds_may_be_set(tmp_path):
    folder = few(tmp_path / "a", 1, lambda i: scene(i, (600, 300)))
    assert {"tiny", "aspect"}.isdisjoint(found(folder).kinds)
    assert {"tiny", "aspect"} <= {*found(folder, least_side=301, most_aspect=1.9).kinds}
    assert "blurred" in found(folder, softest=0.01).kinds
    assert "enlarged" in found(folder, resolution=1024, max_bucket_reso=2048).kinds
    assert "cut" in found(folder, enable_bucket=False).kinds


def test_what_is_cut_is_told_in_the_pictures_own_pixels(tmp_path):
    folder = few(tmp_path / "a", 1, lambda i: scene(i, (600, 300)))
    facts = found(folder, enable_bucket=False).kinds["cut"][0].facts
    assert facts["seen"] == (150, 0, 450, 300)
    assert (facts["share"], facts["bucket"]) == (0.5, (512, 512))


def test_bounds_that_cannot_be_are_refused():
    with pytest.raises(Mistake, match="min_bucket_reso"):
        build(Check, {"folder": "x", "resolution": 128})


@pytest.mark.parametrize(
    ("name", "letters"),
    [
        ("a.png", ""), ("猫 (1).png", ""), ("👩\u200d🎨.png", ""), ("a?.png", "?"), ("a .png", " "),
        ("con.txt", "con"), ("COM1.png", "COM1"), ("conrad.png", ""), ("a\u200b.png", "\\u200b"),
        ("a..png", "."), ("b\udcff.png", "\\udcff"),
    ],
)  # fmt: skip
def test_letters_of_names(name, letters):
    assert unusual(name).strip(" ") == letters.strip(" ")
    assert bool(unusual(name)) is bool(letters)
