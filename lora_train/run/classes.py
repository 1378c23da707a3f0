"""Pictures of the class that lack are drawn before a run, with the model as it is."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lora_train.data.classes import Lack, lacking, placed, strange
from lora_train.emphasis import literal
from lora_train.host import HALF
from lora_train.prompts import Prompt
from lora_train.run.base import Base
from lora_train.run.store import RunStore, whole

if TYPE_CHECKING:
    import pathlib

    from PIL import Image

    from lora_train.data.folder import Planned
    from lora_train.host import Folders, Lent, Model
    from lora_train.job import Job, Output
    from lora_train.run.control import Control
    from lora_train.train.parallel import Team

log = logging.getLogger(__name__)

DRAWING = "drawing pictures of the class"


def home(store: RunStore, folders: Folders | None = None) -> pathlib.Path:
    """Where a run's pictures of the class are where nobody says."""
    above = folders and folders.classes
    return above / store.name / "class" if above else store.records / "class"


def housed(job: Job, output: Output, folders: Folders | None = None) -> Job:
    """With that wherever it says no other."""
    store = RunStore(output.output_dir, output.output_name, output.run_dir)
    return dataclasses.replace(job, data=placed(job.data, home(store, folders)))


def due(planned: Planned) -> list[str]:
    """What is said of those that a run will draw first; nothing where none lack."""
    count = len(lacking(planned))
    return [f"{count} pictures of the class lack, and are drawn before the run"] if count else []


def drawn(
    lent: Lent,
    planned: Planned,
    crew: Team,
    *,
    model: Model,
    told: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> int:
    """Draw those that lack; each is kept as soon as it is there, so that a stop loses none.

    Args:
        model: with its LoRAs in base_weights on it, as in the run; where captions are not read with emphasis,
            their brackets are drawn as they stand.
        told: before each, how many are done and of how many; may raise to break off.

    Returns:
        How many there were to draw.
    """
    for folder, count in strange(planned).items():
        log.warning("%s: %d pictures of the class were drawn with other prompts; take them out if they are "
                    "of another class", folder, count)  # fmt: skip
    lacks = lacking(planned)
    if not lacks:
        return 0
    log.info("%d pictures of the class lack, and are drawn first", len(lacks))
    mine: Sequence[Lack] = crew.share(lacks)
    for done, lack in enumerate(mine):
        picture = None
        while picture is None or HALF in picture.info:  # which is drawn anew
            told(DRAWING, done, len(mine))
            with beneath(model, lent):
                picture = lent.sample(prompt(lack, model.weighted_captions))
        keep(lack, picture)
    crew.all(None)  # none reads the folders before all are drawn
    return len(lacks)


def beneath(model: Model, lent: Lent) -> contextlib.AbstractContextManager[None]:
    """Read anew for each picture: in a pause between two the layers may have become others."""
    return Base.of(model, lent.layers()).attached() if model.base_weights else contextlib.nullcontext()


def heeding(
    lent: Lent, control: Control, told: Callable[[str, int, int], None]
) -> Callable[[str, int, int], None]:
    """`told`, and a stop is a stop between two pictures, and a pause gives the host its model back."""

    def heed(what: str, done: int, of: int) -> None:
        told(what, done, of)
        control.heed()
        if not control.paused:
            return
        with lent.given_back(control.heed), control.rest():
            while control.paused and not control.stopping:
                control.wait(1.0)
        control.heed()

    return heed


def prompt(lack: Lack, weighted: bool) -> Prompt:
    rules, (width, height) = lack.rules, lack.size
    text, negative = lack.prompt, rules.class_negative_prompt or ""
    return Prompt(
        text if weighted else literal(text), negative, width, height, seed=rules.class_seed + lack.number,
        sample_steps=rules.class_infer_steps, scale=rules.class_guidance_scale,
        sample_sampler=rules.class_sampler)  # fmt: skip


def keep(lack: Lack, image: Image.Image) -> None:
    """The caption first: a picture without one would be read with another."""
    lack.folder.mkdir(parents=True, exist_ok=True)
    with whole(lack.folder / f"{lack.stem}.txt") as part:
        part.write_text(lack.prompt + os.linesep, encoding="utf-8", newline="")
    with whole(lack.folder / f"{lack.stem}.png") as part:
        image.save(part, "PNG")
