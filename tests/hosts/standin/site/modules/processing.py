"""txt2img, from a prompt to a picture with its infotext."""

import random

import numpy as np
import torch
from PIL import Image

from modules import devices, extra_networks, sd_hijack, sd_models, sd_samplers, sd_unet, shared
from modules.prompt_parser import SdConditioning
from modules.sd_samplers_common import decode_first_stage
from modules.shared import opts, state

generated = []  # prompts, for tests
before_steps = []  # called when a generation has its conds, for tests


class StableDiffusionProcessing:
    cached_c, cached_uc = [None, None], [None, None]  # one for all generations

    def __init__(  # noqa: PLR0913
        self, sd_model=None, prompt="", negative_prompt="", seed=-1, subseed=-1, steps=50, cfg_scale=7.0,
        width=512, height=512, sampler_name=None, scheduler=None, do_not_save_samples=False,
        do_not_save_grid=False, do_not_reload_embeddings=False, tiling=None, override_settings=None,
        batch_size=1, n_iter=1, extra_generation_params=None, override_settings_restore_afterwards=True,
        **others,
    ):  # fmt: skip
        vars(self).update(
            {k: v for k, v in locals().items() if k not in ("self", "others", "sd_model")}, **others
        )
        self.sampler_name = sampler_name or "Euler"
        self.override_settings = dict(override_settings or {})
        self.extra_generation_params = dict(extra_generation_params or {})
        self.scripts, self.script_args, self.is_api, self.c, self.uc = None, [], False, None, None

    @property
    def sd_model(self):
        return shared.sd_model

    def setup_conds(self, prompt, networks):
        size = {"width": self.width, "height": self.height}
        for mine, text, cache in (("uc", self.negative_prompt, self.cached_uc), ("c", prompt, self.cached_c)):
            key = (text, self.steps, opts.CLIP_stop_at_last_layers, shared.sd_model.sd_checkpoint_info,
                   str(networks), self.width, self.height, opts.emphasis)  # fmt: skip
            if cache[0] != key:
                with devices.autocast():
                    told = SdConditioning([text], is_negative_prompt=mine == "uc", **size)
                    cache[:] = key, shared.sd_model.get_learned_conditioning(told)
            setattr(self, mine, cache[1])

    def comment(self, text):
        self.comments = [*vars(self).get("comments", []), text]

    def close(self):
        self.c = self.uc = None


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    pass


class Processed:
    def __init__(self, p, images_list, seed=-1, info=""):
        self.images, self.seed, self.info, self.infotexts = images_list, seed, info, [info] * len(images_list)
        self.prompt, self.all_prompts, self.all_seeds = p.prompt, [p.prompt], [seed]


def create_infotext(p, seed):
    info, size = shared.sd_model.sd_checkpoint_info, f"{p.width}x{p.height}"
    told = {"Steps": p.steps, "Sampler": p.sampler_name, "Schedule type": p.scheduler,
            "CFG scale": p.cfg_scale, "Seed": seed, "Size": size,
            "Model hash": info.shorthash, "Model": info.name_for_extra,
            **p.extra_generation_params}  # fmt: skip
    negative = f"\nNegative prompt: {p.negative_prompt}" if p.negative_prompt else ""
    return f"{p.prompt}{negative}\n" + ", ".join(f"{k}: {v}" for k, v in told.items() if v is not None)


def process_images(p):
    kept = {name: opts.data[name] for name in p.override_settings if name in opts.data}
    try:
        if sd_models.checkpoint_aliases.get(p.override_settings.get("sd_model_checkpoint")) is None:
            p.override_settings.pop("sd_model_checkpoint", None)
            sd_models.reload_model_weights()
        for name, value in p.override_settings.items():
            opts.set(name, value, is_api=True, run_callbacks=False)
            if name == "sd_model_checkpoint":
                sd_models.reload_model_weights()
        sd_models.apply_token_merging(shared.sd_model, opts.token_merging_ratio)
        return process_images_inner(p)
    finally:
        sd_models.apply_token_merging(shared.sd_model, 0)
        for name, value in kept.items():
            setattr(opts, name, value)


@torch.no_grad()
def process_images_inner(p):
    seed = random.randrange(2**32) if p.seed in (None, -1) else int(p.seed)
    sd_hijack.model_hijack.apply_circular(opts.tiling if p.tiling is None else p.tiling)
    sd_hijack.model_hijack.clear_comments()
    sd_unet.apply_unet()
    if state.job_count == -1:
        state.job_count = p.n_iter
    if state.interrupted or state.stopping_generation:
        return Processed(p, [], seed)
    sd_models.reload_model_weights()
    p.seeds = [seed]
    prompt, networks = extra_networks.parse_prompt(p.prompt)
    extra_networks.activate(p, networks)
    p.setup_conds(prompt, networks)
    sd_models.apply_alpha_schedule_override(shared.sd_model, p)
    for told in before_steps:
        told(p)
    torch.manual_seed(seed)
    noise = torch.randn(1, 4, p.height // 8, p.width // 8)
    with devices.autocast():
        latent = sd_samplers.sample(p, noise)
        devices.test_for_nans(latent, "unet")
    pixels = decode_first_stage(shared.sd_model, latent)[0].float()
    values = (255 * ((pixels + 1) / 2).clamp(0, 1)).permute(1, 2, 0).numpy().astype(np.uint8)
    picture = Image.fromarray(values)
    info = picture.info["parameters"] = create_infotext(p, seed)
    generated.append(p.prompt)
    state.nextjob()
    return Processed(p, [picture], seed, info)
