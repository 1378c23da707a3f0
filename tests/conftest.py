"""What every test may count on: one thread, a seed, and where the reference trainer's files are."""

import pathlib

import pytest
import torch

REFERENCE = pathlib.Path(__file__).resolve().parents[2] / "shared" / "reference"


@pytest.fixture(autouse=True)
def _quiet():
    """One thread, because sums over several differ in their last bits, and cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _forgetful(tmp_path_factory, monkeypatch):
    """What is remembered of pictures is not the person's who runs the tests."""
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def reference() -> pathlib.Path:
    """Files that the field's reference tools made; see its README."""
    if not REFERENCE.is_dir():
        pytest.skip(f"the reference tools' files are not at {REFERENCE}")
    return REFERENCE
