"""Draws pictures with a lent model: diffusers' schedulers, and a loop of our own around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
)
from PIL import Image
from torch import Tensor

from lora_train.host import Lent
from lora_train.hosts.standalone.files import Facts
from lora_train.prompts import Prompt

SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {  # a row for each value of prompts.SAMPLERS
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "dpm++_2m": (DPMSolverMultistepScheduler, {}),
}


def scheduler(name: str, facts: Facts, prediction: str) -> Any:
    """diffusers' scheduler of one of our names."""
    made, settings = SCHEDULERS[name]
    return made(
        num_train_timesteps=facts.steps,
        beta_start=facts.start,
        beta_end=facts.end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if prediction == "v" else "epsilon",
        **settings,
    )


@torch.no_grad()
def sample(lent: Lent, prompt: Prompt, *, facts: Facts, decode: Callable[[Tensor], Tensor]) -> Image.Image:
    """The picture that diffusers' StableDiffusionPipeline draws with the same scheduler and CPU generator.

    Takes no random number from torch's global generators.

    Args:
        decode: scaled latents [1, 4, h, w] -> pixels [1, 3, 8h, 8w] in -1..1.
    """
    rng = torch.Generator()
    if prompt.seed is None:
        rng.seed()
    else:
        rng.manual_seed(prompt.seed)
    guided = prompt.scale > 1
    cond = lent.encode([prompt.negative_prompt, prompt.prompt] if guided else [prompt.prompt])
    steps = scheduler(prompt.sample_sampler, facts, lent.schedule.prediction)
    steps.set_timesteps(prompt.sample_steps, device=lent.device)
    x = torch.randn(1, 4, prompt.height // 8, prompt.width // 8, generator=rng).to(lent.device)
    x = x * steps.init_noise_sigma
    random = {"generator": rng} if prompt.sample_sampler == "euler_a" else {}
    for t in steps.timesteps:
        many = steps.scale_model_input(torch.cat([x] * len(cond.context)), t)
        guess = lent.denoise(many, t.expand(len(many)), cond).float()
        if guided:
            without, guess = guess.chunk(2)
            guess = without + prompt.scale * (guess - without)
        x = steps.step(guess, t, x, **random).prev_sample
    return picture(decode(x)[0])


def picture(pixels: Tensor) -> Image.Image:
    """pixels: [3, H, W] in -1..1."""
    whole = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(whole.permute(1, 2, 0).cpu().numpy())
