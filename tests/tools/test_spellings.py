"""Spellings of other tools' files, read as kohya's."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.adapters.file import begun, load, network_of
from lora_train.adapters.lora import Lora
from lora_train.adapters.spelled import opened
from lora_train.errors import Mistake
from lora_train.job import Job
from lora_train.knobs import build
from lora_train.run.base import Base, digest
from lora_train.tools.convert import Convert
from lora_train.tools.dialects import DIALECTS
from lora_train.tools.opened import Opened
from tests.tools import saved

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
FLAT = Q.replace(".", "_")
TEXT = "text_model.encoder.layers.3.self_attn.q_proj"
SPELT = {  # begin of a down's and an up's key -> layer
    f"unet.{Q}.lora_A.weight|unet.{Q}.lora_B.weight": "unet",
    f"unet.{Q}.lora.down.weight|unet.{Q}.lora.up.weight": "unet",
    f"base_model.model.{Q}.lora_A.weight|base_model.model.{Q}.lora_B.weight": "unet",
    f"base_model.model.{Q}.lora_A.default.weight|base_model.model.{Q}.lora_B.default.weight": "unet",
    f"lycoris_{FLAT}.lora_down.weight|lycoris_{FLAT}.lora_up.weight": "unet",
    f"lora_unet_{FLAT}.lora_A.weight|lora_unet_{FLAT}.lora_B.weight": "unet",
    f"{Q[:-5]}.processor.to_q_lora.down.weight|{Q[:-5]}.processor.to_q_lora.up.weight": "unet",
    f"unet.{Q[:-5]}.processor.to_q_lora.down.weight|unet.{Q[:-5]}.processor.to_q_lora.up.weight": "unet",
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_down.weight|"
    "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.lora_up.weight": "unet",
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_down.weight|"
    "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight": "unet",
    f"text_encoder.{TEXT}.lora_A.weight|text_encoder.{TEXT}.lora_B.weight": "te1",
    f"text_encoder.{TEXT[11:]}.lora_A.weight|text_encoder.{TEXT[11:]}.lora_B.weight": "te1",
    f"text_encoder.{TEXT}.lora_linear_layer.down.weight|"
    f"text_encoder.{TEXT}.lora_linear_layer.up.weight": "te1",
    f"text_encoder.{TEXT[:-6]}to_q_lora.down.weight|text_encoder.{TEXT[:-6]}to_q_lora.up.weight": "te1",
    f"text_encoders.clip_l.transformer.{TEXT}.lora_down.weight|"
    f"text_encoders.clip_l.transformer.{TEXT}.lora_up.weight": "te1",
    f"base_model.model.{TEXT}.lora_A.weight|base_model.model.{TEXT}.lora_B.weight": "te1",
    "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight|"
    "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_up.weight": "te1",
}  # fmt: skip
LAYERS = {
    "unet": "unet.input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    "te1": "te1.encoder.layers.3.self_attn.q_proj",
}
DOWN, UP = torch.arange(8.0).view(2, 4), torch.arange(6.0).view(3, 2) / 8


@pytest.mark.parametrize("keys", SPELT)
def test_a_spelling_is_read_as_the_layer_it_is_for(keys, tmp_path):
    """Without an alpha the strength is 1, as its own readers take it."""
    path = tmp_path / "a.safetensors"
    save_file(dict(zip(keys.split("|"), (DOWN, UP), strict=True)), path)
    file, key = Opened(path), LAYERS[SPELT[keys]]
    assert [*file.layers] == [key]
    assert not file.rest
    assert torch.equal(file.change(key).matrix(), UP @ DOWN)


def peft(folder, config=None, module=f"base_model.model.{Q}", **more):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{module}.lora_A.weight": DOWN, f"{module}.lora_B.weight": UP, **more}
    save_file(tensors, folder / "adapter_model.safetensors")
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "times"),
    [
        ({"r": 2, "lora_alpha": 1}, 0.5),
        ({"r": 2, "lora_alpha": 1, "use_rslora": True}, math.sqrt(0.5)),
        ({"r": 8, "lora_alpha": 1, "alpha_pattern": {"attn1.to_q": 6}}, 3.0),
        ({"r": 2, "lora_alpha": 4, "alpha_pattern": {"attn2.to_q": 6}}, 2.0),
    ],
)
def test_pefts_settings_say_alpha(config, times, tmp_path):
    """As PEFT's `LoraLayer`: lora_alpha / r, over the root of r with rsLoRA, and patterns before it."""
    folder = peft(tmp_path / "unet", config)
    wanted = times * UP @ DOWN
    for path in (folder, folder / "adapter_model.safetensors", tmp_path):
        change = Opened(path).change(LAYERS["unet"])
        torch.testing.assert_close(change.matrix(), wanted, rtol=1e-6, atol=1e-6)


