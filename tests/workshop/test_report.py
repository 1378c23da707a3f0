"""The report: planted problems of every kind are found, and nothing else; what mends them does."""

from __future__ import annotations

import pytest

from lora_train.data.memory import Memory
from lora_train.knobs import build
from lora_train.workshop.opened import Opened
from lora_train.workshop.report import Check
from tests.troubled import FUZZY, TRIGGER, Troubled, wrong

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
