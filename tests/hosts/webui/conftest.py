import pathlib

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def dataset(tmp_path) -> pathlib.Path:
    """Two pictures with captions."""
    folder = tmp_path / "pictures" / "1_thing"
    folder.mkdir(parents=True)
    for name in "ab":
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
    return folder.parent
