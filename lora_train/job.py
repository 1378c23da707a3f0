"""Job: all that changes the weights of a run, as one frozen value; and beside it where and how it runs."""

from __future__ import annotations

import dataclasses
import pathlib
import re
import typing
from collections.abc import Iterable, Mapping

from lora_train.adapters import FAMILIES
from lora_train.adapters.family import Family
from lora_train.adapters.word import Embedding
from lora_train.data.folder import Data
from lora_train.errors import Mistake
from lora_train.host import Model
from lora_train.knobs import Setting, build, flat, knob, one_of, settings
from lora_train.objectives import OBJECTIVES
from lora_train.objectives.objective import Objective
from lora_train.prompts import SAMPLERS
from lora_train.train.ema import Ema
from lora_train.train.loop import Training
from lora_train.train.lr import SCHEDULERS, Constant
from lora_train.train.optim import OPTIMIZERS, Optimizer
from lora_train.train.relora import Relora
from lora_train.train.validation import Validation
from lora_train.values import shown

LONGEST = 200  # bytes of a name, which gets a step and endings behind it
FORBIDDEN = '<>:"/\\|?*'  # in a file name, on Windows


@dataclasses.dataclass(frozen=True)
class Job:
    """Everything a run depends on. Equal jobs, over equal pictures, give equal files."""

    model: Model
    data: Data
    training: Training
    network: Family = one_of(FAMILIES, "lora", "Family of adapter.", group="network")
    objective: Objective = one_of(OBJECTIVES, "denoise", "What the adapter learns.", group="loss")
    optimizer: Optimizer = one_of(
        OPTIMIZERS, "adamw", "What turns gradients into steps.", group="optimizer",
        aka="optimizer_type")  # fmt: skip
    lr: Constant = one_of(
        SCHEDULERS, "constant", "Course of the learning rate.", group="rates", aka="lr_scheduler"
    )
    relora: Relora = Relora()
    embedding: Embedding = Embedding()
    ema: Ema = Ema()
    validation: Validation = Validation()

    def usual(self, processes: int = 1) -> Job:
        """With the numbers that are used where the rate, or a setting of the optimizer, is empty, or where
        rates follow from others."""
        batch = max(dataset.batch_size for dataset in self.data.datasets or (self.data,))
        times = batch * self.training.gradient_accumulation_steps * processes
        lr = self.lr.filled(self.optimizer.RATE).scaled(times)
        return dataclasses.replace(self, optimizer=self.optimizer.filled(), lr=lr)


def _said(help: str, name: str, *, place: bool = False) -> typing.Any:
    return knob(None, help, group="card", aka=f"metadata_{name}", place=place)


@dataclasses.dataclass(frozen=True)
class Card:
    """What the saved file tells people of itself, as modelspec 1.0.1 has it."""

    title: str | None = _said("Title of the model. Empty: output_name.", "title")
    author: str | None = _said("Who made it.", "author")
    description: str | None = _said("What it is. Empty: training_comment.", "description")
    license: str | None = _said("Its license.", "license")
    tags: str | None = _said("Its tags, with commas between.", "tags")
    usage_hint: str | None = _said("How it is used best.", "usage_hint")
    thumbnail: str | None = _said("Picture of it: a file, or a data: URL.", "thumbnail", place=True)
    merged_from: str | None = _said("Models it was merged from.", "merged_from")
    trigger_phrase: str | None = _said("Words that bring it out.", "trigger_phrase")
    preprocessor: str | None = _said("What its pictures went through before.", "preprocessor")
    is_negative_embedding: str | None = _said(
        "Whether it belongs in negative prompts.", "is_negative_embedding"
    )


