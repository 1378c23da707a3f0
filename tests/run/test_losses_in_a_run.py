"""Every setting of the loss acts on the result, and goes on after a resume as if nothing had been."""

import json

import pytest
from safetensors import safe_open

from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data.stays import Prior
from lora_train.errors import Mistake
from lora_train.knobs import settings
from lora_train.objectives.denoise import Denoise
from lora_train.objectives.masked import Masked
from lora_train.run.store import State
from tests.run.test_session import lines, same
from tests.test_objectives import batch, rngs
from tests.tiny import Tiny

EVERYTHING = {
    "objective__noise_offset": 0.1, "objective__noise_offset_random_strength": True,
    "objective__adaptive_noise_scale": 0.2, "objective__multires_noise_iterations": 6,
    "objective__ip_noise_gamma": 0.1, "objective__ip_noise_gamma_random_strength": True,
    "objective__loss_type": "huber", "objective__min_snr_gamma": 5.0, "objective__soft_min_snr": True,
    "objective__p2_gamma": 0.5, "objective__timestep_distribution": "logit_normal",
    "objective__edm2_loss_weighting": True, "objective__dream_detail_preservation": 0.5,
    "objective__fixed_timesteps_in_batch": True, "data__trigger_word": "sks",
    "data__diff_output_preservation_class": "thing", "network__dropout": 0.2, "data__batch_size": 2,
}  # fmt: skip
HUBER, EDM2 = {"loss_type": "huber"}, {"edm2_loss_weighting": True, "edm2_loss_weighting_optimizer_lr": 1.0}
OFFSET, LEVELS, SEEN = {"noise_offset": 0.5}, {"multires_noise_iterations": 6}, {"ip_noise_gamma": 0.5}
NORMAL = {"timestep_distribution": "logit_normal"}
RUNS = {  # a setting -> its value, and what stands beside it in both runs
    "loss_type": ("l1", {}), "huber_c": (1.0, HUBER), "huber_schedule": ("exponential", HUBER),
    "huber_scale": (3.0, {**HUBER, "huber_schedule": "constant"}), "min_snr_gamma": (1.0, {}),
    "soft_min_snr": (True, {"min_snr_gamma": 1.0}), "debiased_estimation_loss": (True, {}),
    "p2_gamma": (1.0, {}), "v_pred_like_loss": (0.5, {}), "edm2_loss_weighting": (True, {}),
    "edm2_loss_weighting_optimizer_lr": (0.1, EDM2), "edm2_loss_weighting_num_channels": (8, EDM2),
    "dream_detail_preservation": (1.0, {}), "noise_offset": (0.5, {}),
    "noise_offset_random_strength": (True, OFFSET), "adaptive_noise_scale": (1.0, OFFSET),
    "multires_noise_iterations": (6, {}), "multires_noise_discount": (0.9, LEVELS),
    "ip_noise_gamma": (0.5, {}), "ip_noise_gamma_random_strength": (True, SEEN),
    "force_consistent_noise": (True, {}), "min_timestep": (500, {}), "max_timestep": (300, {}),
    "timestep_distribution": ("style", {}), "timestep_shift": (3.0, {}), "noising_weight": (1.0, NORMAL),
    "noising_bias": (1.0, NORMAL), "fixed_timesteps_in_batch": (True, {}),
}  # fmt: skip
LASTING = [name for name in RUNS if name.startswith(("edm2", "fixed"))]
OTHERWISE = {s.name for s in settings(Masked)} | {  # tests/test_masked.py, and below
    "scale_v_pred_loss_like_noise_pred", "diff_output_preservation_multiplier",
}  # fmt: skip


@pytest.fixture
def short(trained):
    """short("a", **of the objective): three steps on the UNet's attention."""

    def short(name: str, **values):
        usual = {"training__max_train_steps": 3, "network__train_unet_only": True, "data__batch_size": 2,
                 "network__preset": "attn-only"}  # fmt: skip
        own = {p if "__" in p else f"objective__{p}": v for p, v in values.items()}
        return trained(name, **{**usual, **own})

    return short


@pytest.mark.parametrize("option", RUNS)
def test_a_setting_of_the_loss_acts(short, option):
    value, beside = RUNS[option]
    if option in LASTING:  # what it is about comes later, or needs the batches of a run
        assert not same(short("without", **beside), short("with", **{**beside, option: value}))
        return
    lent, found = Tiny(), []
    rows = batch(lent, 2)
    for given in (beside, {**beside, option: value}):
        course = Denoise(**given).begin(lent, Network(Lora(), lent.layers()))
        found.append(course.losses(lent, rows, rngs(2)).tolist())
    assert found[0] != found[1]


