"""The real WebUI, started by the test: SD_WEBUI_DIR=… pytest -m webui (see CONTRIBUTING.md)."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence

import pytest
from safetensors.torch import load_file, save_file

from tests.hosts import tiny_checkpoints, tiny_loras

ROOT = pathlib.Path(__file__).parents[3]
WEBUI = pathlib.Path(os.environ.get("SD_WEBUI_DIR", ""))
FLAGS = [
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--no-half", "--use-cpu", "all",
    "--disable-nan-check", "--no-download-sd-model", "--nowebui",
]  # fmt: skip
# an extension that runs tests once the model is there, and ends the WebUI with them
PROBE = """
import json, os, sys, threading, time

from modules import script_callbacks, sd_models

def tests():
    while not sd_models.model_data.was_loaded_at_least_once or sd_models.model_data.sd_model is None:
        time.sleep(0.2)  # asking for shared.sd_model would load it a second time meanwhile
    sys.path[:0] = json.loads(os.environ["PROBE_PATH"])
    ended = 3
    try:
        import pytest
        ended = pytest.main(json.loads(os.environ["PROBE_WORDS"]))
    finally:
        sys.stdout.flush()
        os._exit(ended)

script_callbacks.on_app_started(lambda demo, app: threading.Thread(target=tests).start())
"""

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not WEBUI.joinpath("webui.py").is_file(), reason="SD_WEBUI_DIR is not a WebUI's folder"
    ),
]


def python() -> str:
    """The WebUI's own: SD_WEBUI_PYTHON, or that of its venv."""
    own = WEBUI / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    return os.environ.get("SD_WEBUI_PYTHON", str(own))


def port() -> int:
    """One that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def started(tmp_path):
    """started("tests/…"): run them in a WebUI of its own data folder, with the demo checkpoint loaded, or a
    small one of another family."""
    data = tmp_path / "data"
    models = data / "models" / "Stable-diffusion"
    script = data / "extensions" / "probe" / "scripts" / "probe.py"
    models.mkdir(parents=True)
    script.parent.mkdir(parents=True)
    script.write_text(PROBE, encoding="utf-8")
    demo = ROOT / "demo" / "checkpoint"
    shutil.copy(demo / "demo.safetensors", models)
    config = (demo / "demo.yaml").read_text(encoding="utf-8")
    config = config.replace("version: demo_clip", f"version: {demo / 'demo_clip'}")
    (models / "demo.yaml").write_text(config, encoding="utf-8")
    other = load_file(demo / "demo.safetensors")
    other["model.diffusion_model.out.2.weight"] *= 0.5
    save_file(other, models / "other.safetensors")
    (models / "other.yaml").write_text(config, encoding="utf-8")
    packages, site = pathlib.Path(sysconfig.get_paths()["purelib"]), tmp_path / "site"
    site.mkdir()
    for name in ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py.py"):
        (site / name).symlink_to(packages / name)

    def small(family: str) -> pathlib.Path:
        """Also a LoRA for it; and previews without a file from the net, which those of SDXL would want."""
        previews = json.dumps({"show_progress_type": "Approx cheap"})
        (data / "config.json").write_text(previews, encoding="utf-8")
        (data / "models" / "Lora").mkdir()
        tiny_loras.write(data / "models" / "Lora" / f"tiny_{family}.safetensors", family)
        return tiny_checkpoints.write(models / f"tiny_{family}.safetensors", family)

    def started(
        *words: str, flags: Sequence[str] = FLAGS, family: str = "sd1"
    ) -> subprocess.CompletedProcess:
        loaded = models / "demo.safetensors" if family == "sd1" else small(family)
        environ = {
            **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
            "PROBE_PATH": json.dumps([str(site), str(ROOT)]),
            "PROBE_WORDS": json.dumps(["-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *words]),
        }  # fmt: skip
        command = [
            python(),
            "launch.py",
            "--port",
            str(port()),
            *flags,
            "--ckpt",
            str(loaded),
            "--data-dir",
            str(data),
        ]
        return subprocess.run(
            command, cwd=WEBUI, env=environ, capture_output=True, text=True, timeout=600, check=False
        )

    return started


INSIDE = ROOT / "tests" / "hosts" / "webui" / "inside.py"


def test_the_loaded_model_is_a_host_as_any_other_and_is_left_as_it_was(started):
    ended = started("-c", str(ROOT / "pyproject.toml"), str(INSIDE))
    assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-3000:]}"
    assert " passed" in ended.stdout


OURS = {  # what is asked inside with our extension among the WebUI's -> which of it of SD 2.x and SDXL
    "inside_prompts.py": "there or txt2img or every_family and lora",
    "inside_regions.py": "half or and_prompt or negative or all_regions or nothing",
}


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("file", OURS)
def test_pictures_heed_block_weights_steps_regions_and_prompts(started, tmp_path, file, family):
    (tmp_path / "data" / "extensions" / "sd-webui-lora-train").symlink_to(ROOT)
    words = ["-c", str(ROOT / "pyproject.toml"), str(INSIDE.with_name(file))]
    few = [] if family == "sd1" else ["-k", OURS[file]]
    ended = started(*words, *few, family=family)
    assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-3000:]}"
    assert " passed" in ended.stdout


@pytest.mark.parametrize("flags", ["--medvram", "--lowvram", "fp8", "--opt-sub-quad-attention"])
def test_with_other_flags_too(started, flags):
    """--lowvram is refused, and so leaves no trace."""
    wanted = "lowvram" if flags == "--lowvram" else "leaves_the_model or lora_of_the_last"
    if flags == "fp8":
        wanted = "fp8"
    more = [flags] if flags.startswith("--") else []
    ended = started("-c", str(ROOT / "pyproject.toml"), str(INSIDE), "-k", wanted, flags=[*FLAGS, *more])
    assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-3000:]}"
    assert " passed" in ended.stdout


@pytest.mark.parametrize("flags", ["none", "--medvram", "fp8"])
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families_too(started, family, flags):
    wanted = "leaves_the_model or of_the_last"
    if flags == "none":
        wanted += " or Contract or pause or saved_file or kept_of_it or another_checkpoint_for"
    words = ("-c", str(ROOT / "pyproject.toml"), str(INSIDE), "-k", "fp8" if flags == "fp8" else wanted)
    more = [flags] if flags.startswith("--") else []
    ended = started(*words, flags=[*FLAGS, *more], family=family)
    assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-3000:]}"
    assert " passed" in ended.stdout