@dataclasses.dataclass(frozen=True)
class Hub:
    """Where on Hugging Face what is saved goes, too."""

    repo_id: str | None = knob(
        None, "Repository on Hugging Face, user/name, that saved files are also sent to; made if there is "
        "none. The key is that of its own login, or HF_TOKEN. Empty: nothing is sent.", group="hub",
        aka="huggingface_repo_id", place=True)  # fmt: skip
    repo_type: str = knob(
        "model", "What the repository holds.", group="hub", choices=("model", "dataset", "space"),
        aka="huggingface_repo_type")  # fmt: skip
    path_in_repo: str | None = knob(
        None, "Folder in the repository. Empty: none.", group="hub", aka="huggingface_path_in_repo",
        place=True)  # fmt: skip
    repo_visibility: str = knob(
        "private", "Who sees a repository that is made.", group="hub", choices=("private", "public"),
        aka="huggingface_repo_visibility")  # fmt: skip
    save_state: bool = knob(
        False, "Send saved states, too.", group="hub", aka="save_state_to_huggingface"
    )  # fmt: skip
    async_upload: bool = knob(
        False, "Train on while files are sent; the run's end waits for them.", group="hub", aka="async_upload"
    )

    def check(self) -> Iterable[str]:
        if self.repo_id is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", self.repo_id):
            yield f"repo_id = {shown(self.repo_id)}: expected a repository's name, such as user/name"
        for name in ("save_state", "async_upload"):
            if vars(self)[name] and self.repo_id is None:
                yield f"{name} = true: expected repo_id beside it"


@dataclasses.dataclass(frozen=True)
class Output:
    """What is written, when, and under which name. Changes no weight."""

    output_dir: pathlib.Path = knob(
        pathlib.Path("output"), "Folder for everything the run writes.", group="output", place=True,
        basic=True)  # fmt: skip
    run_dir: pathlib.Path | None = knob(
        None, "Folder for what a run keeps beside its result: log, states, samples, caches. Empty: "
        "output_dir.", group="output", place=True)  # fmt: skip
    output_name: str = knob(
        "lora", "File name of the result, without its ending.", group="output", basic=True
    )
    save_precision: str = knob(
        "fp16", "What the saved weights are in.", group="output", choices=("float", "fp16", "bf16")
    )
    save_checkpoint: bool = knob(
        False, "At the end also save the whole checkpoint with what was learned worked in, named "
        "output_name-checkpoint: in the WebUI among its models, else in output_dir.", group="output"
    )  # fmt: skip
    export_rank: int | None = knob(
        None, "Rank of the LoRA that is saved of what the WebUI cannot read as it is; the file says how far "
        "it is off. Empty: an exact one, however large. What was trained itself is kept in run_dir.",
        group="output", low=1, high=512)  # fmt: skip
    save_every_n_epochs: int | None = knob(
        None, "Also save after every n-th epoch; overrides save_every_n_steps.", group="output", low=1
    )
    save_every_n_steps: int | None = knob(None, "Also save after every n-th step.", group="output", low=1)
    save_n_epoch_ratio: int | None = knob(
        None, "Also save after every n-th epoch, with n so that there are at least so many files; overrides "
        "save_every_n_epochs.", group="output", low=1)  # fmt: skip
    save_last_n_epochs: int | None = knob(
        None, "Of the files saved by epoch, keep those of the last n epochs.", group="output", low=1
    )
    save_last_n_steps: int | None = knob(
        None, "Of the files saved by step, keep those of the last n steps.", group="output", low=1
    )
    save_state: bool = knob(
        False, "With each file also save all that is needed to go on from there.", group="output"
    )
    save_state_on_train_end: bool = knob(False, "Save a state at the end of the run.", group="output")
    save_last_n_epochs_state: int | None = knob(
        None, "Of the states saved by epoch, keep those of the last n epochs. Empty: as save_last_n_epochs.",
        group="output", low=1)  # fmt: skip
    save_last_n_steps_state: int | None = knob(
        None, "Of the states saved by step, keep those of the last n steps. Empty: as save_last_n_steps.",
        group="output", low=1)  # fmt: skip
    save_state_every_n_minutes: float | None = knob(
        10.0, "Keep one state for a run that is cut off, not older than this; gone when the run ends. Empty: "
        "none.", group="output", low=0, unit="minutes")  # fmt: skip
    sample_prompts: pathlib.Path | None = knob(
        None, "Prompts to sample while training: a text file with one a line, or a .toml or .json of "
        "sd-scripts. Empty: the trigger word and two captions.", group="samples", place=True)  # fmt: skip
    sample_every_n_steps: int | None = knob(None, "Sample after every n-th step.", group="samples", low=1)
    sample_every_n_epochs: int | None = knob(
        None, "Sample after every n-th epoch; overrides sample_every_n_steps.", group="samples", low=1
    )
    sample_at_first: bool = knob(False, "Sample before the first step.", group="samples")
    sample_base: bool = knob(
        False, "Also draw each prompt that has a seed once without the LoRA, to compare.", group="samples"
    )
    sample_sampler: str = knob(
        "ddim", "Sampler of prompts that name none.", group="samples", choices=tuple(SAMPLERS)
    )
    logging_dir: pathlib.Path | None = knob(
        None, "Folder for trackers' files; each run makes one in it, log_prefix and the time.", group="log",
        place=True)  # fmt: skip
    log_with: str | None = knob(
        None, "Also log to this tracker, or all of them; metrics.jsonl is always written.", group="log",
        choices=("tensorboard", "wandb", "all"))  # fmt: skip
    log_prefix: str | None = knob(None, "What the name of a run's folder of logs begins with.", group="log")
    log_tracker_name: str | None = knob(
        None, "Name of the project within the tracker. Empty: network_train.", group="log"
    )
    wandb_run_name: str | None = knob(
        None, "Name of the run in wandb. Empty: wandb makes one up.", group="log"
    )
    log_tracker_config: pathlib.Path | None = knob(
        None, "TOML file of what a tracker is to be opened with, in tables [tensorboard] and [wandb].",
        group="log", place=True)  # fmt: skip
    log_config: bool = knob(
        False, "Also give the tracker the settings of the run, without folders and keys.", group="log"
    )
    training_comment: str | None = knob(None, "Kept in the saved file's metadata.", group="output")
    no_metadata: bool = knob(
        False, "Keep in the saved file only what is needed to use it, and the card; --from cannot repeat it.",
        group="output")  # fmt: skip
    save_embedding: bool = knob(
        False, "Also write a learned word as a file of its own, for a WebUI's folder of embeddings; into the "
        "folder embeddings of the run.", group="embedding")  # fmt: skip
    card: Card = Card()
    hub: Hub = Hub()

    @property
    def trackers(self) -> tuple[str, ...]:
        return ("tensorboard", "wandb") if self.log_with == "all" else (self.log_with,) * bool(self.log_with)

    def check(self) -> Iterable[str]:
        bad = sorted(c for c in set(self.output_name) if c in FORBIDDEN or not c.isprintable())
        if bad or not self.output_name.strip(" ."):
            lost = " ".join(map(shown, bad)) or "the blanks"
            yield f"output_name = {shown(self.output_name)}: expected a file name; leave out {lost}"
        if len(self.output_name.encode(errors="replace")) > LONGEST:
            yield f"output_name = {shown(self.output_name)}: expected a file name of at most {LONGEST} bytes"
        if self.log_with in ("tensorboard", "all") and self.logging_dir is None:
            yield f"log_with = {self.log_with}: expected a logging_dir to write to"
        lead = self.log_prefix or ""
        if any(c in FORBIDDEN or not c.isprintable() for c in lead):
            yield f"log_prefix = {shown(lead)}: expected what can stand in a folder's name"


