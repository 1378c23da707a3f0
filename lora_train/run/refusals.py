"""Refusals: settings that each are right and together cannot work, or not on this machine."""

from __future__ import annotations

from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place
from lora_train.run.metadata import thumbnail
from lora_train.run.trackers import unready


def refusals(job: Job, output: Output, place: Place) -> list[str]:
    """What is to be said of them before a run is begun; nothing is touched."""
    complaints = []
    if place.cache_latents or place.cache_latents_to_disk:
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
