"""What may not be read or written, met as a person who is not root."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from lora_train.train.events import Watcher
from tests.mistakes.harness import Ground, kept, outcome
from tests.tiny import TinyHost

pytestmark = pytest.mark.skipif(os.name != "posix", reason="rights are others there")
NOBODY = 65534


@pytest.fixture
def ground(tmp_path, monkeypatch) -> Iterator[Ground]:
    """Not below pytest's folder, which is its maker's alone."""
    if importlib.util.find_spec("tqdm") is None:
        monkeypatch.setattr("lora_train.run.watchers.Bar", Watcher)
    monkeypatch.setattr("lora_train.hosts.standalone.host.StandaloneHost", TinyHost)
    before = Ground(tmp_path / "before")
    assert outcome(before.train())[0] == 0  # loads what it needs from folders that may be root's alone
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    ground = Ground(folder / "ground")
    for path in (ground.output, *ground.output.rglob("*")):
        path.chmod(0o777)
    yield ground
    for place, folders, _ in os.walk(folder):
        for name in folders:
            (pathlib.Path(place) / name).chmod(0o755)
    shutil.rmtree(folder)


@contextlib.contextmanager
def as_a_person() -> Iterator[None]:
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def closed(path: pathlib.Path, rights: int = 0) -> pathlib.Path:
    path.chmod(rights)
    return path


def picked(option: str, name: str, content: str = "") -> Callable[[Ground], list[str]]:
    """An option whose file may not be read."""
    return lambda g: g.train(**{option: closed(g.write(name, content))}, sample_every_n_steps=None)


def inside(option: str, name: str) -> Callable[[Ground], list[str]]:
    """An option whose file lies in a folder that may not be entered."""

    def plant(ground: Ground) -> list[str]:
        path = ground.write(f"closed/{name}", "x")
        closed(path.parent)
        return ground.train(**{option: path})

    return plant


CASES: dict[str, tuple[Callable[[Ground], object], str]] = {
    "a picture": (lambda g: closed(g.pictures / "b.png"), "b.png"),
    "a caption": (lambda g: closed(g.pictures / "b.txt"), "b.txt"),
    "a folder of pictures": (lambda g: closed(g.pictures), "2_thing"),
    "a folder of pictures that may be listed only": (lambda g: closed(g.pictures, 0o444), "2_thing"),
    "the folder of folders": (lambda g: closed(g.set), "pictures"),
    "the output": (lambda g: closed(g.output, 0o555), "output.output_dir"),
    "what the output would be in": (
        lambda g: g.train(output_dir=closed(g.folder / "output", 0o555) / "new"), "output.output_dir"),
    "settings": (picked("config_file", "a.toml"), "a.toml"),
    "datasets": (picked("dataset_config", "a.toml"), "a.toml"),
    "an adapter": (picked("network_weights", "w.safetensors"), "w.safetensors"),
    "captions in one file": (picked("in_json", "said.json", "{}"), "said.json"),
    "settings in a closed folder": (inside("config_file", "a.toml"), "a.toml"),
    "an adapter in a closed folder": (inside("network_weights", "w.safetensors"), "w.safetensors"),
    "a set in a closed folder": (inside("train_data_dir", "set"), "set"),
    "a state in a closed folder": (inside("resume", "x-state"), "x-state"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_may_not_be_used_is_named(name, ground, caplog):
    plant, said = CASES[name]
    planted = plant(ground)
    words = planted if isinstance(planted, list) else ground.train()
    before = kept(ground.folder)
    with as_a_person():
        status, message = outcome(words)
    assert status == 2, message + caplog.text
    assert said in message
    assert "Traceback" not in message + caplog.text
    assert kept(ground.folder) == before
