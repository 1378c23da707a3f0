"""Folders of pictures to learn from."""

import pathlib

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def make(tmp_path):
    """make("10_cat/a.png", (320, 192), "a cat"): a picture of that size, with a caption file unless None."""

    def make(name: str, size=(64, 64), caption: str | None = None) -> pathlib.Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = np.random.default_rng(list(name.encode()))
        Image.fromarray(seed.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    return make
