"""Small checkpoints of SD 2.x and SDXL, made once."""

from __future__ import annotations

import pathlib

import pytest

from tests.hosts import tiny_checkpoints
from tests.hosts.standalone.families import ARCHS


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> dict[str, pathlib.Path]:
    """Architecture -> a checkpoint with its .yaml beside it."""
    folder = tmp_path_factory.mktemp("small")
    return {arch: tiny_checkpoints.write(folder / f"tiny_{arch}.safetensors", arch) for arch in ARCHS}
