"""Refusals: settings that each are right and together cannot work, or not on this machine."""

from __future__ import annotations

from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place
from lora_train.names import ARCHS
from lora_train.run.metadata import thumbnail
from lora_train.run.trackers import unready
from lora_train.values import shown


def one_text_encoder(job: Job, arch: str) -> list[str]:
    """What is said of a rate for the second text encoder, where a model of this architecture has one."""
    rate, of = job.lr.text_encoder_lr2, ARCHS[arch]
    if rate is None or len(of.texts) > 1:
        return []
    return [f"lr.text_encoder_lr2 = {shown(rate)}: {of.said} has one text encoder; leave it empty"]


def refusals(job: Job, output: Output, place: Place) -> list[str]:
    """What is to be said of them before a run is begun; nothing is touched."""
    complaints = []
    if place.caches(job.data):
        complaints += [
            f"{name}: cannot go with cached latents, for a picture is cached once and looks different each "
            f"time; set place.cache_latents = false, or leave {name} out"
            for name in job.data.changing()
        ]
    thumbnail.cache_clear()  # it is that of now, and then of the whole run
    try:
        thumbnail(output.card)
    except Mistake as e:
        complaints.append(str(e))
    return complaints + unready(output)
