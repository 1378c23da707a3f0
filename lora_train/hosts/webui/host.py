"""Lends the model that the WebUI has loaded, as it stands."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import pathlib
import re
from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from lora_train import names
from lora_train.adapters.layer import Layer
from lora_train.errors import Mistake
from lora_train.host import Cond, Model, Origin
from lora_train.hosts.webui.neutral import neutral, set_options
from lora_train.noise import Schedule
from lora_train.prompts import Prompt
from lora_train.weights import hashes

SAMPLERS = {  # a row for each value of prompts.SAMPLERS that is called otherwise here
    "ddim": "DDIM", "pndm": "PLMS", "lms": "LMS", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "dpm_2": "DPM2", "dpm_2_a": "DPM2 a", "dpm++_2m": "DPM++ 2M", "dpmsolver": "DPM++ 2M",
    "dpmsingle": "DPM++ 2S a",
}  # fmt: skip


class WebuiHost:
    """A host inside the WebUI's process. Whoever borrows holds the WebUI's queue lock."""

    @contextlib.contextmanager
    def borrow(self, model: Model, *, device: str, precision: str) -> Iterator[Loan]:
        """See `lora_train.host.Host`. The model is the loaded one, on its device and in its precision."""
        from modules import sd_models, shared

        if shared.sd_model is None:
            raise Mistake("no model is loaded; choose a checkpoint at the top of the page")
        sd_models.reload_model_weights()  # a refiner may have been left in its place
        loaded = shared.sd_model
        if not getattr(loaded, "is_sd1", False):
            raise Mistake("this version trains Stable Diffusion 1.x; choose such a checkpoint")
        options = {"CLIP_stop_at_last_layers": model.clip_skip or 1}
        with neutral(loaded, options):
            yield Loan(loaded, model)

    def refusals(self, job: object, output: object, place: object) -> list[str]:
        return []


class Loan:
    """The WebUI's SD 1.x model; see `lora_train.host.Lent`."""

    def __init__(self, loaded: nn.Module, model: Model):
        from modules import devices

        self.loaded, self.model, self.device = loaded, model, devices.device
        self.unet, self.text = loaded.model.diffusion_model, loaded.cond_stage_model
        prediction = "v" if loaded.parameterization == "v" else "epsilon"
        alphas = getattr(loaded, "alphas_cumprod_original", loaded.alphas_cumprod)
        self.schedule = Schedule(alphas.detach().float().cpu(), prediction)

    @functools.cached_property
    def origin(self) -> Origin:
        info = self.loaded.sd_checkpoint_info
        old, new = hashes(pathlib.Path(info.filename))
        return Origin(name=info.name_for_extra + ".safetensors", old_hash=old, new_hash=new,
                      prediction=self.schedule.prediction)  # fmt: skip

    @functools.cached_property
    def vae_id(self) -> str:
        digest = hashlib.sha256()
        for name, value in sorted(self.loaded.first_stage_model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The UNet itself: `apply_model` casts t, and half precision has no 257."""
        from modules import devices

        with devices.autocast():
            return self.unet(x_t, t.to(x_t.device), context=cond.to(x_t).context)

    def encode(self, captions: Sequence[str], *, weighted: bool | None = None) -> Cond:
        """What sd-scripts trains with, weights times hidden states and no mean restored, is the WebUI's
        "No norm"."""
        weighted = self.model.weighted_captions if weighted is None else weighted
        read = [self.cut(caption)[0] for caption in captions]
        with set_options({"emphasis": "No norm" if weighted else "None"}):
            return Cond(self.loaded.get_learned_conditioning(read))

    def tokens(self, caption: str) -> int:
        return len(self.text.tokenize([caption])[0])

    def cut(self, caption: str) -> tuple[str, str]:
        """What of a caption is read within max_token_length, and what is not; between two words."""
        limit = self.model.max_token_length
        if self.tokens(caption) <= limit:
            return caption, ""
        ends = [m.end() for m in re.finditer(r"[^\s,]+[\s,]*", caption)]
        fits = bisect.bisect_right(ends, limit, key=lambda end: self.tokens(caption[:end]))
        at = ends[fits - 1] if fits else 0
        return caption[:at], caption[at:]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, draws: Sequence[torch.Generator] | None = None) -> Tensor:
        from modules import devices

        vae = self.loaded.first_stage_model
        with devices.autocast(disable=True):
            drawn_from = vae.encode(pixels.to(self.device, next(vae.parameters()).dtype))
        latents = drawn_from.mean.float()
        if draws is not None:
            noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in draws])
            latents = latents + drawn_from.std.float() * noise.to(latents)
        return latents * self.loaded.scale_factor

    def sample(self, prompt: Prompt) -> Image.Image:
        """Through txt2img, with the hooks that are on; as a person gets it later with the saved file."""
        from modules import processing

        p = processing.StableDiffusionProcessingTxt2Img(
            sd_model=self.loaded, prompt=prompt.prompt, negative_prompt=prompt.negative_prompt,
            width=prompt.width, height=prompt.height, steps=prompt.sample_steps, cfg_scale=prompt.scale,
            seed=-1 if prompt.seed is None else prompt.seed, scheduler="Automatic",
            sampler_name=SAMPLERS.get(prompt.sample_sampler, "Euler"),
            do_not_save_samples=True, do_not_save_grid=True, do_not_reload_embeddings=True,
            override_settings={"sd_model_checkpoint": self.loaded.sd_checkpoint_info.title})  # fmt: skip
        p.cached_c, p.cached_uc = [None, None], [None, None]  # whose key knows nothing of our hooks
        with contextlib.closing(p), torch.random.fork_rng(devices=[]):  # it seeds torch's own generator
            return processing.process_images(p).images[0]

    def layers(self) -> list[Layer]:
        text = self.text.wrapped.transformer
        modules = [("te1", names.text_path(path), module) for path, module in text.named_modules()]
        modules += [("unet", path, module) for path, module in self.unet.named_modules()]
        found = [Layer.of(*module) for module in modules if hasattr(module[2], "weight")]
        return [layer for layer in found if layer is not None]

    def checkpoint_blocks(self) -> list[nn.Module]:
        kinds = ("ResBlock", "SpatialTransformer")
        blocks = [*self.text.wrapped.transformer.text_model.encoder.layers]
        return blocks + [m for m in self.unet.modules() if type(m).__name__ in kinds]

    def park(self, part: str) -> None:
        pass

    def given_back(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
