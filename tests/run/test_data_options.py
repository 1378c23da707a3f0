"""Every setting of data acts on the result, goes on after a resume as if nothing had been, and is in the
metadata where sd-scripts has it."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from lora_train.data.folder import Rules
from lora_train.errors import Mistake
from lora_train.knobs import settings
from tests.run.test_session import same

CAPTION = "{n} ||| p;;;q, {{s|t}}, u, v ||| w\nx"
CUT = {"place__cache_latents": False}  # pictures that look different each time are not cached

# setting -> (its value, what is set beside it in both runs, its entry in the metadata or None)
OPTIONS = {
    "trigger_word": ("sks", {}, None),
    "caption_prefix": ("my", {}, None),
    "caption_suffix": ("so", {}, None),
    "caption_separator": (";", {"shuffle_caption": True}, None),
    "shuffle_caption": (True, {}, ("ss_shuffle_caption", "True")),
    "keep_tokens": (2, {"shuffle_caption": True}, ("ss_keep_tokens", "2")),
    "keep_tokens_separator": ("|||", {}, None),
    "secondary_separator": (";;;", {}, None),
    "enable_wildcard": (True, {}, None),
    "caption_dropout_rate": (0.7, {}, ("ss_caption_dropout_rate", "0.7")),
    "caption_dropout_every_n_epochs": (2, {}, ("ss_caption_dropout_every_n_epochs", "2")),
    "caption_tag_dropout_rate": (0.5, {}, ("ss_caption_tag_dropout_rate", "0.5")),
    "token_warmup_step": (0.5, {}, None),
    "token_warmup_min": (3, {"token_warmup_step": 8}, None),
    "num_repeats": (1.5, {"datasets.0.subsets.0.image_dir": None}, None),
    "samples_per_epoch": (4, {}, None),
    "caption_extension": (".tags", {}, None),
    "class_tokens": ("thing", {"caption_extension": ".none", "datasets.0.subsets.0.image_dir": None}, None),
    "flip_aug": (True, {}, ("ss_flip_aug", "True")),
    "color_aug": (True, CUT, ("ss_color_aug", "True")),
    "random_crop": (True, {**CUT, "resolution": 32, "enable_bucket": False}, ("ss_random_crop", "True")),
    "rotate_aug": (30.0, CUT, None),
    "face_crop_aug_range": ("1.0,2.0", {**CUT, "resolution": 32}, ("ss_face_crop_aug_range", "(1.0, 2.0)")),
    "diff_output_preservation": (True, {}, None),
    "diff_output_preservation_class": ("thing", {"trigger_word": "sks"}, None),
    "instance_prompt": ("photo of [filewords]", {}, None),
    "transparent_color": ("#204060", {}, None),
    "resize_interpolation": ("nearest", {"resolution": 32}, ("ss_resize_interpolation", "nearest")),
}
ELSEWHERE = {  # and where
    "caption_encoding": "tests/data/test_plan.py",  # read or refused
    **dict.fromkeys(("alpha_mask", "conditioning_data_dir", "mask_suffix"), "tests/run/test_masked_runs.py"),
    **dict.fromkeys(("instance_token", "class_token", "file_prompt_contents"), "tests/data/test_subject.py"),
    **dict.fromkeys(
        ("class_data_dir", "class_guidance_scale", "class_infer_steps", "class_negative_prompt",
         "class_prompt", "class_sampler", "class_seed", "num_class_images", "num_class_images_per"),
        "tests/run/test_classes.py"),
    "validation_split": "tests/run/test_validation.py",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """Three pictures, partly transparent and wider than high, with lively captions."""
    folder = tmp_path / "learned" / "2_things"
    folder.mkdir(parents=True)
    for n in range(3):
        pixels = np.random.default_rng(n).integers(0, 256, (64, 80, 4), np.uint8)
        path = folder / f"{n}_40_32_20_20.png"
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text(CAPTION.format(n=n), encoding="utf-8")
        path.with_suffix(".tags").write_text(f"other {n}", encoding="utf-8")
    return folder


@pytest.fixture
def learned(trained, folder):
    """learned("a", **of data and others): a run on that folder, without its number where it is a dataset."""

    def learned(name: str, resume=None, **values):
        own = {p: v for p, v in values.items() if "__" in p}
        data = {f"data__{p}": v for p, v in values.items() if "__" not in p}
        if "data__datasets.0.subsets.0.image_dir" in data:
            data["data__datasets.0.subsets.0.image_dir"] = folder
        else:
            data["data__train_data_dir"] = folder.parent
        usual = {"data__train_data_dir": None, "data__resolution": 64, "place__resume": resume}
        return trained(name, **{**usual, **data, **own})

    return learned


def texts(outcome) -> dict[str, str]:
    with safe_open(outcome.file, "pt") as f:
        return f.metadata()


@pytest.mark.parametrize("option", OPTIONS)
def test_a_setting_of_data_acts_goes_on_and_is_recorded(learned, option, tmp_path):
    value, beside, recorded = OPTIONS[option]
    states = {"output__save_every_n_steps": 3, "output__save_state": True}
    without = learned("without", **beside)
    whole = learned("with", **{**beside, option: value, **states})
    assert not same(without, whole)
    state = tmp_path / "with" / "x-step00000003-state"
    assert same(whole, learned("on", resume=state, **{**beside, option: value}))
    if recorded:
        found = texts(whole)
        assert found[recorded[0]] == recorded[1]
    job = json.loads(texts(whole)["lora_train_job"])
    assert job[f"data.{option}"] != Rules.__dataclass_fields__[option].default


def test_every_setting_of_a_folder_is_tried():
    assert {s.name for s in settings(Rules)} == {*OPTIONS, *ELSEWHERE}
    root = pathlib.Path(__file__).parents[2]
    for name, file in ELSEWHERE.items():
        assert name in (root / file).read_text(encoding="utf-8"), f"{file} does not try {name}"


@pytest.mark.parametrize("option", ["color_aug", "random_crop", "rotate_aug", "face_crop_aug_range"])
@pytest.mark.parametrize("cache", ["cache_latents", "cache_latents_to_disk"])
def test_what_looks_different_each_time_is_refused_with_cached_latents(learned, option, cache):
    with pytest.raises(
        Mistake, match=rf"{option}: cannot go with cached latents.*place\.cache_latents = false"
    ):
        learned("a", **{option: OPTIONS[option][0], "place__cache_latents": False, f"place__{cache}": True})


@pytest.mark.parametrize("option", ["color_aug", "random_crop", "rotate_aug", "face_crop_aug_range"])
def test_nothing_is_cached_of_what_looks_different_each_time_unless_asked_for(learned, option):
    """sd-scripts' flags name cached latents only where they are wanted."""
    own = {option: OPTIONS[option][0]}
    left, off = learned("a", **own), learned("b", **own, **CUT)
    assert texts(left)["ss_cache_latents"] == "False"
    assert same(left, off)


