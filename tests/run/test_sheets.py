"""Sheets of runs that have ended, on a light host."""

import pathlib
import threading
import time

import numpy as np
import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.run.desk import Desk
from lora_train.run.sheets import spread
from tests.tiny import Tiny, TinyHost


class Counted(Tiny):
    """Waits at each picture when it is told to."""

    def __init__(self, *given):
        super().__init__(*given)
        self.drawn, self.go = 0, threading.Event()
        self.go.set()

    def sample(self, prompt):
        self.drawn += 1
        assert self.go.wait(30)
        return super().sample(prompt)


class Host(TinyHost):
    lent = None

    def borrow(self, model, *, device, precision, waiting=lambda: None):
        import contextlib

        waiting()
        return contextlib.nullcontext(self.lent or Tiny())


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def desk(host, pictures):
    """With a run that saved three files."""
    desk = Desk(host, host.folders)
    values = {
        "data.train_data_dir": str(pictures), "data.resolution": 64, "training.max_train_steps": 6,
        "training.seed": 5, "lr.learning_rate": 0.05, "output.output_name": "okara",
        "output.save_every_n_steps": 2,
    }  # fmt: skip
    id = desk.add(values, start=True)["id"]
    until(lambda: next(e for e in desk.queue() if e["id"] == id)["state"] == "done")
    until(lambda: desk.line.thread is None)
    yield desk
    desk.close(10)


def until(done, seconds=60.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def drawn(desk) -> dict:
    until(lambda: desk.status()["sheet"]["state"] != "drawing")
    return desk.status()["sheet"]


def test_the_strengths_of_a_result(desk, host, monkeypatch):
    host.lent = Counted()
    begun = desk.sheet("okara", "strengths")
    assert (begun["state"], begun["run"], begun["done"]) == ("drawing", "okara", 0)
    found = drawn(desk)
    assert (found["state"], found["error"]) == ("done", None)
    assert host.lent.drawn == found["of"] == 6 * 2  # two captions, for the folder has no word of its own
    page = Image.open(host.folders.desk / "runs" / "okara" / "okara-run" / "strengths.png")
    assert str(page.filename).replace("/", "%2F") in found["url"].replace("/", "%2F")
    assert page.width > 6 * 64


def test_a_sheet_of_files_begins_without_any(desk, host):
    host.lent = Counted()
    desk.sheet("okara", "files")
    assert drawn(desk)["state"] == "done"
    assert host.lent.drawn == 4 * 2
    assert (host.folders.desk / "runs" / "okara" / "okara-run" / "files.png").is_file()


def test_with_a_run_go_the_sheets_that_are_its_own(desk, host):
    host.lent = Counted()
    desk.sheet("okara", "files")
    assert drawn(desk)["state"] == "done"
    asked = {
        "network_weights": [str(desk.past.one("okara").files()[0])],
        "prompt": "a cat",
        "x": "strength: 0",
    }
    desk.plan_sheet(asked, {}, "okara-strengths", "okara")  # a person's own, of that name
    assert drawn(desk)["state"] == "done"
    desk.clear("okara", "caches")
    assert len(desk.drawn_sheets()) == 2
    desk.clear("okara", "all")
    assert [sheet["name"] for sheet in desk.drawn_sheets()] == ["okara-strengths"]


def test_one_at_a_time_and_it_can_be_stopped(desk, host, pictures):
    host.lent = Counted()
    host.lent.go.clear()
    desk.sheet("okara", "strengths")
    until(lambda: host.lent.drawn == 1)
    with pytest.raises(Mistake, match="a sheet is being drawn"):
        desk.sheet("okara", "files")
    desk.stop_sheet()
    host.lent.go.set()
    assert drawn(desk)["state"] == "stopped"
    assert host.lent.drawn == 1
    assert not (host.folders.desk / "runs" / "okara" / "okara-run" / "strengths.png").exists()
    desk.sheet("okara", "files")
    assert drawn(desk)["state"] == "done"


def test_a_job_that_is_started_meanwhile_waits_for_it(desk, host, pictures):
    host.lent = Counted()
    host.lent.go.clear()
    desk.sheet("okara", "strengths")
    until(lambda: host.lent.drawn == 1)
    values = {"data.train_data_dir": str(pictures), "data.resolution": 64, "training.max_train_steps": 2,
              "output.output_name": "next"}  # fmt: skip
    id = desk.add(values, start=True)["id"]
    time.sleep(0.2)
    assert desk.status()["run"]["step"] == 0
    host.lent.go.set()
    assert drawn(desk)["state"] == "done"
    until(lambda: next(e for e in desk.queue() if e["id"] == id)["state"] == "done")


@pytest.mark.parametrize(
    ("what", "said"), [("strength", "expected strengths or files"), ("files", "no saved file is there")]
)
def test_what_cannot_be_drawn_is_said(desk, what, said):
    for file in desk.past.one("okara").files() if what == "files" else ():
        file.unlink()
    with pytest.raises(Mistake, match=said):
        desk.sheet("okara", what)


def test_what_fails_is_said_and_holds_nothing_up(desk, host):
    class Failing(Tiny):
        def sample(self, prompt):
            raise Mistake("the model is gone; load it again")

    host.lent = Failing()
    desk.sheet("okara", "strengths")
    assert drawn(desk) == {
        "name": "okara-strengths", "run": "okara", "what": "strengths", "state": "failed", "done": 0,
        "of": 12, "left": None, "note": "", "url": None, "suggestion": None,
        "error": "the model is gone; load it again",
    }  # fmt: skip
    until(lambda: not desk.line.machine.locked())


def test_many_files_are_spread_evenly():
    files = [pathlib.Path(str(i)) for i in range(21)]
    chosen = spread(files, 8)
    assert (chosen[0], chosen[-1], len(set(chosen))) == (files[0], files[-1], 8)
    assert set(np.diff([int(f.name) for f in chosen])) <= {2, 3}
