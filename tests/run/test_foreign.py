"""Imports: what other programs' files train is trained here, and what is not said so."""

import importlib.util
import json
import struct

import pytest

from lora_train.errors import Mistake
from lora_train.job import assemble, declared
from lora_train.knobs import kind_of
from lora_train.options import train_values
from lora_train.run import kohya, onetrainer, traintrain
from lora_train.run.foreign import imported
from lora_train.train.lr import SCHEDULERS
from lora_train.train.optim import OPTIMIZERS
from lora_train.values import plain

KOHYA = {
    "LoRA_type": "Standard", "pretrained_model_name_or_path": "/models/v1-5.safetensors",
    "train_data_dir": "/pictures/okara", "output_dir": "/loras", "output_name": "okara",
    "max_resolution": "768,512", "learning_rate": 0.0001, "unet_lr": 0.0002, "text_encoder_lr": 5e-05,
    "lr_scheduler": "cosine", "lr_warmup": 10, "train_batch_size": 2, "epoch": 12, "max_train_steps": "",
    "max_train_epochs": 0, "save_every_n_epochs": 3, "seed": 42, "mixed_precision": "bf16",
    "save_precision": "fp16", "cache_latents": True, "caption_extension": ".txt", "enable_bucket": True,
    "min_bucket_reso": 256, "max_bucket_reso": 2048, "network_dim": 16, "network_alpha": 8, "conv_dim": 4,
    "conv_alpha": 1, "optimizer": "AdamW8bit", "optimizer_args": "weight_decay=0.1 betas=0.9,0.99",
    "min_snr_gamma": 5, "noise_offset": 0.05, "noise_offset_type": "Original", "multires_noise_discount": 0.3,
    "adaptive_noise_scale": 0, "xformers": "xformers", "shuffle_caption": True, "keep_tokens": 1,
    "clip_skip": 2, "max_token_length": 150, "gradient_checkpointing": True,
    "sample_prompts": "a cat --w 512",
    "sample_every_n_epochs": 3, "scale_weight_norms": 1, "network_dropout": 0.1, "rank_dropout": 0,
    "v2": False, "sdxl": False, "flux1_checkbox": False, "t5xxl": "", "guidance_scale": 3.5, "factor": -1,
    "num_cpu_threads_per_process": 2, "save_as_bool": False, "file_path": "x.json", "vae": "", "unit": 1,
    "flip_aug": False, "LyCORIS_preset": "full", "max_data_loader_n_workers": 0, "prior_loss_weight": 1,
}  # fmt: skip

TRAINTRAIN = {
    "mode": "LoRA", "network_type": "c3lier", "network_rank": "16", "network_alpha": "8",
    "lora_data_directory": "/pictures", "lora_trigger_word": "okara", "image_size(height, width)": "768,512",
    "train_iterations": "1000", "train_batch_size": "2", "train_learning_rate": "1e-4",
    "train_optimizer": "adamw", "train_lr_scheduler": "cosine_annealing", "save_lora_name": "okara",
    "use_gradient_checkpointing": True, "network_conv_rank": "4", "network_conv_alpha": "0",
    "network_blocks(BASE = TextEncoder)": [name for name in traintrain.BLOCKS if name not in ("BASE",
    "IN00")],
    "network_element": "Full", "image_buckets_step": "64", "image_min_length": "256", "image_max_ratio": "2",
    "sub_image_num": "0", "image_mirroring": True, "train_fixed_timsteps_in_batch": False, "train_seed": "-1",
    "train_lr_step_rules": "", "train_lr_warmup_steps": "0", "train_snr_gamma": "5", "save_per_steps": "200",
    "train_model_precision": "fp16", "train_lora_precision": "fp32", "save_precision": "fp16",
    "save_overwrite": False, "model_v_pred": True, "use_2nd_pass_settings": False, "vae": "None", "model": "",
}  # fmt: skip

