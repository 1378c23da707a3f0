"""The demo's checkpoint, its style, and that the style is learned."""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "demo"))
import run as demo  # noqa: E402


def test_grey_has_no_colourfulness_and_half_red_half_cyan_has_the_formulas(tmp_path):
    grey = np.full((8, 8, 3), 90, np.uint8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert demo.colourfulness(tmp_path / "grey.png") == 0
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:4, :, 0] = 255
    halves[4:, :, 1:] = 255
    Image.fromarray(halves).save(tmp_path / "halves.png")
    # red - green is 255 and -255; (red + green) / 2 - blue is 127.5 and -127.5; both means are 0
    assert demo.colourfulness(tmp_path / "halves.png") == pytest.approx(np.hypot(255, 127.5))


def test_the_checkpoint_is_small_and_has_every_name_of_sd_1x():
    safetensors = pytest.importorskip("safetensors")
    assert demo.CHECKPOINT.stat().st_size <= 32_000_000
    with safetensors.safe_open(demo.CHECKPOINT, "np") as file:
        names = list(file.keys())
        assert sum(name.startswith("model.diffusion_model.") for name in names) == 686
        assert all(file.get_slice(name).get_dtype() in ("F16", "I64") for name in names)


def test_every_picture_of_the_style_is_black_on_white_and_has_a_caption():
    pictures = sorted((demo.HERE / "dataset" / "10_ink style").glob("*.png"))
    assert 20 <= len(pictures) <= 30
    assert all(demo.colourfulness(path) < 1 for path in pictures)
    assert all(
        path.with_suffix(".txt").read_text(encoding="utf-8").endswith("ink style\n") for path in pictures
    )


def test_the_sheet_shows_things_the_style_was_learned_from_and_others():
    captions = {p.read_text(encoding="utf-8").strip() for p in (demo.HERE / "dataset").rglob("*.txt")}
    lines = (demo.HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert [line.split(" --")[0] in captions for line in lines] == [True] * 5 + [False] * 3


def test_a_short_run_takes_the_colour_out(tmp_path):
    """The style's colourfulness is 0; that of the first samples, the bare checkpoint's, about 70. 180 steps
    of the demo's 900 took it to less than half."""
    pytest.importorskip("diffusers")
    from lora_train import cli

    prompts = tmp_path / "prompts.txt"
    lines = (demo.HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()
    prompts.write_text("\n".join([*lines[2:5], lines[7]]), encoding="utf-8")
    assert cli.main(demo.train_words(tmp_path, 180, prompts)) == 0
    before, after = demo.before_and_after(tmp_path / "sample")
    assert before > 40
    assert after < 0.6 * before, (before, after)


def test_ctrl_c_stops_after_the_step_with_a_state_to_go_on_from(tmp_path):
    pytest.importorskip("diffusers")
    words = [w for w in demo.train_words(tmp_path, 500) if not w.startswith("--sample_at")]
    words += ["--sample_every_n_steps", "1000"]
    command = [sys.executable, "-m", "lora_train", *words]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "ink-run" / "metrics.jsonl"
    while child.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 130
    assert "Traceback" not in said
    states = list(tmp_path.glob("ink-step*-state"))
    assert len(states) == 1
    assert f"--resume {states[0]}" in said
    assert (tmp_path / f"{states[0].name.removesuffix('-state')}.safetensors").exists()
