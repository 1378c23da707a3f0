"""Draws pictures with a lent model: diffusers' schedulers, and a loop of our own around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
)
from PIL import Image
from torch import Tensor

from lora_train.host import Cond, Lent, Stepped
from lora_train.models.facts import Facts
from lora_train.noise import Schedule
from lora_train.prompts import Prompt

LEFT = 2**-24  # of the signal, as diffusers has it
ORDER = 4  # of the linear multistep method


class Linear(EulerDiscreteScheduler):
    """The linear multistep method (k-diffusion's LMS) over Euler's steps. diffusers' own needs scipy, to
    integrate polynomials."""

    slopes: list[Tensor]

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        super().set_timesteps(*args, **kwargs)
        self.slopes = []

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor) -> Any:
        if self.step_index is None:
            self._init_step_index(timestep)
        at = self.step_index
        out = super().step(model_output, timestep, sample)  # goes on by one, and tells the clean picture
        self.slopes = [(sample - out.pred_original_sample) / self.sigmas[at], *self.slopes][:ORDER]
        shares = [_share(self.sigmas.double().cpu().numpy(), at, len(self.slopes), j)
                  for j in range(len(self.slopes))]  # fmt: skip
        out.prev_sample = sample + sum(
            share * slope for share, slope in zip(shares, self.slopes, strict=True)
        )
        return out


def _share(sigmas: np.ndarray, at: int, order: int, j: int) -> float:
    """How far the slope of j steps ago carries: the integral, over the step, of the polynomial that is 1 at
    its sigma and 0 at those of the others."""
    others = [sigmas[at - k] for k in range(order) if k != j]
    curve = np.polynomial.Polynomial.fromroots(others) if others else np.polynomial.Polynomial([1.0])
    whole = (curve / curve(sigmas[at - j])).integ()
    return float(whole(sigmas[at + 1]) - whole(sigmas[at]))


SCHEDULERS: dict[str, tuple[type, dict[str, Any]]] = {  # a row for each value of prompts.SAMPLERS
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}),
    "lms": (Linear, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm_2": (KDPM2DiscreteScheduler, {}),
    "dpm_2_a": (KDPM2AncestralDiscreteScheduler, {}),
    "dpmsolver": (
        DPMSolverMultistepScheduler,
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "dpm++_2m": (DPMSolverMultistepScheduler, {}),
    "dpmsingle": (DPMSolverSinglestepScheduler, {}),
}
TWICE = ("heun", "dpm_2", "dpm_2_a")  # call the denoiser twice in a step
ANCESTRAL = ("euler_a", "dpm_2_a")  # draw noise at each step


def scheduler(name: str, facts: Facts, schedule: Schedule) -> Any:
    """diffusers' scheduler of one of our names."""
    made, settings = SCHEDULERS[name]
    return made(
        num_train_timesteps=facts.steps,
        beta_start=facts.start,
        beta_end=facts.end,
        beta_schedule="scaled_linear",
        trained_betas=_betas(schedule) if schedule.last_is_noise and schedule.prediction == "v" else None,
        prediction_type="v_prediction" if schedule.prediction == "v" else "epsilon",
        **settings,
    )


def _betas(schedule: Schedule) -> np.ndarray:
    """Of a schedule without signal at its end, where some is left so that nothing is divided by nothing."""
    left = schedule.alphas_cumprod.double().clamp(min=LEFT).numpy()
    return 1 - left / np.concatenate([[1.0], left[:-1]])


@torch.no_grad()
def sample(
    lent: Lent,
    prompt: Prompt,
    *,
    encode: Callable[..., Cond],
    facts: Facts,
    decode: Callable[[Tensor], Tensor],
    stepped: Stepped | None = None,
) -> Image.Image:
    """The picture that diffusers' StableDiffusionPipeline draws with the same scheduler and CPU generator,
    of a prompt without emphasis. Takes no random number from torch's global generators.

    Args:
        encode: prompts -> their Cond.
        decode: scaled latents [1, 4, h, w] -> pixels [1, 3, 8h, 8w] in -1..1.
        stepped: see `Lent.sample`.
    """
    rng = torch.Generator()
    if prompt.seed is None:
        rng.seed()
    else:
        rng.manual_seed(prompt.seed)
    guided = prompt.scale > 1
    cond = encode(*[prompt.negative_prompt] * guided, prompt.prompt)
    if guided and facts.empty_is_zero and not prompt.negative_prompt:
        cond.context[0], cond.vector[0] = 0, 0
    steps = scheduler(prompt.sample_sampler, facts, lent.schedule)
    steps.set_timesteps(prompt.sample_steps, device=lent.device)
    x = torch.randn(1, 4, prompt.height // 8, prompt.width // 8, generator=rng).to(lent.device)
    x = x * steps.init_noise_sigma
    random = {"generator": rng} if prompt.sample_sampler in ANCESTRAL else {}
    for call, t in enumerate(steps.timesteps):
        if stepped is not None:
            stepped(counted(call, prompt.sample_sampler))
        many = steps.scale_model_input(torch.cat([x] * len(cond.context)), t)
        guess = lent.denoise(many, t.expand(len(many)), cond).float()
        if guided:
            without, guess = guess.chunk(2)
            guess = without + prompt.scale * (guess - without)
        x = steps.step(guess, t, x, **random).prev_sample
    return picture(decode(x)[0])


def counted(call: int, name: str) -> int:
    """The step that the WebUI has at a call of the denoiser. It counts a step when it is done, but with
    samplers of second order, which call twice in one, between the two; PNDM's first is two calls long."""
    if name == "pndm":
        call = max(call - 1, 0)
    step, again = divmod(call, 2) if name in TWICE else (call, 0)
    return step if again else max(step - 1, 0)


def picture(pixels: Tensor) -> Image.Image:
    """pixels: [3, H, W] in -1..1."""
    whole = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(whole.permute(1, 2, 0).cpu().numpy())