@dataclasses.dataclass(frozen=True)
class Place:
    """On what the run goes on, and what it trades for memory. Changes no weight beyond rounding."""

    device: str = knob(
        "auto", "Where to train: the first CUDA device if there is one, else the CPU.", group="memory",
        choices=("auto", "cpu", "cuda"), place=True)  # fmt: skip
    cache_latents: bool | None = knob(
        None, "Run the autoencoder once for each picture and keep the result in memory. Empty: yes, unless a "
        "picture is to look different each time.", group="memory")  # fmt: skip
    cache_latents_to_disk: bool = knob(
        False, "Keep the latents on disk, beside the output, for this run and later ones.", group="memory"
    )
    cache_text_encoder_outputs: bool = knob(
        True, "Run the text encoder once for each caption, where neither it nor the captions change.",
        group="memory")  # fmt: skip
    cache_text_encoder_outputs_to_disk: bool = knob(
        False, "Keep what it makes of the captions on disk, beside the output, for this run and later ones.",
        group="memory")  # fmt: skip
    vae_batch_size: int = knob(1, "Pictures the autoencoder takes at once.", group="memory", low=1, high=256)
    gradient_checkpointing: bool = knob(
        False, "Keep less for the backward pass and compute it again: less memory, about a quarter slower.",
        group="memory")  # fmt: skip
    cpu_offload_checkpointing: bool = knob(
        False, "Move what gradient_checkpointing keeps between blocks into the computer's memory until the "
        "backward pass. On a GPU alone, and slower.", group="memory")  # fmt: skip
    fit_memory: bool = knob(
        False, "Before the start, see what a step will need, and where that is more than is free, set "
        "gradient_checkpointing and let fewer pictures through the model at a time: slower, with the same "
        "result.", group="memory")  # fmt: skip
    torch_compile: bool = knob(
        False, "Let torch compile the denoiser: minutes at first and for each new size of picture, faster "
        "steps after. Not in the WebUI.", group="memory")  # fmt: skip
    dynamo_backend: str = knob(
        "inductor", "What torch_compile compiles with.", group="memory",
        choices=("inductor", "cudagraphs", "aot_eager", "eager"))  # fmt: skip
    park_on_pause: bool = knob(
        True, "Move adapters, optimizer and cached captions into the computer's memory for a pause, so that "
        "all of the card is free for pictures.", group="memory")  # fmt: skip
    resume: pathlib.Path | None = knob(None, "State folder to go on from.", group="time", place=True)

    def check(self) -> Iterable[str]:
        if self.cpu_offload_checkpointing and not (self.gradient_checkpointing or self.fit_memory):
            yield "cpu_offload_checkpointing = True: expected gradient_checkpointing beside it"

    def caches(self, data: Data) -> bool:
        """Whether latents are made once, for all of the run."""
        kept = not data.changing() if self.cache_latents is None else self.cache_latents
        return kept or self.cache_latents_to_disk


