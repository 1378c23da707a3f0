"""What a saved file says about its run: what sd-scripts says of the same run."""

from __future__ import annotations

import json
import pathlib

import pytest

from lora_train.data import summary
from lora_train.data.plan import plan
from lora_train.host import Origin
from lora_train.job import assemble
from lora_train.run.metadata import Facts, metadata

REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
needs_reference = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason="../shared/reference is not on this machine"
)

RUN = {  # as run.json has it, by path
    "data.train_data_dir": REFERENCE / "data", "data.resolution": 256, "data.enable_bucket": True,
    "data.min_bucket_reso": 128, "data.max_bucket_reso": 512, "data.bucket_reso_steps": 64,
    "data.caption_extension": ".txt", "training.max_train_steps": 10, "training.seed": 42,
    "training.mixed_precision": "no", "lr.learning_rate": 1e-3, "lr.unet_lr": 1e-3,
    "lr.text_encoder_lr": 5e-4, "network.dim": 4, "network.alpha": 1,
    "output.output_name": "lora_dim4", "output.save_precision": "float",
}  # fmt: skip
ORIGIN = Origin(
    name="tiny_sd1.safetensors",
    old_hash="2e583d6e",
    new_hash="d53413e43ee74ab3cc67bea7b8f59bb782621cc2d71a9024fee605c1e2e4a855",
)
OWN = {"lora_train_job", "lora_train_schema"}  # beside what sd-scripts writes
ADDED = {"sshs_model_hash", "sshs_legacy_hash"}  # by `file.save`, with modelspec.hash_sha256 beside them
VARIES = {
    "ss_session_id", "ss_training_started_at", "ss_training_finished_at", "ss_sd_scripts_commit_hash",
    "modelspec.date", "modelspec.implementation_version",
}  # fmt: skip


def written(values: dict, data: dict | None = None, origin: Origin = ORIGIN) -> dict[str, str]:
    job, output, place = assemble(values)
    facts = Facts(
        session=7, started=1e9, finished=1e9 + 60, steps=10, epoch=1, max_steps=10, epochs=1, origin=origin,
        data=summary.facts(plan(job.data)) if data is None else data,
    )  # fmt: skip
    return metadata(job, output, place, facts)


def theirs(name: str) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(REFERENCE / name / f"{name}.safetensors", "pt") as file:
        return file.metadata()


@needs_reference
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lora_dim4", {}),
        ("lora_dim4_minsnr", {"objective.min_snr_gamma": 5}),
        ("locon_dim4_conv2", {"network.conv_dim": 2, "network.conv_alpha": 1}),
    ],
)
def test_a_run_of_folders_is_described_as_sd_scripts_describes_it(name, values):
    ours, expected = written({**RUN, **values, "output.output_name": name}), theirs(name)
    assert ours.keys() - OWN == expected.keys() - ADDED
    different = {
        key: (ours[key], expected[key]) for key in ours.keys() - OWN - VARIES if ours[key] != expected[key]
    }
    for key in ("ss_bucket_info", "ss_tag_frequency", "ss_network_args"):  # JSON, in another order of keys
        if key in different:
            ours_too, theirs_too = map(json.loads, different.pop(key))
            assert near(ours_too, theirs_too)
    assert different == {}


