"""The planner: what a run over these settings comes to, and what Start would refuse, while it is typed."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from lora_train.adapters.file import load
from lora_train.data.batches import numbers
from lora_train.data.folder import Data, Planned
from lora_train.data.health import Found, namesakes, over, stretched, uncalled
from lora_train.data.memory import Memory, usual
from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place, assemble, assembled, declared, subject
from lora_train.knobs import Setting, general
from lora_train.objectives.objective import Objective
from lora_train.prompts import read_prompts
from lora_train.run.advice import advice
from lora_train.run.applies import disabled
from lora_train.run.check import buckets, course, words, writable
from lora_train.run.classes import due, housed
from lora_train.run.curve import ahead
from lora_train.run.embeddings import unread
from lora_train.run.measure import Measured, dry, parameters, shape
from lora_train.run.refusals import refusals
from lora_train.run.session import settled
from lora_train.run.store import State
from lora_train.run.trigger import Counter

if TYPE_CHECKING:
    from lora_train.host import Host

Values = Mapping[str, object]

CHECKPOINT, PICTURES = "model.pretrained_model_name_or_path", "data.train_data_dir"
NAMED = 20  # files of a remark; the others are a number
DEEP = 2  # folders below one that are looked at for changes: those of repeats, and what is in them
PARTS = {"float": 4, "fp16": 2, "bf16": 2}  # bytes of a saved number
STATE = 3 * 4  # bytes of a parameter in a state: itself and AdamW's two
MB = 2**20
SPARE = 200  # megabytes of a disk that are left alone


def look(values: Values, host: Host) -> dict[str, object]:
    """What Start would say of these settings, and what the run would be; loads nothing, changes nothing.

    Returns:
        complaints: [{path, text}], of which none is left when Start would begin; remarks: [{text, files}];
        disabled: {path: why it has no effect}; plan and estimate, or None where there is none.
    """
    parts, lines = assembled(values, tolerant=True)
    if parts is None:
        return {
            "complaints": complaints(lines, values),
            "remarks": [],
            "disabled": {},
            "plan": None,
            "estimate": None,
        }
    job, output, place = parts
    header = host.header()
    hosts = host.refusals(*parts)
    lines += [*refusals(*parts), *hosts]
    lines += _files(*parts)
    job = housed(job, output, host.folders)
    seen = surveyed(job, None if job.model.weighted_captions else job.model.max_token_length)
    planned = seen.planned
    lines += seen.lost
    plan = estimate = None
    if planned is not None and planned.items:
        lines += unread(job, planned)
        plan = {**_plan(planned, *parts, header), "rates": {}}
        try:
            plan["rates"] = ahead(job, plan["steps"])
        except Mistake as e:
            lines += str(e).splitlines()
        if plan["disk"]["free_megabytes"] < plan["disk"]["megabytes"] + SPARE:
            lines.append(_full(plan["disk"]))
        estimate = Measured(host.folders.desk).estimate(shape(*parts, planned, header), plan["steps"])
    return {
        "complaints": complaints(lines, values, dict.fromkeys(hosts, CHECKPOINT)),
        "remarks": [
            *({"text": text, "files": [*files]} for text, files in seen.remarks),
            *({"text": text, "files": []} for text in (advice(job, plan, header) if plan else ())),
            *({"text": f"{text}.", "files": []} for text in (due(planned) if plan else ())),
            *({"text": text, "files": []} for text in [job.optimizer.instead(place.device)] if text),
        ],
        "disabled": disabled(*parts, header),
        "plan": plan,
        "estimate": estimate,
    }


def measure(values: Values, host: Host) -> dict[str, float | None]:
    """Steps at the largest bucket on the host's model, with nothing written but how long they took.

    Returns:
        seconds_per_step; peak_megabytes, None where that is not known.

    Raises:
        Mistake: what Start would refuse.
    """
    seen = look(values, host)
    if seen["complaints"]:
        raise Mistake("\n".join(complaint["text"] for complaint in seen["complaints"]))
    job, output, place = assemble(values, tolerant=True)
    planned = surveyed(housed(job, output, host.folders)).planned
    key = shape(job, output, place, planned, host.header())
    found = dry(job, place, host, planned)
    Measured(host.folders.desk).keep(key, found)
    return {"seconds_per_step": found["seconds"], "peak_megabytes": found["megabytes"]}


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────


def complaints(
    lines: Iterable[str], values: Values, usual: Mapping[str, str] | None = None
) -> list[dict[str, str | None]]:
    """Each with its setting; one about a file or folder has the setting that named it.

    Args:
        usual: setting of lines that name none; of others it is the pictures' folder.
    """
    usual = usual or {}
    every = {s.path: s for s in declared()}
    return [
        {"path": _path(line, values, every) or usual.get(line, PICTURES), "text": line}
        for line in dict.fromkeys(lines)
    ]


def _path(line: str, values: Values, every: Mapping[str, Setting]) -> str | None:
    head = subject(line)
    if general(head) in every:
        return head
    ends = [path for path in every if path.endswith(f".{head}") and ".N." not in path]
    if len(ends) == 1:
        return ends[0]
    if head in values:
        return head  # a setting that there is not
    places = [path for path in values if general(path) in every and every[general(path)].place]
    named = [path for path in places if values[path] and line.startswith(str(values[path]))]
    return max(named, key=lambda path: len(str(values[path])), default=None)


def _files(job: Job, output: Output, place: Place) -> Iterator[str]:
    """What is wrong with files other than pictures, and with the folder for the result."""
    looks: list[Callable[[], object]] = [lambda: writable(output.output_dir)]
    if output.run_dir is not None:
        looks.append(lambda: writable(output.run_dir))
    if job.network.weights is not None:
        looks.append(lambda: _weights(job.network.weights, _stamp(job.network.weights)))
    if place.resume is not None:
        looks.append(lambda: settled(job, _state(place.resume, _stamp(place.resume / "state.safetensors"))))
    if output.sample_prompts is not None:
        looks.append(lambda: read_prompts(output.sample_prompts, output.sample_sampler))
    for once in looks:
        try:
            once()
        except Mistake as e:
            yield from str(e).splitlines()


@functools.lru_cache(maxsize=4)
def _weights(path: pathlib.Path, stamp: object) -> None:
    """Raises Mistake: no LoRA. As long as the file is as it was, it is not read again."""
    load(path)


@functools.lru_cache(maxsize=4)
def _state(path: pathlib.Path, stamp: object) -> State:
    """Without its tensors."""
    return State({}, State.read(path).plain)


def _stamp(path: pathlib.Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Survey:
    """What the folders come to."""

    planned: Planned | None = None
    lost: tuple[str, ...] = ()  # why nothing, or not all, can be trained with
    remarks: tuple[tuple[str, tuple[str, ...]], ...] = ()  # what to look at, and in which files


def surveyed(job: Job, limit: int | None = None) -> Survey:
    """Known as long as no file in the folders is another than it was.

    Args:
        limit: tokens of a caption that are read; None: they are not counted.
    """
    data, objective = job.data, job.objective
    roots = [data.train_data_dir, data.reg_data_dir, data.in_json, *objective.files()]
    own = [subset for dataset in data.datasets for subset in dataset.subsets]
    roots += [path for s in own for path in (s.image_dir, s.metadata_file)]
    roots += [path for s in (data, *own) for path in (s.conditioning_data_dir, s.class_data_dir)]
    return _surveyed(data, objective, limit, tuple(_listed(root, DEEP) for root in roots if root is not None))


@functools.lru_cache(maxsize=4)
def _surveyed(data: Data, objective: Objective, limit: int | None, stamps: object) -> Survey:
    try:
        planned, findings = objective.survey(data, memory=Memory(usual()))
    except Mistake as e:
        return Survey(lost=tuple(str(e).splitlines()))
    if not planned.pictures:
        return Survey(planned)
    kinds: dict[str, list[str]] = {}
    for finding in findings:
        if not finding.fatal:
            kinds.setdefault(finding.kind, []).append(finding.path.name)
    for found in [*stretched(planned), *namesakes(planned.items), *uncalled(planned.items)]:
        kinds.setdefault(found.kind, []).append(_told(found))
    for found in over(planned.items, Counter(), limit) if limit else ():
        kinds.setdefault(found.kind, []).append(_told(found))
    remarks = tuple((f"{len(files)} {words(kind)}", tuple(files[:NAMED])) for kind, files in kinds.items())
    return Survey(planned, tuple(finding.text for finding in findings if finding.fatal), remarks)


def _told(found: Found) -> str:
    names = ", ".join(path.name for path in found.paths)
    return f"{names} ({found.text})" if found.text else names


def _listed(path: pathlib.Path, depth: int) -> object:
    """Something that changes with every file in a folder."""
    if path.is_file():
        return _stamp(path)
    found = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                status = entry.stat()
                found.append((entry.name, status.st_size, status.st_mtime_ns))
                if entry.is_dir() and depth > 1:
                    found.append(_listed(pathlib.Path(entry.path), depth - 1))
    except OSError as e:
        return e.errno
    return hash(tuple(sorted(found, key=repr)))


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(
    planned: Planned, job: Job, output: Output, place: Place, header: Mapping[str, object]
) -> dict[str, object]:
    found = course(planned, job, output, place)
    steps, n = found["steps"], numbers(planned, job.training.gradient_accumulation_steps)
    seen = sum(source.dataset.batch_size for source in planned.sources) / len(planned.sources)
    return {
        "text": steps["text"],
        "pictures": n.pictures,  # 0 where it learns from prompts
        "samples": n.samples,  # of an epoch
        "repeats": round(n.samples / n.pictures, 3) if n.pictures else 0,
        "buckets": [row for i, source in enumerate(planned.sources) for row in buckets(i, source)],
        "batches": n.batches,  # of an epoch
        "steps_per_epoch": n.steps,
        "steps": steps["in_all"],
        "epochs": steps["epochs"],
        "images": round(n.samples * steps["epochs"]),  # seen in all
        "batch_size": round(seen, 3),
        "saves": found["saves"],
        "draws": found["draws"],
        "latents": found["latents"],
        "disk": _disk(found, job, output, place, header),
    }


def _disk(
    found: Mapping[str, Mapping], job: Job, output: Output, place: Place, header: Mapping[str, object]
) -> dict[str, object]:
    """Megabytes that the run writes at most and those that are free, of the disk with the least to spare."""
    count, saves = parameters(job, header), len(found["saves"])
    states = (saves if output.save_state else 0) or int(output.save_state_on_train_end)
    if output.save_last_n_steps_state or output.save_last_n_epochs_state:
        states = min(states, 2)
    states += output.save_state_every_n_minutes is not None
    latents = found["latents"]["megabytes"] if place.cache_latents_to_disk else 0
    needs = {
        output.output_dir: 0.0,
        output.run_dir or output.output_dir: latents + states * count * STATE / MB,
    }
    needs[output.output_dir] += saves * count * PARTS[output.save_precision] / MB
    disks: dict[int, dict[str, object]] = {}
    for folder, megabytes in needs.items():
        whole = folder.absolute()
        there = next(path for path in (whole, *whole.parents) if path.exists())
        free = shutil.disk_usage(there).free / MB
        disk = disks.setdefault(
            there.stat().st_dev, {"path": str(folder), "megabytes": 0.0, "free_megabytes": round(free, 1)}
        )
        disk["megabytes"] = round(disk["megabytes"] + megabytes, 1)
    return min(disks.values(), key=lambda disk: disk["free_megabytes"] - disk["megabytes"])


def _full(disk: Mapping[str, object]) -> str:
    needs, free = disk["megabytes"], disk["free_megabytes"]
    return (
        f"output.output_dir = {disk['path']}: expected a disk with room for about {needs:,.0f} MB; "
        f"{free:,.0f} MB are free. Save fewer files or states, or clear those of earlier runs"
    )
