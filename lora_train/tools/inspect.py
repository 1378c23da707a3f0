"""Everything that there is to know of a LoRA file."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lora_train import compat
from lora_train.errors import Mistake
from lora_train.job import assemble, declared, written
from lora_train.knobs import general, knob
from lora_train.names import ARCHS
from lora_train.run.foreign import imported
from lora_train.run.store import whole
from lora_train.tools import stated, tokens
from lora_train.tools.base import Base
from lora_train.tools.looked import Look, bars, by_block, looked
from lora_train.tools.opened import Opened
from lora_train.tools.programs import readers
from lora_train.tools.standard import Fit, fitted, matches
from lora_train.tools.tool import PRECISIONS, Report, Told, Tool, unheard
from lora_train.weights import Safetensors, open_weights

FEW = 3  # names that stand for many


@dataclasses.dataclass(frozen=True)
class Inspect(Tool):
    """Looks; changes nothing."""

    about = (
        "What is in a LoRA file: its family, ranks and norms, what is damaged, which models it fits, which\n"
        "programs read it, the tags it was trained on, and how it was trained."
    )
    alone = "model"
    light = True

    model: pathlib.Path | None = knob(
        None, "The LoRA file.", group="files", basic=True, place=True)  # fmt: skip
    base: pathlib.Path | None = knob(
        None, "Checkpoint to hold it against; norms are then also told as a share of its weights.",
        group="files", aka=("base", "sd_model"), basic=True, place=True)  # fmt: skip
    picture: pathlib.Path | None = knob(
        None, "PNG to draw the norms by block into.", group="output", place=True)  # fmt: skip
    overwrite: bool = knob(False, "Replace the picture, where there is one.", group="output")
    tags: int = knob(20, "Tags that are listed, of the most frequent.", group="report", low=0)
    tokens: int | None = knob(
        None, "Also say which so many tokens of the vocabulary it moves most; needs base, and takes minutes "
        "on a CPU.", group="report", low=1, high=1000)  # fmt: skip
    verbose: bool = knob(False, "List every layer.", group="report")
    device: str = knob(
        "cpu", "Where it is computed.", group="place", choices=("cpu", "cuda"), place=True)  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.model is None:
            yield "model: expected the LoRA file, such as: lora-train inspect mine.safetensors"
        if self.tokens is not None and self.base is None:
            yield f"tokens = {self.tokens}: expected base beside it, whose text encoder is asked"

    def run(self, told: Told = unheard) -> Report:
        if self.picture is not None and self.picture.exists() and not self.overwrite:
            raise Mistake(f"picture = {self.picture}: is there already; take another name, or set overwrite")
        file = Opened(self.model)
        base = None if self.base is None else Base(self.base)
        if base is not None and base.arch != file.arch:
            base = None  # what it would be held against is not there; `fits` says so
        looks = looked(file, base, self.device, told)
        facts = {**_held(file, looks), **_fits(file, self.base), **_says(file, self.model)}
        if self.tokens is not None:
            if base is None:
                raise Mistake(
                    f"base = {self.base}: expected a model for {ARCHS[file.arch].said}, as the file is"
                )
            found = tokens.moved(file, base, self.tokens, self.device, told)
            facts["tokens"] = {
                part: [dataclasses.asdict(one) for one in rows] for part, rows in found.items()
            }
        files = ()
        if self.picture is not None:
            with whole(self.picture) as part:
                bars(facts["blocks"], f"{self.model.name}: norm of what is added").save(part, "PNG")
            files = (self.picture,)
        return Report(tuple(_lines(facts, self)), facts, files)


def _held(file: Opened, looks: Sequence[Look]) -> dict[str, object]:
    """What is in it."""
    precision = {dtype: name for name, dtype in PRECISIONS.items()}.get(file.dtype, str(file.dtype))
    ranks = Counter((look.rank, look.alpha) for look in looks)
    return {
        "file": str(file.path), "arch": file.arch, "said": ARCHS[file.arch].said, "precision": precision,
        "spelled": "kohya" if all(at in ("", key) for key, at in file.spelled.items()) else "other",
        "forms": dict(Counter(look.form for look in looks)),
        "ranks": [{"rank": rank, "alpha": alpha, "layers": n} for (rank, alpha), n in ranks.most_common()],
        "layers": [look.facts() for look in looks], "blocks": by_block(looks),
        "faults": [{"layer": look.key, "fault": look.fault} for look in looks if look.fault],
        "zero": [look.key for look in looks if look.zero],
        "words": sorted({key.split(".")[1] for key in file.rest if key.startswith("bundle_emb.")}),
    }  # fmt: skip


def _fits(file: Opened, base: pathlib.Path | None) -> dict[str, object]:
    """What reads it, and on what."""
    fits: dict[str, Fit] = {ARCHS[arch].said: fit for arch, fit in matches(file).items()}
    if base is not None:
        there = Base(base)
        fits[str(base)] = fitted(file, there.arch, there.shapes)
    return {"fits": {name: fit.facts() for name, fit in fits.items()}, "programs": readers(file)}


def _says(file: Opened, path: pathlib.Path) -> dict[str, object]:
    """What it says of itself."""
    texts, found = file.metadata, {"hashes": {}, "job": {}, "command": "", "notes": []}
    there = open_weights(path) if path.is_file() else None
    if isinstance(there, Safetensors):
        found["hashes"] = stated.hashes(there, texts)
        with path.open("rb") as stream:
            head = stream.read(there.data)
        try:
            found["job"], found["notes"] = imported(path.name, head)
            found["command"] = command(found["job"])
        except Mistake as e:
            found["notes"] = str(e).removeprefix(f"{path.name}: ").splitlines()
    tags = [{"tag": tag, "count": n, "folders": where} for tag, n, where in stated.tags(texts)]
    return {
        **found, "tags": tags, "folders": stated.folders(texts),
        "buckets": [{"size": size, "count": count} for size, count in stated.buckets(texts)],
        "trigger": texts.get("modelspec.trigger_phrase"), "metadata": texts,
    }  # fmt: skip


def command(values: Mapping[str, object]) -> str:
    """The command line that trains so: what differs from what is usual, under sd-scripts' names."""
    known = {s.path: s for s in declared()}
    kinds = {path: value for path, value in values.items() if path.endswith(".kind")}
    usual = {**written(*assemble(kinds)), **{path: known[path].default for path in kinds}}
    words = ["lora-train", "train"]
    for path, value in values.items():
        s = known.get(general(path))
        if s is None or (path in usual and usual[path] == value):
            continue
        name = s.aka[0] if s.aka and s.path == path and s.aka[0] not in compat.FOREIGN else path
        words += [f"--{name}", *_words(value)]
    return shlex.join(words)


