"""Refusals: settings that each are right and together cannot work, or not on this machine."""

from __future__ import annotations

import contextlib

from lora_train.adapters import FAMILIES, mapped
from lora_train.adapters.dora import MAGNITUDES
from lora_train.adapters.family import Family
from lora_train.adapters.paced import RATIOS, ROWS
from lora_train.adapters.spelled import opened
from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place
from lora_train.knobs import flat, kind_of
from lora_train.names import ARCHS
from lora_train.objectives import OBJECTIVES
from lora_train.objectives.masked import Masked
from lora_train.run import hub
from lora_train.run.metadata import thumbnail
from lora_train.run.trackers import unready
from lora_train.train.lr import OfAdafactor
from lora_train.train.optim_adaptive import Adafactor
from lora_train.train.relora import unfit
from lora_train.values import shown


def one_text_encoder(job: Job, arch: str) -> list[str]:
    """What is said of a rate for the second text encoder, where a model of this architecture has one."""
    rate, of = job.lr.text_encoder_lr2, ARCHS[arch]
    if rate is None or len(of.texts) > 1:
        return []
    return [f"lr.text_encoder_lr2 = {shown(rate)}: {of.said} has one text encoder; leave it empty"]


def masks(job: Job) -> list[str]:
    """What is said of masks that are not there, or of no use."""
    datasets, objective = job.data.datasets, job.objective
    folders = [subset for dataset in datasets for subset in dataset.subsets] or [job.data]
    files = any(rules.conditioning_data_dir or rules.mask_suffix for rules in folders)
    alpha = any(rules.alpha_mask for rules in folders)
    if not isinstance(objective, Masked):
        of = kind_of(OBJECTIVES, objective)
        lead = "data.alpha_mask" if alpha else "data.conditioning_data_dir, data.mask_suffix"
        return [f"{lead}: objective.kind = {of} takes no masks; leave it out"] if files or alpha else []
    if objective.masked_loss and not (files or alpha):
        return ["objective.masked_loss: expected the folder of masks in data.conditioning_data_dir, or "
                "data.alpha_mask"]  # fmt: skip
    if files and not objective.masked_loss:
        return ["data.conditioning_data_dir, data.mask_suffix: these masks are used only with "
                "objective.masked_loss = true; set it, or leave them out"]  # fmt: skip
    return []


MOST = 12  # blocks of a row
WHOLE = ("boft", "glora", "ia3", "oft")  # families that act on a layer's weight


def beneath(job: Job) -> list[str]:
    """What is said of LoRAs under adapters that need the weights those would have been merged into."""
    kind, what = kind_of(FAMILIES, job.network), None
    if not job.model.base_weights:
        return []
    if kind in WHOLE:
        what = f"network.kind = {kind}"
    elif flat(job.network).get("dora_wd"):
        what = "network.dora_wd"
    elif job.network.weights is not None:
        with contextlib.suppress(Mistake):  # said of the file itself
            names = opened(job.network.weights).names
            what = "the DoRA in network.weights" if any(n.endswith(f".{MAGNITUDES}") for n in names) else None
    if what is None:
        return []
    return [f"model.base_weights: {what} acts on whole weights, which these files are no part of; leave one "
            "out, or train on a checkpoint that they are merged into"]  # fmt: skip


def networks(job: Job) -> list[str]:
    """What is said of the families of a layer map, and of those that cannot start afresh."""

    def restarts(family: Family) -> list[str]:
        return [*unfit(job.relora, family, job.ema)]

    return restarts(job.network) + mapped.complaints(job.network, restarts)


def uncut(job: Job, output: Output) -> list[str]:
    """What is said of a rank to save at which no block of ranks ends."""
    rank, unit = output.export_rank, flat(job.network).get("unit")
    if rank is None or kind_of(FAMILIES, job.network) != "dylora" or rank % unit == 0:
        return []
    return [f"output.export_rank = {rank}: expected a multiple of network.unit, {unit}"]


def validation(job: Job) -> list[str]:
    """What is said of a validation that cannot be."""
    datasets, objective = job.data.datasets, job.objective
    folders = [subset for dataset in datasets for subset in dataset.subsets] or [job.data]
    share = max(rules.validation_split for rules in folders)
    if share and not objective.validates:
        of = kind_of(OBJECTIVES, objective)
        return [f"data.validation_split = {share:g}: objective.kind = {of} has no loss on pictures that says "
                "something of others; leave it out"]  # fmt: skip
    patience = job.validation.early_stopping_patience
    if patience is not None and not share:
        return [f"validation.early_stopping_patience = {patience}: expected pictures to validate with; set "
                "data.validation_split = 0.1"]  # fmt: skip
    return []


def wordless(job: Job, output: Output) -> list[str]:
    """What is said of folders and epochs where prompts are learned from."""
    if job.objective.folders:
        return []
    which = "files of its own" if job.objective.pictures else "prompts"
    of = f"objective.kind = {kind_of(OBJECTIVES, job.objective)} learns from {which}"
    folders = {f"data.{name}": vars(job.data)[name] for name in ("train_data_dir", "reg_data_dir", "in_json")}
    said = [f"{path} = {shown(value)}: {of}; leave it empty" for path, value in folders.items() if value]
    said += [f"data.datasets: {of}; leave them out"] * bool(job.data.datasets)
    if job.objective.pictures:
        return said
    for path, value, instead in (
        ("training.max_train_epochs", job.training.max_train_epochs, "training.max_train_steps"),
        ("training.initial_epoch", job.training.initial_epoch, "training.initial_step"),
        ("output.save_every_n_epochs", output.save_every_n_epochs, "output.save_every_n_steps"),
        ("output.save_n_epoch_ratio", output.save_n_epoch_ratio, "output.save_every_n_steps"),
        ("output.save_last_n_epochs", output.save_last_n_epochs, "output.save_last_n_steps"),
        ("output.sample_every_n_epochs", output.sample_every_n_epochs, "output.sample_every_n_steps"),
    ):
        if value is not None:
            said.append(f"{path} = {shown(value)}: {of}, which have no epochs; set {instead}")
    return said


