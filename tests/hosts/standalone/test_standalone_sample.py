"""Drawing gives the pictures of diffusers' own pipeline."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lora_train import names
from lora_train.host import Model
from lora_train.prompts import SAMPLERS, Prompt

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
from lora_train.hosts.standalone.host import StandaloneHost  # noqa: E402
from lora_train.hosts.standalone.sample import SCHEDULERS, picture  # noqa: E402
from lora_train.hosts.standalone.tokens import VOCABULARY  # noqa: E402

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
THEIRS = {
    "ddim": lambda **k: diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS, **k
    ),
    "pndm": lambda **k: diffusers.PNDMScheduler(
        skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **BETAS, **k
    ),
    "lms": lambda **k: diffusers.LMSDiscreteScheduler(**BETAS, **k),
    "euler": lambda **k: diffusers.EulerDiscreteScheduler(**BETAS, **k),
    "euler_a": lambda **k: diffusers.EulerAncestralDiscreteScheduler(**BETAS, **k),
    "heun": lambda **k: diffusers.HeunDiscreteScheduler(**BETAS, **k),
    "dpm_2": lambda **k: diffusers.KDPM2DiscreteScheduler(**BETAS, **k),
    "dpm_2_a": lambda **k: diffusers.KDPM2AncestralDiscreteScheduler(**BETAS, **k),
    "dpmsolver": lambda **k: diffusers.DPMSolverMultistepScheduler(
        algorithm_type="dpmsolver", final_sigmas_type="sigma_min", **BETAS, **k
    ),
    "dpm++_2m": lambda **k: diffusers.DPMSolverMultistepScheduler(**BETAS, **k),
    "dpmsingle": lambda **k: diffusers.DPMSolverSinglestepScheduler(**BETAS, **k),
}


@pytest.fixture(scope="module")
def pipeline(reference):
    """Made of the reference checkpoint by hand: nothing of ours but the translation of names."""
    parts = names.to_diffusers(load_file(reference / "tiny_sd1.safetensors"))
    unet = diffusers.UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(32, 64, 128, 128),
        cross_attention_dim=64,
        attention_head_dim=8,
    )
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        latent_channels=4,
    )
    config = transformers.CLIPTextConfig.from_pretrained(reference / "tiny_sd1_clip")
    text = transformers.CLIPTextModel(config)
    unet.load_state_dict(parts["unet"])
    vae.load_state_dict(parts["vae"])
    prefix = "text_model." if hasattr(text, "text_model") else ""
    text.load_state_dict({prefix + name: value for name, value in parts["te1"].items()}, strict=False)
    made = diffusers.StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(VOCABULARY),
        unet=unet.eval(),
        scheduler=THEIRS["ddim"](),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def lents(reference):
    """Two loans of the reference, by what they take the model to predict."""
    with contextlib.ExitStack() as stack:
        yield {
            prediction: stack.enter_context(
                StandaloneHost().borrow(
                    Model(reference / "tiny_sd1.safetensors", v_parameterization=prediction == "v"),
                    device="cpu",
                    precision="no",
                )
            )
            for prediction in ("epsilon", "v")
        }


def drawn(lent, prompt: Prompt) -> np.ndarray:
    return np.asarray(lent.sample(prompt), dtype=int)


def theirs(pipeline, prompt: Prompt, **settings) -> np.ndarray:
    pipeline.scheduler = THEIRS[prompt.sample_sampler](**settings)
    image = pipeline(
        prompt.prompt,
        negative_prompt=prompt.negative_prompt,
        width=prompt.width,
        height=prompt.height,
        num_inference_steps=prompt.sample_steps,
        guidance_scale=prompt.scale,
        generator=torch.Generator().manual_seed(prompt.seed),
    ).images[0]
    return np.asarray(image, dtype=int)


def test_every_sampler_of_the_grammar_is_there():
    assert set(SAMPLERS.values()) == set(SCHEDULERS) == set(THEIRS)


@pytest.mark.parametrize("sampler", THEIRS)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_picture_is_that_of_diffusers_pipeline(lents, pipeline, sampler, prediction):
    if sampler == "lms":
        pytest.importorskip("scipy", reason="diffusers' own LMS needs it; ours does not")
    prompt = Prompt("a cat, sitting", "blurry", 64, 128, 5, 5, 7.5, sampler)
    ours = drawn(lents[prediction], prompt)
    expected = theirs(pipeline, prompt, prediction_type="v_prediction" if prediction == "v" else "epsilon")
    assert ours.shape == (128, 64, 3)
    assert expected.std() > 10  # a picture, not one colour
    assert abs(ours - expected).max() <= 1


def test_without_guidance_the_negative_prompt_is_not_read(lents, pipeline):
    prompt = Prompt("a cat", "blurry", 64, 64, 5, 3, 1.0, "euler")
    ours = drawn(lents["epsilon"], prompt)
    assert abs(ours - theirs(pipeline, prompt)).max() <= 1
    assert (ours == drawn(lents["epsilon"], Prompt("a cat", "", 64, 64, 5, 3, 1.0, "euler"))).all()


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        ("ddim", [0, 0, 1, 2]),
        ("euler_a", [0, 0, 1, 2]),
        ("dpm++_2m", [0, 0, 1, 2]),
        ("pndm", [0, 0, 0, 1, 2]),  # whose first step calls twice
        ("heun", [0, 0, 0, 1, 1, 2, 2]),  # counted between a step's two calls
        ("dpm_2_a", [0, 0, 0, 1, 1, 2, 2]),
    ],
)
def test_steps_are_told_as_the_webui_counts_them(lents, sampler, steps):
    """Its k-diffusion samplers say a step when its first call is done; so each lags by one."""
    told, calls = [], []
    handle = lents["v"].denoisers()[0].register_forward_hook(lambda *_: calls.append(len(told)))
    prompt = Prompt("a cat", width=64, height=64, seed=1, sample_steps=4, sample_sampler=sampler)
    try:
        lents["v"].sample(prompt, told.append)
    finally:
        handle.remove()
    assert told == steps
    assert calls == [*range(1, len(steps) + 1)]  # each before its call


def test_without_a_seed_every_picture_is_another(lents):
    prompt = Prompt("a cat", width=64, height=64, sample_steps=1)
    assert (drawn(lents["v"], prompt) != drawn(lents["v"], prompt)).any()


def test_pixels_are_rounded_and_kept_within_a_bytes_range():
    pixels = torch.tensor([-3.0, -1.0, 0.0, 0.999, 9.0]).expand(3, 2, 5)
    assert np.asarray(picture(pixels))[0, :, 0].tolist() == [0, 0, 128, 255, 255]
