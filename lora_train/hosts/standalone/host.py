"""Lends SD 1.x, SD 2.x and SDXL models from files, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train import names
from lora_train.errors import Mistake
from lora_train.host import Folders, Model, Sketch
from lora_train.hosts.standalone.loan import Loan
from lora_train.hosts.standalone.packed import ready
from lora_train.hosts.standalone.sketch import Sketched
from lora_train.models.facts import asked, last_is_noise
from lora_train.models.files import CHECKPOINT, Found, find
from lora_train.models.whole import SINGLE
from lora_train.run.card import announced
from lora_train.run.refusals import one_text_encoder, undefined

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.job import Job, Output, Place
    from lora_train.prompts import Prompt

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
        loan = Loan(_found(model), model, device=chosen(device), dtype=DTYPES[precision])
        try:
            yield loan
        finally:
            loan.end()

    def sketch(self, model: Model, *, precision: str) -> contextlib.AbstractContextManager[Sketch]:
        """Raises Mistake: no such file, or not a model that can be trained."""
        return contextlib.nullcontext(Sketched(_found(model), model, DTYPES[precision]))

    def header(self) -> dict[str, object]:
        """Nothing is loaded between runs; what there is to say is the device."""
        device = chosen("auto")
        free = total = None
        if device.type == "cuda":
            free, total = (round(n / 2**20) for n in torch.cuda.mem_get_info(device))
        return {
            "loaded": False, "name": None, "path": None, "hash": None, "family": None, "prediction": None,
            "ztsnr": None, "vae": None, "dtype": None, "device": str(device), "free_megabytes": free,
            "total_megabytes": total, "trainable": True, "reason": None, "unchanged": None,
        }  # fmt: skip

    def refusals(self, job: Job, output: Output, place: Place) -> list[str]:
        complaints, checkpoint = refusals(job, place), job.model.pretrained_model_name_or_path
        if checkpoint is not None:
            try:
                found = find(checkpoint, job.model.vae)
            except Mistake as e:
                return complaints + str(e).splitlines()
            if output.save_checkpoint and found.path.is_dir():
                complaints.append(SINGLE.format(found.path))
            complaints += skips(job.model, found.facts.arch) + one_text_encoder(job, found.facts.arch)
            facts = asked(found.facts, job.model)
            if facts.prediction is not None:  # else only the model itself can say
                complaints += undefined(job, facts.prediction, last_is_noise(facts, job.model))
        return complaints

    def announce(self, file: pathlib.Path, job: Job, output: Output) -> list[str]:
        """Writes the card that a WebUI shows once the file is among its own."""
        return announced(file, job, output)

    def interrogator(self, name: str, *, download: bool) -> Callable[[Image.Image], str]:
        raise Mistake("interrogate: works inside the WebUI alone; take tag or describe")

    def upscaler(self, name: str, *, download: bool) -> Callable[[Image.Image, float], Image.Image]:
        raise Mistake(
            f"upscaler = {name}: those of the WebUI work inside it alone; leave it empty for Lanczos"
        )

    def inpainter(self, prompt: Prompt, strength: float) -> Callable[[Image.Image, Image.Image], Image.Image]:
        raise Mistake("by = webui: works inside the WebUI alone; take lama or opencv")

    def wrote(self, files: Sequence[pathlib.Path]) -> list[str]:
        return []


def _found(model: Model) -> Found:
    """Raises Mistake: no such file, or not a model that can be trained."""
    if model.pretrained_model_name_or_path is None:
        raise Mistake(f"{CHECKPOINT}: expected a checkpoint")
    found = find(model.pretrained_model_name_or_path, model.vae)
    if skipped := skips(model, found.facts.arch):
        raise Mistake(skipped[0])
    return dataclasses.replace(found, facts=asked(found.facts, model))


def refusals(job: Job, place: Place) -> list[str]:
    """What cannot work where a model is a file and the device is chosen by `place`."""
    complaints, cuda = [], torch.cuda.is_available()
    if job.model.pretrained_model_name_or_path is None:
        complaints.append(f"{CHECKPOINT}: expected a checkpoint to train on")
    if place.device == "cuda" and not cuda:
        complaints.append(NO_CUDA)
    if why := ready(job.model.quantized_base):
        complaints.append(f"model.quantized_base = {job.model.quantized_base}: {why}")
    if job.training.mixed_precision == "fp16" and (place.device == "cpu" or not cuda):
        complaints.append("training.mixed_precision = fp16: expected a CUDA device; on a CPU use no or bf16")
    return complaints


def fitted(job: Job, place: Place) -> tuple[Job, list[str]]:
    """The job as this machine can do it where the device is not asked for by name, and what is done in
    another way than it says."""
    training, here = job.training, torch.cuda.is_available()
    if here or place.device != "auto" or training.mixed_precision != "fp16":
        return job, []
    note = "training.mixed_precision = fp16: there is no CUDA device; float32 is used instead"
    return dataclasses.replace(job, training=dataclasses.replace(training, mixed_precision="no")), [note]


def skips(model: Model, arch: str) -> list[str]:
    """What is against `model.clip_skip` with a model of this architecture."""
    if model.clip_skip is None or arch == "sd1":
        return []
    return [
        f"model.clip_skip = {model.clip_skip}: {names.ARCHS[arch].said} was made with the last but one "
        "layer, which is always taken; leave it empty"
    ]


def chosen(device: str) -> torch.device:
    """Raises Mistake: there is no such device."""
    cuda = torch.cuda.is_available()
    if device == "cuda" and not cuda:
        raise Mistake(NO_CUDA)
    return torch.device("cuda" if cuda and device != "cpu" else "cpu")