def _apart(job: Job) -> list[str]:
    """Settings by which some learn at another rate than the rest."""
    found = [f"network.{name}" for name in RATIOS if vars(job.network)[name] is not None]
    for name in ROWS:
        given = vars(job.network)[name]
        if given is not None and {*given.of(MOST)} - {0.0, 1.0}:
            found.append(f"network.{name}")
    word = job.embedding
    if word.token_string is not None:
        found += ["embedding.embedding_learning_rate"] * (word.embedding_learning_rate is not None)
        found += ["embedding.train_text_encoder_ti_frac"] * (word.train_text_encoder_ti_frac < 1)
    return found


def rates(job: Job, place: Place) -> list[str]:
    """What is said of an optimizer that cannot be had, and of rates and schedules that it does not take."""
    optimizer, lr = job.optimizer.on(place.device), job.usual().lr
    parts = [part for part in ("unet", "te1") if job.network.trains(part)]
    parts += ["te2"] * bool(lr.text_encoder_lr2 is not None and job.network.trains("te2"))
    found = {part: lr.rate(part) for part in parts}
    if job.embedding.token_string is not None:
        found["embedding"] = job.embedding.rate(lr.learning_rate if optimizer.ALONE else None)
    said = optimizer.unready()
    if None in found.values() or (lr.learning_rate is None and not found):
        said.append(f"lr.learning_rate: expected a rate; nothing is usual with {optimizer.path()}")
    else:
        said += optimizer.refusals(found)
    if optimizer.ALONE:
        why = f"{optimizer.kind()} takes one learning rate for all parameters; leave it out"
        said += [f"{path}: {why}" for path in _apart(job) if not path.startswith("embedding.")]
    if optimizer.chooses:
        why = "Adafactor chooses the rate, one for all; set optimizer.relative_step = false, or leave it out"
        said += [f"{path}: {why}" for path in _apart(job)]
    if isinstance(lr, OfAdafactor) and not (isinstance(optimizer, Adafactor) and optimizer.chooses):
        said.append(
            "lr.kind = adafactor: is what Adafactor chooses by itself; set optimizer.kind = adafactor, "
            "with relative_step, or choose another"
        )
    return said


def paces(job: Job) -> list[str]:
    """What is said of rates that follow the batch, and of an end to what text encoders learn."""
    said, sizes = [], {dataset.batch_size for dataset in job.data.datasets}
    if job.lr.scale_lr and job.optimizer.ADAPTS:
        said.append("lr.scale_lr: this optimizer finds its rate by itself; leave it out")
    elif job.lr.scale_lr and len(sizes) > 1:
        said.append(
            f"lr.scale_lr: the datasets have batches of {', '.join(map(str, sorted(sizes)))}; give the rate "
            "itself, or one batch_size to all of them"
        )
    stop = job.training.stop_text_encoder_training
    lead = f"training.stop_text_encoder_training = {shown(stop)}"
    if stop == 0:
        said.append(f"{lead}: expected more than 0; so that it never learns set network.train_unet_only")
    elif stop is not None and not job.network.trains("te1"):
        said.append(f"{lead}: the text encoder does not train; leave it empty")
    elif stop is not None and not job.network.trains("unet"):
        said.append(f"{lead}: nothing else trains; set training.max_train_steps")
    return said


def undefined(job: Job, prediction: str, last_is_noise: bool) -> list[str]:
    """What of the objective means nothing for a model that predicts so, and whose last step is so."""
    return [f"objective.{line}" for line in job.objective.refusals(prediction, last_is_noise)]


def stays(job: Job) -> list[str]:
    """What is said of pictures that are to stay as they are, where that cannot be."""
    own = [s for dataset in job.data.datasets for s in dataset.subsets] or [job.data]
    said = []
    if any(s.diff_output_preservation_class and not s.trigger_word for s in own):
        said.append(
            "data.diff_output_preservation_class: stands in place of the trigger word; expected "
            "data.trigger_word beside it"
        )
    asked = any(s.diff_output_preservation or s.diff_output_preservation_class for s in own)
    if asked and not job.objective.keeps:
        kind = kind_of(OBJECTIVES, job.objective)
        said.append(f"data.diff_output_preservation: objective.kind = {kind} has no such thing; leave it out")
    return said


def refusals(job: Job, output: Output, place: Place) -> list[str]:
    """What is to be said of them before a run is begun; nothing is touched."""
    complaints = []
    if job.objective.pictures and place.caches(job.data):
        complaints += [
            f"{name}: cannot go with cached latents, for a picture is cached once and looks different each "
            f"time; set place.cache_latents = false, or leave {name} out"
            for name in job.data.changing()
        ]
    complaints += rates(job, place) + paces(job) + beneath(job) + networks(job)
    complaints += masks(job) + validation(job) + wordless(job, output) + stays(job)
    thumbnail.cache_clear()  # it is that of now, and then of the whole run
    try:
        thumbnail(output.card)
    except Mistake as e:
        complaints.append(str(e))
    complaints += uncut(job, output)
    return complaints + unready(output) + hub.unready(output.hub)
