"""Two real processes against one: the same adapter."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lora_train.run.losses import read
from lora_train.train.parallel import Team
from tests.run.conftest import pictures, trained  # noqa: F401 (fixtures)
from tests.run.test_session import LIVELY

ROOT = pathlib.Path(__file__).parents[2]
SCRIPT = """
import faulthandler, json, os, pathlib, sys
faulthandler.dump_traceback_later(200, exit=True)  # a process that hangs says where
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.run import session
from lora_train.run.control import Control
from lora_train.train.events import Watcher
from tests.tiny import TinyHost

values, folder, stop = json.loads(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
rank = int(os.environ["RANK"])
steps = []

class Seen(Watcher):
    def stepped(self, progress):
        assert (dist.get_world_size(), dist.get_rank()) == (2, rank)
        steps.append(progress.step)
        (folder / f"process{rank}").write_text(str(progress.step))

control, train = Control(), session.train

class Asked(Watcher):
    def stepped(self, progress):
        if progress.step == stop:
            control.stop()

def asked(*given, watchers, **named):
    train(*given, watchers=[*watchers, *[Asked()][: rank]], **named)  # only the second process is asked

session.train = asked
ended = session.run(*assemble(values), TinyHost(), watchers=[Seen()], control=control)
assert bool(steps) == (rank == 0), "only the first has watchers"
(folder / f"ended{rank}").write_text(f"{ended.progress.step} {ended.progress.stopped}")
"""


def together(
    folder: pathlib.Path, values: dict, stop: int = 0, seconds: int = 240
) -> subprocess.CompletedProcess:
    folder.mkdir(exist_ok=True)
    script = folder / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    words = ["--standalone", "--nproc_per_node", "2", str(script), json.dumps(values), str(folder), str(stop)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words], env=environ, capture_output=True, text=True,
        timeout=seconds, check=False)  # fmt: skip


def told(trained, pictures, tmp_path, folder, **values) -> dict:  # noqa: F811
    """The settings of `trained`, for another process."""
    usual = {
        "model.pretrained_model_name_or_path": "tiny.safetensors", "data.train_data_dir": str(pictures),
        "data.resolution": 64, "training.max_train_steps": 8, "training.seed": 5, "lr.learning_rate": 0.01,
        "output.output_dir": str(tmp_path / folder), "output.output_name": "x",
        "output.save_precision": "float",
    }  # fmt: skip
    return {**usual, **{path.replace("__", "."): value for path, value in values.items()}}


def apart(a: pathlib.Path, b: pathlib.Path) -> float:
    one, two = load_file(a), load_file(b)
    assert one.keys() == two.keys()
    return max((one[k] - two[k]).abs().max().item() for k in one)


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_two_processes_are_one_with_twice_the_accumulation(trained, pictures, tmp_path, cache):  # noqa: F811
    lively = {k: v for k, v in LIVELY.items() if k != "training__gradient_accumulation_steps"}
    lively |= {
        "place__cache_latents": cache == "memory", "place__cache_latents_to_disk": cache == "disk",
        "network__train_unet_only": cache == "memory", "data__shuffle_caption": cache != "memory",
        "data__caption_dropout_rate": 0.0 if cache == "memory" else 0.2,
        "data__caption_tag_dropout_rate": 0.0 if cache == "memory" else 0.2,
        "output__sample_every_n_steps": 4, "output__save_every_n_steps": 4, "output__save_state": True,
    }  # fmt: skip
    alone = trained("alone", training__gradient_accumulation_steps=2, **lively)
    values = told(trained, pictures, tmp_path, "both", **lively)
    done = together(tmp_path / "run", values)
    assert done.returncode == 0, done.stderr[-9000:]
    both = tmp_path / "both"
    assert apart(alone.file, both / "x.safetensors") < 2e-6
    assert sorted(p.name for p in both.iterdir() if p.is_file()) == [
        "x-step00000004.safetensors", "x.safetensors"]  # fmt: skip
    names = sorted(p.name[:11] for p in (both / "sample").iterdir())  # default prompts, shared out
    assert names == sorted(p.name[:11] for p in (tmp_path / "alone" / "sample").iterdir())
    losses = [
        json.loads(line)["loss"] for line in (both / "x-run" / "metrics.jsonl").read_text().splitlines()
    ]
    wanted = (tmp_path / "alone" / "x-run" / "metrics.jsonl").read_text().splitlines()
    assert losses == pytest.approx([json.loads(line)["loss"] for line in wanted], abs=1e-6)
    ours, theirs = (read(folder / "x-run") for folder in (both, tmp_path / "alone"))
    order = ["step", "picture", "timestep"]
    ours, theirs = np.sort(ours, order=order), np.sort(theirs, order=order)
    assert np.array_equal(ours[order], theirs[order])
    assert np.allclose(ours["loss"], theirs["loss"], atol=1e-6)


def test_a_stop_that_one_process_is_asked_for_stops_both_with_a_state(trained, pictures, tmp_path):  # noqa: F811
    values = told(trained, pictures, tmp_path, "both")
    done = together(tmp_path / "run", values, stop=3)
    assert done.returncode == 0, done.stderr[-9000:]
    assert {(tmp_path / "run" / f"ended{rank}").read_text() for rank in (0, 1)} == {"3 True"}
    state = tmp_path / "both" / "x-step00000003-state"
    assert (state / "state.safetensors").is_file()
    again = together(tmp_path / "run", {**values, "place.resume": str(state), "output.output_name": "y"})
    assert again.returncode == 0, again.stderr[-9000:]
    alone = trained("alone", training__gradient_accumulation_steps=2)
    assert apart(alone.file, tmp_path / "both" / "y.safetensors") < 2e-6


def test_a_state_of_two_processes_is_not_gone_on_with_by_one(trained, pictures, tmp_path):  # noqa: F811
    from lora_train.errors import Mistake

    values = told(trained, pictures, tmp_path, "both", training__max_train_steps=2, output__save_state=True)
    assert together(tmp_path / "run", values).returncode == 0
    with pytest.raises(Mistake, match="saved with 2 batches to a step, and 1 processes make 1 of them"):
        trained("both", place__resume=tmp_path / "both" / "x-state")


def test_a_mistake_in_all_processes_ends_all_of_them(trained, pictures, tmp_path):  # noqa: F811
    values = told(trained, pictures, tmp_path, "both")
    done = together(tmp_path / "run", {**values, "data.train_data_dir": str(tmp_path / "gone")}, seconds=60)
    assert done.returncode != 0
    assert "expected a folder" in done.stderr


LONELY = """
import os, pathlib, signal, sys
import torch
torch.set_num_threads(1)
from lora_train.errors import Mistake
from lora_train.train.parallel import team

with team("cpu") as crew:
    assert crew.world == 2
    parameter = torch.nn.Parameter(torch.ones(3))
    for step in range(1000):
        parameter.grad = torch.ones(3)
        if crew.rank and step == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            assert crew.add([parameter], torch.ones(())) == 2
        except Mistake as e:
            sys.exit(f"after {step} steps: {e}")
"""


def test_a_process_that_is_killed_does_not_leave_the_other_waiting():
    """Without a launcher, which would end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
               "MASTER_PORT": port}  # fmt: skip
    both = [
        subprocess.Popen([sys.executable, "-c", LONELY], env={**environ, "RANK": rank, "LOCAL_RANK": rank},
                         stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]  # fmt: skip
    _, said = both[0].communicate(timeout=120)
    both[1].communicate(timeout=120)
    assert both[0].returncode == 1
    assert "after 5 steps: another process of this run ended or does not answer" in said


def test_a_process_alone_is_a_team():
    alone = Team()
    loss = torch.ones(())
    assert alone.first
    assert alone.share([1, 2, 3]) == [1, 2, 3]
    assert alone.add([], loss) is loss
    assert alone.all(7) == [7]
    assert alone.any(True) is True
