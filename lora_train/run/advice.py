"""Advice: settings that may stand, and that people have lost nights to. None of it stops a run."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping

from lora_train.adapters.family import Scaled
from lora_train.job import Job
from lora_train.knobs import kind_of
from lora_train.run.applies import loaded
from lora_train.train.lr import SCHEDULERS
from lora_train.train.optimizer import ONE, Optimizer
from lora_train.values import numeral

USUAL = 1e-4  # learning rate of AdamW for LoRA
FAR = 10  # times it
SIDES = {"sd1": (512, 384, 768), "sd2": (768, 512, 1024), "sdxl": (1024, 768, 1536)}  # made for; from, to
NAMES = {"sd1": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL"}
SEEN = (20, 500)  # times that each picture is shown
SCALE = 1 / 32  # of alpha to dim
DEMO = "demo"


def advice(job: Job, plan: Mapping[str, object], header: Mapping[str, object]) -> Iterator[str]:
    """Sentences. `plan`: of planner.look."""
    yield from _length(job, plan)
    if not _demo(job, header):
        yield from _rates(job)
        yield from _size(job, header)
    if not plan["draws"]:
        yield "No samples are drawn: nothing is seen before the end. output.sample_every_n_steps draws some."
    predicted, asked = header.get("prediction"), job.model.v_parameterization
    if loaded(job, header) and predicted and asked is not None and asked != predicted.startswith("v"):
        yield (
            f"model.v_parameterization = {asked}: the loaded model predicts {predicted}; leave it empty, "
            "or the result is noise."
        )


def _demo(job: Job, header: Mapping[str, object]) -> bool:
    """Whether it is this repository's own small model, of 64 pixels, for which other numbers are right."""
    path = job.model.pretrained_model_name_or_path or header.get("path") or ""
    return DEMO in pathlib.Path(str(path)).stem.lower()


def _rates(job: Job) -> Iterator[str]:
    net, lr, optimizer = job.network, job.usual().lr, job.optimizer.on("cpu")
    own_rates = {
        "unet": ("lr.unet_lr", lr.unet_lr),
        "te1": ("lr.text_encoder_lr", lr.text_encoder_lr),
        "te2": ("lr.text_encoder_lr2", lr.text_encoder_lr2),
    }
    if lr.text_encoder_lr2 is None:  # that of the first
        del own_rates["te2"]
    asked: dict[str, float] = {}
    for part, (path, own) in own_rates.items():
        rate = lr.rate(part)
        if net.trains(part) and rate is not None and not optimizer.chooses:
            asked.setdefault("lr.learning_rate" if own is None else path, rate)
    yield from _speeds(asked, optimizer)
    if optimizer.FREE and not lr.steady:
        yield (
            f"lr.kind = {kind_of(SCHEDULERS, lr)}: {type(optimizer).__name__} averages weights in place of "
            "a schedule; constant or constant_with_warmup is usual."
        )
    if isinstance(net, Scaled) and net.alpha and net.alpha / net.dim < SCALE:
        yield (
            f"network.alpha = {numeral(net.alpha)}: what the adapter learns is multiplied by alpha/dim, here "
            f"{net.alpha / net.dim:.3g}; half of dim is usual."
        )


def _speeds(asked: Mapping[str, float], optimizer: Optimizer) -> Iterator[str]:
    """Rates that are far from usual. `asked`: by their path."""
    usual, name = optimizer.RATE or USUAL, type(optimizer).__name__
    for path, rate in asked.items():
        if rate > FAR * usual:
            yield (
                f"{path} = {numeral(rate)}: {rate / usual:,.0f} times the usual {numeral(usual)} of {name}; "
                "the result is likely noise."
            )
        elif optimizer.ADAPTS and rate <= ONE:
            yield f"{path} = {numeral(rate)}: {name} finds a rate, and multiplies it with this; 1 is usual."


def _length(job: Job, plan: Mapping[str, object]) -> Iterator[str]:
    if not plan["pictures"]:
        return
    seen, (few, many) = plan["images"] / plan["pictures"], SEEN
    if seen < few:
        yield (
            f"Each picture is seen {seen:.3g} times; 50 to 200 are usual. Raise training.max_train_epochs or "
            "training.max_train_steps."
        )
    elif seen > many:
        yield (
            f"Each picture is seen {seen:,.0f} times; 50 to 200 are usual, and beyond them pictures are "
            "learned by heart."
        )
    short = [row for row in plan["buckets"] if row["samples"] < row["batch_size"]]
    if short:
        sizes = ", ".join(f"{row['size'][0]}x{row['size'][1]}" for row in short[:3])
        more = f" and {len(short) - 3} more" if len(short) > 3 else ""
        yield (
            f"{len(short)} of {len(plan['buckets'])} buckets never fill a batch ({sizes}{more}): their "
            "pictures train in smaller ones."
        )


def _size(job: Job, header: Mapping[str, object]) -> Iterator[str]:
    """Of the loaded model alone: of a file nothing is known yet."""
    family = str(header.get("family"))
    if not loaded(job, header) or family not in SIDES:
        return
    size, (made, low, high) = job.data.resolution, SIDES[family]
    side = (size.width * size.height) ** 0.5
    if not low <= side <= high:
        far = "falls apart below it" if side < low else "repeats itself above it, and memory grows"
        yield f"data.resolution = {size}: {NAMES[family]} was made for {made}, and {far}."
