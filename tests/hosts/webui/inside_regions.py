"""LoRAs by region and by AND prompt in the real WebUI's pictures; run in its process, with our extension
loaded as any other (see test_webui.py)."""

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from tests.hosts.webui.inside_prompts import made

BOTH = "a cat<lora:style:1><lora:eyes:1>"
HIRES = {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_upscaler": "Latent"}
OFF, HALVES = (False,), (True, "columns", "1,1")
APART = (True, "whole picture", "", None, "", True)


@pytest.fixture(scope="module", autouse=True)
def loras():
    """Of all layers, text encoders' as well."""
    import networks

    torch.manual_seed(0)
    made("lora", "style")
    made("lora", "eyes", 2)
    networks.list_available_networks()


def section():
    from modules import scripts

    (found,) = [one for one in scripts.scripts_data if one.script_class.__name__ == "Section"]
    script = found.script_class()
    script.filename, script.name = found.path, script.title().lower()
    return script


def processed(prompt, args=OFF, *, start=None, **others):
    from modules import call_queue, processing, scripts

    given = {"seed": 5, "steps": 3, "width": 64, "height": 64, "sampler_name": "Euler", "cfg_scale": 5,
             "scheduler": "Automatic", "do_not_save_samples": True, "do_not_save_grid": True}  # fmt: skip
    kind = processing.StableDiffusionProcessingTxt2Img
    if start is not None:
        kind, others = processing.StableDiffusionProcessingImg2Img, {"init_images": [start], **others}
    p = kind(prompt=prompt, **{**given, **others})
    script = section()
    script.args_from, script.args_to = 0, len(args)
    p.scripts, p.script_args = scripts.ScriptRunner(), [*args]
    p.scripts.scripts = p.scripts.alwayson_scripts = [script]
    torch.manual_seed(0)  # img2img's start is drawn from it
    with call_queue.queue_lock, contextlib.closing(p):
        return processing.process_images(p)


def drawn(prompt, args=OFF, **others):
    found = processed(prompt, args, **others)
    return np.stack([np.asarray(image, int) for image in found.images[found.index_of_first_image :]])


def answers(prompt, args=OFF, **others):
    """What the denoiser gets in the first step: rows of prompts, then of negative ones."""
    from modules import script_callbacks

    found = []
    script_callbacks.on_cfg_denoised(lambda params: found.append(params.x.clone()))
    try:
        drawn(prompt, args, **{"steps": 1, **others})
    finally:
        script_callbacks.remove_current_script_callbacks()
    return found[0]


def close(a, b, by=1e-5):
    return (a - b).abs().max() <= by * b.abs().max()


def test_a_half_is_what_its_lora_alone_makes_of_it():
    found, style, eyes = (
        answers(BOTH, HALVES), answers("a cat<lora:style:1>"), answers("a cat<lora:eyes:1>")
    )  # fmt: skip
    assert close(found[..., :4], style[..., :4])
    assert close(found[..., 4:], eyes[..., 4:])
    assert not close(style, eyes, 0.01)
    found = answers(BOTH, (True, "rows", "1,3", None, "eyes; style"))
    assert close(found[..., :2, :], eyes[..., :2, :])
    assert close(found[..., 2:, :], style[..., 2:, :])


@contextlib.contextmanager
def listening():
    """Every call of the UNet: what it was given, what it answered."""
    from modules import shared

    found = []
    handle = shared.sd_model.model.diffusion_model.register_forward_hook(
        lambda module, args, named, out: found.append((args, named, out)), with_kwargs=True
    )
    try:
        yield found
    finally:
        handle.remove()


def asked_again(prompt, calls):
    """The UNet's answers to the same latents and times, as another prompt's picture has it."""
    from modules import script_callbacks, shared

    found = []

    def again(params):
        unet = shared.sd_model.model.diffusion_model
        given = [params.text_cond, params.text_uncond]
        if isinstance(given[0], torch.Tensor):
            given = [{"crossattn": cond} for cond in given]
        names = {"crossattn": "context", "vector": "y"}
        own = {names[name]: torch.cat([cond[name] for cond in given]) for name in given[0]}
        found.extend(unet(*args, **{**named, **own}) for args, named, _ in calls)

    script_callbacks.on_cfg_denoiser(again)
    try:
        drawn(prompt, steps=1)
    finally:
        script_callbacks.remove_callbacks_for_function(again)
    return found


def test_in_every_step_a_half_is_what_its_lora_alone_makes_of_it():
    with listening() as calls:
        drawn(BOTH, HALVES, steps=6)
    style, eyes = asked_again("a cat<lora:style:1>", calls), asked_again("a cat<lora:eyes:1>", calls)
    assert len(calls) == 6
    for (_, _, out), left, right in zip(calls, style, eyes, strict=True):
        assert close(out[..., :4], left[..., :4])
        assert close(out[..., 4:], right[..., 4:])


def test_in_the_picture_a_half_is_nearer_to_its_lora_alone():
    """Not the same: from the second step on the UNet sees the other half's latents, all of them here."""
    size = {"width": 128, "steps": 4}
    found, style, eyes = (
        drawn(prompt, args, **size)[0]
        for prompt, args in [(BOTH, HALVES), ("a cat<lora:style:1>", OFF), ("a cat<lora:eyes:1>", OFF)]
    )
    left, right = slice(0, 56), slice(72, 128)
    own = abs(found - style)[:, left].mean() + abs(found - eyes)[:, right].mean()
    other = abs(found - eyes)[:, left].mean() + abs(found - style)[:, right].mean()
    assert own < 0.75 * other


@pytest.mark.parametrize("batched", [True, False])
def test_a_lora_acts_on_its_and_prompt_alone(batched):
    from modules import shared

    shared.opts.data["batch_cond_uncond"] = batched
    try:
        found = answers("a cat<lora:style:1> AND a dog<lora:eyes:0.7> :0.5", APART)
        one, other, bare = answers("a cat<lora:style:1>"), answers("a dog<lora:eyes:0.7>"), answers("a cow")
        again = answers("a cat<lora:style:1> AND a dog<lora:style:0.3>", APART)
        less = answers("a dog<lora:style:0.3>")
    finally:
        shared.opts.data["batch_cond_uncond"] = True
    assert len(found) == 3
    for row, expected in zip(found, (one[0], other[0], bare[1]), strict=True):
        assert close(row, expected)
    assert not close(one[1], bare[1], 0.01)  # which is what there is without
    assert close(again[0], one[0], 1e-4)  # a LoRA that is there twice is added in two parts
    assert close(again[1], less[0], 1e-4)


def test_the_negative_prompt_can_be_without():
    found, plain, bare = (
        answers(BOTH, (True, "whole picture", "", None, "", False, True)),
        answers(BOTH),
        answers("a cat"),
    )
    assert close(found[0], plain[0])
    assert close(found[1], bare[1])


EVERYWHERE = (True, "columns", "1,1", None, "style; style")
LONG = "a cat<lora:style:0.8:lbw=OUTALL:start=2>" + " and a tree" * 40


SCHEDULED = "[a cat:a dog:2]<lora:style:0.8:0.5>"


@pytest.mark.parametrize(
    ("how", "prompt"),
    [
        *[(how, LONG) for how in ("plain", "pad", "hires", "DDIM")],
        *[(how, SCHEDULED) for how in ("plain", "batch", "img2img", "Heun", "UniPC")],
    ],
)
def test_the_same_lora_in_all_regions_is_the_lora(how, prompt):
    from modules import shared

    others = {"batch": {"n_iter": 2, "batch_size": 2}, "hires": HIRES,
              "img2img": {"start": Image.new("RGB", (64, 64), "teal")}}.get(how, {})  # fmt: skip
    if how[0].isupper():
        others["sampler_name"] = how
    shared.opts.data["pad_cond_uncond"] = how == "pad"
    try:
        found, plain = drawn(prompt, EVERYWHERE, **others), drawn(prompt, **others)
    finally:
        shared.opts.data["pad_cond_uncond"] = False
    assert abs(found - plain).max() <= 1


def test_pictures_of_a_batch_are_those_they_are_alone():
    found = drawn(BOTH, HALVES, batch_size=2)
    alone = [drawn(BOTH, HALVES, seed=seed)[0] for seed in (5, 6)]
    assert abs(found - np.stack(alone)).max() <= 1


def test_hires_fix_has_its_own_loras_by_region():
    own = {**HIRES, "hr_prompt": "a cat<lora:eyes:1>"}
    halves = drawn("a cat<lora:style:1>", (True, "columns", "1,1", None, "style, eyes;"), **own)[0]
    style, bare = (
        drawn("a cat<lora:style:1>", **own)[0],
        drawn("a cat<lora:style:1>", **{**own, "hr_prompt": "a cat"})[0],
    )
    assert halves.shape == (128, 128, 3)
    left = abs(halves - style)[:, :64].mean(), abs(halves - bare)[:, :64].mean()
    right = abs(halves - style)[:, 64:].mean(), abs(halves - bare)[:, 64:].mean()
    assert left[0] < left[1]
    assert right[1] < right[0]


def test_a_painted_map_is_a_split_and_its_infotext_draws_it_again():
    from modules import infotext_utils

    painted = Image.new("RGB", (300, 300), "red")
    painted.paste("blue", (150, 0, 300, 300))
    first = processed(BOTH, (True, "colours", "", painted))
    assert (np.asarray(first.images[0], int) == drawn(BOTH, HALVES)[0]).all()
    told = infotext_utils.parse_generation_parameters(first.images[0].info["parameters"])
    again = drawn(told["Prompt"], (True, told["LoRA regions"]))
    assert (again[0] == np.asarray(first.images[0], int)).all()
    other = processed(BOTH, (True, "rows", "1,2", None, "eyes; style", True, True))
    told = infotext_utils.parse_generation_parameters(other.images[0].info["parameters"])
    assert [told[k] for k in ("LoRA regions", "LoRA regions of", "LoRA by AND prompt")] == [
        "rows 1,2", "eyes; style", "True"]  # fmt: skip


def test_switched_off_nothing_is_there():
    from modules import script_callbacks, shared

    unet = shared.sd_model.model.diffusion_model

    def there():
        calls = [call.callback for call in script_callbacks.callback_map["callbacks_cfg_denoiser"]]
        return {*vars(unet)}, calls

    before, bare, plain = there(), drawn("a cat"), drawn(BOTH)
    drawn(BOTH, HALVES)
    assert there() == before
    assert (drawn(BOTH, OFF) == plain).all()
    assert (drawn("a cat", HALVES) == bare).all()

    def fail(module, given):
        raise RuntimeError("on purpose")

    def stop(params):
        if params.sampling_step == 1:
            shared.state.interrupted = True

    handle = unet.out.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            drawn(BOTH, HALVES)
    finally:
        handle.remove()
    assert there() == before
    assert (drawn(BOTH, OFF) == plain).all()
    script_callbacks.on_cfg_denoiser(stop)
    try:
        processed(BOTH, HALVES, steps=6)
    finally:
        script_callbacks.remove_callbacks_for_function(stop)
        shared.state.interrupted = False
    assert there() == before
    assert (drawn(BOTH, OFF) == plain).all()
    assert (drawn("a cat") == bare).all()


def test_what_cannot_be_done_is_said():
    assert "shares = 0: expected" in processed(BOTH, (True, "rows", "0")).comments
    assert "expected a picture" in processed(BOTH, (True, "colours")).comments
    assert "nose: no LoRA of this name" in processed(BOTH, (True, "rows", "1,1", None, "nose; eyes")).comments
    assert "no refiner" in processed(BOTH, HALVES, refiner_checkpoint="demo", refiner_switch_at=0.9).comments


@torch.no_grad()
def test_the_form_is_there_and_infotexts_fill_it():
    import gradio

    script = section()
    script.is_img2img = False
    with gradio.Blocks():
        parts = script.ui(False)
    assert len(parts) == 7
    told = {"LoRA regions": "rows 2,1", "LoRA regions of": "a; b"}
    assert [read(told) for _, read in script.infotext_fields] == [
        True,
        "rows",
        "2,1",
        None,
        "a; b",
        False,
        False,
    ]
    assert [read({}) for _, read in script.infotext_fields] == [False, *[None] * 6]
