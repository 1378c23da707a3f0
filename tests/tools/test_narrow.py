"""A precision without numbers so large as a file would get is refused, and nothing is written over."""

from __future__ import annotations

import pathlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.models.written import narrowed
from lora_train.tools import TOOLS
from tests.tools import saved

LARGE = 1e13  # float16 ends at 65504; its root, as where factors are made equal, is above it as well


def enlarged(source: pathlib.Path, to: pathlib.Path, ending: str) -> str:
    """A float32 file with one number that is too large; -> the tensor's key."""
    tensors = {key: t.float() if t.is_floating_point() else t for key, t in load_file(source).items()}
    key = next(key for key in sorted(tensors) if key.endswith(ending))
    tensors[key].view(-1)[0] = LARGE
    with safe_open(source, "pt") as file:
        save_file(tensors, to, metadata=file.metadata())
    return key


@pytest.mark.parametrize(
    ("tool", "values", "of"),
    [
        ("convert", {"model": "lora"}, "lora"),
        ("convert", {"model": "lora", "to": "diffusers"}, "lora"),
        ("merge", {"models": "lora"}, "lora"),
        ("merge", {"models": "lora", "sd_model": "sound"}, "lora"),
        ("merge", {"models": "small", "sd_model": "checkpoint"}, "checkpoint"),
        ("resize", {"model": "lora", "new_rank": 1}, "lora"),
        ("convert-model", {"model": "checkpoint"}, "checkpoint"),
    ],
)
def test_fp16_is_refused_where_it_would_give_infinity(tool, values, of, tmp_path):
    lora, checkpoint = tmp_path / "lora.safetensors", tmp_path / "checkpoint.safetensors"
    small = saved.file(tmp_path, "lora", dim=2)
    enlarged(small, lora, ".lora_down.weight")
    enlarged(saved.checkpoint("sd1"), checkpoint, "out.2.weight")
    paths = {"lora": lora, "checkpoint": checkpoint, "small": small, "sound": saved.checkpoint("sd1")}
    given = {name: str(paths.get(value, value)) for name, value in values.items()}
    folder = tool == "convert-model"
    to = tmp_path / ("new" if folder else "new.safetensors")
    if not folder:
        to.write_bytes(b"there before")
    whole = {**given, "save_to": str(to), "overwrite": True}
    with pytest.raises(Mistake, match=r"save_precision: .* gets values beyond 65504, .* bf16 or float"):
        build(TOOLS[tool], {**whole, "save_precision": "fp16"}).run()
    assert not to.exists() if folder else to.read_bytes() == b"there before"
    assert not [*tmp_path.glob("*.part")]
    report = build(TOOLS[tool], {**whole, "save_precision": "bf16"}).run()
    assert all(path.exists() for path in report.files)


def test_what_is_infinite_already_and_numbers_that_fit_pass():
    there = torch.tensor([float("inf"), 65504.0, -1e-9])
    assert narrowed(there, torch.float16, "a").tolist() == [float("inf"), 65504.0, 0.0]
    with pytest.raises(Mistake, match="save_precision: a gets"):
        narrowed(torch.tensor([-65520.0]), torch.float16, "a")


def test_a_strength_beyond_the_files_own_precision_can_be_written_in_another(tmp_path):
    file = saved.file(tmp_path, "full")
    half = {key: t.half() for key, t in load_file(file).items()}
    save_file(half, file)
    to = tmp_path / "new.safetensors"
    given = {"model": str(file), "save_to": str(to), "strength": 100}
    key = next(key for key in half if key.endswith(".diff"))
    half[key].view(-1)[0] = 60000.0
    save_file(half, file)
    build(TOOLS["convert"], {**given, "save_precision": "float"}).run()
    assert load_file(to)[key].view(-1)[0] == 6e6
    with pytest.raises(Mistake, match="save_precision: .* gets values beyond 65504"):
        build(TOOLS["convert"], {**given, "save_precision": "fp16", "overwrite": True}).run()
