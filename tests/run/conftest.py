"""Jobs on a light host."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from lora_train.job import assemble
from lora_train.run.control import Control
from lora_train.run.session import Outcome, run
from lora_train.train.events import Watcher
from tests.tiny import TinyHost

STEPS_PER_EPOCH = 6  # of `pictures`, in batches of one


class At(Watcher):
    """Does something after a step."""

    def __init__(self, step, do):
        self.step, self.do = step, do

    def stepped(self, progress):
        if progress.step == self.step:
            self.do()


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    """Three pictures with tags, twice each."""
    folder = tmp_path / "pictures" / "2_things"
    folder.mkdir(parents=True)
    for name, tags in {"a": "cat, red, big", "b": "dog, blue, old, wet", "c": "sun, hot"}.items():
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(tags, encoding="utf-8")
    return folder.parent


@pytest.fixture
def trained(tmp_path, pictures):
    """trained("a", **values): run a small job into the folder a; values by path, dots as two underscores.
    stop: the step after which it is stopped."""

    def trained(folder: str, *, host=None, stop=None, control=None, watchers=(), **values) -> Outcome:
        usual = {
            "model.pretrained_model_name_or_path": "tiny.safetensors", "data.train_data_dir": pictures,
            "data.resolution": 64, "training.max_train_steps": 8, "training.seed": 5,
            "lr.learning_rate": 0.01, "output.output_dir": tmp_path / folder, "output.output_name": "x",
            "output.save_precision": "float",
        }  # fmt: skip
        asked = {path.replace("__", "."): value for path, value in values.items()}
        control = control or Control()
        if stop is not None:
            watchers = [*watchers, At(stop, control.stop)]
        return run(*assemble({**usual, **asked}), host or TinyHost(), control=control, watchers=watchers)

    return trained