def near(ours: object, theirs: object) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(near(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, str) and isinstance(theirs, str):
        return ours == theirs or float(ours) == float(theirs)
    return ours == pytest.approx(theirs)


def test_every_value_is_text():
    found = written({"training.seed": 1}, data={"ss_num_train_images": 3, "ss_shuffle_caption": False})
    assert {type(value) for value in found.values()} == {str}
    assert found["ss_num_train_images"] == "3"
    assert found["ss_shuffle_caption"] == "False"
    assert found["ss_min_snr_gamma"] == "None"
    assert "ss_vae_name" not in found
    assert "ss_network_args" not in found


def test_the_job_inside_has_no_folders_and_builds_the_same_job(tmp_path):
    values = {
        "model.pretrained_model_name_or_path": tmp_path / "model.safetensors",
        "data.train_data_dir": tmp_path, "network.weights": tmp_path / "a.safetensors",
        "network.block_weights": "MIDD", "network.conv_dim": 3,
        "lr.kind": "cosine", "lr.lr_warmup_steps": 0.1, "objective.min_snr_gamma": 5, "training.seed": 3,
    }  # fmt: skip
    found = written(values, data={})
    assert not any(str(tmp_path) in value for value in found.values())
    kept = json.loads(found["lora_train_job"])
    again = assemble(kept)[0]
    assert again == assemble({k: v for k, v in values.items() if str(tmp_path) not in str(v)})[0].usual()


@pytest.mark.parametrize(
    ("values", "key", "value"),
    [
        ({"optimizer.weight_decay": 0.1}, "ss_optimizer", "torch.optim.adamw.AdamW(weight_decay=0.1)"),
        ({}, "ss_optimizer", "torch.optim.adamw.AdamW"),
        ({"lr.kind": "linear", "lr.lr_warmup_steps": 5}, "ss_lr_warmup_steps", "5"),
        ({"lr.kind": "linear", "lr.lr_warmup_steps": 0.05}, "ss_lr_warmup_steps", "0.05"),
        ({"lr.kind": "linear"}, "ss_lr_scheduler", "linear"),
        ({"model.max_token_length": 150}, "ss_max_token_length", "150"),
        ({"model.clip_skip": 2}, "modelspec.encoder_layer", "2"),
        ({"objective.min_timestep": 100}, "modelspec.timestep_range", "100,1000"),
        ({"objective.noise_offset": 0.05}, "ss_noise_offset", "0.05"),
        ({"network.dropout": 0.2}, "ss_network_dropout", "0.2"),
        ({"network.alpha": ""}, "ss_network_alpha", "None"),
        ({"output.training_comment": "mine"}, "ss_training_comment", "mine"),
        ({"output.training_comment": "mine"}, "modelspec.description", "mine"),
        ({"place.cache_latents": False}, "ss_cache_latents", "False"),
        ({"data.resolution": "768,512"}, "modelspec.resolution", "768x512"),
    ],
)
def test_settings_are_written_as_sd_scripts_writes_them(values, key, value):
    assert written(values, data={})[key] == value


def test_what_was_set_of_the_network_is_in_its_args():
    values = {"network.conv_dim": 2, "network.rank_dropout": 0.1, "network.dropout": 0.3}
    args = json.loads(written(values, data={})["ss_network_args"])
    assert args == {"conv_dim": "2", "conv_alpha": "1.0", "rank_dropout": "0.1", "dropout": 0.3}
    dims = ",".join(["4"] * 25)
    assert json.loads(written({"network.block_dims": dims}, data={})["ss_network_args"])["block_dims"] == dims


def test_an_autoencoder_of_its_own_and_a_v_model_are_said():
    origin = Origin("m", "1" * 8, "2" * 64, "vae.pt", "3" * 8, "4" * 64, "sd1", "v")
    found = written({}, data={}, origin=origin)
    assert found["ss_vae_name"] == "vae.pt"
    assert found["ss_vae_hash"] == "3" * 8
    assert found["ss_new_vae_hash"] == "4" * 64
    assert found["ss_base_model_version"] == "sd_v1_v"
    assert found["modelspec.prediction_type"] == "v"


@pytest.mark.parametrize(
    ("arch", "prediction", "said"),
    [
        ("sd1", "epsilon", ("False", "sd_v1", "stable-diffusion-v1/lora", "diffusers")),
        ("sd2", "epsilon", ("True", "sd_v2", "stable-diffusion-v2-512/lora", "diffusers")),
        ("sd2", "v", ("True", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "diffusers")),
        ("sdxl", "epsilon", ("False", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora",
                             "https://github.com/Stability-AI/generative-models")),
    ],
)  # fmt: skip
def test_readers_sort_a_file_by_its_architecture(arch, prediction, said):
    found = written({}, data={}, origin=Origin("m", "1" * 8, "2" * 64, arch=arch, prediction=prediction))
    keys = ("ss_v2", "ss_base_model_version", "modelspec.architecture", "modelspec.implementation")
    assert tuple(found[key] for key in keys) == said
