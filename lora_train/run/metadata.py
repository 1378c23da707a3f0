"""What a saved file says about the run that made it, under the names sd-scripts and modelspec gave it."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import pathlib
import time
from collections.abc import Mapping

from PIL import Image
from safetensors import SafetensorError, safe_open

from lora_train import __version__
from lora_train.adapters.mapped import record
from lora_train.errors import Mistake
from lora_train.host import Origin
from lora_train.job import Card, Job, Output, Place
from lora_train.knobs import flat, kind_of
from lora_train.records import SCHEMA
from lora_train.train.lr import SCHEDULERS, Constant, OfAdafactor

IMPLEMENTATION = f"lora-train/{__version__}"

UNUSED = {  # options of sd-scripts that this trainer has not, at the values they have there when not given
    "ss_noise_offset": None,
    "ss_min_snr_gamma": None,
    "ss_full_fp16": False,
    "ss_lowram": False,
    "ss_multires_noise_iterations": None,
    "ss_multires_noise_discount": 0.3,
    "ss_adaptive_noise_scale": None,
    "ss_ip_noise_gamma": None,
    "ss_debiased_estimation": False,
    "ss_noise_offset_random_strength": False,
    "ss_ip_noise_gamma_random_strength": False,
    "ss_loss_type": "l2",
    "ss_huber_schedule": "snr",
    "ss_huber_scale": 1.0,
    "ss_huber_c": 0.1,
}


@dataclasses.dataclass(frozen=True)
class Kind:
    """What files call an architecture."""

    version: str  # sd-scripts' word
    modelspec: str
    implementation: str = "diffusers"


KINDS = {
    "sd1": Kind("sd_v1", "stable-diffusion-v1"),
    "sd2": Kind("sd_v2", "stable-diffusion-v2"),
    "sdxl": Kind("sdxl_base_v1-0", "stable-diffusion-xl-v1-base",
                 "https://github.com/Stability-AI/generative-models"),
}  # fmt: skip

NEEDED = (  # to use a file, where no_metadata leaves out all else
    "ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha",
    "ss_network_args",
)  # fmt: skip
LARGEST = 2**20  # bytes of a thumbnail; every file that is saved carries it


@dataclasses.dataclass(frozen=True)
class Facts:
    """What only the run knows."""

    session: int
    started: float  # seconds since 1970
    finished: float
    steps: int  # done so far
    epoch: int
    max_steps: int
    epochs: int
    origin: Origin
    data: Mapping[str, object]  # `ss_*` entries about the pictures; see data/summary.py


def metadata(job: Job, output: Output, place: Place, facts: Facts) -> dict[str, str]:
    """All of it, as text: None is "None", nested values are JSON. Hashes of the tensors are `file.save`'s.

    `lora_train_job` holds the job as `assemble` takes it, without folders.
    """
    job = job.usual()
    found = {
        **UNUSED,
        **_run(job, output, place, facts),
        **_settings(job),
        **record(job.network),
        **job.objective.record(),
        **_model(facts.origin),
        **facts.data,
        **_modelspec(job, output, facts),
        "lora_train_job": json.dumps(flat(job, places=False)),
        "lora_train_schema": SCHEMA,
        **_before(job.network.weights),
    }
    if output.no_metadata:
        found = {key: found[key] for key in found if key in NEEDED or key.startswith("modelspec.")}
    return {key: str(value) for key, value in found.items()}


def _before(weights: pathlib.Path | None) -> dict[str, object]:
    """The jobs behind the file that was gone on from, as a job's stages leave them; the oldest first."""
    if weights is None:
        return {}
    try:
        with safe_open(weights, "pt") as file:
            texts = file.metadata() or {}
        jobs = [*json.loads(texts.get("lora_train_before", "[]")), json.loads(texts["lora_train_job"])]
    except (KeyError, OSError, RecursionError, SafetensorError, TypeError, ValueError):
        return {}  # none, or another's
    return {"lora_train_before": json.dumps(jobs)}