ONETRAINER = {
    "training_method": "LORA", "model_type": "STABLE_DIFFUSION_15", "base_model_name": "org/model",
    "learning_rate": 0.0003, "learning_rate_scheduler": "COSINE", "learning_rate_warmup_steps": 100,
    "epochs": 20, "batch_size": 4, "lora_rank": 8, "lora_alpha": 4.0, "layer_filter_preset": "attn-mlp",
    "resolution": "512", "train_dtype": "BFLOAT_16", "output_dtype": "FLOAT_16", "ema": "OFF",
    "unet": {"train": True, "learning_rate": 0.0002, "gradient_checkpointing": True},
    "text_encoder": {"train": True, "learning_rate": 5e-5, "dropout_probability": 0.1},
    "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.02},
    "loss_weight_fn": "MIN_SNR_GAMMA", "loss_weight_strength": 4.0, "min_noising_strength": 0.1,
    "max_noising_strength": 0.9, "offset_noise_weight": 0.03, "text_encoder_layer_skip": 1,
    "output_model_destination": "models/okara.safetensors", "save_every": 2, "save_every_unit": "EPOCH",
    "sample_after": 10, "sample_after_unit": "MINUTE", "secrets": {"huggingface_token": "hf_secret"},
    "concepts": [
        {"name": "a", "path": "/pictures/a", "balancing": 2.0, "image": {"enable_random_flip": True},
         "text": {"enable_tag_shuffling": True, "keep_tags_count": 2}},
        {"name": "b", "path": "/pictures/b", "balancing": 30, "balancing_strategy": "SAMPLES"},
        {"name": "c", "path": "/pictures/c", "enabled": False},
    ],
}  # fmt: skip


def of(name, found):
    return imported(name, json.dumps(found).encode())


def lora(texts):
    head = json.dumps({"__metadata__": texts}).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * 16


def test_kohya_ss_is_trained_as_it_would_train():
    values, notes = of("okara.json", KOHYA)
    assemble(values)
    wanted = {
        "model.pretrained_model_name_or_path": "/models/v1-5.safetensors", "data.resolution": "768,512",
        "data.train_data_dir": "/pictures/okara", "data.batch_size": 2, "training.max_train_epochs": 12,
        "lr.kind": "cosine", "lr.lr_warmup_steps": 0.1, "lr.learning_rate": 1e-4, "lr.unet_lr": 2e-4,
        "lr.text_encoder_lr": 5e-5, "network.dim": 16, "network.alpha": 8.0,
        "network.scale_weight_norms": 1.0,
        "network.dropout": 0.1, "optimizer.kind": "adamw8bit", "optimizer.weight_decay": 0.1,
        "objective.min_snr_gamma": 5.0, "objective.noise_offset": 0.05, "training.mixed_precision": "bf16",
        "training.seed": 42, "model.clip_skip": 2, "model.max_token_length": 150,
        "data.shuffle_caption": True,
        "data.keep_tokens": 1, "place.gradient_checkpointing": True, "output.save_every_n_epochs": 3,
        "output.output_name": "okara", "place.cache_latents": True,
    }  # fmt: skip
    assert {path: values.get(path) for path in wanted} == wanted
    assert list(values["optimizer.betas"]) == [0.9, 0.99]
    assert "network.conv_dim" not in values, "Standard has none, whatever is left in the form"
    assert not [note for note in notes if note.startswith("not taken")], notes
    assert any("sample_prompts" in note for note in notes)


def test_kohya_ss_says_no_to_what_would_train_something_else():
    values, notes = of(
        "a.json",
        KOHYA | {"LoRA_type": "Flux1", "optimizer": "Nobodys", "learning_rate": 1,
                 "flux1_checkbox": True, "additional_parameters": "--deepspeed",
                 "huggingface_token": "hf_secret", "no_such": 3},
    )  # fmt: skip
    text = "\n".join(notes)
    for word in ("LoRA_type = Flux1", "optimizer = Nobodys", "flux1_checkbox",
                 "deepspeed", "huggingface_token", "no_such"):  # fmt: skip
        assert f"not taken: {word}" in text, word
    assert "hf_secret" not in text
    assert not values.keys() & {"lr.learning_rate", "lr.unet_lr", "network.dim", "optimizer.kind"}


