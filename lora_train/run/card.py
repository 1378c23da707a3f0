"""The card of a LoRA that was trained: written beside it, so that a WebUI's list shows it at once."""

from __future__ import annotations

import pathlib
import shutil
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.run.curve import lines
from lora_train.run.store import RunStore, whole
from lora_train.tools.card import filled, pictures, read_card, version, write_card
from lora_train.weights import open_weights

if TYPE_CHECKING:
    from lora_train.job import Job, Output


def announced(file: pathlib.Path, job: Job, output: Output) -> list[str]:
    """Writes card and preview of a saved file; what to say of it where they could not be written."""
    try:
        put_card(file, job, output)
        preview(file, output)
    except (OSError, Mistake) as e:
        return [f"{file.name}: its card and preview could not be written ({e})"]
    return []


def put_card(file: pathlib.Path, job: Job, output: Output) -> None:
    """What a person wrote into it stays, and so does a file of that name that is no card."""
    before = read_card(file)
    if before is None:
        return
    texts = {str(name): str(text) for name, text in open_weights(file).metadata.items()}
    new = {
        "description": output.card.description or "", "sd version": version(texts),
        "activation text": trigger(job, output), "preferred weight": 1.0,
        "notes": f"{_length(job)}, {job.network.said}",
    }  # fmt: skip
    if (card := filled(before, new)) != before:
        write_card(file, card)


def _length(job: Job) -> str:
    """Of the run; epochs win over steps."""
    t = job.training
    return f"{t.max_train_steps} steps" if t.max_train_epochs is None else f"{t.max_train_epochs} epochs"


def trigger(job: Job, output: Output) -> str:
    """Words that bring the LoRA out."""
    if output.card.trigger_phrase:
        return output.card.trigger_phrase
    words = [job.data.trigger_word]
    words += [subset.call for dataset in job.data.datasets for subset in dataset.subsets]
    words = [word for word in words if word]
    return ", ".join(dict.fromkeys(words))


def preview(file: pathlib.Path, output: Output) -> None:
    """The run's last sample, where there is no picture yet; not one that was drawn without the adapters."""
    store = RunStore(output.output_dir, output.output_name, output.run_dir)
    drawn = [pathlib.Path(str(line.get("file"))) for line in lines(store.records / "samples.jsonl")]
    samples = [path for path in drawn if path.is_file()]
    if samples and not pictures(file):
        with whole(file.with_suffix(".preview.png")) as part:
            shutil.copyfile(samples[-1], part)
