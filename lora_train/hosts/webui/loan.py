"""The WebUI's model, lent for a run and given back in its pauses."""

from __future__ import annotations

import bisect
import contextlib
import functools
import hashlib
import logging
import pathlib
import random
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lora_train.adapters.layer import Layer
from lora_train.errors import Mistake
from lora_train.host import HALF, Cond, Model, Origin, Stepped, widened
from lora_train.hosts.webui import steps, turn
from lora_train.hosts.webui.held import held
from lora_train.hosts.webui.kinds import INPAINTING, family, posterior, schedule, unlike, untrainable
from lora_train.hosts.webui.neutral import bare_after, neutral, set_options
from lora_train.hosts.webui.proof import Proof
from lora_train.hosts.webui.texts import Texts
from lora_train.hosts.webui.versions import scheduler
from lora_train.hosts.webui.words import Vectors, count, known
from lora_train.prompts import Prompt
from lora_train.weights import hashes

log = logging.getLogger(__name__)

SAMPLERS = {  # a row for each value of prompts.SAMPLERS that is called otherwise here
    "ddim": "DDIM", "pndm": "PLMS", "lms": "LMS", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "dpm_2": "DPM2", "dpm_2_a": "DPM2 a", "dpm++_2m": "DPM++ 2M", "dpmsolver": "DPM++ 2M",
    "dpmsingle": "DPM++ 2S a",
}  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
AGAIN = 3  # times that a sample is begun anew, when a person's Interrupt came just before it


