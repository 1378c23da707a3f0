"""Files of adapters as tools read them, against what was written and against the matrices by hand."""

from __future__ import annotations

import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.tooling import ABOUT
from lora_train.tools import TOOLS
from lora_train.tools.base import Base
from lora_train.tools.convert import Convert
from lora_train.tools.opened import Opened
from lora_train.tools.tool import Tool
from tests.tools import saved

REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
MADE = ("lora_dim4", "locon_dim4_conv2", "loha_dim4", "lokr_dim4_f4", "locon16")

there = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference artefacts are not there")


@there
@pytest.mark.parametrize("name", MADE)
def test_shapes_are_told_as_the_checkpoint_has_them(name):
    base, file = Base(REFERENCE / "tiny_sd1.safetensors"), Opened(REFERENCE / name / f"{name}.safetensors")
    assert file.arch == base.arch == "sd1"
    assert not file.rest
    assert {key: file.change(key).shape for key in file.layers} == {k: base.shapes[k] for k in file.layers}


@there
def test_a_loras_change_is_its_product():
    path = REFERENCE / "locon16" / "locon16.safetensors"
    file, tensors = Opened(path), load_file(path)
    for key, held in file.layers.items():
        own = {name: tensors[at] for name, at in held.names.items()}
        up, down = own["lora_up.weight"].flatten(1), own["lora_down.weight"].flatten(1)
        wanted = own["alpha"] / len(down) * up @ down
        torch.testing.assert_close(file.change(key).matrix(), wanted, rtol=1e-6, atol=1e-7)


@there
def test_a_checkpoint_gives_its_layers_by_our_names():
    path = REFERENCE / "tiny_sd1.safetensors"
    base, tensors = Base(path), load_file(path)
    lead = "model.diffusion_model."
    assert torch.equal(base.weight("unet.out.2"), tensors[f"{lead}out.2.weight"])
    assert torch.equal(base.bias("unet.out.2"), tensors[f"{lead}out.2.bias"])
    text = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1"
    assert torch.equal(base.weight("te1.encoder.layers.3.mlp.fc1"), tensors[f"{text}.weight"])


@there
def test_what_is_no_lora_is_said():
    with pytest.raises(Mistake, match="this is a whole checkpoint"):
        Opened(REFERENCE / "tiny_sd1.safetensors")


@pytest.mark.parametrize("family", ["lora", "loha", "lokr", "tucker", "oft"])
def test_what_earlier_adapters_came_to_counts(family, tmp_path):
    """Thin beside some layers, whole beside others; and still in what is made of the file."""
    path = saved.file(tmp_path, family, **({"decompose_both": True, "factor": 4} if family == "lokr" else {}))
    tensors, base = load_file(path), saved.base("sd1")
    before = saved.matrices(path)
    for n, (key, held) in enumerate(Opened(path).layers.items()):
        out, inn = before[key].shape
        module = next(iter(held.names.values())).partition(".")[0]
        up, down = torch.randn(out, 2, generator=torch.manual_seed(n)) / 9, torch.ones(2, inn) / 9
        before[key] = before[key] + up @ down
        whole = {f"{module}.kept_whole": (up @ down).view(base.shapes[key])}
        tensors |= whole if n % 2 else {f"{module}.kept_up": up, f"{module}.kept_down": down}
    save_file(tensors, tmp_path / "a.safetensors", {"ss_base_model_version": "sd_v1"})
    given = {"model": tmp_path / "a.safetensors", "base": saved.checkpoint("sd1"), "to": ("lora",)}
    build(Convert, {**given, "save_to": tmp_path / "b.safetensors"}).run()
    for name in ("a", "b"):
        for key, found in saved.matrices(tmp_path / f"{name}.safetensors").items():
            torch.testing.assert_close(found, before[key], rtol=1e-4, atol=1e-5)


def test_every_tool_does_something_and_is_listed_in_help():
    assert TOOLS.keys() == ABOUT.keys()
    assert all(tool.run is not Tool.run for tool in TOOLS.values())
