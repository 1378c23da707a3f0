"""Sheets that are drawn, on a light host: pictures, scores, runs, and how they go on."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_train.blocks import BlockWeights
from lora_train.data.batches import Batches
from lora_train.data.cache import Fresh
from lora_train.data.plan import plan
from lora_train.draws import drawn
from lora_train.errors import Mistake
from lora_train.host import HALF
from lora_train.job import assemble
from lora_train.plots.losses import Losses, Trial
from lora_train.prompts import Prompt
from lora_train.run.control import Control, Ended
from lora_train.run.draw import Worn
from lora_train.train.events import Watcher
from tests.plots.conftest import Host
from tests.tiny import Tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAT = Prompt("a cat", width=64, height=64, seed=1)


def by_hand(file, te, unet, blocks=None, prompt=CAT) -> bytes:
    """A picture of the file with these strengths."""
    lent = Tiny()
    with Worn(lent, [file]).at([1.0]) as on:
        on[file.stem].weigh(te, unet, blocks)
        return lent.sample(prompt).tobytes()


def bare(prompt=CAT) -> bytes:
    return Tiny().sample(prompt).tobytes()


def test_the_column_of_strength_0_is_the_bare_model_to_the_bit(plotted, files):
    found = plotted("a", network_weights=files, x="strength: 0, 0.5, 1", prompt="a cat\na dog")
    for name in ("one", "two"):
        assert found.picture(strength=0.0, file=name, prompt="a cat") == bare()
        half = found.picture(strength=0.5, file=name, prompt="a cat")
        assert half == by_hand(files / f"{name}.safetensors", 0.5, 0.5) != bare()
    assert len(found.prompts) == 2 * (1 + 2 * 2)  # the bare model's are drawn once
    assert found.record["sheets"] == ["sheet-1.png", "sheet-2.png"]


def test_both_strengths_act_on_their_own_part_alone(plotted, files):
    file = files / "one.safetensors"
    found = plotted("a", x="te_strength: 0, 0.5", y="unet_strength: 0, 2")
    for te in (0.0, 0.5):
        for unet in (0.0, 2.0):
            assert found.picture(te_strength=te, unet_strength=unet) == by_hand(file, te, unet)
    lent = Tiny()
    with Worn(lent, [file]).at([1.0]) as on:
        before = lent.encode(["a cat"]).context
        on["one"].weigh(0, 1)
        assert torch.equal(lent.encode(["a cat"]).context, Tiny().encode(["a cat"]).context)
        assert not torch.equal(lent.encode(["a cat"]).context, before)


def test_blocks_are_those_of_the_network(plotted, files):
    found = plotted("a", x="block_weights: INS, OUTALL")
    for name in ("INS", "OUTALL"):
        wanted = by_hand(files / "one.safetensors", 1, 1, BlockWeights.parse(name))
        assert found.picture(block_weights=name) == wanted != bare()


def test_a_picture_that_a_person_broke_off_is_drawn_anew(plotted, tmp_path):
    host = Host(tmp_path)
    whole = host.lent.sample

    def sample(prompt):
        image = whole(prompt)
        if len(host.lent.prompts) in (1, 2, 4):
            image = Image.new("RGB", image.size)
            image.info[HALF] = True
        return image

    host.lent.sample = sample
    found = plotted("a", host=host, x="strength: 0, 1")
    assert len(found.prompts) == 5
    assert found.picture(strength=0.0) == bare()
    assert found.picture(strength=1.0) == plotted("b", x="strength: 0, 1").picture(strength=1.0)


def test_blocks_that_are_analyzed(plotted):
    found = plotted("a", analyze="17ALL", seeds=2)
    rows = found.record["blocks"]
    assert [row["changed"] for row in rows] == sorted((row["changed"] for row in rows), reverse=True)
    zero = {row["block"]: row for row in rows if row["strength"] == 0}
    assert zero["IN05"]["moved"] == 0  # the light model has no such block
    wanted = {"block_id": "OUT11", "block_strength": 0.0, "seed": 1}
    cells = [c for c in found.record["cells"] if c["values"] == wanted]
    image = np.asarray(Image.open(found.folder / cells[0]["picture"]), float)
    whole = np.frombuffer(by_hand(found.grid.files[0], 1, 1), np.uint8).reshape(image.shape).astype(float)
    assert cells[0]["metrics"]["changed"] == pytest.approx((abs(image - whole) > 20).mean(), abs=1e-6)
    assert cells[0]["metrics"]["moved"] == pytest.approx(np.sqrt(((image - whole) ** 2).mean()), abs=1e-4)
    assert zero["OUT11"]["pictures"] == 2


def test_blocks_that_are_analyzed_can_be_scored_too(plotted, pictures):
    found = plotted("a", analyze="IN04", x="block_strength: 0", score=True, score_data=pictures)
    assert len(found.prompts) == 3  # without the LoRA, with all of it, and without the block
    (cell,) = found.record["cells"]
    assert {*cell["metrics"]} == {"moved", "changed", "looks", "loss"}
    assert found.record["bare"]["looks"] > 0


def test_a_picture_says_how_to_draw_it_again(plotted):
    found = plotted("a", x="strength: 0.5", prompt="a cat --n dark")
    with Image.open(found.folder / found.record["cells"][0]["picture"]) as image:
        text = image.info["parameters"]
    assert text.startswith("a cat<lora:one:0.5>\nNegative prompt: dark\nSteps: 30")
    assert text == found.record["cells"][0]["infotext"]


def test_what_is_there_is_not_drawn_again(plotted, files, tmp_path):
    first = plotted("a", x="strength: 0, 1")
    wider = plotted("a", x="strength: 0, 0.5, 1")
    assert [len(first.prompts), len(wider.prompts)] == [2, 1]
    other = plotted("a", x="strength: 0, 0.5, 1", seed=2)
    assert len(other.prompts) == 3
    (files / "one.safetensors").write_bytes((files / "two.safetensors").read_bytes())
    assert len(plotted("a", x="strength: 0, 0.5, 1").prompts) == 2  # another file under its name


class Broken(Exception):
    pass


@pytest.mark.parametrize("score", [False, True])
def test_a_resumed_sheet_is_an_uninterrupted_one(plotted, files, pictures, tmp_path, score):
    asked = {"network_weights": files, "x": "strength: 0, 0.5, 1", "score": score, "score_data": pictures}
    whole = plotted("whole", **asked)

    def told(course):
        if course.done == 2:
            raise Broken

    with pytest.raises(Broken):
        plotted("cut", told=told, **asked)
    assert not (tmp_path / "cut" / "sheet.json").exists()
    resumed = plotted("cut", **asked)
    assert len(resumed.prompts) == len(whole.prompts) - 2
    for one, other in zip(whole.record["cells"], resumed.record["cells"], strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert resumed.record["suggestion"] == whole.record["suggestion"]
    for name in whole.record["sheets"]:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_lora_that_a_prompt_names_is_looked_into(plotted, files):
    named = files / "st[yle].safetensors"
    (files / "two.safetensors").rename(named)
    first = plotted("a", prompt="a cat<lora:st[yle]:1>", x="strength: 1")
    named.write_bytes((files / "one.safetensors").read_bytes())
    again = plotted("a", prompt="a cat<lora:st[yle]:1>", x="strength: 1")
    assert len(again.prompts) == 1
    assert first.picture(strength=1.0) != again.picture(strength=1.0)


def test_a_stop_is_heeded_before_the_next_picture(plotted):
    control = Control()

    def told(course):
        if course.done == 1:
            control.stop()

    with pytest.raises(Ended):
        plotted("a", control=control, told=told)


KILLED = """
import os, pathlib, signal, sys
import torch
torch.set_num_threads(1)
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.plots.cells import drawn_up
from lora_train.plots.drawing import Drawing
from lora_train.plots.plan import Plan
from tests.tiny import TinyHost
folder = pathlib.Path(sys.argv[1])
plan = build(Plan, {"network_weights": folder / "loras" / "one.safetensors", "prompt": "a cat", "width": 64,
                    "height": 64, "x": "strength: 0-2:0.25", "outdir": folder / "cut"})
