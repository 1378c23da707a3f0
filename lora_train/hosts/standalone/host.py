"""Lends SD 1.x models from files, in this process."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor, nn

from lora_train import names
from lora_train.adapters.layer import Layer
from lora_train.errors import Mistake
from lora_train.host import Cond, Folders, Model, Origin
from lora_train.hosts.standalone.files import CHECKPOINT, Found, Part, find
from lora_train.hosts.standalone.tokens import Chunk, Tokens
from lora_train.noise import Schedule
from lora_train.prompts import Prompt
from lora_train.transfer import sent
from lora_train.weights import hashes

if TYPE_CHECKING:
    from lora_train.job import Job, Output, Place

log = logging.getLogger(__name__)

NO_CUDA = "place.device = cuda: expected a CUDA device and found none; use cpu or auto"
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


HOME = pathlib.Path("output")


class StandaloneHost:
    """A host that reads its models from files, on diffusers and transformers."""

    def __init__(self, folders: Folders = Folders(HOME, HOME / "desk")):  # noqa: B008 (frozen)
        self.folders = folders

    @contextlib.contextmanager
    def borrow(
        self, model: Model, *, device: str, precision: str, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Loan]:
        """See `lora_train.host.Host`. Weights are read when a part is first used."""
        waiting()
        if model.pretrained_model_name_or_path is None:
            raise Mistake(f"{CHECKPOINT}: expected a checkpoint")
        found = find(model.pretrained_model_name_or_path, model.vae)
        if model.v_parameterization is not None:
            prediction = "v" if model.v_parameterization else "epsilon"
            found = dataclasses.replace(found, facts=dataclasses.replace(found.facts, prediction=prediction))
        loan = Loan(found, model, device=chosen(device), dtype=DTYPES[precision])
        try:
            yield loan
        finally:
            loan.end()

    def header(self) -> dict[str, object]:
        """Nothing is loaded between runs; what there is to say is the device."""
        device = chosen("auto")
        free = total = None
        if device.type == "cuda":
            free, total = (round(n / 2**20) for n in torch.cuda.mem_get_info(device))
        return {
            "loaded": False, "name": None, "path": None, "hash": None, "family": "sd1", "prediction": None,
            "ztsnr": None, "vae": None, "dtype": None, "device": str(device), "free_megabytes": free,
            "total_megabytes": total, "trainable": True, "reason": None, "unchanged": None,
        }  # fmt: skip

    def refusals(self, job: Job, output: Output, place: Place) -> list[str]:
        complaints, checkpoint = refusals(job, place), job.model.pretrained_model_name_or_path
        if checkpoint is not None:
            try:
                find(checkpoint, job.model.vae)
            except Mistake as e:
                complaints += str(e).splitlines()
        return complaints

    def announce(self, file: pathlib.Path, job: Job, output: Output) -> list[str]:
        return []


def refusals(job: Job, place: Place) -> list[str]:
    """What cannot work where a model is a file and the device is chosen by `place`."""
    complaints, cuda = [], torch.cuda.is_available()
    if job.model.pretrained_model_name_or_path is None:
        complaints.append(f"{CHECKPOINT}: expected a checkpoint to train on")
    if place.device == "cuda" and not cuda:
        complaints.append(NO_CUDA)
    if job.training.mixed_precision == "fp16" and (place.device == "cpu" or not cuda):
        complaints.append("training.mixed_precision = fp16: expected a CUDA device; on a CPU use no or bf16")
    return complaints


def chosen(device: str) -> torch.device:
    """Raises Mistake: there is no such device."""
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise Mistake(NO_CUDA)
    return torch.device("cuda" if cuda and device != "cpu" else "cpu")


class Slot:
    """One part of the model. Its weights come when they are first used, and go when it is parked."""

    def __init__(self, module: nn.Module, part: Part, *, device: torch.device, dtype: torch.dtype):
        self.module, self.part, self.device, self.dtype = module, part, device, dtype

    @property
    def here(self) -> bool:
        return next(self.module.parameters()).device.type == self.device.type

    def use(self) -> nn.Module:
        from lora_train.hosts.standalone.load import fill

        if next(self.module.parameters()).is_meta:
            fill(self.module, self.part, dtype=self.dtype, device=self.device)
        elif not self.here:
            self.module.to(self.device)
        return self.module

    def park(self) -> None:
        """Weights leave a GPU for the computer's memory, and a CPU for good: the file has them.

        The module itself, and hooks on it, stay.
        """
        if self.here:
            self.module.to("cpu" if self.device.type == "cuda" else "meta")

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """A part that is parked before is parked again after."""
        here = self.here
        yield
        if not here:
            self.park()


class Loan:
    """A lent SD 1.x model; see `lora_train.host.Lent`."""

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
        self.schedule = Schedule.scaled_linear(
            self.facts.start, self.facts.end, self.facts.steps, self.facts.prediction
        )
        self.words = Tokens(weighted=model.weighted_captions)
        depth = len(_trunk(self.slots["te1"].module).encoder.layers)
        if (model.clip_skip or 1) > depth:
            raise Mistake(f"model.clip_skip = {model.clip_skip}: the text encoder has {depth} layers")
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        files = (found.path, found.vae_path)  # hashed while other things go on: 2 s a GB
        self.hashed = [self.pool.submit(hashes, f) if f and f.is_file() else None for f in files]

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
            prediction=self.facts.prediction,
        )

    @functools.cached_property
    def vae_id(self) -> str:
        part, digests = self.found.parts["vae"], {}
        back = {key: name for name, key in part.keys.items()}
        for key, value in part.weights.read(part.keys.values()):
            digests[back[key]] = hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy()).hexdigest()
        return hashlib.sha256(repr((sorted(digests.items()), str(self.dtype))).encode()).hexdigest()[:16]

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        unet = self.slots["unet"].use()
        with self._autocast():
            return unet(x_t, t.to(x_t.device), cond.to(x_t).context, return_dict=False)[0]

    def encode(self, captions: Sequence[str], *, weighted: bool | None = None) -> Cond:
        """[B, max_token_length + 2, D], as sd-scripts: every 75 tokens go through the text encoder with a
        start and an end of their own, of which the first start and the last end are kept; weights multiply
        what comes of their tokens, and nothing else."""
        rows = [self.words.caption(text, self.model.max_token_length, weighted=weighted) for text in captions]
        hidden, weights = self._hidden(rows)
        inner = (hidden[:, :, 1:-1] * weights[:, :, 1:-1]).flatten(1, 2)
        return Cond(torch.cat([hidden[:, 0, :1], inner, hidden[:, -1, -1:]], 1))

    def encode_prompts(self, *prompts: str) -> Cond:
        """[B, 77 * chunks, D], as the WebUI: with emphasis, after which a chunk has the mean it had before
        (its "Original" way), and in as many chunks as the longest needs."""
        hidden, weights = self._hidden(self.words.prompts(*prompts))
        stressed = hidden * weights
        before, after = (x.float().mean((2, 3), keepdim=True) for x in (hidden, stressed))
        ratio = torch.where((weights == 1).all(2, keepdim=True), 1.0, before / after)
        return Cond((stressed * ratio.to(stressed)).flatten(1, 2))

    def _hidden(self, rows: Sequence[Sequence[Chunk]]) -> tuple[Tensor, Tensor]:
        """What the text encoder makes of them, [B, chunks, 77, D], and their weights, [B, chunks, 77, 1]."""
        start, end = self.words.start, self.words.end
        ids = torch.tensor([[[start, *chunk.ids, end] for chunk in row] for row in rows])
        weights = torch.tensor([[[1.0, *chunk.weights, 1.0] for chunk in row] for row in rows])
        text, skip = self.slots["te1"].use(), self.model.clip_skip or 1
        with self._autocast():
            out = text(sent(ids.flatten(0, 1), self.device), output_hidden_states=skip > 1)
            hidden = out.last_hidden_state
            if skip > 1:
                hidden = _trunk(text).final_layer_norm(out.hidden_states[-skip])
        return hidden.unflatten(0, ids.shape[:2]), sent(weights[..., None], self.device).to(hidden)

    def tokens(self, caption: str) -> int:
        return self.words.count(caption)

    def cut(self, caption: str) -> tuple[str, str]:
        return self.words.cut(caption, self.model.max_token_length)

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

    def sample(self, prompt: Prompt) -> Image.Image:
        from lora_train.hosts.standalone.sample import sample

        with self.slots["te1"].visit(), self.slots["vae"].visit():
            return sample(self, prompt, encode=self.encode_prompts, facts=self.facts, decode=self.decode)

    def layers(self) -> list[Layer]:
        found = []
        for part, path_of in (("te1", names.text_path), ("unet", names.unet_to_ldm)):
            model = self.slots[part].use()
            weighted = [(p, m) for p, m in model.named_modules() if hasattr(m, "weight")]
            found += [Layer.of(part, path_of(path), module) for path, module in weighted]
        return [layer for layer in found if layer is not None]

    def checkpoint_blocks(self) -> list[nn.Module]:
        unet = self.slots["unet"].module
        stages = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        blocks = [*_trunk(self.slots["te1"].module).encoder.layers]
        for stage in stages:
            blocks += [*stage.resnets, *(getattr(stage, "attentions", None) or [])]
        return blocks

    def park(self, part: str) -> None:
        self.slots["te1" if part == "text" else part].park()

    @contextlib.contextmanager
    def given_back(self, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        yield  # nobody else uses it
        waiting()

    def _autocast(self) -> torch.autocast:
        mixed = self.dtype is not torch.float32  # which torch 2.1 refuses on a CPU, even where it is off
        return torch.autocast(self.device.type, dtype=self.dtype if mixed else None, enabled=mixed)


def _trunk(text: nn.Module) -> nn.Module:
    """transformers 4 wraps the text model once more than 5 does."""
    return getattr(text, "text_model", text)
