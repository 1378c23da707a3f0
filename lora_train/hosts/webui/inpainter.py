"""The WebUI's inpainting, with the model that it has loaded and in its turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.hosts.webui import turn
from lora_train.hosts.webui.loan import SAMPLERS
from lora_train.hosts.webui.neutral import set_options
from lora_train.hosts.webui.versions import scheduler

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.prompts import Prompt

BLUR = 4  # pixels that the WebUI blurs a mask's edge by, its own usual
FILL = 0  # of inpainting_fill: what is around the hole, blurred far
OPTIONS = {  # a model for previews may have to be fetched, and pictures are kept by us
    "live_previews_enable": False, "save_init_img": False,
}  # fmt: skip


def found(prompt: Prompt, strength: float) -> Callable[[Image.Image, Image.Image], Image.Image]:
    """Raises Mistake: no model is loaded."""
    turn.loaded(load=False)
    return lambda image, hole: _painted(prompt, strength, image, hole)


def _painted(prompt: Prompt, strength: float, image: Image.Image, hole: Image.Image) -> Image.Image:
    """Raises Mistake: a person interrupted it."""
    from modules import processing, shared

    with turn.turn(lambda: None):
        p = processing.StableDiffusionProcessingImg2Img(
            sd_model=shared.sd_model, prompt=prompt.prompt, negative_prompt=prompt.negative_prompt,
            init_images=[image], mask=hole, mask_blur_x=BLUR, mask_blur_y=BLUR, inpainting_fill=FILL,
            inpaint_full_res=False, inpainting_mask_invert=0, denoising_strength=strength,
            width=image.width, height=image.height, steps=prompt.sample_steps, cfg_scale=prompt.scale,
            seed=prompt.seed, sampler_name=SAMPLERS.get(prompt.sample_sampler, "Euler"),
            do_not_save_samples=True, do_not_save_grid=True,
            **scheduler(processing.StableDiffusionProcessingImg2Img))  # fmt: skip
        with contextlib.closing(p), set_options(OPTIONS):
            drawn = processing.process_images(p)
            if not drawn.images or shared.state.interrupted or shared.state.skipped:
                raise Mistake("the inpainting was interrupted; begin it again")
            return drawn.images[0]
