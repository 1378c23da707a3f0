"""Refusals: settings that each are right and together cannot work, or not on this machine."""

from __future__ import annotations

from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place
from lora_train.knobs import kind_of
from lora_train.names import ARCHS
from lora_train.objectives import OBJECTIVES
from lora_train.objectives.masked import Masked
from lora_train.run.metadata import thumbnail
from lora_train.run.trackers import unready
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


def refusals(job: Job, output: Output, place: Place) -> list[str]:
    """What is to be said of them before a run is begun; nothing is touched."""
    complaints = []
    if place.caches(job.data):
        complaints += [
            f"{name}: cannot go with cached latents, for a picture is cached once and looks different each "
            f"time; set place.cache_latents = false, or leave {name} out"
            for name in job.data.changing()
        ]
    complaints += masks(job) + validation(job)
    thumbnail.cache_clear()  # it is that of now, and then of the whole run
    try:
        thumbnail(output.card)
    except Mistake as e:
        complaints.append(str(e))
    return complaints + unready(output)
