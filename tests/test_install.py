"""What the WebUI runs of ours at its start: quick, quiet, and without a trace."""

import ast
import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
LONGEST = 0.3  # seconds that we may add to a start


def loaded():
    spec = importlib.util.spec_from_file_location("lora_train_install", ROOT / "install.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(*words, cwd, **environ):
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, **environ})  # fmt: skip


def test_where_all_is_there_nothing_is_said(tmp_path):
    ended = started(str(ROOT / "install.py"), cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_or_old_is_named(tmp_path):
    for name in ("torch-2.0.1+cu118", "numpy-1.26.2", "Pillow-10.0.0rc1", "other_thing-1"):
        (tmp_path / f"{name}.dist-info").mkdir()
    module = loaded()
    assert module.remarks(module.installed([str(tmp_path), str(tmp_path / "nowhere")])) == [
        "this WebUI has torch 2.0.1+cu118; training is tried with 2.1.2 and later.",
        "this WebUI lacks safetensors; training will not start without.",
    ]


def test_it_never_keeps_a_webui_from_starting(monkeypatch, capsys):
    module = loaded()

    def broken(found):
        raise ValueError("odd")

    monkeypatch.setattr(module, "remarks", broken)
    module.main()
    assert "could not look for packages (ValueError: odd)" in capsys.readouterr().out


def test_it_imports_only_the_standard_library_and_starts_nothing():
    tree = ast.parse((ROOT / "install.py").read_text(encoding="utf-8"))
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert names <= {"os", "sys"}
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]


# the WebUI as far as our script needs it, and what it has loaded by then
WEBUI = """
import asyncio, html, importlib.util, json, pathlib, sys, time, types, urllib.parse
import starlette.applications, starlette.concurrency, starlette.requests, starlette.responses
import starlette.routing

class Anything(types.ModuleType):
    def __getattr__(self, name):
        return lambda *words: None

modules = sys.modules["modules"] = types.ModuleType("modules")
modules.script_callbacks = sys.modules["modules.script_callbacks"] = Anything("script_callbacks")
modules.scripts = sys.modules["modules.scripts"] = types.ModuleType("modules.scripts")
modules.scripts.Script = object
script = sys.argv[1] + "/scripts/lora_train_tab.py"
sys.path.insert(0, sys.argv[1])

def load():
    spec = importlib.util.spec_from_file_location("lora_train_tab.py", script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""

# prints the seconds that our script took, and what of the heavy packages came with it
LOAD = (
    WEBUI
    + """
began = time.perf_counter()
load()
print(time.perf_counter() - began)
heavy = ("torch", "numpy", "PIL", "gradio", "diffusers", "transformers")
print(*[name for name in heavy if name in sys.modules])
"""
)

# prints what our script changed in modules and classes that were there before
TRACES = (
    WEBUI
    + """
def seen():
    return {name: dict(vars(module)) for name, module in list(sys.modules.items())
            if name.startswith(("starlette", "anyio", "json", "pathlib", "logging", "modules"))}

def inside(found):
    return {kind: {k: v for k, v in vars(kind).items() if k[0] != "_"}
            for names in found.values() for kind in names.values() if isinstance(kind, type)}

before = seen()
kinds = inside(before)
load()
after = seen()
now = inside(after)
print(*[n for n in before if any(after[n].get(k) is not v for k, v in before[n].items())])
print(*[kind.__name__ for kind in kinds if now[kind] != kinds[kind]])
"""
)


def test_a_start_is_not_made_to_wait(tmp_path):
    pytest.importorskip("starlette")
    script, took = [], []
    for _ in range(3):  # the machine may be at work with something else
        began = time.perf_counter()
        started("-c", "", cwd=tmp_path)
        bare = time.perf_counter()
        started(str(ROOT / "install.py"), cwd=tmp_path)
        took.append(time.perf_counter() - bare - (bare - began))
        ended = started("-c", LOAD, str(ROOT), cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        seconds, *heavy = ended.stdout.split()
        assert not heavy, f"the script brings {heavy} at its start"
        script.append(float(seconds))
    assert min(took) + min(script) < LONGEST, (took, script)


def test_loading_us_patches_nothing_and_writes_nothing(tmp_path):
    pytest.importorskip("starlette")
    ended = started("-c", TRACES, str(ROOT), cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == []
    assert not list(tmp_path.iterdir())
