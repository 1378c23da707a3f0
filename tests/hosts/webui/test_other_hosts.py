"""WebUIs other than AUTOMATIC1111's newest: what stands in for them, and (SD_FORGE_DIR=… pytest -m webui)
Forge or reForge itself, with SD_FORGE_PYTHON as its Python."""

import contextlib
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request

import pytest

from lora_train.errors import Mistake
from lora_train.hosts.webui import versions, which

ROOT = pathlib.Path(__file__).parents[3]
FORGE = pathlib.Path(os.environ.get("SD_FORGE_DIR", ""))
BACKENDS = {"forge": ["modules_forge", "backend"], "reforge": ["modules_forge", "ldm_patched"]}
CALLBACKS = (
    "on_ui_settings", "on_ui_tabs", "on_after_component", "on_app_started", "on_before_ui", "on_cfg_denoiser",
)  # fmt: skip


@pytest.fixture
def stands_in(tmp_path, monkeypatch):
    """stands_in("forge"): the names that our door and tab import there; returns what was registered."""

    def stands_in(kind, changelog="## 1.10.1\n\n### Bug Fixes:\n"):
        webui, registered = tmp_path / "webui", {}
        for name in BACKENDS.get(kind, []):
            (webui / name).mkdir(parents=True)
        webui.mkdir(exist_ok=True)
        (webui / "CHANGELOG.md").write_text(changelog)
        flags = types.SimpleNamespace(
            subpath=None, api_auth=None, gradio_auth=None, gradio_auth_path=None, cors_allow_origins=None,
            webui_is_non_local=False, ckpt_dir=None, vae_dir=None, gradio_allowed_path=[],
            lora_dir=str(webui / "models" / "Lora"), disable_extension_access=False,
        )  # fmt: skip
        opts = types.SimpleNamespace(data={}, add_option=lambda name, option: None)
        modules = {
            "script_callbacks": {
                name: lambda f, name=name: registered.update({name: f}) for name in CALLBACKS
            },
            "scripts": {"Script": object, "AlwaysVisible": object()},
            "shared": {"cmd_opts": flags, "opts": opts, "sd_model": object()},
            "paths": {name: str(webui) for name in ("script_path", "data_path", "models_path")},
            "sd_models": {"model_path": str(webui / "models")},
            "sd_vae": {"vae_path": str(webui / "models" / "VAE")},
        }
        monkeypatch.setitem(sys.modules, "modules", types.ModuleType("modules"))
        for name, holds in modules.items():
            module = types.ModuleType(f"modules.{name}")
            vars(module).update(holds)
            monkeypatch.setitem(sys.modules, f"modules.{name}", module)
            monkeypatch.setattr(sys.modules["modules"], name, module, raising=False)
        return registered

    return stands_in


