"""What tests of the workshop share: a folder whose name has a blank and an accent."""

import pytest


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my pictures é"
    folder.mkdir()
    return folder
