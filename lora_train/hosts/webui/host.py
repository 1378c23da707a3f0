"""The WebUI as a host: lends the model that it has loaded, as it stands."""

from __future__ import annotations

import contextlib
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.errors import Mistake
from lora_train.host import Folders, Model
from lora_train.hosts.webui import card, inpainter, interrogators, turn, upscalers
from lora_train.hosts.webui.folders import folders
from lora_train.hosts.webui.kinds import family, schedule, unlike, untrainable
from lora_train.hosts.webui.loan import Loan, broken_half
from lora_train.hosts.webui.proof import used
from lora_train.models.files import find
from lora_train.run.refusals import one_text_encoder, undefined

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.job import Job, Output, Place
    from lora_train.prompts import Prompt

log = logging.getLogger(__name__)

LOWVRAM = (
    "--lowvram moves each block away between its forward and its backward pass; start the WebUI with "
    "--medvram in its place, with which training fits as well"
)
SHORT = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


class WebuiHost:
    """A host inside the WebUI's process. Whoever borrows holds the WebUI's queue lock."""

    def __init__(self) -> None:
        self.unchanged: bool | None = None  # after the last run
        self.memory: dict[str, int | None] | None = None  # megabytes in use, before and after it

    @property
    def folders(self) -> Folders:
        return folders()

    @contextlib.contextmanager
    def borrow(
        self, model: Model, *, device: str, precision: str, waiting: Callable[[], None] = lambda: None
    ) -> Iterator[Loan]:
        """See `lora_train.host.Host`. The model is on the WebUI's device and in its precision."""
        loan = Loan(model, precision)
        self.unchanged, self.memory = None, None
        loan.take(waiting)
        before = used(loan.device)
        try:
            yield loan
        finally:
            self._give_back(loan, before)

    def _give_back(self, loan: Loan, before: int | None) -> None:
        from modules import sd_models

        if not loan.taken:  # a pause went wrong, and the WebUI has its model already
            return
        with loan.on:
            changed = loan.changed()
            if changed:
                log.error("%d weights of the model changed, such as %s; it is loaded again.",
                          len(changed), changed[0])  # fmt: skip
                loan.on.callback(sd_models.reload_model_weights, info=loan.choice.info, forced_reload=True)
        self.unchanged = not changed
        self.memory = {"before": before, "after": used(loan.device)}

    def header(self) -> dict[str, object]:
        """What is known of the model without loading anything."""
        from modules import devices, sd_models

        device, free, total = devices.device, None, None
        if device.type == "cuda":
            free, total = (round(n / 2**20) for n in torch.cuda.mem_get_info(device))
        known: dict[str, object] = dict.fromkeys(
            ("name", "path", "hash", "family", "prediction", "ztsnr", "vae", "dtype")
        )
        known |= {
            "loaded": False, "device": str(device), "free_megabytes": free, "total_megabytes": total,
            "trainable": False, "reason": "no model is loaded; choose a checkpoint at the top of the page",
            "unchanged": self.unchanged, "memory": self.memory,
        }  # fmt: skip
        model = sd_models.model_data.sd_model
        if model is None:
            return known
        vae = getattr(model, "loaded_vae_file", None)
        info = model.sd_checkpoint_info
        reason = untrainable(model) or (LOWVRAM if _lowvram() else None)
        known |= {
            "loaded": True, "name": info.name_for_extra, "path": info.filename, "hash": info.shorthash,
            "family": family(model)[0], "vae": vae and pathlib.Path(vae).name,
            "dtype": SHORT.get(devices.dtype_unet, str(devices.dtype_unet)),
            "trainable": reason is None, "reason": reason,
        }  # fmt: skip
        if reason is None:
            noise = schedule(model)
            known |= {
                "prediction": "v" if noise.prediction == "v" else "epsilon",
                "ztsnr": bool(noise.alphas_cumprod[-1] < 1e-6),
            }
        return known

    def refusals(self, job: Job, output: Output, place: Place) -> list[str]:
        """What the flags that the WebUI was started with, and its model, do not go with."""
        from modules import devices

        said = [LOWVRAM] if _lowvram() else []
        here, asked = devices.device.type, place.device
        if asked not in ("auto", here):
            said.append(f"place.device = {asked}: the WebUI has its model on {here}; expected auto")
        said += _precision(job.training.mixed_precision, here)
        if place.torch_compile:
            said.append(
                "place.torch_compile = True: what the WebUI does to a model cannot be compiled; leave it off"
            )
        if job.model.quantized_base:
            said.append(
                f"model.quantized_base = {job.model.quantized_base}: the model is trained on as the WebUI "
                "holds it; leave it empty, and choose FP8 weight in the WebUI's settings under Optimizations"
            )
        try:
            loaded = turn.loaded(load=False)
            choice = turn.wanted(job.model.pretrained_model_name_or_path, job.model.vae)
        except Mistake as e:
            return [*said, str(e)]
        if choice is None or choice.filename == loaded.sd_checkpoint_info.filename:
            return said + _of_loaded(job, loaded)
        return said + _of_file(job, pathlib.Path(choice.filename))

    def sketch(self, model: Model, *, precision: str) -> None:
        """Its model is there already: a dry step measures what one needs."""

    def announce(self, file: pathlib.Path, job: Job, output: Output) -> list[str]:
        """The file among the WebUI's LoRAs, with its card; what the Lora extension says of it."""
        return card.announce(file, job, output)

    def interrogator(self, name: str, *, download: bool) -> Callable[[Image.Image], str]:
        return interrogators.found(name, download=download)

    def upscaler(self, name: str, *, download: bool) -> Callable[[Image.Image, float], Image.Image]:
        return upscalers.found(name, download=download)

    def inpainter(self, prompt: Prompt, strength: float) -> Callable[[Image.Image, Image.Image], Image.Image]:
        return inpainter.found(prompt, strength)

    def wrote(self, files: Sequence[pathlib.Path]) -> list[str]:
        """In the WebUI's lists, where they lie in its folders."""
        return card.wrote(files)


def _lowvram() -> bool:
    from modules import shared

    return bool(shared.cmd_opts.lowvram)


def _precision(asked: str, device: str) -> list[str]:
    from modules import devices

    path = f"training.mixed_precision = {asked}"
    if asked == "fp16" and device != "cuda":
        return [f"{path}: expected a CUDA device; on a {device.upper()} use no or bf16"]
    if asked == "bf16" and device == "cuda" and not torch.cuda.is_bf16_supported():
        return [f"{path}: this card does not compute in bfloat16; use fp16"]
    if asked == "no" and device == "cuda" and devices.dtype_unet is torch.float16 and not broken_half():
        return [f"{path}: the WebUI holds its model in float16; use fp16 or bf16, or start it with --no-half"]
    return []


def _of_file(job: Job, checkpoint: pathlib.Path) -> list[str]:
    """What a model that is loaded only when the run begins does not go with."""
    try:
        return one_text_encoder(job, find(checkpoint).facts.arch)
    except Mistake:  # a file that the WebUI may read in its own way
        return []


def _of_loaded(job: Job, loaded: torch.nn.Module) -> list[str]:
    if reason := untrainable(loaded):
        return [reason]
    noise = schedule(loaded, job.model.zero_terminal_snr)
    said = unlike(job.model, loaded) + one_text_encoder(job, family(loaded)[0])
    return said + undefined(job, noise.prediction, noise.last_is_noise)