def door() -> types.ModuleType:
    """Our script, loaded as WebUIs load scripts."""
    spec = importlib.util.spec_from_file_location("lora_train_tab.py", ROOT / "scripts" / "lora_train_tab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("kind", "name"), [("forge", "Forge"), ("reforge", "reForge")])
def test_where_training_is_not_supported_it_says_so_in_a_sentence(stands_in, kind, name):
    pytest.importorskip("starlette")
    registered = stands_in(kind)
    assert door().Section().show(False) is False
    assert sorted(registered) == sorted(CALLBACKS)
    host = which.host()
    header = host.header()
    assert header["reason"].startswith(f"training inside {name} is not supported yet")
    assert "\n" not in header["reason"]
    assert header["trainable"] is False
    assert host.refusals(None, None, None) == [header["reason"]]
    with pytest.raises(Mistake, match="not supported yet"):
        host.borrow(None, device="auto", precision="no")
    assert host.folders.loras.name == "Lora"


def test_the_demo_is_not_put_where_nothing_can_train_it(stands_in, tmp_path):
    pytest.importorskip("starlette")
    from lora_train.hosts.webui import tab

    stands_in("forge")
    with pytest.raises(Mistake, match="not supported yet"):
        tab._demonstrated(None)
    assert sorted(p.name for p in (tmp_path / "webui").iterdir()) == [
        "CHANGELOG.md",
        "backend",
        "modules_forge",
    ]


@pytest.mark.parametrize(
    ("changelog", "release"),
    [
        ("## 1.10.1\n", (1, 10, 1)), ("## 1.8.0-RC\n", (1, 8, 0)), ("\n## v1.9\n", (1, 9)),
        ("# Changelog\n", None), ("", None),
    ],
)  # fmt: skip
def test_the_release_is_read_where_there_is_no_git(tmp_path, changelog, release):
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    assert versions.released(tmp_path) == release
    assert versions.released(tmp_path / "nowhere") is None


def test_a_webui_that_is_too_old_is_named(stands_in):
    stands_in("a1111", "## 1.6.0\n")
    assert versions.unsupported().startswith("training inside WebUI 1.6.0 is not supported; update it to 1.8")


@pytest.mark.parametrize("changelog", ["## 1.8.0\n", "## 1.10.1\n", "# something else\n"])
def test_the_others_are_tried(stands_in, changelog):
    stands_in("a1111", changelog)
    assert versions.unsupported() is None


def test_a_sampler_is_given_a_scheduler_only_where_there_are_any():
    new, old = type("New", (), {"scheduler": None}), type("Old", (), {})
    assert versions.scheduler(new) == {"scheduler": "Automatic"}
    assert versions.scheduler(old) == {}


@pytest.fixture
def forge(tmp_path):
    """The address of Forge or reForge, started with our extension in its data folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "extensions").mkdir()
    (tmp_path / "extensions" / "sd-webui-lora-train").symlink_to(ROOT)
    flags = ["--skip-prepare-environment", "--skip-torch-cuda-test", "--skip-version-check", "--always-cpu"]
    words = [*flags, "--no-download-sd-model", "--port", str(port), "--data-dir", str(tmp_path)]
    around = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "SD_WEBUI_RESTARTING": "1"}
    log = tmp_path / "log.txt"
    python = os.environ.get("SD_FORGE_PYTHON", str(FORGE / "venv" / "bin" / "python"))
    with log.open("w") as file:
        process = subprocess.Popen(
            [python, "launch.py", *words], cwd=FORGE, env=around, stdout=file, stderr=file
        )
    try:
        for _ in range(360):
            time.sleep(0.5)
            assert process.poll() is None, log.read_text()[-3000:]
            with contextlib.suppress(OSError, AssertionError):
                asked(f"http://127.0.0.1:{port}/lora_train/v1/queue")
                break
        yield f"http://127.0.0.1:{port}", log
    finally:
        process.terminate()
        process.wait(30)


def asked(url, body=None, status=200):
    request = urllib.request.Request(url, body and json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            got, text = answer.status, answer.read()
    except urllib.error.HTTPError as e:
        got, text = e.code, e.read()
    assert got == status, (got, text)
    return json.loads(text)


@pytest.mark.webui
@pytest.mark.skipif(
    not FORGE.joinpath("modules_forge").is_dir(), reason="SD_FORGE_DIR is not a Forge's folder"
)
def test_in_forge_itself_the_tab_opens_and_training_is_refused(forge):
    url, log = forge
    routes = f"{url}/lora_train/v1"
    reason = asked(f"{routes}/model")["reason"]
    assert "is not supported yet" in reason
    assert reason in asked(f"{routes}/queue", {"values": {}, "start": True}, 422)["error"]
    assert asked(f"{routes}/demo", {}, 422)["error"] == reason
    assert asked(f"{routes}/status")["run"] is None
    with urllib.request.urlopen(url, timeout=60) as page:
        text = page.read().decode()
    assert all(
        word in text for word in ("lora_train_page", "txt2img_send_to_lora_train", "lora_train_main.js")
    )
    assert "lora_train/" not in log.read_text(), log.read_text()[-3000:]  # as in a traceback