@functools.cache  # a run that is saved again and again does not look for it again
def thumbnail(card: Card) -> str | None:
    """The card's picture as a data: URL.

    Raises:
        Mistake: no picture, or too large a one.
    """
    given = card.thumbnail
    if given is None or given.startswith("data:"):
        return given
    path, lead = pathlib.Path(given), f"output.card.thumbnail = {given}"
    try:
        data = path.read_bytes()
        with Image.open(path) as image:
            kind = Image.MIME[image.format]
    except (OSError, ValueError, KeyError) as e:
        raise Mistake(f"{lead}: expected a picture, or a data: URL ({e})") from e
    if len(data) > LARGEST:
        raise Mistake(f"{lead}: expected at most 1 MB, for every file that is saved has it; make it smaller")
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _run(job: Job, output: Output, place: Place, facts: Facts) -> dict[str, object]:
    return {
        "ss_session_id": facts.session,
        "ss_training_started_at": facts.started,
        "ss_training_finished_at": facts.finished,
        "ss_steps": facts.steps,
        "ss_epoch": facts.epoch,
        "ss_max_train_steps": facts.max_steps,
        "ss_num_epochs": facts.epochs,
        "ss_output_name": output.output_name,
        "ss_training_comment": output.training_comment,
        "ss_sd_scripts_commit_hash": IMPLEMENTATION,  # so that nobody looks for it there
        "ss_optimizer": job.optimizer.on(place.device).name(),
        "ss_gradient_checkpointing": place.gradient_checkpointing,
        "ss_cache_latents": place.caches(job.data),
    }


def _settings(job: Job) -> dict[str, object]:
    lr, training = job.lr, job.training
    if job.optimizer.chooses:  # so no rate that was given is used; sd-scripts writes none then
        lr = OfAdafactor()
    warmup = lr.lr_warmup_steps
    return {
        "ss_learning_rate": lr.learning_rate,
        "ss_unet_lr": lr.unet_lr,
        "ss_text_encoder_lr": lr.text_encoder_lr if lr.text_encoder_lr2 is None else _rates(lr),
        "ss_lr_scheduler": lr.lr_scheduler_type or kind_of(SCHEDULERS, lr),
        "ss_lr_warmup_steps": int(warmup) if warmup == int(warmup) else warmup,
        "ss_max_grad_norm": training.max_grad_norm,
        "ss_gradient_accumulation_steps": training.gradient_accumulation_steps,
        "ss_mixed_precision": training.mixed_precision,
        "ss_fp8_base": job.model.quantized_base == "fp8" and job.model.quantized_text_encoder,
        "ss_fp8_base_unet": job.model.quantized_base == "fp8" and not job.model.quantized_text_encoder,
        "ss_seed": training.seed,
        "ss_clip_skip": job.model.clip_skip,
        "ss_max_token_length": None if job.model.max_token_length == 75 else job.model.max_token_length,
        "ss_scale_weight_norms": job.network.scale_weight_norms,
        "ss_validation_seed": job.data.validation_seed,
        "ss_validation_split": job.data.validation_split,
        "ss_max_validation_steps": job.validation.max_validation_steps,
        "ss_validate_every_n_epochs": job.validation.validate_every_n_epochs,
        "ss_validate_every_n_steps": job.validation.validate_every_n_steps,
    }


def _rates(lr: Constant) -> list[float]:
    """Of both text encoders, as sd-scripts writes two down."""
    return [lr.rate(part) for part in ("te1", "te2")]


def _model(origin: Origin) -> dict[str, object]:
    named = {
        "ss_sd_model_name": origin.name,
        "ss_sd_model_hash": origin.old_hash,
        "ss_new_sd_model_hash": origin.new_hash,
        "ss_vae_name": origin.vae_name,
        "ss_vae_hash": origin.vae_old_hash,
        "ss_new_vae_hash": origin.vae_new_hash,
    }
    found = {key: value for key, value in named.items() if value is not None}
    version = KINDS[origin.arch].version
    if origin.prediction == "v" and origin.arch != "sdxl":
        version += "_v"
    ends = {"ss_zero_terminal_snr": origin.last_is_noise}
    return {"ss_v2": origin.arch == "sd2", "ss_base_model_version": version, **ends, **found}


def _modelspec(job: Job, output: Output, facts: Facts) -> dict[str, object]:
    """modelspec 1.0.1: what it demands, and what it asks for where there is something to say."""
    kind, size = KINDS[facts.origin.arch], (job.data.datasets or (job.data,))[0].resolution
    version = f"{kind.modelspec}-{'768-v' if facts.origin.prediction == 'v' else '512'}"
    low, high = job.objective.window
    found = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{version if facts.origin.arch == 'sd2' else kind.modelspec}/lora",
        "implementation": kind.implementation,
        "implementation_version": IMPLEMENTATION,
        "resolution": f"{size.width}x{size.height}",
        "date": time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(facts.finished)),
        "prediction_type": facts.origin.prediction,
        **vars(output.card),
        "title": output.card.title or output.output_name,
        "description": output.card.description or output.training_comment,
        "thumbnail": thumbnail(output.card),
        "encoder_layer": job.model.clip_skip,
        "timestep_range": None if (low, high) == (0, 1000) else f"{low},{high}",
    }
    return {f"modelspec.{name}": value for name, value in found.items() if value is not None}