def test_every_setting_of_the_loss_is_tried():
    assert {s.name for s in settings(Denoise)} == set(RUNS) | OTHERWISE


def test_a_resumed_run_of_all_of_them_is_the_run_that_never_stopped(trained, tmp_path):
    every = {"training__max_train_steps": 5, **EVERYTHING}
    whole = trained("a", output__save_every_n_steps=2, output__save_state=True, **every)
    on = trained("b", place__resume=tmp_path / "a" / "x-step00000002-state", **every)
    assert same(whole, on)
    assert lines(whole)[2:] == lines(on)
    first, last = (State.read(tmp_path / "a" / f"x-step0000000{n}-state").tensors for n in (2, 4))
    weight = "objective.weight"
    assert first[weight].abs().sum() > 0
    assert not first[weight].equal(last[weight])
    assert first["objective.phases"].equal(last["objective.phases"])


def test_the_file_says_what_was_set_as_sd_scripts_does(short):
    beside = {"noise_offset": 0.1, "adaptive_noise_scale": 0.2, "ip_noise_gamma": 0.1, "p2_gamma": 0.5,
              "multires_noise_iterations": 6, "multires_noise_discount": 0.4, "huber_c": 0.2,
              "loss_type": "smooth_l1", "huber_schedule": "constant", "huber_scale": 2.0,
              "debiased_estimation_loss": True, "noise_offset_random_strength": True,
              "ip_noise_gamma_random_strength": True}  # fmt: skip
    more = {"model__v_parameterization": True, "model__zero_terminal_snr": True}
    with safe_open(short("a", **beside, **more).file, "pt") as f:
        found = f.metadata()
    renamed = {"debiased_estimation_loss": "debiased_estimation"}
    for name, value in beside.items():
        if name != "p2_gamma":
            assert found[f"ss_{renamed.get(name, name)}"] == str(value), name
    assert found["ss_zero_terminal_snr"] == "True"
    assert json.loads(found["lora_train_job"])["objective.p2_gamma"] == 0.5


def test_zero_terminal_snr_acts_and_its_undefined_weights_are_refused_before_anything_is_written(
    short, tmp_path
):
    v = {"model__v_parameterization": True}
    on = {**v, "model__zero_terminal_snr": True, "min_timestep": 900}
    ended = short("a", **on)
    assert not same(ended, short("b", **v, min_timestep=900))
    assert not same(ended, short("c", **on, scale_v_pred_loss_like_noise_pred=True))
    wrong = {
        "min_snr_gamma": 5.0,
        "debiased_estimation_loss": True,
        "scale_v_pred_loss_like_noise_pred": True,
    }
    with pytest.raises(Mistake) as caught:
        short("d", model__zero_terminal_snr=True, **wrong)
    names = ("scale_v_pred_loss_like_noise_pred", "min_snr_gamma", "debiased_estimation_loss")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        f"objective.{n}" for n in names
    ]
    assert not [path for path in (tmp_path / "d").rglob("*") if path.is_file()]


def test_fresh_adapters_have_nothing_to_learn_of_pictures_that_are_to_stay(short):
    first = lines(short("a", data__diff_output_preservation=True, training__max_train_steps=1))[0]
    assert first["loss"] == 0


def test_a_class_is_kept_where_captions_call_the_trained_word(short):
    word = {"data__trigger_word": "sks"}
    kept = {**word, "data__diff_output_preservation_class": "thing"}
    plain, held, much = (
        short("a", **word),
        short("b", **kept),
        short("c", **kept, diff_output_preservation_multiplier=9),
    )
    assert not same(plain, held)
    assert not same(held, much)
    assert same(plain, short("d", **kept, diff_output_preservation_multiplier=0))
    assert same(held, short("e", **kept, place__cache_text_encoder_outputs=False))


def test_a_class_without_a_word_for_it_is_refused(short):
    with pytest.raises(
        Mistake, match="^data.diff_output_preservation_class: stands in place of the trigger word"
    ):
        short("a", data__diff_output_preservation_class="thing")


def test_the_priors_weight_goes_down_in_a_line():
    assert [Prior(0.5).prior(epoch) for epoch in (0, 5, 500)] == [0.5] * 3
    fading = Prior(0.75, prior_loss_scale=True, prior_loss_target=4, prior_loss_weight_min=0.1)
    found = [fading.prior(epoch) for epoch in range(7)]
    assert found == pytest.approx([0.75, 0.5875, 0.425, 0.2625, 0.1, 0.1, 0.1])
