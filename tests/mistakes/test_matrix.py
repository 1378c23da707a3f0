"""Hundreds of bad inputs, each met by the real command: an answer that names it, and nothing else happens."""

from __future__ import annotations

import collections
import importlib.util

import pytest

from lora_train.train.events import Watcher
from tests.mistakes import bad_flags, bad_folders, bad_models, bad_pictures, bad_tables
from tests.mistakes.harness import DONE, MISTAKE, Case, Ground, kept, outcome
from tests.tiny import TinyHost

CASES = [*bad_pictures.CASES, *bad_folders.CASES, *bad_flags.CASES, *bad_tables.CASES, *bad_models.CASES]
SLIPS = ("Traceback", "This is a fault of lora-train", "Invalid", "object at 0x", "NoneType")


@pytest.fixture
def ground(tmp_path) -> Ground:
    return Ground(tmp_path / "ground")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_input_gets_an_answer(case: Case, ground, monkeypatch, caplog):
    if case.model == "light":
        if importlib.util.find_spec("tqdm") is None:  # on the floor; the bar is not what is tested
            monkeypatch.setattr("lora_train.run.watchers.Bar", Watcher)
        monkeypatch.setattr("lora_train.hosts.standalone.host.StandaloneHost", TinyHost)
    else:
        pytest.importorskip("diffusers", reason="the standalone host needs it")
    words = case.plant(ground) or ground.train()
    before = kept(ground.folder)
    status, message = outcome(words)
    said = message + caplog.text
    assert status in case.ends, said
    assert not [slip for slip in SLIPS if slip in said], said
    assert [text for text in case.says if text not in (message if status == MISTAKE else said)] == [], said
    after = kept(ground.folder)
    lost = {path: about for path, about in before.items() if after.get(path) != about}
    written = status == DONE or case.writes
    assert not lost or (written and all(str(ground.output) in path for path in lost))
    assert not [path for path in after if path.endswith(".part")]
    if status == MISTAKE and not case.writes:
        assert after.keys() - before.keys() == set()


def test_there_are_enough_and_no_two_of_a_name():
    counts = collections.Counter(case.name for case in CASES)
    assert [name for name, count in counts.items() if count > 1] == []
    assert len(counts) >= 300
