"""Settings of other programs that edit a model, as they would train."""

from __future__ import annotations

import pytest

from lora_train.errors import Mistake
from lora_train.job import assemble
from tests.run.test_foreign import TRAINTRAIN, of

PAIRS = {
    "mode": "ADDifT", "network_type": "lierla", "network_rank": "4", "network_alpha": "1",
    "train_iterations": "50", "train_batch_size": "1", "train_learning_rate": "5e-05",
    "train_lr_scheduler": "cosine_annealing", "network_strength": "5.0", "train_min_timesteps": "200",
    "train_max_timesteps": "400", "train_snr_gamma": "5.0", "diff_revert_original_target": True,
    "diff_use_diff_mask": True, "original prompt": "a cat", "target prompt": "", "diff_alt_ratio": "1",
    "save_lora_name": "style", "image_size(height, width)": "512", "image_buckets_step": "256",
    "lora_data_directory": "", "diff_target_name": "", "image_min_length": "512",
}  # fmt: skip
LECO = {
    "pretrained_model_name_or_path": "m.safetensors", "prompts_file": "", "network_module": "networks.lora",
    "network_dim": 8, "network_alpha": 4, "learning_rate": 0.0001, "unet_lr": 0.0001, "optimizer": "AdamW",
    "lr_scheduler": "constant", "max_train_steps": 500, "max_denoising_steps": 40,
    "leco_denoise_guidance_scale": 3.0, "seed": 0, "gradient_accumulation_steps": 1,
    "mixed_precision": "bf16", "gradient_checkpointing": True, "xformers": "sdpa", "noise_offset": 0,
    "min_snr_gamma": 0,
    "save_every_n_steps": 100, "output_name": "leco", "save_model_as": "safetensors", "num_processes": 1,
}  # fmt: skip


def holds(values: dict, wanted: dict) -> bool:
    assert {path: values.get(path) for path in wanted} == wanted
    return True


def test_ileco_is_the_instant_form_of_erase():
    given = {**TRAINTRAIN, "mode": "iLECO", "original prompt": "van gogh", "target prompt": "a painting"}
    values, notes = of("a.json", given)
    (line,) = assemble(values)[0].objective.lines()
    assert (line.target, line.positive, line.scale, line.neutral) == ("van gogh", "a painting", 1, "")
    assert holds(values, {"objective.kind": "erase", "objective.instant": True, "data.resolution": "512,768",
                          "network.train_unet_only": True, "objective.min_snr_gamma": 5.0})  # fmt: skip
    assert not [path for path in values if path.startswith(("data.train", "data.flip"))]
    assert not [note for note in notes if note.startswith("not taken")], notes
    erased = assemble(of("a.json", {**given, "target prompt": ""})[0])[0].objective.lines()[0]
    assert (erased.positive, erased.unconditional) == ("", "")


def test_addift_learns_as_strongly_and_its_file_acts_as_strongly():
    values, notes = of("a.json", PAIRS)
    wanted = {"objective.kind": "addift", "objective.pair_strength": 0.05, "network.alpha": 5.0,
              "objective.min_timestep": 200, "objective.max_timestep": 400,
              "objective.diff_revert_original_target": True, "objective.diff_use_diff_mask": True,
              "objective.original_prompt": "a cat", "training.max_train_steps": 50}  # fmt: skip
    assert holds(values, wanted)
    assert any("give the two pictures as objective.original_image" in note for note in notes)
    many = {**PAIRS, "mode": "Multi-ADDifT", "lora_data_directory": "/p", "diff_target_name": "_after"}
    values, _ = of("a.json", many)
    assert holds(values, {"objective.pair_suffix": "_after", "data.train_data_dir": "/p"})


def test_the_copier_has_the_settings_of_the_first_pass():
    first = {**PAIRS, "mode": "Difference", "network_rank": "16", "network_alpha": "16",
             "train_learning_rate": "5e-4", "train_iterations": "300", "network_strength": "1"}  # fmt: skip
    second = {
        "network_rank": "4",
        "network_alpha": "4",
        "train_learning_rate": "1e-4",
        "train_iterations": "400",
    }
    values, _ = of("a.json", {**first, "use_2nd_pass_settings": True, "2nd pass": second})
    copier = {"objective.kind": "difference", "objective.copier_dim": 16, "objective.copier_alpha": 16.0,
              "objective.copier_steps": 300, "objective.copier_learning_rate": 5e-4}  # fmt: skip
    assert holds(values, {**copier, "network.dim": 4, "network.alpha": 4.0, "lr.learning_rate": 1e-4,
                          "training.max_train_steps": 400, "output.output_name": "style"})  # fmt: skip
    values, _ = of("a.json", {**first, "2nd pass": second})
    assert holds(values, {**copier, "network.dim": 16, "training.max_train_steps": 300})


def test_kohyas_leco_tab_is_read_with_the_kind_its_file_has(tmp_path):
    prompts = tmp_path / "prompts.toml"
    prompts.write_text('[[prompts]]\ntarget = "van gogh"\n', encoding="utf-8")
    values, notes = of("a.json", {**LECO, "prompts_file": str(prompts)})
    wanted = {"objective.kind": "erase", "objective.max_denoising_steps": 40, "network.dim": 8,
              "objective.denoise_guidance_scale": 3.0, "training.max_train_steps": 500,
              "network.train_unet_only": True, "output.save_every_n_steps": 100}  # fmt: skip
    assert holds(values, wanted)
    assert assemble(values)[0].objective.settled().lines()[0].target == "van gogh"
    assert not [note for note in notes if note.startswith("not taken")], notes
    prompts.write_text('[[targets]]\ntarget_class = "a"\npositive = "b"\n', encoding="utf-8")
    assert of("a.json", {**LECO, "prompts_file": str(prompts)})[0]["objective.kind"] == "slider"
    prompts.write_text("nothing = 1\n", encoding="utf-8")
    assert of("a.json", {**LECO, "prompts_file": str(prompts)})[0]["objective.kind"] == "erase"
    prompts.write_text("[[", encoding="utf-8")
    with pytest.raises(Mistake, match="not TOML"):
        of("a.json", {**LECO, "prompts_file": str(prompts)})
