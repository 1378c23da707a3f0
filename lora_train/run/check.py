"""The pre-flight check: all that can be known of a run before its model is loaded, as one report.

A report is plain values, as `docs/check.md` describes them; what is printed and what is written as JSON are
two forms of it.
"""

from __future__ import annotations

import collections
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from lora_train.adapters.file import load
from lora_train.data.batches import arithmetic, numbers
from lora_train.data.folder import Item, Planned, Source, Subset
from lora_train.data.health import REMARKS as SEEN
from lora_train.data.health import Found, Tokens, cut_at, health, lost, scale, tags
from lora_train.data.memory import Memory
from lora_train.data.scan import REMARKS, Finding
from lora_train.emphasis import loras
from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place
from lora_train.prompts import read_prompts
from lora_train.run.classes import due, housed
from lora_train.run.embeddings import unread
from lora_train.run.refusals import refusals
from lora_train.run.session import settled
from lora_train.run.store import RunStore, State
from lora_train.run.watchers import Saves
from lora_train.train.events import Progress

SCHEMA = 1  # of a report; raised when something is renamed or taken away
CHANNELS, GRAIN, BYTES = 4, 8, 4  # of a latent: channels, pixels to one of its points, bytes of float32

Report = dict[str, object]
T = TypeVar("T")


def check(  # noqa: PLR0913 (what a run is made of, and what to look at it with)
    job: Job,
    output: Output,
    place: Place,
    *,
    memory: Memory,
    tokens: Callable[[bool], Tokens] | None = None,
    complaints: Sequence[str] = (),
    models: Callable[[Job], None] = lambda job: None,
) -> Report:
    """Look at everything. Loads no model, and writes nothing but into `memory`.

    Args:
        tokens: makes what counts them, given whether brackets and weights are read as emphasis and so are
            no tokens. None: tokens are not counted.
        complaints: what is known to be wrong before.
        models: raises Mistake where the job's files of weights are not what they should be.
    """
    complaints = [*complaints, *refusals(job, output, place)]
    if job.model.pretrained_model_name_or_path is not None:
        tried(complaints, lambda: models(job))
    if job.network.weights is not None:
        tried(complaints, lambda: load(job.network.weights))
    resumed = tried(complaints, lambda: State.read(place.resume)) if place.resume else None
    tried(complaints, lambda: settled(job, resumed))
    tried(complaints, lambda: writable(output.output_dir))
    limit = job.model.max_token_length
    job = housed(job, output)
    report = {
        "schema": SCHEMA, "prompts": _prompts(complaints, output, tokens and tokens(True), limit)
    }  # fmt: skip
    planned = None
    try:
        planned, findings = job.objective.survey(job.data, decode=True, memory=memory)
    except Mistake as e:
        complaints += str(e).splitlines()
        findings = []
    complaints += [finding.text for finding in findings if finding.fatal]
    report["findings"] = [_finding(finding) for finding in findings]
    if planned is not None and planned.items:
        if resumed and resumed.plain["samples_per_epoch"] != (now := numbers(planned).samples):
            before = resumed.plain["samples_per_epoch"]
            complaints.append(
                f"place.resume = {place.resume}: the state was saved with {before} samples an epoch, and now "
                f"there are {now}; put the pictures back, or start anew with network_weights"
            )
        if planned.pictures:
            words = tokens and tokens(job.model.weighted_captions)
            report["findings"] += [_found(found) for found in health(planned, memory, words, limit)]
            report |= _pictures(planned, findings)
        report |= course(planned, job, output, place)
        complaints += unread(job, planned)
        report["notes"] = due(planned)
    every = list(dict.fromkeys(complaints))
    return {**report, "ready": not every, "complaints": every, "tokens_counted": tokens is not None}


def refused(complaints: Sequence[str]) -> Report:
    """The report where settings are so wrong that nothing was looked at."""
    return {
        "schema": SCHEMA, "ready": False, "complaints": [*complaints], "notes": [], "findings": [],
        "prompts": [], "tokens_counted": False,
    }  # fmt: skip


def tried(complaints: list[str], look: Callable[[], T]) -> T | None:
    """What a look gives; None where there are complaints, which are added."""
    try:
        return look()
    except Mistake as e:
        complaints += str(e).splitlines()
        return None


