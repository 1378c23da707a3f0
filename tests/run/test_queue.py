"""The desk and its queue: jobs in a thread of their own, on a light host."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.run.desk import Desk
from tests.tiny import Tiny, TinyHost

SLOW = 0.02  # seconds a step takes at least
LONG = 60  # steps of a run that something is done to while it goes on


class Slow(Tiny):
    def denoise(self, x_t, t, cond):
        time.sleep(SLOW)
        return super().denoise(x_t, t, cond)


class Host(TinyHost):
    """Takes its time, and fails when told to."""

    fails = None

    def borrow(self, model, *, device, precision, waiting=None):
        if self.fails:
            raise self.fails
        return contextlib.nullcontext(Slow())


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


@pytest.fixture
def desk(host):
    desk = Desk(host, host.folders)
    yield desk
    if desk.line.thread:
        desk.stop(False)
        until(lambda: desk.line.thread is None)


@pytest.fixture
def values(pictures):
    def values(name="okara", steps=12, **more):
        usual = {
            "data.train_data_dir": str(pictures), "data.resolution": 64, "training.max_train_steps": steps,
            "training.seed": 5, "lr.learning_rate": 0.01, "output.output_name": name,
            "output.save_precision": "float",
        }  # fmt: skip
        return {**usual, **{k.replace("__", "."): v for k, v in more.items()}}

    return values


def until(done, seconds=60.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def state(desk, id):
    return next(e for e in desk.queue() if e["id"] == id)["state"]


def ended(desk, id):
    until(lambda: state(desk, id) in ("done", "stopped", "failed"))
    until(lambda: desk.line.thread is None or desk.line.live.id != id)
    return next(e for e in desk.queue() if e["id"] == id)


def test_a_started_job_runs_and_is_seen(desk, host, values):
    id = desk.add(values(output__sample_every_n_steps=6), start=True)["id"]
    entry = ended(desk, id)
    assert (entry["state"], entry["step"], entry["error"]) == ("done", 12, None)
    run = desk.status()["run"]
    assert [p[0] for p in run["points"]] == [*range(1, 13)]
    assert {s["step"] for s in run["samples"]} == {6, 12}
    assert all(s["url"] and s["base_url"] for s in run["samples"])
    assert run["result"]["file"] == str(host.folders.loras / "okara.safetensors")
    assert run["memory"]["before"] > 0 < run["memory"]["after"]
    assert [p.name for p in host.folders.loras.iterdir()] == ["okara.safetensors"]
    assert [p[0] for p in desk.status(10)["run"]["points"]] == [11, 12]
    (row,) = desk.runs()
    assert (row["name"], row["state"], row["step"], row["steps"]) == ("okara", "done", 12, 12)
    json.dumps([desk.status(), desk.runs(), desk.run("okara"), desk.settings()])


def test_a_pause_changes_nothing_and_a_file_can_be_saved_in_it(desk, host, values):
    ended(desk, desk.add(values("whole", LONG), start=True)["id"])
    id = desk.add(values("paused", LONG), start=True)["id"]
    until(lambda: desk.status()["run"]["step"] >= 3)
    desk.pause()
    until(lambda: desk.line.live.control.resting)
    assert state(desk, id) == "paused"
    at = desk.status()["run"]["step"]
    desk.save_now()
    until(lambda: desk.status()["run"]["saves"])
    assert desk.status()["run"]["step"] == at
    desk.go_on()
    assert ended(desk, id)["state"] == "done"
    one, two = (load_file(host.folders.loras / f"{name}.safetensors") for name in ("whole", "paused"))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_a_name_that_is_there_is_refused_with_a_free_one(desk, values):
    ended(desk, desk.add(values(), start=True)["id"])
    with pytest.raises(Mistake, match=r"okara\.safetensors is in .* already.*; okara-2 is a free name"):
        desk.add(values(), start=True)
    assert "okara-2" in desk.look(values())["complaints"][0]["text"]


def test_a_failure_does_not_stop_the_next_and_is_a_sentence(desk, host, values):
    host.fails = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    first = desk.add(values("a"))["id"]
    second = desk.add(values("b"))["id"]
    desk.act(first, "start")
    assert ended(desk, first)["error"].startswith("out of memory: set place.gradient_checkpointing")
    assert ended(desk, second)["state"] == "failed"
    host.fails = RuntimeError("on purpose")
    third = desk.add(values("c"), start=True)["id"]
    said = ended(desk, third)["error"]
    assert said.startswith("a fault of lora-train: RuntimeError: on purpose; ")
    assert "on purpose" in (host.folders.desk / "logs" / "error.txt").read_text(encoding="utf-8")
    host.fails = None
    assert ended(desk, desk.act(third, "start")["id"])["state"] == "done"


def test_a_stop_with_a_state_is_gone_on_with_and_one_without_leaves_nothing(desk, host, values):
    ended(desk, desk.add(values("whole", LONG), start=True)["id"])
    id = desk.add(values("half", LONG), start=True)["id"]
    until(lambda: desk.status()["run"]["step"] >= 3)
    desk.stop(True)
    entry = ended(desk, id)
    assert entry["state"] == "stopped"
    assert 3 <= entry["step"] < LONG
    desk.act(id, "resume")
    assert ended(desk, id)["state"] == "done"
    assert [p[0] for p in desk.status()["run"]["points"]] == [*range(1, LONG + 1)]
    one, two = (load_file(host.folders.loras / f"{name}.safetensors") for name in ("whole", "half"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    id = desk.add(values("none", LONG), start=True)["id"]
    until(lambda: desk.status()["run"]["step"] >= 3)
    desk.stop(False)
    assert ended(desk, id)["file"] is None
    assert not [*host.folders.loras.glob("none*")]


def test_jobs_can_be_ordered_copied_edited_and_removed_and_outlive_a_restart(desk, host, values):
    a, b, c = (desk.add(values(name))["id"] for name in "abc")
    desk.act(c, "up")
    desk.act(a, "down")
    assert [e["name"] for e in desk.queue()] == ["c", "a", "b"]
    assert desk.act(a, "duplicate")["name"] == "a-2"
    desk.edit(b, values("b2", network__dim=8))
    desk.act(c, "remove")
    again = Desk(host, host.folders)
    assert [e["name"] for e in again.queue()] == ["a", "a-2", "b2"]
    assert again.queue()[2]["values"]["network.dim"] == 8
    with pytest.raises(Mistake, match="a job that is waiting writes under this name"):
        desk.add(values("a"))
    with pytest.raises(LookupError):
        desk.act("nothing", "up")


def test_what_start_would_refuse_is_not_taken_into_the_queue(desk, values):
    with pytest.raises(Mistake, match=r"network\.dim = 0: expected"):
        desk.add(values(network__dim=0))
    for ask in (desk.pause, desk.go_on, desk.save_now, desk.sample_now, desk.stop):
        with pytest.raises(Mistake, match="no run is on"):
            ask()
    assert desk.queue() == []


def test_fifty_clicks_from_two_threads_leave_one_job_at_a_time_and_no_dead_lock(desk, values):
    most, faults = [0], []

    def click(who):
        for i in range(25):
            try:
                if i % 5 == 0:
                    desk.add(values(f"{who}{i}"), start=True)
                else:
                    (desk.pause, desk.go_on, desk.save_now, desk.stop)[i % 5 - 1]()
                running = [e for e in desk.status()["queue"] if e["state"] in ("running", "paused")]
                most[0] = max(most[0], len(running))
            except Mistake:
                pass
            except Exception as e:  # noqa: BLE001
                faults.append(e)

    threads = [threading.Thread(target=click, args=(who,)) for who in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    assert (most[0], faults) == (1, [])
    until(lambda: desk.line.thread is None or desk.status()["run"]["state"] == "paused")


KILLED = """
import json, pathlib, sys, time, torch
torch.set_num_threads(1)
from lora_train.run.desk import Desk
from tests.run.test_queue import Host