def test_regularisation_acts_through_its_weight_and_is_recorded(trained, folder, tmp_path):
    reg = tmp_path / "reg" / "1_thing"
    reg.mkdir(parents=True)
    Image.effect_noise((64, 64), 60).convert("RGB").save(reg / "r.png")
    data = {"data__train_data_dir": folder.parent, "data__reg_data_dir": tmp_path / "reg"}
    steps = {"training__max_train_steps": 12}
    alone = trained("alone", data__train_data_dir=folder.parent, **steps)
    half, full = (trained(f"w{w}", data__prior_loss_weight=w, **data, **steps) for w in (0.5, 1.0))
    assert not same(alone, full)
    assert not same(half, full)
    found = texts(half)
    assert found["ss_prior_loss_weight"] == "0.5"
    assert (found["ss_num_train_images"], found["ss_num_reg_images"]) == ("6", "1")
    assert json.loads(found["ss_reg_dataset_dirs"]) == {"1_thing": {"n_repeats": 1, "img_count": 1}}
    assert json.loads(found["ss_dataset_dirs"]) == {"2_things": {"n_repeats": 2, "img_count": 3}}


def test_several_resolutions_of_the_same_pictures_train_together(trained, folder):
    values = {f"data__datasets.{i}.subsets.0.image_dir": folder for i in (0, 1)}
    values |= {
        "data__datasets.0.resolution": 64,
        "data__datasets.1.resolution": 32,
        "data__train_data_dir": None,
    }
    both = trained("both", training__max_train_steps=6, **values)
    datasets = json.loads(texts(both)["ss_datasets"])
    assert [d["resolution"] for d in datasets] == [[64, 64], [32, 32]]
    assert both.progress.steps_per_epoch == 6