def test_a_folder_has_a_file_for_each_part(tmp_path):
    peft(tmp_path / "unet", {"r": 2, "lora_alpha": 1}, f"base_model.model.{Q.replace('0', '1', 1)}")
    for part in ("text_encoder", "text_encoder_2"):
        peft(tmp_path / part, {"r": 2, "lora_alpha": 2}, f"base_model.model.{TEXT}")
    file = Opened(tmp_path)
    assert file.arch == "sdxl"
    parts = {held.part: file.change(key).matrix()[1, 1].item() for key, held in file.layers.items()}
    one = (UP @ DOWN)[1, 1].item()
    assert parts == {"unet": one / 2, "te1": one, "te2": one}


def test_diffusers_metadata_say_alpha(tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    said = {"unet.r": 2, "unet.lora_alpha": 1, "text_encoder.r": 2, "text_encoder.lora_alpha": 8}
    tensors = {
        f"{at}.lora_{side}.weight": (DOWN if side == "A" else UP).clone()
        for at in (f"unet.{Q}", f"text_encoder.{TEXT}") for side in "AB"
    }  # fmt: skip
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(said)})
    file = Opened(path)
    assert torch.equal(file.change(LAYERS["unet"]).matrix(), 0.5 * UP @ DOWN)
    assert torch.equal(file.change(LAYERS["te1"]).matrix(), 4 * UP @ DOWN)


def test_pefts_magnitudes_are_of_outputs(tmp_path):
    magnitudes = torch.tensor([1.0, 2.0, 3.0])
    name = f"base_model.model.{Q}.lora_magnitude_vector"
    file = opened(peft(tmp_path / "unet", {"r": 2, "lora_alpha": 2}, **{name: magnitudes}))
    [(_, found)] = file.read([f"lora_unet_{FLAT}.dora_scale"])
    assert torch.equal(found, magnitudes[:, None])


def test_what_peft_cannot_mean_is_said(tmp_path):
    with pytest.raises(Mistake, match="expected lora_alpha and alpha_pattern"):
        opened(peft(tmp_path / "a", {"lora_alpha": 1, "alpha_pattern": {"(": 2}}))
    with pytest.raises(Mistake, match="expected lora_alpha and alpha_pattern"):
        opened(peft(tmp_path / "b", {"lora_alpha": "many"}))
    folder = peft(tmp_path / "c")
    (folder / "adapter_config.json").write_text("[1")
    with pytest.raises(Mistake, match="expected PEFT's settings as JSON"):
        opened(folder)
    with pytest.raises(Mistake, match="no such file"):
        opened(tmp_path / "nothing")
    with pytest.raises(Mistake, match="expected a .safetensors file, or a folder with adapter_model"):
        opened(tmp_path)


def test_two_spellings_of_a_layer_are_refused(tmp_path):
    keys = {f"unet.{Q}.lora_A.weight": DOWN, f"unet.{Q}.lora.down.weight": DOWN.clone()}
    save_file(keys, tmp_path / "a.safetensors")
    with pytest.raises(Mistake, match="are for the same layer"):
        opened(tmp_path / "a.safetensors")
    words = ("lora_te", "lora_te1")
    keys = {f"{te}_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": DOWN.clone() for te in words}
    save_file(keys, tmp_path / "b.safetensors")
    with pytest.raises(Mistake, match="are for the same layer"):
        Opened(tmp_path / "b.safetensors")


@pytest.mark.parametrize("arch", ["sd1", "sdxl"])
@pytest.mark.parametrize("spelling", DIALECTS)
def test_a_run_begins_with_files_of_every_spelling(spelling, arch, tmp_path):
    if (spelling, arch) == ("processors", "sdxl"):
        pytest.skip("such files have one text encoder")
    only = "kept" if spelling == "processors" else "lora"
    file, network = saved.file(tmp_path, "lora", arch), saved.network("lora", arch)
    if only == "kept":  # they tell of attention alone
        tensors = {k: t for k, t in load_file(file).items() if "_attn" in k and "proj_in" not in k}
        save_file(tensors, file)
    to = tmp_path / ("folder" if spelling == "peft" else "new.safetensors")
    build(Convert, {"model": str(file), "to": spelling, "save_to": str(to)}).run()
    layers = [*network.layers.values()]
    begins = begun(Lora(weights=to, dim_from_weights=True), layers)
    known = begun(Lora(weights=file, dim_from_weights=True), layers)
    assert begins.adapters.keys() == known.adapters.keys()
    worn = network_of(load(to)[0], layers)
    for key in known.adapters:  # in some words alpha is worked into a factor, and rounds it
        for made in (begins, worn):
            torch.testing.assert_close(made.delta(key), known.delta(key), rtol=1e-6, atol=1e-7)


def test_a_folder_is_beneath_a_run_as_well(tmp_path):
    network = saved.network("lora")
    file, to = saved.file(tmp_path, "lora"), tmp_path / "folder"
    build(Convert, {"model": str(file), "to": "peft", "save_to": str(to)}).run()
    model = build(Job, {"model.base_weights": [str(to)]}).model
    base = Base.of(model, [*network.layers.values()])
    (row,) = base.said
    assert (row["name"], len(row["hash"])) == ("folder", 64)
    assert digest(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    (to / "unet" / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert digest(to) != row["hash"]
