"""Imports from the Dreambooth extension: lists of concepts, and its db_config.json."""

from __future__ import annotations

import json

import pytest

from lora_train.errors import Mistake
from lora_train.job import assemble, declared
from lora_train.options import train_values
from lora_train.run.foreign import imported

CONCEPTS = [
    {"instance_data_dir": "/photos/rex", "class_data_dir": "/photos/dogs", "instance_prompt": "[filewords]",
     "class_prompt": "[filewords]", "instance_token": "rex", "class_token": "dog",
     "file_prompt_contents": "Instance Token + Description", "num_class_images_per": 5,
     "class_negative_prompt": "blurry", "class_guidance_scale": 7, "class_infer_steps": 40,
     "save_sample_prompt": "a rex", "save_sample_template": "", "save_sample_negative_prompt": "",
     "n_save_sample": 1, "sample_seed": -1, "save_guidance_scale": 7.5, "save_infer_steps": 40,
     "is_valid": True},
    {"instance_data_dir": "/photos/tom", "class_data_dir": "", "instance_prompt": "photo of tom cat",
     "class_prompt": "a cat", "instance_token": "", "class_token": "", "num_class_images": 200,
     "max_steps": -1},
    {"instance_data_dir": "", "instance_prompt": ""},
]  # fmt: skip
CONFIG = {
    "model_dir": "/models/dreambooth/okara", "model_name": "okara", "use_lora": True, "resolution": 512,
    "lora_unet_rank": 8, "lora_txt_rank": 4, "lora_learning_rate": 2e-4, "lora_txt_learning_rate": 4e-5,
    "learning_rate": 2e-6, "txt_learning_rate": 5e-6, "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 50, "num_train_epochs": 100, "max_train_steps": 1200, "train_batch_size": 2,
    "gradient_accumulation_steps": 3, "mixed_precision": "bf16", "optimizer": "Torch AdamW",
    "weight_decay": 0.02, "pad_tokens": True, "center_crop": False, "class_batch_size": 4, "hflip": True,
    "shuffle_tags": True, "prior_loss_weight": 0.75, "min_snr_gamma": 0.0, "offset_noise": 0.05,
    "stop_text_encoder": 1.0, "src": "/models/v1.safetensors", "concepts_path": "", "use_ema": False,
    "save_embedding_every": 25, "save_preview_every": 5, "clip_skip": 1, "max_token_length": 75,
    "concepts_list": CONCEPTS[:1], "train_unet": True, "attention": "xformers", "v2": False,
    "gradient_checkpointing": True, "cache_latents": True,
}  # fmt: skip


def read(found: object, name: str = "concepts_list.json") -> tuple[dict[str, object], list[str]]:
    return imported(name, json.dumps(found).encode())


def test_a_list_of_concepts_becomes_folders_of_one_dataset():
    values, notes = read(CONCEPTS)
    lead = "data.datasets.0.subsets"
    assert values == {
        f"{lead}.0.image_dir": "/photos/rex", f"{lead}.0.class_data_dir": "/photos/dogs",
        f"{lead}.0.instance_prompt": "[filewords]", f"{lead}.0.class_prompt": "[filewords]",
        f"{lead}.0.instance_token": "rex", f"{lead}.0.class_token": "dog",
        f"{lead}.0.file_prompt_contents": "instance", f"{lead}.0.num_class_images_per": 5,
        f"{lead}.0.class_negative_prompt": "blurry", f"{lead}.0.class_guidance_scale": 7.0,
        f"{lead}.0.class_infer_steps": 40,
        f"{lead}.1.image_dir": "/photos/tom", f"{lead}.1.instance_prompt": "photo of tom cat",
        f"{lead}.1.class_prompt": "a cat", f"{lead}.1.num_class_images": 200,
    }  # fmt: skip
    assert notes == ["concepts_list 1: save_sample_prompt = a rex: samples come from output.sample_prompts, "
                     "a file; [filewords] is read there"]  # fmt: skip
    rex, tom = assemble(values)[0].data.datasets[0].subsets
    assert (rex.told("a rex in snow"), rex.of_class("a rex in snow")) == (
        "a rex dog in snow",
        "a dog in snow",
    )
    assert tom.told("whatever") == "photo of tom cat"


def test_the_command_line_reads_concepts(tmp_path):
    file = tmp_path / "concepts_list.json"
    file.write_text(json.dumps(CONCEPTS), encoding="utf-8")
    values, _ = train_values(["--config_file", str(file)], declared())
    assert [s.class_prompt for s in assemble(values)[0].data.datasets[0].subsets] == ["[filewords]", "a cat"]


def test_a_config_is_read_and_steps_win_over_epochs():
    values, notes = read(CONFIG, "db_config.json")
    job, output, place = assemble(values)
    assert (job.training.max_train_steps, job.training.max_train_epochs) == (1200, None)
    assert (job.network.dim, job.network.alpha, job.lr.unet_lr, job.lr.text_encoder_lr) == (8, 8, 2e-4, 4e-5)
    assert (job.data.batch_size, job.training.gradient_accumulation_steps) == (2, 3)
    assert (job.data.prior_loss_weight, job.objective.noise_offset, job.lr.lr_warmup_steps) == (
        0.75,
        0.05,
        50,
    )
    assert (job.data.flip_aug, job.data.shuffle_caption, output.output_name) == (True, True, "okara")
    assert (job.training.mixed_precision, place.gradient_checkpointing) == ("bf16", True)
    assert job.data.datasets[0].subsets[0].many(4) == 20
    assert [note.partition(" = ")[0] for note in notes[1:]] == [
        "lora_txt_rank", "class_batch_size"]  # fmt: skip
    epochs, _ = read({**CONFIG, "max_train_steps": 0})
    assert assemble(epochs)[0].training.max_train_epochs == 100


def test_what_is_not_trained_here_is_said():
    values, notes = read({**CONFIG, "use_lora": False, "strict_tokens": True,
                          "train_imagic": True, "concepts_path": "c.json", "nonsense": 3})  # fmt: skip
    said = "\n".join(notes)
    for name in ("use_lora = false", "strict_tokens", "train_imagic",
                 "concepts_path = c.json", "nonsense"):  # fmt: skip
        assert f"not taken: {name}" in said
    assert assemble(read({**CONFIG, "stop_text_encoder": 0})[0])[0].network.train_unet_only
    half = assemble(read({**CONFIG, "stop_text_encoder": 0.5})[0])[0]
    assert half.training.stop_text_encoder_training == 0.5


def test_another_list_is_none_of_concepts():
    for found in ([], [1], [{"prompt": "a"}]):
        with pytest.raises(Mistake, match="expected settings"):
            read(found)
