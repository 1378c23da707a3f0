"""The environments of `.ci/env.py`: built once, found again, and built anew where that was interrupted."""

from __future__ import annotations

import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def env(tmp_path, monkeypatch):
    """The program, with an empty cache and an environment `bare` that needs nothing from anywhere."""
    spec = importlib.util.spec_from_file_location("env", ROOT / ".ci" / "env.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "bare.txt").write_text("# nothing\n")
    monkeypatch.setattr(module, "PINS", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHON", sys.executable)
    return module


def test_an_environment_is_built_once_and_again_after_an_interruption(env, capfd):
    python = env.environment("bare")
    assert python.exists()
    assert "Set up in" in capfd.readouterr().out

    assert env.environment("bare") == python
    assert not capfd.readouterr().out

    (python.parents[1] / "ready").unlink()  # its last act, so this is what an interruption leaves
    (python.parents[1] / "half").touch()
    assert env.environment("bare") == python
    assert "Set up in" in capfd.readouterr().out
    assert not (python.parents[1] / "half").exists()


def test_other_pins_are_another_environment(env, tmp_path, monkeypatch):
    monkeypatch.setattr(env, "build", lambda *_: None)
    before = env.environment("bare")
    (tmp_path / "bare.txt").write_text("# something\n")
    other = env.environment("bare")
    assert other != before
    (tmp_path / "bare-alone.txt").write_text("# without what it asks for\n")
    assert env.environment("bare") not in (before, other)


def test_what_stands_alone_is_installed_without_what_it_asks_for(env, tmp_path, monkeypatch):
    (tmp_path / "bare-alone.txt").write_text("# nothing\n")
    run, ran = env.subprocess.run, []
    monkeypatch.setattr(env.subprocess, "run", lambda words, **more: ran.append(words) or run(words, **more))
    env.environment("bare")
    assert [words[-3:] for words in ran if "--no-deps" in words] == [
        ["--no-deps", "-r", str(tmp_path / "bare-alone.txt")]
    ]


def test_a_program_runs_the_clone_and_its_exit_status_comes_back(env, monkeypatch):
    monkeypatch.setattr(env, "environment", lambda _: pathlib.Path(sys.executable))
    assert env.main(["run", "bare", "-c", "import lora_train, sys; sys.exit(7)"]) == 7


def test_an_unknown_environment_or_python_is_said_in_words(env, monkeypatch):
    with pytest.raises(SystemExit, match="cellar: no such environment; there are bare"):
        env.environment("cellar")
    monkeypatch.setenv("PYTHON", "no-such-python")
    with pytest.raises(SystemExit, match="finds none under the names no-such-python"):
        env.environment("bare")
