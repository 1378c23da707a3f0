"""A disk that is full, read-only or gone, and a clock that jumps: what was saved stays whole, and a run ends
with its file or with a sentence."""

import contextlib
import json
import logging
import shutil
import subprocess
import time

import pytest
import torch
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.run import watchers
from lora_train.run.store import RunStore, State, Unwritable, whole
from lora_train.train.events import Watcher


class At(Watcher):
    """Does something after a step, before what saves: tests put it first."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def stepped(self, progress):
        if progress.step == self.step:
            self.act()


@pytest.fixture
def small(tmp_path):
    """small(megabytes): a folder that is a disk of its own."""
    made = []

    def small(megabytes):
        folder = tmp_path / f"small{len(made)}"
        folder.mkdir()
        size = f"size={int(megabytes * 1024)}k"
        words = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a small disk is not permitted here")
        made.append(folder)
        return folder

    yield small
    for folder in made:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True, capture_output=True)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Little patience, and a temporary folder of the test's own."""
    monkeypatch.setattr(watchers, "PATIENCE", 0.3)
    monkeypatch.setattr(watchers, "PAUSE", 0.05)
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spare))
    return spare


def fill(folder):
    """Leave no byte free."""
    with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def told(caplog, word):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and word in r.getMessage()]


def steps(folder):
    path = folder / "x-run" / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text(encoding="utf-8").splitlines()]


SAVING = {"output__save_every_n_steps": 1, "output__save_state": True, "output__save_last_n_steps": 1}


def test_a_full_disk_costs_no_file_that_was_saved_and_the_last_is_saved_elsewhere(
    trained, small, quick, caplog, tmp_path
):
    disk = small(8)
    done = trained("small0/out", watchers=[At(4, lambda: fill(disk))], **SAVING)
    out = disk / "out"
    assert [p.name for p in out.glob("*.safetensors")] == ["x-step00000004.safetensors"]
    load_file(out / "x-step00000004.safetensors")
    assert State.read(out / "x-step00000004-state").plain["progress"]["step"] == 4
    assert not list(out.rglob("*.part"))
    assert (done.file.parent.parent, done.file.name) == (quick, "x.safetensors")
    assert done.state.parent == done.file.parent
    reference = trained("whole")
    one, two = load_file(done.file), load_file(reference.file)
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert State.read(done.state).plain["progress"]["step"] == 8
    assert len(told(caplog, "The run goes on; the file saved before")) == 1
    assert len(told(caplog, "metrics.jsonl: cannot be written")) <= 1
    assert len(told(caplog, "Trying again")) == 1
    assert len(told(caplog, "move it to where it belongs")) == 2


def test_a_run_goes_on_from_a_state_that_a_full_disk_left(trained, small, quick, tmp_path):
    disk = small(8)
    trained("small0/out", watchers=[At(4, lambda: fill(disk))], **SAVING)
    on = trained("on", place__resume=disk / "out" / "x-step00000004-state")
    one, two = load_file(on.file), load_file(trained("whole").file)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_room_that_comes_back_brings_files_and_all_metrics_back(trained, small, quick, caplog):
    caplog.set_level(logging.INFO)
    disk = small(8)
    seen = [At(3, lambda: fill(disk)), At(6, lambda: (disk / "ballast").unlink())]
    done = trained("small0/out", watchers=seen, **SAVING)
    assert done.file == disk / "out" / "x.safetensors"
    assert steps(disk / "out") == list(range(1, 9))
    assert "saves before it failed" in caplog.text


def test_the_last_file_waits_for_room(trained, small, quick, monkeypatch, caplog):
    disk = small(8)
    waits = iter([None, None, lambda: (disk / "ballast").unlink()])
    monkeypatch.setattr(watchers, "PATIENCE", 60.0)
    monkeypatch.setattr(watchers.time, "sleep", lambda _: (next(waits) or bool)())
    done = trained("small0/out", watchers=[At(7, lambda: fill(disk))])
    assert done.file == disk / "out" / "x.safetensors"
    load_file(done.file)
    assert len(told(caplog, "Trying again for 1 minutes")) == 1


def test_ctrl_c_while_it_waits_saves_elsewhere_at_once(trained, small, quick, monkeypatch):
    def impatient(_):
        raise KeyboardInterrupt

    disk = small(8)
    monkeypatch.setattr(watchers, "PATIENCE", 1e9)
    monkeypatch.setattr(watchers.time, "sleep", impatient)
    done = trained("small0/out", watchers=[At(7, lambda: fill(disk))], output__save_state=True)
    assert done.file.parent.parent == quick
    load_file(done.file)