def _words(value: object) -> list[str]:
    if isinstance(value, list | tuple):
        return [*map(str, value)] or [""]
    if isinstance(value, dict):
        return [json.dumps(value)]
    return ["" if value is None else str(value).lower() if isinstance(value, bool) else str(value)]


# ── for a person ────────────────────────────────────────────────────────────────────────────────────────────


def _lines(facts: Mapping, asked: Inspect) -> Iterator[str]:
    count = len(facts["layers"])
    spelled = "" if facts["spelled"] == "kohya" else ", spelled in another way than kohya's files"
    yield f"{facts['file']}: for {facts['said']}, {count} layers, {facts['precision']}{spelled}"
    yield "Holds: " + ", ".join(f"{form} ({n})" for form, n in facts["forms"].items())
    for row in facts["ranks"][:FEW]:
        rank, alpha = ("–" if row[k] is None else f"{row[k]:g}" for k in ("rank", "alpha"))
        yield f"  rank {rank}, alpha {alpha}: {row['layers']} layers"
    if len(facts["ranks"]) > FEW:
        yield f"  and {len(facts['ranks']) - FEW} other pairs of rank and alpha"
    if facts["words"]:
        yield f"Learned words: {', '.join(facts['words'])}"
    for row in facts["faults"]:
        yield f"Damaged: {row['layer']}: {row['fault']}"
    if facts["zero"]:
        yield f"Add nothing: {_some(facts['zero'], count)}"
    yield from _fit_lines(facts)
    yield "Norm of what is added, by block" + (
        ":" if facts["blocks"] else ": needs the checkpoint; give base"
    )
    for block, norm in facts["blocks"].items():
        yield f"  {block:<10} {norm:.4g}"
    if asked.verbose:
        yield from _layer_lines(facts["layers"])
    yield from _said_lines(facts, asked.tags)
    for part, rows in facts.get("tokens", {}).items():
        yield f"Tokens moved most, {part}:"
        yield from (f"  {row['share']:8.2%}  {row['text']}" for row in rows)


def _fit_lines(facts: Mapping) -> Iterator[str]:
    for name, fit in facts["fits"].items():
        bad = len(fit["strange"]) + len(fit["unlike"])
        if not bad:
            yield f"Fits {name}: all"
            continue
        yield f"Fits {name}: {fit['fits']} of {fit['fits'] + bad}"
        for word, why in (("strange", "no such layer there"), ("unlike", "of another shape there")):
            yield from [f"  {why}: {_some(fit[word], fit['fits'] + bad)}"] * bool(fit[word])
    for name, row in facts["programs"].items():
        yield f"{name} reads {'all' if row['reads'] == row['of'] else row['reads']} of {row['of']} layers"
        yield from (f"  {n}: {reason}" for reason, n in row["not"].items())


def _layer_lines(layers: Sequence[Mapping]) -> Iterator[str]:
    for row in layers:
        norm, share = row["norm"], row["share"]
        told = "" if norm is None else f" norm {norm:.4g}" + ("" if share is None else f" ({share:.2%})")
        yield f"  {row['key']}: {row['form']} rank {row['rank']} alpha {row['alpha']}{told}"


def _said_lines(facts: Mapping, most: int) -> Iterator[str]:
    if facts["trigger"]:
        yield f"Trigger: {facts['trigger']}"
    if facts["tags"] and most:
        shown = ", ".join(f"{row['tag']} {row['count']}" for row in facts["tags"][:most])
        more = len(facts["tags"]) - most
        yield f"Tags: {shown}{f' and {more} more' if more > 0 else ''}"
    for name, row in facts["folders"].items():
        yield f"Folder {name}: {row.get('img_count')} pictures, {row.get('n_repeats')} times"
    if facts["buckets"]:
        yield "Buckets: " + ", ".join(f"{row['size']} ({row['count']})" for row in facts["buckets"])
    for name, row in facts["hashes"].items():
        if row["stated"] is not None:
            yield f"{name}: {row['found']}" + (
                "" if row["equal"] else f", and the file states {row['stated']}"
            )
    if facts["command"]:
        yield f"Train like this: {facts['command']}"
    yield from (f"  {note}" for note in facts["notes"])


def _some(names: Sequence[str], of: int) -> str:
    return f"{len(names)} of {of} ({', '.join(names[:FEW])}{', …' * (len(names) > FEW)})"
