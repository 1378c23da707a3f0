"""Files that are written tensor by tensor, against safetensors' own writer."""

from __future__ import annotations

import hashlib

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lora_train.models.written import write
from lora_train.run.store import Unwritable

TENSORS = {
    "b.half": torch.randn(5, 3).half(),
    "a.brain": torch.randn(4).bfloat16(),
    "c.one": torch.tensor(2.0),
    "whole": torch.arange(77),
    "large": torch.randn(600, 901),  # beyond the first megabyte, which an old hash is of
    "bytes": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "none": torch.zeros(0, 3),
}
METADATA = {"ss_comment": 'a "ü"\n', "modelspec.title": "x"}


def rows(tensors):
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def test_every_tensor_and_text_is_read_back(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, rows(TENSORS), TENSORS.__getitem__, METADATA)
    with safe_open(path, "pt") as file:
        assert file.metadata() == METADATA
        for name, tensor in TENSORS.items():
            found = file.get_tensor(name)
            assert found.dtype == tensor.dtype
            assert torch.equal(found, tensor)


def test_equal_tensors_give_the_bytes_of_safetensors_own_writer(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, rows(TENSORS), TENSORS.__getitem__, {"one": "text"})  # of several its order is by chance
    assert path.read_bytes() == safetensors.torch.save(TENSORS, {"one": "text"})


def test_hashes_are_those_of_sd_scripts(tmp_path):
    path = tmp_path / "a.safetensors"
    write(path, rows(TENSORS), TENSORS.__getitem__, METADATA, hashed=True)
    short = safetensors.torch.save(TENSORS, {k: v for k, v in METADATA.items() if k.startswith("ss_")})
    data = short[8 + int.from_bytes(short[:8], "little") :]
    with safe_open(path, "pt") as file:
        found = file.metadata()
    assert found["sshs_model_hash"] == hashlib.sha256(data).hexdigest()
    assert found["modelspec.hash_sha256"] == f"0x{hashlib.sha256(data).hexdigest()}"
    assert found["sshs_legacy_hash"] == hashlib.sha256(short[0x100000:0x110000]).hexdigest()[:8]


def test_what_stops_in_the_middle_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"before")

    def broken(name):
        if name == "whole":
            return TENSORS[name]
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        write(path, rows(TENSORS), broken, {})
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_tensor_of_another_shape_than_announced_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="announced"):
        write(tmp_path / "a", {"x": ((2,), torch.float32)}, lambda _: torch.zeros(3), {})
    assert not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Unwritable):
        write(tmp_path / "file" / "a", {}, TENSORS.__getitem__, {})