@pytest.mark.parametrize(
    ("more", "path", "value"),
    [({"masked_loss": True}, "objective.masked_loss", True),
     ({"LoRA_type": "Kohya LoCon"}, "network.conv_dim", 4), ({"LoRA_type": "LoCon"}, "network.conv_dim", 4),
     ({"text_encoder_lr": 0}, "network.train_unet_only", True),
     ({"text_encoder_lr": [0.0001, 0.0001]}, "lr.text_encoder_lr", 1e-4),
     ({"text_encoder_lr": [0.0001, 0.0001]}, "lr.text_encoder_lr2", None),
     ({"text_encoder_lr": [0.0001, 0.00002]}, "lr.text_encoder_lr2", 2e-5),
     ({"clip_skip": 2}, "model.clip_skip", 2), ({"clip_skip": 2, "sdxl": True}, "model.clip_skip", None),
     ({"unet_lr": "0"}, "network.train_text_encoder_only", True),
     ({"max_train_steps": 500}, "training.max_train_steps", 500),
     ({"max_train_steps": 500, "max_train_epochs": 3}, "training.max_train_epochs", 3),
     ({"lr_warmup_steps": 50}, "lr.lr_warmup_steps", 50.0), ({"seed": 0}, "training.seed", None),
     ({"lr_scheduler": "constant"}, "lr.lr_warmup_steps", None), ({"xformers": False}, "lr.kind", "cosine"),
     ({"optimizer": "AdamW"}, "optimizer.kind", "adamw"), ({"cache_latents": False}, "place.cache_latents",
     False),
     ({"noise_offset_type": "Multires"}, "objective.noise_offset", None),
     ({"noise_offset_type": "Multires", "multires_noise_iterations": 6},
      "objective.multires_noise_iterations", 6),
     ({"multires_noise_iterations": 6}, "objective.multires_noise_iterations", None),
     ({"loss_type": "huber", "huber_c": 0.2}, "objective.huber_c", 0.2),
     ({"additional_parameters": "--ip_noise_gamma 0.1 --zero_terminal_snr"}, "model.zero_terminal_snr", True),
     ({"sample_prompts": "/a/prompts.txt"}, "output.sample_prompts", "/a/prompts.txt"),
     ({"additional_parameters": "--min_timestep=100 --network_train_unet_only"}, "objective.min_timestep",
     100),
     ({"lora_network_weights": "/a/b.safetensors"}, "network.weights", "/a/b.safetensors")],
)  # fmt: skip
def test_what_kohya_ss_makes_of_its_form(more, path, value):
    assert of("a.json", KOHYA | more)[0].get(path) == value


def test_traintrain_is_trained_as_it_would_train():
    values, notes = of("LoRA.json", TRAINTRAIN)
    assemble(values)
    wanted = {
        "network.dim": 16, "network.alpha": 8.0, "network.conv_dim": 4, "network.conv_alpha": 8.0,
        "data.resolution": "512,768", "training.max_train_steps": 1000, "data.batch_size": 2,
        "lr.learning_rate": 1e-4, "lr.kind": "cosine", "output.output_name": "okara", "data.flip_aug": True,
        "data.trigger_word": "okara", "network.train_unet_only": True, "objective.min_snr_gamma": 5.0,
        "output.save_every_n_steps": 200, "training.mixed_precision": "fp16", "data.bucket_reso_steps": 64,
        "model.v_parameterization": True, "place.gradient_checkpointing": True,
    }  # fmt: skip
    assert {path: values.get(path) for path in wanted} == wanted
    assert "training.seed" not in values
    assert str(values["network.block_weights"]).count("0") >= 1
    assert not [note for note in notes if note.startswith("not taken")], notes
    with pytest.raises(Mistake, match="mode = Weigh: expected LoRA, iLECO, Difference, ADDifT, Multi-ADDifT"):
        of("a.json", TRAINTRAIN | {"mode": "Weigh"})


def test_onetrainer_is_trained_as_it_would_train():
    values, notes = of("config.json", ONETRAINER)
    assemble(values)
    wanted = {
        "network.dim": 8, "network.alpha": 4.0, "lr.learning_rate": 3e-4, "lr.unet_lr": 2e-4,
        "lr.text_encoder_lr": 5e-5, "lr.kind": "cosine", "lr.lr_warmup_steps": 100.0,
        "training.max_train_epochs": 20, "data.batch_size": 4, "training.mixed_precision": "bf16",
        "objective.min_snr_gamma": 4.0, "objective.min_timestep": 100, "objective.max_timestep": 900,
        "objective.noise_offset": 0.03, "model.clip_skip": 2, "output.output_name": "okara",
        "output.save_every_n_epochs": 2, "data.caption_dropout_rate": 0.1, "optimizer.weight_decay": 0.02,
        "data.datasets.0.subsets.0.image_dir": "/pictures/a", "data.datasets.0.subsets.0.num_repeats": 2.0,
        "data.datasets.0.subsets.0.keep_tokens": 2, "data.datasets.0.subsets.1.samples_per_epoch": 30,
    }  # fmt: skip
    assert {path: values.get(path) for path in wanted} == wanted
    assert "network.conv_dim" not in values
    assert "hf_secret" not in "\n".join(notes)
    assert any("Hugging Face Hub" in note for note in notes)
    assert not [p for p in values if "subsets.2" in p], "a concept that is switched off is left out"


