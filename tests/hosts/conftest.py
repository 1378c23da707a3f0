"""The reference checkpoint, for every host."""

import pathlib

import pytest
import torch

pytest.register_assert_rewrite("tests.hosts.contract")
REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    if not REFERENCE.is_dir():
        pytest.skip(f"the reference checkpoint is not at {REFERENCE}")
    return REFERENCE


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
