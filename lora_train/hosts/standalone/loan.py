"""A model of the standalone host while it is lent: its parts, read from files as they are used."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from lora_train import names
from lora_train.adapters.layer import Layer
from lora_train.errors import Mistake
from lora_train.host import Cond, Model, Origin, Stepped, widened
from lora_train.hosts.standalone.packed import pack
from lora_train.hosts.standalone.slot import Slot
from lora_train.hosts.standalone.texts import Texts, Vectors, trunk
from lora_train.models.facts import PREDICTIONS, last_is_noise
from lora_train.models.files import INPAINTING, Found
from lora_train.models.whole import Changes, rewrite
from lora_train.noise import Schedule
from lora_train.prompts import Prompt
from lora_train.weights import hashes

log = logging.getLogger(__name__)


class Loan:
    """A lent model; see `lora_train.host.Lent`."""

    def __init__(self, found: Found, model: Model, *, device: torch.device, dtype: torch.dtype):
        try:
            from lora_train.hosts.standalone.load import hollow
        except ImportError as e:
            raise Mistake(
                f"outside a WebUI, models are run by diffusers and transformers ({e}); "
                "pip install 'sd-webui-lora-train[standalone]'"
            ) from e
        self.device, self.dtype = device, dtype
        self.found, self.model, self.facts = found, model, found.facts
        self.slots = {
            part: Slot(module, found.parts[part], device=device, dtype=dtype)
            for part, module in hollow(found).items()
        }
        if model.no_half_vae:
            self.slots["vae"].dtype = torch.float32
        if model.quantized_base:
            chosen = self.slots if model.quantized_text_encoder else ["unet"]
            for part in set(chosen) - {"vae"}:
                pack(self.slots[part].module, model.quantized_base, dtype)
        self.arch = self.facts.arch
        texts = {part: self.slots[part] for part in names.ARCHS[self.arch].texts}
        self.texts = Texts(texts, self.arch, model, device, self._autocast)
        self.words = self.texts.words
        depth = len(trunk(self.slots["te1"].module).encoder.layers)
        if (model.clip_skip or 1) > depth:
            raise Mistake(f"model.clip_skip = {model.clip_skip}: the text encoder has {depth} layers")
        self.greys: dict[tuple[int, int], Tensor] = {}  # by their size
        self._predicts()
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        self.hashed = self._hashed()

    def _hashed(self) -> list[concurrent.futures.Future | None]:
        """Of the checkpoint and of an autoencoder beside it, while other things go on: 2 s a GB."""
        files = (self.found.path, self.found.vae_path)
        return [self.pool.submit(hashes, f) if f and f.is_file() else None for f in files]

    def _predicts(self) -> None:
        """Settles what the model predicts, and says it where it is not the plain case."""
        if self.facts.prediction is None:
            known = {"prediction": self._probed(), "by": "a trial of it shows"}
            self.facts = dataclasses.replace(self.facts, **known)
        facts = self.facts
        self.schedule = Schedule.scaled_linear(facts.start, facts.end, facts.steps, facts.prediction)
        plain = facts.prediction == "epsilon"
        if self.arch != "sd1" or not plain:
            log.info("The model is %s and predicts %s, as %s.", names.ARCHS[self.arch].said,
                     PREDICTIONS[facts.prediction], facts.by)  # fmt: skip
        own = self.model.zero_terminal_snr
        if own and plain:
            log.warning("zero_terminal_snr: where no signal is left, who predicts noise learns nothing.")
        elif own is None and facts.last_is_noise and plain:
            log.warning("Its entry ztsnr is left out: where no signal is left, noise cannot be predicted.")
        if last_is_noise(facts, self.model):
            self.schedule = self.schedule.ending_in_noise()
            log.info("At its last step no signal is left (zero terminal SNR).")

    @torch.no_grad()
    def _probed(self) -> str:
        """Of grey alone at the last step: what predicts noise gives it back, what predicts v its opposite."""
        slot = self.slots["unet"]
        with slot.visit():
            x = torch.full((1, 4, 8, 8), 0.5, device=self.device)
            context = torch.full((1, 2, slot.module.config.cross_attention_dim), 0.5)
            guess = self.denoise(x, torch.tensor([self.facts.steps - 1]), Cond(context)).float()
        return "v" if (guess - x).mean() < -1 else "epsilon"

    def end(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.slots.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @functools.cached_property
    def origin(self) -> Origin:
        """Waits until the files are hashed."""
        (old, new), (vae_old, vae_new) = (job.result() if job else (None, None) for job in self.hashed)
        vae = self.found.vae_path
        return Origin(
            name=self.found.path.name,
            old_hash=old,
            new_hash=new,
            vae_name=vae and vae.name,
            vae_old_hash=vae_old,
            vae_new_hash=vae_new,
            arch=self.arch,
            prediction=self.facts.prediction,
            last_is_noise=self.schedule.last_is_noise,
        )

    @functools.cached_property
    def vae_id(self) -> str:
        part, digests = self.found.parts["vae"], {}
        back = {source.key: name for name, source in part.keys.items()}
        for key, value in part.weights.read(back):
            digests[back[key]] = hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy()).hexdigest()
        dtype = torch.float32 if self.model.no_half_vae else self.dtype
        all_that_counts = (sorted(digests.items()), str(dtype), self.facts.scale)
        return hashlib.sha256(repr(all_that_counts).encode()).hexdigest()[:16]

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        unet, cond = self.slots["unet"].use(), cond.to(x_t)
        if self.inpaints:
            x_t = widened(x_t, cond, self._grey)
        with self._autocast():
            return unet(
                x_t, t.to(x_t.device), cond.context, added_cond_kwargs=_told(cond, x_t), return_dict=False
            )[0]

    @property
    def inpaints(self) -> bool:
        return self.slots["unet"].module.config.in_channels == INPAINTING

    def _grey(self, height: int, width: int) -> Tensor:
        """Latents of a grey picture."""
        if (height, width) not in self.greys:
            pixels = torch.zeros(1, 3, 8 * height, 8 * width)
            self.greys[height, width] = self.encode_images(pixels)
        return self.greys[height, width]

    def encode(self, captions: Sequence[str], *, weighted: bool | None = None) -> Cond:
        return self.texts.encode(captions, weighted=weighted)

    def encode_prompts(self, *prompts: str) -> Cond:
        return self.texts.prompts(*prompts)

    def tokens(self, caption: str) -> int:
        return self.words.count(caption)

    def cut(self, caption: str) -> tuple[str, str]:
        return self.words.cut(caption, self.model.max_token_length)

    def vectors(self, text: str) -> dict[str, Tensor]:
        return self.texts.vectors(text)

    def spoken(self, word: str, vectors: Vectors | None) -> contextlib.AbstractContextManager[None]:
        return self.texts.spoken(word, vectors)

    @torch.no_grad()
    def encode_images(self, pixels: Tensor, draws: Sequence[torch.Generator] | None = None) -> Tensor:
        """In float16 some autoencoders overflow; such a one goes on in float32."""
        slot = self.slots["vae"]
        latents = self._encoded(pixels, draws)
        if slot.dtype is torch.float16 and not latents.isfinite().all():
            log.warning("The autoencoder overflows in float16; it runs in float32 from here on.")
            slot.module.to("meta")
            slot.dtype = torch.float32
            latents = self._encoded(pixels, draws)
        return latents

    def _encoded(self, pixels: Tensor, draws: Sequence[torch.Generator] | None) -> Tensor:
        vae, dtype = self.slots["vae"].use(), self.slots["vae"].dtype
        with torch.autocast(self.device.type, enabled=False):
            drawn_from = vae.encode(pixels.to(self.device, dtype)).latent_dist
        latents = drawn_from.mean.float()
        if draws is not None:
            noise = torch.stack([torch.randn(latents.shape[1:], generator=draw) for draw in draws])
            latents = latents + drawn_from.std.float() * noise.to(latents)
        return latents * self.facts.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """[B, 4, h, w], scaled -> [B, 3, 8h, 8w] float32 in -1..1 or a little beyond."""
        vae, dtype = self.slots["vae"].use(), self.slots["vae"].dtype
        with torch.autocast(self.device.type, enabled=False):
            return vae.decode((latents / self.facts.scale).to(self.device, dtype)).sample.float()

    def sample(self, prompt: Prompt, stepped: Stepped | None = None) -> Image.Image:
        from lora_train.hosts.standalone.sample import sample

        with contextlib.ExitStack() as visits:
            for part in (*self.texts.slots, "vae"):
                visits.enter_context(self.slots[part].visit())
            return sample(
                self, prompt, encode=self.encode_prompts, facts=self.facts, decode=self.decode,
                stepped=stepped)  # fmt: skip

    def layers(self) -> list[Layer]:
        """Of a text encoder those in its layers; a projection behind them is none that files have."""
        found = []
        for part, slot in self.texts.slots.items():
            modules = [(names.text_path(path), module) for path, module in slot.use().named_modules()]
            found += [(part, path, module) for path, module in modules if path.startswith("encoder.layers.")]
        for path, module in self.slots["unet"].use().named_modules():
            if hasattr(module, "weight"):
                found.append(("unet", names.unet_to_ldm(path, self.arch), module))
        layers = [Layer.of(*layer, self.arch) for layer in found]
        return [layer for layer in layers if layer is not None]

    def checkpoint_blocks(self) -> list[nn.Module]:
        """Of SDXL's attentions, up to ten transformer blocks deep, each block alone: one is in memory at a
        time."""
        unet = self.slots["unet"].module
        stages = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        blocks = [layer for slot in self.texts.slots.values() for layer in trunk(slot.module).encoder.layers]
        for stage in stages:
            attentions = [*(getattr(stage, "attentions", None) or [])]
            if self.arch == "sdxl":
                attentions = [block for attention in attentions for block in attention.transformer_blocks]
            blocks += [*stage.resnets, *attentions]
        return blocks

    def rewrite(self, changes: Changes, file: pathlib.Path, dtype: torch.dtype) -> None:
        rewrite(self.found.path, changes, file, dtype)

    def denoisers(self) -> list[nn.Module]:
        return [self.slots["unet"].module]

    def park(self, part: str) -> None:
        for slot in self.texts.slots.values() if part == "text" else [self.slots[part]]:
            slot.park()

    @contextlib.contextmanager
    def given_back(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        yield  # nobody else uses it
        waiting()

    def _autocast(self) -> torch.autocast:
        mixed = self.dtype is not torch.float32  # which torch 2.1 refuses on a CPU, even where it is off
        return torch.autocast(self.device.type, dtype=self.dtype if mixed else None, enabled=mixed)


def _told(cond: Cond, x_t: Tensor) -> dict[str, Tensor] | None:
    """What SDXL's denoiser is told beside the context."""
    if cond.vector is None:
        return None
    sizes = cond.sizes
    if sizes is None:
        side = [8.0 * x_t.shape[-2], 8.0 * x_t.shape[-1]]
        sizes = torch.tensor([*side, 0.0, 0.0, *side], device=x_t.device).expand(len(x_t), 6)
    return {"text_embeds": cond.vector, "time_ids": sizes}