@pytest.mark.parametrize("kind", ["STABLE_DIFFUSION_XL_10_BASE", "STABLE_DIFFUSION_15"])
def test_onetrainers_second_text_encoder_has_a_rate_of_its_own(kind):
    values, _ = of("p.json", ONETRAINER | {"model_type": kind, "text_encoder_2": {"learning_rate": 2e-5}})
    assert values["lr.text_encoder_lr"] == 5e-5
    assert values.get("lr.text_encoder_lr2") == (2e-5 if "XL" in kind else None)


def test_onetrainers_weights_losses_and_steps_are_ours():
    more = {
        "loss_weight_fn": "P2", "loss_weight_strength": 0.5, "mse_strength": 0.0, "mae_strength": 1.0,
        "timestep_distribution": "LOGIT_NORMAL", "noising_weight": 0.5, "noising_bias": -0.2,
        "timestep_shift": 2.0, "rescale_noise_scheduler_to_zero_terminal_snr": True,
    }  # fmt: skip
    values, notes = of("p.json", ONETRAINER | more)
    wanted = {
        "objective.p2_gamma": 0.5, "objective.loss_type": "l1", "objective.noising_weight": 0.5,
        "objective.timestep_distribution": "logit_normal", "objective.noising_bias": -0.2,
        "objective.timestep_shift": 2.0, "model.zero_terminal_snr": True,
    }  # fmt: skip
    assert {path: values.get(path) for path in wanted} == wanted
    assert "objective.min_snr_gamma" not in values
    assert not [note for note in notes if "strength" in note], notes
    more = {"loss_weight_fn": "DEBIASED_ESTIMATION", "huber_strength": 1.0}
    debiased, notes = of("p.json", ONETRAINER | more)
    assert debiased["objective.debiased_estimation_loss"] is True
    assert not [path for path in debiased if "nois" in path and "offset" not in path]
    assert any("huber_strength = 1.0: one kind of loss at a time" in note for note in notes)


def test_onetrainers_concepts_of_the_prior_are_held_to_what_the_model_says():
    concept = {"path": "/pictures/p", "type": "PRIOR_PREDICTION", "enabled": True}
    values, _ = of("p.json", ONETRAINER | {"concepts": [*ONETRAINER["concepts"], concept]})
    kept = [path for path in values if path.endswith("diff_output_preservation")]
    assert len(kept) == 1
    assert values[kept[0].replace("diff_output_preservation", "image_dir")] == "/pictures/p"


def test_onetrainers_masks_lie_beside_the_pictures():
    assert not any("mask" in path for path in of("p.json", ONETRAINER)[0])
    values, _ = of("p.json", ONETRAINER | {"masked_training": True, "unmasked_weight": 0.2})
    assert {path: value for path, value in values.items() if "mask" in path} == {
        "data.mask_suffix": "-masklabel", "objective.masked_loss": True, "objective.unmasked_weight": 0.2,
        "objective.unmasked_probability": 0.1, "objective.normalize_masked_area_loss": False,
        "objective.masked_prior_preservation_weight": 0.0,
    }  # fmt: skip


def test_a_preset_of_onetrainer_has_its_defaults_beside_it():
    values, _ = of(
        "p.json", {"training_method": "LORA", "base_model_name": "a/b", "model_type": "STABLE_DIFFUSION_15"}
    )
    assert values["lr.learning_rate"] == 3e-6
    assert values["network.conv_dim"] == 16, "all layers, where no others are named"
    values, _ = of("p.json", ONETRAINER | {"text_encoder": {"train": False}})
    assert values["network.train_unet_only"] is True
    for more in ({"training_method": "FINE_TUNE"}, {"model_type": "FLUX_DEV_1"}):
        with pytest.raises(Mistake, match=next(iter(more))):
            of("p.json", ONETRAINER | more)


@pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))),
    reason="reading TOML on Python 3.10 needs tomli",
)
def test_toml_of_sd_scripts():
    toml = b'[network]\ndim = 8\n[x]\nlearning_rate = "2e-4"\nfull_fp16 = true\nxformers = true\n'
    values, notes = imported("a.toml", toml)
    assert values == {"network.dim": 8, "lr.learning_rate": 2e-4}
    assert len(notes) == 2
    values, _ = imported(
        "d.toml", b'[[datasets]]\nresolution = 768\n[[datasets.subsets]]\nimage_dir = "/a"\n'
    )
    assert values["data.datasets.0.subsets.0.image_dir"] == "/a"


def test_presets_of_ours():
    ours = json.dumps({"schema": 1, "values": {"network.dim": 32, "network.dimm": 1}}).encode()
    values, notes = imported("Mein Preset.json", ours)
    assert values == {"network.dim": 32}
    assert "network.dimm: no such setting; did you mean network.dim?" in notes[0]


def test_the_job_inside_a_lora():
    job = json.dumps({"network.dim": 32, "lr.kind": "linear"})
    assert imported("a.safetensors", lora({"lora_train_job": job}))[0] == {
        "network.dim": 32,
        "lr.kind": "linear",
    }
    texts = {
        "ss_network_dim": "8", "ss_network_alpha": "4", "ss_network_module": "networks.lora",
        "ss_network_args": '{"conv_dim": "4"}', "ss_unet_lr": "0.0001", "ss_text_encoder_lr": "None",
        "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))",
        "ss_max_train_steps": "500",
        "ss_lr_scheduler": "cosine", "ss_lr_warmup_steps": "50", "ss_resolution": "(768, 512)",
        "ss_seed": "7",
        "ss_clip_skip": "2", "ss_min_snr_gamma": "5.0", "ss_noise_offset": "None", "ss_enable_bucket": "True",
        "ss_loss_type": "l2", "ss_zero_terminal_snr": "False", "ss_v2": "False", "ss_mixed_precision": "bf16",
    }  # fmt: skip
    values, notes = imported("b.safetensors", lora(texts))
    wanted = {
        "network.dim": 8, "network.alpha": 4.0, "network.conv_dim": 4, "lr.unet_lr": 1e-4,
        "optimizer.weight_decay": 0.1, "training.max_train_steps": 500,
        "lr.lr_warmup_steps": 50.0, "data.resolution": "768,512", "model.clip_skip": 2, "training.seed": 7,
        "data.enable_bucket": True, "objective.min_snr_gamma": 5.0,
    }  # fmt: skip
    assert {path: values.get(path) for path in wanted} == wanted
    assert not [note for note in notes if note.startswith("not taken")], notes
    for text, rates in (("[5e-05]", (5e-5, None)), ("[5e-05, 1e-05]", (5e-5, 1e-5)), ("0.0", (None, None))):
        values, _ = imported("b.safetensors", lora(texts | {"ss_text_encoder_lr": text}))
        assert (values.get("lr.text_encoder_lr"), values.get("lr.text_encoder_lr2")) == rates
    other = imported("c.safetensors", lora(texts | {"ss_network_module": "networks.lora_flux"}))[1]
    assert any("network_module = networks.lora_flux" in note for note in other)


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [("a.json", b"{", "not JSON"), ("a.json", b"[1]", "expected settings"), ("a.json", b"\xff", "UTF-8"),
     ("a.json", b'{"a": 1}', "this is none of them"), ("a.toml", b"[", "TOML"), ("a.zip", b"",
     "expected a file"),
     ("", b"", "expected a file"), ("a.safetensors", b"abc", "damaged"), ("a.json", b'{"schema": 99}',
     "newer"),
     ("a.safetensors", b"\xff" * 40, "damaged"), ("a.safetensors", lora({"a": "b"}), "no word"),
     ("a.safetensors", lora({"lora_train_job": "["}), "damaged"), ("a.json", b"[" * 100_000, "not JSON"),
     ("a.json", b'{"train_batch_size": 1, "pretrained_model_name_or_path": ""}', "another of its tabs")],
)  # fmt: skip
def test_what_cannot_be_read_is_a_sentence(name, data, why):
    with pytest.raises(Mistake, match=why):
        imported(name, data)


@pytest.mark.parametrize("found", [KOHYA, TRAINTRAIN, ONETRAINER])
@pytest.mark.parametrize("junk", [None, "x", -1, ["a"], {"a": 1}])
def test_junk_in_any_setting_is_a_sentence(found, junk):
    """Files are typed by people and passed on by strangers."""
    for name in found:
        try:
            values, _ = of("a.json", {**found, name: junk})
        except Mistake:
            continue
        assemble(values)