def test_when_there_is_room_nowhere_it_is_a_mistake_that_names_both(trained, small, quick, monkeypatch):
    disk = small(8)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    with pytest.raises(Mistake, match="x.safetensors: cannot be written") as mistake:
        trained("small0/out", watchers=[At(6, lambda: fill(disk))], **SAVING)
    lines = str(mistake.value).splitlines()
    assert len(lines) == 3
    assert "No space left" in lines[0]
    load_file(disk / "out" / "x-step00000006.safetensors")


def test_a_disk_too_small_for_the_state_keeps_the_file_before(trained, small, quick):
    """safetensors has an error of its own for a full disk."""
    disk = small(0.0625)
    with pytest.raises(Unwritable, match="cannot be written"):
        State({"a": torch.zeros(1 << 20)}, {}).write(disk / "x-state")
    assert not list(disk.rglob("*.*"))


def test_a_folder_that_becomes_read_only(trained, small, quick, caplog):
    disk = small(8)
    done = trained("small0/out", watchers=[At(4, lambda: remount(disk, "ro"))], **SAVING)
    assert done.file.parent.parent == quick
    load_file(disk / "out" / "x-step00000004.safetensors")
    State.read(disk / "out" / "x-step00000004-state")
    assert steps(disk / "out") == [1, 2, 3, 4]
    assert told(caplog, "Read-only file system")


def test_a_folder_that_is_gone_is_made_again(trained, tmp_path, quick, caplog):
    done = trained("a", watchers=[At(4, lambda: shutil.rmtree(tmp_path / "a"))], **SAVING)
    assert done.file == tmp_path / "a" / "x.safetensors"
    load_file(done.file)
    assert steps(tmp_path / "a") == [5, 6, 7, 8]
    assert len(told(caplog, "gone in the midst of the run")) == 1


def test_a_file_where_the_folder_was(trained, tmp_path, quick, caplog):
    def block():
        shutil.rmtree(tmp_path / "a")
        (tmp_path / "a").write_text("in the way", encoding="utf-8")

    done = trained("a", watchers=[At(4, block)], **SAVING)
    assert done.file.parent.parent == quick
    assert (tmp_path / "a").read_text(encoding="utf-8") == "in the way"
    assert len(told(caplog, "metrics.jsonl: cannot be written")) == 1


def test_a_sample_that_cannot_be_written_is_one_line(trained, tmp_path, quick, caplog):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64\n", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "sample").write_text("in the way", encoding="utf-8")
    done = trained("a", output__sample_prompts=prompts, output__sample_every_n_steps=2)
    assert done.progress.step == 8
    assert len(told(caplog, "goes on without this sample")) == 1


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_changes_names_and_nothing_else(trained, tmp_path, monkeypatch, years):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64\n", encoding="utf-8")
    real, moved = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + moved[0])
    left = []

    class Seen(Watcher):
        def stepped(self, progress):
            left.append(progress.left)

    def jump():
        moved[0] = years * 365 * 86400.0

    done = trained(
        "a", watchers=[At(3, jump), Seen()], output__sample_prompts=prompts, output__sample_every_n_steps=4,
        **SAVING,
    )  # fmt: skip
    assert all(0 <= seconds < 3600 for seconds in left)
    texts = metadata(done.file)
    began, ended = float(texts["ss_training_started_at"]), float(texts["ss_training_finished_at"])
    assert 0 <= ended - began < 3600
    on = trained("b", place__resume=done.state, training__max_train_steps=10)
    assert on.progress.step == 10


def metadata(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()


def test_a_path_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    (tmp_path / "a").write_text("in the way", encoding="utf-8")
    with (
        pytest.raises(Unwritable, match="check the folder, its rights and the disk's space"),
        whole(tmp_path / "a" / "b.txt"),
    ):
        raise AssertionError("there is nothing to write to")


def test_elsewhere_is_one_new_folder(tmp_path, quick):
    one, two = RunStore(tmp_path, "x"), RunStore(tmp_path, "x")
    assert one.elsewhere() == one.elsewhere() != two.elsewhere()
    assert list(one.elsewhere().iterdir()) == []
