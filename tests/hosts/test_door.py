"""The script that the WebUI runs at its start: little, quick, and as often as the WebUI likes."""

import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("starlette")

ROOT = pathlib.Path(__file__).parents[2]
DOOR = ROOT / "scripts" / "lora_train_tab.py"
START = """
import sys, time, types
import starlette.requests, starlette.responses, starlette.routing, starlette.concurrency  # gradio has them
sys.path.insert(0, {root!r})
made = []
modules = types.ModuleType("modules")
modules.script_callbacks = types.ModuleType("modules.script_callbacks")
modules.scripts = types.ModuleType("modules.scripts")
modules.scripts.Script = object
sys.modules.update({{"modules": modules, "modules.script_callbacks": modules.script_callbacks,
                    "modules.scripts": modules.scripts}})
for name in ("on_ui_settings", "on_ui_tabs", "on_after_component", "on_app_started", "on_before_ui",
             "on_cfg_denoiser"):
    setattr(modules.script_callbacks, name, lambda act, name=name: made.append(name))
before, text = time.perf_counter(), open({door!r}, encoding="utf-8").read()
for _ in range(2):
    exec(compile(text, "lora_train_tab.py", "exec"), {{"__name__": "lora_train_tab.py"}})
print(time.perf_counter() - before, len(made), "torch" in sys.modules, "gradio" in sys.modules)
"""


def test_the_start_costs_little_and_loads_nothing_heavy():
    words = [sys.executable, "-c", START.format(root=str(ROOT), door=str(DOOR))]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    assert found[1:] == ["14", "False", "False"]
    assert float(found[0]) < 0.3


def test_the_door_is_short():
    assert len(DOOR.read_text(encoding="utf-8").splitlines()) <= 60