def told(course):
    if course.done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
job, _, place = assemble({})
Drawing(drawn_up(plan), job, place, TinyHost(folder), told=told).make()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_killed_process_leaves_a_folder_that_goes_on(plotted, files, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(words, env=environment, cwd=ROOT, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    (tmp_path / "cut" / "cells" / "half.png.part").write_bytes(b"half")
    resumed, whole = (plotted(name, x="strength: 0-2:0.25") for name in ("cut", "whole"))
    assert len(resumed.prompts) == 9 - 4
    assert (tmp_path / "cut" / "sheet.png").read_bytes() == (tmp_path / "whole" / "sheet.png").read_bytes()


def test_a_file_that_is_no_lora_is_refused_before_the_first_picture(plotted, files, tmp_path):
    (files / "three.safetensors").write_bytes(b"nothing")
    with pytest.raises(Mistake, match=r"three.safetensors: is not a .safetensors file"):
        plotted("a", network_weights=files)
    assert not (tmp_path / "a").exists()


def test_a_name_that_is_not_there_is_refused_before_the_first_picture(plotted, tmp_path):
    with pytest.raises(Mistake, match=r"<lora:eyes>: no eyes.safetensors"):
        plotted("a", prompt="a cat\na cat <lora:eyes:1>")
    assert not (tmp_path / "a").exists()


def test_what_a_prompt_says_of_the_sheets_own_lora_counts_for_nothing(plotted, files):
    prompt = "a cat<lora:one:0.8:lbw=OUTALL>"
    found = plotted("a", network_weights=files, prompt=prompt, x="strength: 0, 0.5")
    assert found.picture(strength=0.0, file="two") == bare()
    for name in ("one", "two"):
        half = by_hand(files / f"{name}.safetensors", 0.5, 0.5)
        assert found.picture(strength=0.5, file=name) == half
    texts = [cell["infotext"].partition("\n")[0] for cell in found.record["cells"]]
    assert texts == ["a cat", "a cat<lora:one:0.5>", "a cat", "a cat<lora:two:0.5>"]
    (said,) = found.record["notes"]
    assert said.startswith("<lora:one> in a prompt counts for nothing here")


def test_a_sheet_wears_what_its_prompts_name(plotted, files):
    found = plotted("a", prompt="a cat<lora:two:0.5>", x="strength: 0, 1")
    assert found.picture(strength=0.0) == by_hand(files / "two.safetensors", 0.5, 0.5)
    lent = Tiny()
    with Worn(lent, [files / "one.safetensors", files / "two.safetensors"]).at([1.0, 0.5]):
        assert found.picture(strength=1.0) == lent.sample(CAT).tobytes()


# ── scores ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_loss_of_a_cell_is_that_of_fixed_noise(plotted, files, pictures):
    found = plotted("a", x="strength: 0, 1", score=True, score_data=pictures, score_pictures=3)
    (cell,) = [c for c in found.record["cells"] if c["values"]["strength"] == 1.0]
    job = assemble({"data.train_data_dir": str(pictures), "data.resolution": 64})[0]
    planned, lent, losses = plan(job.data), Tiny(), []
    items = planned.items
    chosen = [items[i * len(items) // 3] for i in range(3)]
    worn = Worn(lent, [files / "one.safetensors"])
    with worn.at([1.0]), torch.no_grad():
        for number, item in enumerate(chosen, 1):
            latents = Batches(planned, Fresh(lent.encode_images, 0), seed=0).whole([(-number, item)]).latents
            sums = 0.0
            for t in (200, 400, 600, 800):
                noise = torch.randn(latents.shape[1:], generator=drawn("validation", item.name, t))[None]
                a = lent.schedule.alphas_cumprod[t].float()
                noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
                guess = lent.denoise(noisy, torch.tensor([t]), lent.encode([item.caption]))
                sums += float((guess - noise).square().mean())
            losses.append(sums / 4)
    assert cell["losses"] == pytest.approx(losses, rel=1e-5)
    assert cell["metrics"]["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert found.record["loss_of"] == "3 training pictures"
    assert (found.folder / "heat.png").is_file()


def test_pictures_that_a_run_held_out_come_first(trained_run, tmp_path):
    values = trained_run
    trial = Trial.of(values, 16)
    assert trial.held
    assert trial.on == "1 held-out picture"
    losses = Losses.on(trial, Tiny())
    assert [name for batch in losses.batches for name in batch.names] == [
        item.name for source in trial.planned.held for item in source.items
    ]


@pytest.fixture
def trained_run(pictures, tmp_path):
    """A run's settings, as its folder has them."""
    return {
        "data.train_data_dir": str(pictures), "data.resolution": 64, "data.validation_split": 0.25,
        "output.output_dir": str(tmp_path / "elsewhere"), "place.device": "cpu",
    }  # fmt: skip


def test_without_records_of_a_run_it_is_said_that_nothing_is_measured(plotted):
    found = plotted("a", score=True)
    assert "score_data" in found.record["notes"][0]
    assert found.record["suggestion"] is None
    assert "moved" in found.record["cells"][-1]["metrics"]


# ── sweeps ──────────────────────────────────────────────────────────────────────────────────────────────────


class Steps(Watcher):
    """Counts, and does something after one of them."""

    def __init__(self, at: int = 0, act=lambda: None):
        self.at, self.act, self.count = at, act, 0

    def stepped(self, progress):
        self.count += 1
        if self.count == self.at:
            self.act()


@pytest.fixture
def sweep(pictures):
    """Two runs of four steps each."""
    job = {
        "model.pretrained_model_name_or_path": "tiny.safetensors", "data.train_data_dir": str(pictures),
        "data.resolution": 64, "training.max_train_steps": 4, "lr.learning_rate": 0.05,
    }  # fmt: skip
    return {"job": job, "network_weights": (), "x": "network.dim: 2, 4", "y": "strength: 0, 1"}


def same(one, other) -> None:
    """Two folders with the same sheet, of the same runs."""
    found = [
        {file.name: load_file(file) for file in sorted((folder / "runs").glob("*.safetensors"))}
        for folder in (one, other)
    ]
    assert found[0].keys() == found[1].keys()
    for name, tensors in found[0].items():
        assert all(torch.equal(tensor, found[1][name][key]) for key, tensor in tensors.items())
    assert (one / "sheet.png").read_bytes() == (other / "sheet.png").read_bytes()


@pytest.mark.parametrize(("save", "steps"), [(True, 2), (False, 4)])
def test_a_sweep_that_is_stopped_within_a_run_goes_on(plotted, sweep, tmp_path, save, steps):
    whole, control = Steps(), Control()
    plotted("whole", **sweep, watchers=[whole])
    with pytest.raises(Ended):
        plotted("cut", **sweep, control=control, watchers=[Steps(6, lambda: control.stop(save))])
    assert not (tmp_path / "cut" / "cells").exists()
    again = Steps()
    plotted("cut", **sweep, watchers=[again])
    assert (whole.count, again.count) == (8, steps)  # the second run from its state, or anew
    same(tmp_path / "whole", tmp_path / "cut")
    assert not [*(tmp_path / "cut" / "runs").glob("*-state")]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such signal")
def test_a_sweep_that_is_killed_within_a_run_goes_on(plotted, sweep, tmp_path):
    plotted("whole", **sweep)
    (tmp_path / "sweep.json").write_text(json.dumps(sweep), encoding="utf-8")
    words = [sys.executable, "-c", KILLED_WITHIN, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, env=environment, cwd=ROOT, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL
    again = Steps()
    plotted("cut", **sweep, watchers=[again])
    assert again.count == 4
    same(tmp_path / "whole", tmp_path / "cut")


KILLED_WITHIN = """
import json, os, pathlib, signal, sys
import torch
torch.set_num_threads(1)
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.plots.cells import drawn_up
from lora_train.plots.drawing import Drawing
from lora_train.plots.plan import Plan
from lora_train.train.events import Watcher
from tests.tiny import TinyHost
folder = pathlib.Path(sys.argv[1])
asked = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
settings = asked.pop("job")
plan = build(Plan, {**asked, "prompt": "a cat", "width": 64, "height": 64, "outdir": folder / "cut"})
class Kill(Watcher):
    count = 0
    def stepped(self, progress):
        self.count += 1
        if self.count == 6:
            os.kill(os.getpid(), signal.SIGKILL)
job, _, place = assemble({})
Drawing(drawn_up(plan, settings), job, place, TinyHost(folder), watchers=[Kill()]).make()
"""


def test_files_by_epoch_of_each_run(plotted, sweep, tmp_path):
    job = {**sweep["job"], "training.max_train_steps": 12}  # of 4 an epoch
    asked = {"network_weights": (), "x": "lr.learning_rate: 0.05, 0.1"}
    plotted("a", **asked, job=job)  # only what the runs end with
    count = Steps()
    found = plotted("a", **asked, job=job, y="epoch: 1, 2, last", score=True, watchers=[count])
    assert count.count == 2 * 12
    files = {f"learning_rate {lr}, {at}" for lr in ("0.05", "0.1") for at in ("epoch 1", "epoch 2", "last")}
    assert {row[0] for row in found.record["scores"]} == files
    short = plotted("b", **asked, job={**job, "training.max_train_steps": 4})
    for lr in (0.05, 0.1):
        at = {"lr.learning_rate": lr}
        assert found.picture(**at, file="epoch 1") == short.picture(**at) != found.picture(**at, file="last")
    again = Steps()
    assert plotted("a", **asked, job=job, y="epoch: 1, 2, last", watchers=[again]).prompts == []
    assert again.count == 0


def test_each_value_of_a_setting_is_a_run(plotted, pictures, tmp_path):
    job = {
        "model.pretrained_model_name_or_path": "tiny.safetensors", "data.train_data_dir": str(pictures),
        "data.resolution": 64, "training.max_train_steps": 3, "lr.learning_rate": 0.05,
        "output.save_every_n_steps": 1,
    }  # fmt: skip
    asked = {
        "job": job,
        "network_weights": (),
        "x": "network_dim: 2, 4",
        "y": "strength: 0, 1",
        "score": True,
    }
    found = plotted("a", **asked)
    files = sorted((tmp_path / "a" / "runs").glob("*.safetensors"))
    assert len(files) == 2  # and none of single steps
    assert found.picture(**{"network.dim": 2, "strength": 0.0}) == bare()
    for file in files:
        dim = int(file.stem.split("-")[1])
        assert found.picture(**{"network.dim": dim, "strength": 1.0}) == by_hand(file, 1, 1) != bare()
    when = [file.stat().st_mtime_ns for file in files]
    again = plotted("a", **asked)
    assert [file.stat().st_mtime_ns for file in files] == when
    assert again.prompts == []
    assert again.record["suggestion"] == found.record["suggestion"]
    assert found.record["suggestion"]["file"] in ("dim 2", "dim 4", None)