class Loan:
    """The WebUI's model; see `lora_train.host.Lent`. `loaded` may be another object after a pause."""

    def __init__(self, model: Model, precision: str):
        self.model, self.precision = model, precision
        self.options = {"CLIP_stop_at_last_layers": model.clip_skip or 1, "sdxl_clip_l_skip": False}
        self.choice: turn.Choice | None = None  # that of the first turn, for those after a pause
        self.parked: set[str] = set()
        self.greys: dict[tuple[int, int], Tensor] = {}  # latents of grey pictures, by their size
        self.learned: dict[str, Vectors] = {}
        self.on, self.taken = contextlib.ExitStack(), False
        self.proof: Proof | None = None

    def take(self, waiting: Callable[[], None]) -> None:
        """The lock, the checkpoint, and all of it neutral; `on.close()` gives it back."""
        from modules import devices, shared

        with contextlib.ExitStack() as on:
            on.enter_context(turn.turn(waiting))
            on.enter_context(held())
            first = self.choice or turn.wanted(self.model.pretrained_model_name_or_path, self.model.vae)
            self.choice = on.enter_context(turn.chosen(first))
            self.loaded, self.device = shared.sd_model, devices.device
            if reason := untrainable(self.loaded):
                raise Mistake(reason)
            if said := unlike(self.model, self.loaded):  # of one that was not loaded before
                raise Mistake("\n".join(said))
            self.arch, self.unet = family(self.loaded)[0], self.loaded.model.diffusion_model
            self.drawing = on.enter_context(neutral(self.loaded))
            self.texts = on.enter_context(Texts(self.loaded, self.arch).ready())
            on.enter_context(self._places())
            on.callback(devices.torch_gc)
            self.schedule = schedule(self.loaded, self.model.zero_terminal_snr)
            self._same()
            self.wide = on.enter_context(contextlib.ExitStack())
            self.wide.enter_context(whole_precision(self.loaded, self.precision))
            self.on, self.taken = on.pop_all(), True

    def _same(self) -> None:
        """The model before a pause is that after it."""
        if self.proof is None:
            self.proof = Proof(self.loaded)
        elif changed := self.proof.changed(self.loaded):
            raise Mistake(
                f"the model is another than before the pause ({len(changed)} weights, such as {changed[0]}); "
                "go on from the last saved state with the model as it was"
            )

    def changed(self) -> list[str]:
        """Names of the weights that are not as they were lent; nothing is computed on them any more."""
        self.wide.close()
        return self.proof.changed(self.loaded)

    @contextlib.contextmanager
    def given_back(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        self.proof.wait()  # reads what is about to be anybody's
        self.on.close()
        self.taken = False
        try:
            yield
        finally:
            self.take(waiting)

    @functools.cached_property
    def origin(self) -> Origin:
        info, vae = self.choice.info, self.choice.vae and pathlib.Path(self.choice.vae)
        old, new = hashes(pathlib.Path(info.filename))
        vae_old, vae_new = hashes(vae) if vae else (None, None)
        return Origin(name=info.name_for_extra + ".safetensors", old_hash=old, new_hash=new,
                      vae_name=vae and vae.name, vae_old_hash=vae_old, vae_new_hash=vae_new,
                      arch=self.arch, prediction=self.schedule.prediction,
                      last_is_noise=self.schedule.last_is_noise)  # fmt: skip

    @functools.cached_property
    def vae_id(self) -> str:
        digest = hashlib.sha256(b"float32" if self.model.no_half_vae else b"")
        for name, value in sorted(self.loaded.first_stage_model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The UNet itself: `apply_model` casts t, and half precision has no 257."""
        cond = cond.to(x_t)
        self._onto_card(cond.context.requires_grad)
        vector = self.texts.vector(cond, x_t.shape)
        if self.inpaints:
            x_t = widened(x_t, cond, self._grey)
        with self._autocast():
            return self.unet(x_t, t.to(x_t.device), context=cond.context, y=vector)

    @property
    def inpaints(self) -> bool:
        return self.unet.in_channels == INPAINTING

    def _grey(self, height: int, width: int) -> Tensor:
        """Latents of a grey picture."""
        if (height, width) not in self.greys:
            pixels = torch.zeros(1, 3, 8 * height, 8 * width)
            self.greys[height, width] = self.encode_images(pixels)
        return self.greys[height, width]

    def encode(self, captions: Sequence[str], *, weighted: bool | None = None) -> Cond:
        """What sd-scripts trains with, weights times hidden states and no mean restored, is the WebUI's
        "No norm"."""
        weighted = self.model.weighted_captions if weighted is None else weighted
        read = [self.cut(caption)[0] for caption in captions]
        self._use("text")
        read_so = {**self.options, "emphasis": "No norm" if weighted else "None"}
        with set_options(read_so), known(self.texts.whole, self.learned), self._autocast():
            return self.texts.encode(read, self.model.max_token_length)

    def vectors(self, text: str) -> dict[str, Tensor]:
        return self.texts.vectors(text)

    @contextlib.contextmanager
    def spoken(self, word: str, vectors: Vectors | None) -> Iterator[None]:
        before = dict(self.learned)
        self.learned.pop(word, None)
        if vectors is not None:
            self.learned[word] = vectors
        try:
            yield
        finally:
            self.learned = before

    def tokens(self, caption: str) -> int:
        with known(self.texts.whole, self.learned):
            return count(self.texts.whole, caption)

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
        """In float16 some autoencoders overflow; such pictures are encoded in float32."""
        self._use("vae")
        if self.loaded.lowvram:
            self._clear_card()
        dtype = next(self._part("vae").parameters()).dtype
        wide = self.model.no_half_vae and dtype is not torch.float32
        mean, std = self._encoded(pixels, wide=wide)
        if dtype is torch.float16 and not (wide or mean.isfinite().all()):
            log.warning("The autoencoder overflows in float16; these pictures are encoded in float32.")
            mean, std = self._encoded(pixels, wide=True)
        if draws is not None:
            noise = torch.stack([torch.randn(mean.shape[1:], generator=draw) for draw in draws])
            mean = mean + std * noise.to(mean)
        return mean * self.loaded.scale_factor

    def _encoded(self, pixels: Tensor, *, wide: bool = False) -> tuple[Tensor, Tensor]:
        vae, dtype = self._part("vae"), next(self._part("vae").parameters()).dtype
        vae = vae.float() if wide else vae
        try:
            with torch.autocast(self.device.type, enabled=False):
                drawn_from = posterior(vae, pixels.to(self.device, next(vae.parameters()).dtype))
        finally:
            if wide:
                vae.to(dtype)  # to float32 and back changes no bit
        return drawn_from.mean.float(), drawn_from.std.float()

    def sample(self, prompt: Prompt, stepped: Stepped | None = None) -> Image.Image:
        """Through txt2img, with the hooks that are on; as a person gets it later with the saved file.

        A person's Interrupt ends the picture, which is then half drawn, and not the run.
        """
        from modules import processing, shared

        for _ in range(AGAIN):
            p = processing.StableDiffusionProcessingTxt2Img(
                sd_model=self.loaded, prompt=prompt.prompt, negative_prompt=prompt.negative_prompt,
                width=prompt.width, height=prompt.height, steps=prompt.sample_steps, cfg_scale=prompt.scale,
                seed=-1 if prompt.seed is None else prompt.seed,
                sampler_name=SAMPLERS.get(prompt.sample_sampler, "Euler"),
                do_not_save_samples=True, do_not_save_grid=True, do_not_reload_embeddings=True,
                override_settings={"sd_model_checkpoint": self.loaded.sd_checkpoint_info.title},
                **scheduler(processing.StableDiffusionProcessingTxt2Img))  # fmt: skip
            p.cached_c, p.cached_uc = [None, None], [None, None]  # whose key knows nothing of our hooks
            with (
                contextlib.closing(p),
                set_options({**self.options, "live_previews_enable": False}),
                turn.state(),
                bare_after(self.loaded),
                self._visited(),
                known(self.texts.whole, self.learned),
                _draws_kept(self.device),
                self.drawing(),
                steps.telling(stepped),
            ):
                shared.state.skipped = shared.state.interrupted = shared.state.stopping_generation = False
                shared.state.job_count = -1
                drawn = processing.process_images(p)
                half = shared.state.interrupted or shared.state.skipped
            if drawn.images:
                image = drawn.images[0]
                image.info |= {"parameters": drawn.infotexts[0], **({HALF: True} if half else {})}
                return image
        raise Mistake("the sample was interrupted each time before it began; the run itself goes on when "
                      "resumed")  # fmt: skip

    def layers(self) -> list[Layer]:
        """Adapters go where the layers are, so with --medvram all of those are brought; pictures that are
        encoded next send them away."""
        if self.loaded.lowvram:
            self.loaded.model.to(self.device)
            self.texts.whole.to(self.device)
        modules = [*self.texts.layers()]
        modules += [("unet", path, module) for path, module in self.unet.named_modules()]
        found = [Layer.of(*module, self.arch) for module in modules if hasattr(module[2], "weight")]
        return [layer for layer in found if layer is not None]

    def rewrite(self, changes: turn.Changes, file: pathlib.Path, dtype: torch.dtype) -> None:
        turn.rewritten(self.choice.info, changes, file, dtype)

    def checkpoint_blocks(self) -> list[nn.Module]:
        """Of SDXL's transformers, up to ten blocks deep, each block alone: one is in memory at a time."""
        kinds = ("ResBlock", "BasicTransformerBlock" if self.arch == "sdxl" else "SpatialTransformer")
        return self.texts.blocks() + [m for m in self.unet.modules() if type(m).__name__ in kinds]

    def park(self, part: str) -> None:
        """Into the computer's memory; with --medvram the WebUI moves parts itself."""
        if self.device.type != "cpu" and not self.loaded.lowvram:
            self._part(part).to("cpu")
            self.parked.add(part)

    def _part(self, part: str) -> nn.Module:
        return self.loaded.first_stage_model if part == "vae" else self.texts.whole

    def _use(self, part: str) -> None:
        if part in self.parked:
            self._part(part).to(self.device)
            self.parked.discard(part)

    @contextlib.contextmanager
    def _visited(self) -> Iterator[None]:
        """All parts on the card; those that were parked go back."""
        before = set(self.parked)
        for part in before:
            self._use(part)
        try:
            yield
        finally:
            for part in before:
                self.park(part)

    @contextlib.contextmanager
    def _places(self) -> Iterator[None]:
        """Where the parts are: parked ones as before a pause; all of them at the end as at the beginning."""
        from modules import lowvram

        there, home = lowvram.module_in_gpu, next(self.unet.parameters()).device
        if not self.loaded.lowvram and home.type != self.device.type:  # someone unloaded it through the API
            self.loaded.to(self.device)
        for part in self.parked:
            self._part(part).to("cpu")
        try:
            yield
        finally:
            if self.loaded.lowvram:
                self._clear_card()
                if there is not None:
                    there.to(self.device)
                lowvram.module_in_gpu = there
            elif home.type != self.device.type:
                self.loaded.to(home)
            else:
                for part in self.parked:
                    self._part(part).to(self.device)

    def _clear_card(self) -> None:
        from modules import lowvram

        lowvram.send_everything_to_cpu()
        for module in (self.loaded.model, self.texts.whole):
            module.to("cpu")

    def _onto_card(self, keep: bool) -> None:
        """With --medvram, before the UNet is called past the hook that would bring it.

        Args:
            keep: the text encoder's backward pass is still to come, so it stays there as well.
        """
        from modules import lowvram

        if not self.loaded.lowvram:
            return
        whole = self.loaded.model
        if keep and lowvram.module_in_gpu is not whole:
            whole.to(self.device)
        else:
            for hook in [*whole._forward_pre_hooks.values()]:
                hook(whole, ())

    def _autocast(self) -> contextlib.AbstractContextManager:
        from modules import devices

        whole = devices.dtype_inference is torch.float32 and broken_half()
        if self.precision in DTYPES and not devices.fp8 and not whole:
            return torch.autocast(self.device.type, dtype=DTYPES[self.precision])
        return devices.autocast()


def broken_half() -> bool:
    """Whether the card cannot compute in half precision, as GTX 16xx."""
    from modules import devices

    return devices.device.type == "cuda" and bool(devices.cuda_no_autocast())


@contextlib.contextmanager
def whole_precision(loaded: nn.Module, precision: str) -> Iterator[None]:
    """On cards whose half precision is broken (GTX 16xx) the WebUI casts each weight when it is used, which
    no backward pass survives: there the model is in float32 for the run, and where float16 is too coarse for
    what is learned. To float32 and back changes no bit."""
    from modules import devices

    names, half = ("dtype", "dtype_unet", "dtype_inference"), devices.dtype_unet
    asked = precision == "no" and half is torch.float16 and not devices.fp8
    if half is torch.float32 or not (asked or broken_half()):
        yield
        return
    if broken_half():
        log.info("This card's half precision is broken (GTX 16xx), so the model is in float32 for the run.")
    before = {name: getattr(devices, name) for name in names}
    parts = [loaded.model, loaded.cond_stage_model]
    narrow = [p for part in parts for p in part.parameters() if p.dtype is half]
    try:
        for parameter in narrow:
            parameter.data = parameter.data.float()
        for name in names:
            setattr(devices, name, torch.float32)
        yield
    finally:
        for parameter in narrow:
            parameter.data = parameter.data.to(half)
        for name, value in before.items():
            setattr(devices, name, value)


@contextlib.contextmanager
def _draws_kept(device: torch.device) -> Iterator[None]:
    """A generation seeds torch's own generators, and draws seeds from Python's."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