def writable(folder: pathlib.Path) -> None:
    """Whether a run could write there, without writing.

    Raises:
        Mistake: it could not.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    why = None if there.is_dir() else "Not a directory"
    if why is None and not os.access(there, os.W_OK | os.X_OK):
        why = "Permission denied"
    if why:
        raise Mistake(
            f"output.output_dir = {folder}: expected a folder that can be written to ({there}: {why})"
        )


def _prompts(complaints: list[str], output: Output, tokens: Tokens | None, limit: int) -> list[Report]:
    """Each sample prompt with its tokens, and where it is longer than the captions that are trained."""
    if output.sample_prompts is None:
        return []
    found = tried(complaints, lambda: read_prompts(output.sample_prompts, output.sample_sampler)) or []
    rows = []
    for number, prompt in enumerate(found, 1):
        row = {"number": number, "prompt": prompt.prompt}
        if tokens is not None:
            text, _ = loras(prompt.prompt)
            row["tokens"] = tokens.count(text)
            if row["tokens"] > limit:
                read, gone = tokens.cut(text, limit)
                row |= {"lost": gone, "text": cut_at(row["tokens"], read, gone)}
        rows.append(row)
    return rows


# ── findings ────────────────────────────────────────────────────────────────────────────────────────────────


def _finding(finding: Finding) -> Report:
    severity = "refused" if finding.fatal else "remark"
    return {
        "kind": finding.kind,
        "severity": severity,
        "paths": [str(finding.path)] if str(finding.path) != finding.text else [],  # none is given
        "text": finding.text,
    }  # fmt: skip


def _found(found: Found) -> Report:
    return {
        "kind": found.kind, "severity": "remark", "paths": [*map(str, found.paths)], "text": found.text,
        **found.facts}  # fmt: skip


def words(kind: str) -> str:
    """What is said of findings of a kind, after their number."""
    if kind in SEEN:
        return SEEN[kind]
    noun = "" if kind in ("orphan", "left", "ignored", "inner") else "pictures "
    return noun + REMARKS[kind]


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────


def _pictures(planned: Planned, findings: Sequence[Finding]) -> Report:
    once = {item.path: item for item in planned.items}.values()
    pixels = {item.path: item.size[0] * item.size[1] for item in once}
    least, most = (of(once, key=lambda item: (pixels[item.path], str(item.path))) for of in (min, max))
    endings = collections.Counter(item.path.suffix.lower() for item in once)
    return {
        "folders": [
            row
            for n, source in enumerate(planned.sources)
            for row in _folders(n, source, findings, held(planned, source))
        ],
        "sizes": {
            "smallest": {"path": str(least.path), "size": least.size},
            "largest": {"path": str(most.path), "size": most.size},
            "megapixels": round(sum(pixels.values()) / len(pixels) / 1e6, 3),
        },
        "endings": dict(endings.most_common()),
        "buckets": [row for n, source in enumerate(planned.sources) for row in buckets(n, source)],
        "pictures": [_picture(n, item) for n, source in enumerate(planned.sources) for item in source.items],
        "tags": tags(planned),
    }


def held(planned: Planned, source: Source) -> list[Item]:
    """What of a dataset is not learned from."""
    return [item for out in planned.held if out.dataset is source.dataset for item in out.items]


def _folders(
    number: int, source: Source, findings: Iterable[Finding], out: Sequence[Item]
) -> Iterable[Report]:
    """What is said of captions, by folder."""
    counts: dict[pathlib.Path, collections.Counter] = collections.defaultdict(collections.Counter)
    for finding in findings:
        counts[finding.path.parent][finding.kind] += 1
    own = collections.Counter(id(item.subset) for item in (*source.items, *out))
    samples = collections.Counter()
    for share in source.shares:
        samples[id(source.items[share.items[0]].subset)] += share.count
    for subset in source.dataset.subsets:
        if subset.image_dir is not None:
            told = counts[subset.image_dir]
            yield {
                "dataset": number,
                "path": str(subset.image_dir),
                "regularisation": subset.is_reg,
                "pictures": own[id(subset)],
                "repeats": subset.num_repeats,
                "samples": samples[id(subset)],
                "captions": _captions(subset, own[id(subset)], told),
                "unreadable": told["picture"] + told["caption"] + told["left"],
            }


def _captions(subset: Subset, count: int, told: Mapping[str, int]) -> Report:
    from_files = count - told["bare"] - told["mute"] - told["empty"]
    return {
        "read": from_files, "empty": told["empty"], "class_tokens": told["bare"], "missing": told["mute"],
        "several_lines": told["long"], "without_picture": told["orphan"],
    }  # fmt: skip


def buckets(number: int, source: Source) -> Iterable[Report]:
    size = source.dataset.batch_size
    own = collections.Counter(item.fit.bucket for item in source.items)
    samples = collections.Counter()
    for share in source.shares:
        samples[share.bucket] += share.count
    for bucket, count in sorted(own.items()):
        yield {
            "dataset": number, "size": bucket, "pictures": count, "samples": samples[bucket],
            "batch_size": size, "batches": math.ceil(samples[bucket] / size),
        }  # fmt: skip


def _picture(number: int, item: Item) -> Report:
    fit = item.fit
    return {
        "dataset": number, "path": str(item.path), "size": item.size, "bucket": fit.bucket,
        "resized": fit.resized, "crop": fit.crop, "scale": round(scale(item), 4), "cut": round(lost(item), 4),
    }  # fmt: skip


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────


def course(planned: Planned, job: Job, output: Output, place: Place) -> Report:
    accumulation = job.training.gradient_accumulation_steps
    n = numbers(planned, accumulation)
    steps = job.training.steps(n.steps)
    o = output
    if o.sample_every_n_epochs is not None:  # which win over steps
        draws = moments(o.sample_every_n_epochs, n.steps, steps)
    else:
        draws = moments(o.sample_every_n_steps, 1, steps)
    return {
        "steps": {
            "text": arithmetic(planned, steps, accumulation),
            "pictures": n.pictures,
            "samples": n.samples,
            "batches": n.batches,
            "accumulation": accumulation,
            "an_epoch": n.steps,
            "in_all": steps,
            "epochs": round(steps / n.steps, 3),
        },
        "saves": _saves(output, steps, n.steps),
        "draws": [*[0] * o.sample_at_first, *draws],
        "latents": _latents(planned, job, place),
        **_tried(planned, job, steps, n.steps),
    }


def _tried(planned: Planned, job: Job, steps: int, an_epoch: int) -> Report:
    """The validation, where there is one."""
    if not planned.held:
        return {}
    settings, out = job.validation, [item for source in planned.held for item in source.items]
    after = {
        steps, *moments(settings.validate_every_n_steps, 1, steps), *moments(settings.epochs, an_epoch, steps)
    }  # fmt: skip
    sizes = collections.Counter((id(s), item.fit.bucket) for s in planned.held for item in s.items)
    size = {id(source): source.dataset.batch_size for source in planned.held}
    batches = sum(math.ceil(count / size[of]) for (of, _), count in sizes.items())
    return {"validation": {"pictures": len(out), "batches": batches, "after": sorted(after)}}


def _saves(output: Output, steps: int, an_epoch: int) -> list[int]:
    """By the clocks of what saves, so that there is one opinion."""
    saves = Saves(
        output, RunStore(output.output_dir, output.output_name), write=_never, write_state=_never
    )  # fmt: skip
    saves.started(Progress(steps, an_epoch))
    clocks = [moments(c.every, an_epoch if c.unit == "epoch" else 1, steps) for c in saves.clocks]
    return sorted({steps, *itertools.chain(*clocks)})


def _never(path: pathlib.Path, progress: Progress) -> None:
    """Nothing is saved here."""


def moments(every: int | None, steps: int, last: int) -> range:
    """Steps up to the `last` after which something is done that is done every so often.

    Args:
        steps: of an epoch where epochs are counted, else 1.
    """
    return range(0) if every is None else range(every * steps, last + 1, every * steps)


def _latents(planned: Planned, job: Job, place: Place) -> Report:
    """How many there will be, and what they take."""
    views = {(item.path, item.fit, flip) for item, flip in planned.views()}
    points = sum(math.prod(fit.bucket) // GRAIN**2 for _, fit, _ in views)
    kept = "disk" if place.cache_latents_to_disk else "memory" if place.caches(job.data) else "nowhere"
    return {"count": len(views), "megabytes": round(points * CHANNELS * BYTES / 2**20, 2), "kept": kept}
