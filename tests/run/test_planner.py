"""The planner says what Start would, beside the field, and counts as the run counts."""

import os
import time

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.errors import Mistake
from lora_train.job import assemble, declared
from lora_train.objectives import objective
from lora_train.run import measure as measures
from lora_train.run import planner
from lora_train.run.applies import RULES
from lora_train.run.planner import look, measure
from lora_train.run.session import run
from tests.tiny import TinyHost


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        picture = np.random.default_rng(i).integers(0, 256, (64, 96 if i else 64, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a cat", encoding="utf-8")
    return folder


@pytest.fixture
def host(tmp_path):
    return TinyHost(tmp_path)


@pytest.fixture
def values(pictures, tmp_path):
    return {
        "model.pretrained_model_name_or_path": "tiny.safetensors",
        "data.train_data_dir": str(pictures), "data.resolution": "64", "data.enable_bucket": True,
        "data.min_bucket_reso": 32, "data.bucket_reso_steps": 8, "data.batch_size": 2,
        "training.max_train_steps": 10, "output.output_dir": str(tmp_path / "out"),
        "output.save_every_n_steps": 4, "network.dim": 2, "place.device": "cpu",
    }  # fmt: skip


def about(seen, path):
    return [c["text"] for c in seen["complaints"] if c["path"] == path]


def test_a_good_job_has_a_plan_and_no_complaint(values, host):
    seen = look(values, host)
    assert seen["complaints"] == []
    plan = seen["plan"]
    assert (plan["pictures"], plan["samples"], plan["steps_per_epoch"], plan["steps"]) == (4, 4, 3, 10)
    assert plan["saves"] == [4, 8, 10]
    assert sorted(row["pictures"] for row in plan["buckets"]) == [1, 3]
    assert plan["disk"]["free_megabytes"] > plan["disk"]["megabytes"] > 0
    assert seen["estimate"] is None, "nothing was measured yet"


def test_every_complaint_stands_beside_its_field(values, host, tmp_path):
    (tmp_path / "file").touch()
    values |= {
        "network.dim": "0", "lr.learning_rate": "fast", "output.output_name": "a/b",
        "data.color_aug": True, "place.cache_latents": True,
        "network.dimm": 4, "network.weights": str(tmp_path / "none.safetensors"),
        "output.output_dir": str(tmp_path / "file" / "out"), "network.train_unet_only": True,
        "network.train_text_encoder_only": True,
    }  # fmt: skip
    seen = look(values, host)
    assert "expected 1 to 512" in about(seen, "network.dim")[0]
    for path in ("lr.learning_rate", "output.output_name", "data.color_aug", "network.dimm",
                 "network.weights", "output.output_dir", "network.train_unet_only"):  # fmt: skip
        assert about(seen, path), (path, seen["complaints"])
    assert seen["plan"]["pictures"] == 4, "the pictures are looked at all the same"


@pytest.mark.parametrize(
    "more",
    [{}, {"network.dim": 0}, {"data.color_aug": True}, {"data.color_aug": True, "place.cache_latents": True},
     {"place.device": "cuda"}, {"training.mixed_precision": "fp16"}, {"network.weights": "gone.safetensors"},
     {"output.sample_prompts": "gone.txt", "output.sample_at_first": True}, {"place.resume": "gone-state"},
     {"data.train_data_dir": "gone"}, {"output.output_name": "a/b"}, {"data.reg_data_dir": "gone"},
     {"data.in_json": "gone.json"}, {"output.log_with": "tensorboard"}, {"output.card.thumbnail": "gone.png"},
     {"network.dim_from_weights": True}, {"lr.lr_warmup_steps": 5}, {"objective.min_timestep": 900,
     "objective.max_timestep": 100}, {"data.enable_bucket": True, "data.bucket_reso_steps": 60},
     {"optimizer.betas": "0.9"}, {"data.num_repeats": 0.5}, {"network.block_weights": "1,2"},
     {"data.caption_encoding": "utf-16"}, {"output.save_every_n_steps": 0}, {"data.batch_size": 9}],
)  # fmt: skip
def test_it_says_no_where_start_says_no(values, host, more, tmp_path, monkeypatch):
    """Never more, never less."""
    monkeypatch.chdir(tmp_path)
    asked = {**values, **more, "training.max_train_steps": 1}
    said = [complaint["text"] for complaint in look(asked, host)["complaints"]]
    try:
        run(*assemble(asked, tolerant=True), host)
        refused = []
    except Mistake as e:
        refused = str(e).splitlines()
    assert bool(said) == bool(refused), (said, refused)
    assert set(refused) <= set(said), "in the same words"


def test_a_folder_that_is_not_there_is_said_beside_its_field(values, host, tmp_path):
    for folder in (None, str(tmp_path / "gone"), str(tmp_path)):
        seen = look({**values, "data.train_data_dir": folder}, host)
        assert about(seen, "data.train_data_dir"), folder
        assert seen["plan"] is None


def test_what_the_host_says_without_a_setting_is_about_the_model(values, host):
    host.refusals = lambda *parts: ["no model is loaded; choose a checkpoint at the top of the page"]
    assert about(look(values, host), "model.pretrained_model_name_or_path")


def test_a_damaged_picture_is_beside_the_folder(values, host, pictures):
    (pictures / "9.png").write_bytes(b"no picture")
    seen = look(values, host)
    assert "9.png" in about(seen, "data.train_data_dir")[0]


def test_settings_of_a_kind_that_is_not_chosen_are_let_pass_as_a_form_posts_them(values, host):
    assert look({**values, "optimizer.betas": "0.9, 0.99"}, host)["complaints"] == []


def test_remarks_name_their_files(values, host, pictures):
    (pictures / "0.txt").write_text("", encoding="utf-8")
    (pictures / "1.txt").unlink()
    texts = {row["text"]: row["files"] for row in look(values, host)["remarks"]}
    assert ["0.png"] in texts.values()
    assert ["1.png"] in texts.values()
    seen = look({**values, "data.resolution": "512", "data.min_bucket_reso": 256}, host)
    enlarged = next(row for row in seen["remarks"] if "enlarged" in row["text"])
    assert len(enlarged["files"]) == 4


def test_captions_that_are_cut_or_do_not_name_the_trigger_are_remarked(values, host, pictures):
    (pictures / "2.txt").write_text("word " * 80, encoding="utf-8")
    rows = {
        row["text"]: row["files"] for row in look({**values, "data.trigger_word": "cat"}, host)["remarks"]
    }
    long = next(files for text, files in rows.items() if "more tokens" in text)
    assert len(long) == 1
    assert long[0].startswith("2.png (82 tokens: ")  # "cat, " is put to it
    assert any("without the trigger word" in text for text in rows)
    more = {**values, "model.max_token_length": 150}
    assert not [row for row in look(more, host)["remarks"] if "more tokens" in row["text"]]


@pytest.mark.parametrize(
    ("more", "said"),
    [({"lr.learning_rate": 0.01}, "lr.learning_rate = 0.01: 100 times the usual 0.0001"),
     ({"lr.text_encoder_lr": 0.01}, "lr.text_encoder_lr = 0.01"),
     ({"lr.text_encoder_lr2": 0.01}, "lr.text_encoder_lr2 = 0.01"),
     ({"network.dim": 128}, "multiplied by alpha/dim"),
     ({}, "seen 3.25 times"), ({"training.max_train_steps": 5000}, "learned by heart"),
     ({}, "1 of 2 buckets never fill a batch (64x64)"), ({}, "No samples are drawn")],
)  # fmt: skip
def test_what_people_lose_nights_to_is_said(values, host, more, said):
    found = look({**values, **more}, host)
    assert any(said in row["text"] for row in found["remarks"]), found["remarks"]
    assert not found["complaints"]


def test_what_is_usual_is_left_alone(values, host):
    host.header = lambda: {**TinyHost.header(host), "loaded": False}
    usual = {"training.max_train_steps": 200, "output.sample_every_n_steps": 20, "data.batch_size": 1}
    assert look({**values, **usual}, host)["remarks"] == []


def test_the_demo_has_numbers_of_its_own(values, host):
    demo = {"model.pretrained_model_name_or_path": "/models/demo.safetensors", "lr.learning_rate": 0.003}
    texts = [row["text"] for row in look({**values, **demo}, host)["remarks"]]
    assert not [text for text in texts if "noise" in text or "made for" in text]


def test_the_loaded_model_is_compared(values, host):
    del values["model.pretrained_model_name_or_path"]
    host.header = lambda: {**TinyHost.header(host), "family": "sdxl"}
    texts = [row["text"] for row in look({**values, "model.v_parameterization": True}, host)["remarks"]]
    assert any("SDXL was made for 1024, and falls apart below it" in text for text in texts)
    assert any("the loaded model predicts epsilon" in text for text in texts)


def test_a_change_in_the_folder_is_seen_and_nothing_else_is_looked_at_again(
    values, host, pictures, monkeypatch
):
    calls = []
    real = objective.survey
    monkeypatch.setattr(objective, "survey", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    look(values, host)
    look({**values, "network.dim": 8}, host)
    assert len(calls) == 1
    os.utime(pictures / "0.txt", (1, 1))
    look(values, host)
    (pictures / "4.png").write_bytes((pictures / "3.png").read_bytes())
    assert look(values, host)["plan"]["pictures"] == 5
    assert len(calls) == 3


def test_what_has_no_effect_says_why(values, host):
    seen = look({**values, "network.train_unet_only": True}, host)["disabled"]
    assert seen["lr.text_encoder_lr"] == "only the UNet trains, as network.train_unet_only says"
    assert "lr.text_encoder_lr" not in look(values, host)["disabled"]
    assert "network.dim" not in seen


@pytest.mark.parametrize(("family", "held"), [
    ("sd1", {"lr.text_encoder_lr2"}), ("sd2", {"lr.text_encoder_lr2", "model.clip_skip"}),
    ("sdxl", {"model.clip_skip"})])  # fmt: skip
def test_what_the_loaded_model_has_not_is_said(values, host, family, held):
    del values["model.pretrained_model_name_or_path"]
    host.header = lambda: {**TinyHost.header(host), "family": family}
    seen = look(values, host)["disabled"]
    assert {"lr.text_encoder_lr2", "model.clip_skip"} & seen.keys() == held


def test_rules_name_settings_that_there_are():
    every = {s.path for s in declared()}
    assert not [path for paths, _, _ in RULES for path in paths if path not in every]
    assemble({})  # and each rule holds or does not, of any job
    for _, holds, why in RULES:
        assert holds(*assemble({})) in (True, False)
        assert not why.endswith(".")


def test_pictures_of_the_class_count_where_a_run_keeps_them(values, host, tmp_path):
    values = {**values, "data.class_prompt": "a thing", "data.num_class_images": 2}
    seen = look(values, host)
    assert "2 pictures of the class lack, and are drawn before the run." in [
        r["text"] for r in seen["remarks"]
    ]
    folder = tmp_path / "out" / f"{assemble(values)[1].output_name}-run" / "class"
    folder.mkdir(parents=True)
    for i in range(2):
        Image.new("RGB", (64, 64)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a thing", encoding="utf-8")
    again = look(values, host)
    assert again["plan"]["samples"] == 2 * seen["plan"]["samples"]
    assert not [r for r in again["remarks"] if "of the class lack" in r["text"]]


def test_a_mask_that_came_is_seen(values, host, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    values = {**values, "objective.masked_loss": True, "data.conditioning_data_dir": str(masks)}
    assert look(values, host)["complaints"]
    for i in range(4):
        Image.new("RGB", (96 if i else 64, 64), "white").save(masks / f"{i}.png")
    assert look(values, host)["complaints"] == []


def test_a_word_that_no_caption_holds_is_a_complaint(values, host):
    assert (
        "none of the captions holds it"
        in about(look({**values, "embedding.token_string": "zwx"}, host), "embedding.token_string")[0]
    )


def test_a_full_disk_is_said_before_the_run(values, host, monkeypatch):
    monkeypatch.setattr(planner.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10 * 2**20}))
    assert "10 MB are free" in about(look(values, host), "output.output_dir")[0]


def test_measured_steps_become_the_estimate(values, host, tmp_path, pictures):
    before = sorted(tmp_path.rglob("*"))
    found = measure(values, host)
    assert found["seconds_per_step"] > 0
    assert found["peak_megabytes"] is None or found["peak_megabytes"] > 1
    new = [path for path in sorted(tmp_path.rglob("*")) if path not in before]
    assert [path.name for path in new] == ["desk", "measured.json"], "nothing else is written"
    seen = look({**values, "training.max_train_steps": 100}, host)["estimate"]
    assert seen["seconds"] == pytest.approx(100 * found["seconds_per_step"])
    assert look({**values, "network.dim": 4}, host)["estimate"] is None, "another shape"


@pytest.mark.parametrize(
    "more",
    [{"network.train_unet_only": True}, {"place.gradient_checkpointing": True, "data.batch_size": 3},
     {"training.mixed_precision": "bf16", "training.gradient_accumulation_steps": 2}],
)  # fmt: skip
def test_every_kind_of_step_can_be_measured(values, host, more):
    assert measure({**values, **more}, host)["seconds_per_step"] > 0


def test_a_step_of_prompts_in_a_file_can_be_measured(values, host, tmp_path):
    """They are known apart from those of another file."""
    values = {path: value for path, value in values.items() if path != "data.train_data_dir"}
    values |= {"objective.kind": "erase", "objective.instant": True}
    for name in ("cat", "dog"):
        (tmp_path / f"{name}.txt").write_text(name, encoding="utf-8")
    one, two = ({**values, "objective.prompts_file": str(tmp_path / f"{n}.txt")} for n in ("cat", "dog"))
    assert measure(one, host)["seconds_per_step"] > 0
    assert look(one, host)["estimate"]
    assert look(two, host)["estimate"] is None


def test_what_start_would_refuse_is_not_measured(values, host):
    with pytest.raises(Mistake, match="network.dim = 0"):
        measure({**values, "network.dim": 0}, host)


def test_a_step_that_does_not_fit_says_what_to_change(values, host, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(measures, "train", fails)
    with pytest.raises(
        Mistake, match="needs more memory than is free; set place.gradient_checkpointing, or"
    ) as e:
        measure(values, host)
    assert e.value.__cause__ is None
    assert "batches of 2" in str(e.value)


def test_a_damaged_memory_of_measurements_is_as_none(values, host, tmp_path):
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "measured.json").write_text("[1", encoding="utf-8")
    assert look(values, host)["estimate"] is None


def test_a_thousand_pictures_are_planned_while_one_types(tmp_path, host):
    folder = tmp_path / "many"
    folder.mkdir()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "0.png")
    data = (folder / "0.png").read_bytes()
    for i in range(1000):
        (folder / f"{i}.png").write_bytes(data)
        (folder / f"{i}.txt").write_text("a cat", encoding="utf-8")
    values = {"data.train_data_dir": str(folder), "data.resolution": "64", "data.bucket_reso_steps": 8,
              "output.output_dir": str(tmp_path / "out")}  # fmt: skip
    look(values, host)
    began = time.perf_counter()
    assert look({**values, "network.dim": 8}, host)["plan"]["pictures"] == 1000
    assert time.perf_counter() - began < 1