ROOMS = {"output": Output, "place": Place}


def declared() -> list[Setting]:
    """Every setting there is, with its full path."""
    beside = [
        dataclasses.replace(s, path=f"{room}.{s.path}") for room, cls in ROOMS.items() for s in settings(cls)
    ]
    return settings(Job) + beside


def assemble(values: Mapping[str, object], *, tolerant: bool = False) -> tuple[Job, Output, Place]:
    """{path: value} -> the three values a run is made of.

    Raises:
        Mistake: every complaint there is, one a line.
    """
    parts: dict[str, dict[str, object]] = {"": {}, **{room: {} for room in ROOMS}}
    for path, value in values.items():
        room, _, rest = path.partition(".")
        if room in ROOMS:
            parts[room][rest] = value
        else:
            parts[""][path] = value
    built, complaints = [], []
    for room, cls in {"": Job, **ROOMS}.items():
        try:
            built.append(build(cls, parts[room], tolerant=tolerant))
        except Mistake as e:
            lead = f"{room}." if room else ""
            complaints += [lead + line for line in str(e).splitlines()]
    if complaints:
        raise Mistake("\n".join(complaints))
    return built[0], built[1], built[2]


def assembled(
    values: Mapping[str, object], *, tolerant: bool = False
) -> tuple[tuple[Job, Output, Place] | None, list[str]]:
    """`assemble`, and all complaints. What a complaint is about is then left at its default, so that the rest
    can be looked at all the same; None where that does not help."""
    found: list[str] = []
    while True:
        try:
            return assemble(values, tolerant=tolerant), found
        except Mistake as e:
            new = str(e).splitlines()
        found += [line for line in new if line not in found]
        wrong = {subject(line) for line in new}
        kept = {path: value for path, value in values.items() if path not in wrong}
        if len(kept) == len(values):
            return None, found
        values = kept


def subject(complaint: str) -> str:
    """What a complaint begins with: `network.dim = 0: expected …` -> `network.dim`."""
    return re.split(r" = |: | belongs to ", complaint, maxsplit=1)[0]


def written(job: Job, output: Output, place: Place, *, places: bool = True) -> dict[str, object]:
    """`assemble`'s inverse.

    Args:
        places: False leaves out what only means something on this machine.
    """
    values = flat(job, places=places)
    for room, value in (("output", output), ("place", place)):
        values.update({f"{room}.{path}": v for path, v in flat(value, places=places).items()})
    return values