host = Host(pathlib.Path(sys.argv[1]))
desk = Desk(host, host.folders)
desk.add(json.loads(sys.argv[2]), start=True)
while desk.line.thread:
    print(desk.status()["run"]["step"], flush=True)
    time.sleep(0.01)
"""


def test_a_killed_process_leaves_an_unfinished_job_that_ends_as_if_it_had_not_been(desk, host, values):
    ended(desk, desk.add(values("whole", LONG), start=True)["id"])
    one = load_file(host.folders.loras / "whole.safetensors")
    asked = json.dumps(values("cut", LONG, output__save_state_every_n_minutes=0))
    words = [sys.executable, "-c", KILLED, str(host.folders.desk.parent), asked]
    root = pathlib.Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    ) as p:
        for line in p.stdout:
            if int(line) >= 5:
                os.kill(p.pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
                break
    again = Desk(host, host.folders)
    (left,) = again.status()["unfinished"]
    assert (left["name"], left["state"]) == ("cut", "unfinished")
    assert 1 <= left["step"] < LONG
    assert again.status()["run"] is None
    assert again.line.thread is None, "nothing begins by itself"
    again.act(left["id"], "resume")
    assert ended(again, left["id"])["state"] == "done"
    two = load_file(host.folders.loras / "cut.safetensors")
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert [p[0] for p in again.run("cut")["points"]] == [*range(1, LONG + 1)]
    assert not again.runs()[0]["states_bytes"], "the state for a cut-off is gone with the end"


def test_an_unfinished_job_can_be_discarded_or_begun_anew(desk, host, values):
    for name in ("thrown", "anew"):
        desk.add(values(name))
    for entry in desk.line.entries:
        entry.state = "running"
    desk.line.journal.write(desk.line.entries)
    again = Desk(host, host.folders)
    thrown, anew = (e["id"] for e in again.status()["unfinished"])
    again.act(thrown, "discard")
    again.act(anew, "resume")
    assert ended(again, anew)["state"] == "done"
    assert [e["id"] for e in again.queue()] == [anew]


def test_a_program_that_ends_saves_its_run(desk, host, values):
    id = desk.add(values(steps=LONG), start=True)["id"]
    until(lambda: desk.status()["run"]["step"] >= 2)
    desk.close()
    assert desk.line.thread is None
    assert state(desk, id) == "stopped"
    assert desk.runs()[0]["resume"].endswith("-state")


def test_a_damaged_journal_is_set_aside(host):
    host.folders.desk.mkdir(parents=True)
    (host.folders.desk / "queue.json").write_text('{"entries": [{"id"', encoding="utf-8")
    assert Desk(host, host.folders).queue() == []
    assert (host.folders.desk / "queue.damaged").is_file()


def test_samples_are_drawn_when_asked_and_caches_and_states_are_cleared(desk, host, values):
    more = {"place__cache_latents_to_disk": True, "output__save_state_on_train_end": True}
    id = desk.add(values(steps=LONG, **more), start=True)["id"]
    until(lambda: desk.status()["run"]["step"] >= 2)
    desk.sample_now()
    until(lambda: desk.status()["run"]["samples"])
    ended(desk, id)
    (row,) = desk.runs()
    assert row["caches_bytes"] > 0 < row["states_bytes"]
    desk.clear("okara", "caches")
    desk.clear("okara", "states")
    (row,) = desk.runs()
    assert row["caches_bytes"] == row["states_bytes"] == 0
    desk.clear("okara", "all")
    assert desk.runs() == []
    assert (host.folders.loras / "okara.safetensors").is_file()
    with pytest.raises(LookupError):
        desk.clear("okara", "all")