def test_paths_of_another_system_are_left_to_choose(monkeypatch):
    values, notes = of("a.json", KOHYA | {"train_data_dir": "D:\\pictures", "output_dir": "\\\\nas\\loras"})
    assert not values.keys() & {"data.train_data_dir", "output.output_dir"}
    assert sum("of another system" in note for note in notes) == 2


def test_the_command_line_reads_kohya_ss_too(tmp_path):
    file = tmp_path / "okara.json"
    file.write_text(json.dumps(KOHYA), encoding="utf-8")
    values, _ = train_values(["--config_file", str(file), "--network_dim", "32"], declared())
    job, output, _ = assemble(values)
    assert (job.network.dim, job.network.alpha, output.output_name) == (32, 8.0, "okara")
    file.write_text(json.dumps(KOHYA | {"optimizer": "Nobodys"}), encoding="utf-8")
    with pytest.raises(Mistake, match="okara.json: optimizer = Nobodys: not in this version"):
        train_values(["--config_file", str(file)], declared())


def test_lists_stay_lists_on_the_way_to_a_page():
    values, _ = of("okara.json", KOHYA)
    again = {path: plain(plain(value)) for path, value in values.items()}
    assert again["data.caption_extension"] == [".txt"]
    assert assemble(again) == assemble(values)


def test_tables_name_settings_that_there_are():
    every = {s.path for s in declared()}
    for rules in (traintrain.RULES, onetrainer.RULES):
        assert not [rule for rule in rules.values() if isinstance(rule, str) and rule not in every]
    assert not {*kohya.FORM} & {*kohya.ELSEWHERE}


KOHYA_ADAFACTOR = KOHYA | {
    "optimizer": "Adafactor", "optimizer_args": "", "lr_scheduler": "adafactor", "lr_warmup": 0,
    "lr_scheduler_num_cycles": "", "unet_lr": 1e-4, "text_encoder_lr": 1e-4,
}  # fmt: skip


def test_kohya_ss_optimizers_and_schedules_are_taken():
    values, _ = of("okara.json", KOHYA_ADAFACTOR)
    job = assemble(values)[0]
    assert (kind_of(OPTIMIZERS, job.optimizer), kind_of(SCHEDULERS, job.lr)) == ("adafactor", "adafactor")
    assert job.optimizer.chooses
    words = {"optimizer": "Prodigy", "optimizer_args": "d_coef=1.5 slice_p=11", "lr_scheduler_num_cycles": "",
             "lr_scheduler": "cosine_with_restarts"}  # fmt: skip
    job = assemble(of("okara.json", KOHYA | words)[0])[0]
    assert (job.optimizer.d_coef, job.optimizer.optimizer_args) == (1.5, ("slice_p=11",))
    assert job.lr.lr_scheduler_num_cycles == KOHYA["epoch"]


def test_traintrains_optimizers_and_schedules_are_taken():
    words = {"train_optimizer": "DAdaptAdam", "train_lr_scheduler": "exponential",
             "train_lr_warmup_steps": "0", "train_lr_scheduler_settings": "gamma=0.9"}  # fmt: skip
    job = assemble(of("t.json", TRAINTRAIN | words)[0])[0]
    assert kind_of(OPTIMIZERS, job.optimizer) == "dadaptadam"
    assert (job.lr.lr_scheduler_type, job.lr.lr_scheduler_args) == ("ExponentialLR", ("gamma=0.9",))


def test_onetrainers_optimizers_and_schedules_are_taken():
    words = {"optimizer": {"optimizer": "SCHEDULE_FREE_ADAMW", "beta1": 0.9, "beta2": 0.98, "r": 0.0},
             "learning_rate_scheduler": "REX"}  # fmt: skip
    job = assemble(of("o.json", ONETRAINER | words)[0])[0]
    assert kind_of(OPTIMIZERS, job.optimizer) == "adamwschedulefree"
    assert kind_of(SCHEDULERS, job.lr) == "rex"
    assert job.optimizer.betas == (0.9, 0.98)


def test_a_traintrain_loha_is_one():
    values, _ = of("a.json", {**TRAINTRAIN, "network_type": "loha"})
    assert values["network.kind"] == "loha"
