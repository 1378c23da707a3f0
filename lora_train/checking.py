"""`lora-train check`: what a run would learn from and what is wrong with it, before a model is loaded."""

from __future__ import annotations

import collections
import importlib.util
import json
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lora_train.errors import Mistake
from lora_train.options import Parser, train_parser, train_values

if TYPE_CHECKING:
    from lora_train.data.health import Tokens
    from lora_train.job import Job
    from lora_train.knobs import Setting
    from lora_train.run.check import Report

log = logging.getLogger(__name__)

SHOWN = 5  # of each kind, before the others are counted
TAGS = 20
TEXT = """\
Look at pictures, captions and settings as a run would, without its model, and say all that is found.
Options are those of lora-train train, and:
  --json FILE  write everything to it, as docs/check.md says
  --all        print every file of what is otherwise "and N more"
Exit status: 0 where a run can begin, 2 where it would be refused."""


def command(words: Sequence[str]) -> int:
    """Returns the exit status."""
    from lora_train.job import declared
    from lora_train.run.store import whole

    every = declared()
    if {"-h", "--help"} & set(words):
        full = train_parser(every)
        full.prog, full.usage, full.description = "lora-train check", "lora-train check [options]", TEXT
        full.print_help()
        return 0
    parser = Parser("lora-train check", TEXT)
    parser.add_argument("--json")
    parser.add_argument("--all", action="store_true", default=False)
    own, rest = parser.parse_known_args(words)
    report = reported(rest, every)
    for line in lines(report, shown=None if own.all else SHOWN):
        sys.stdout.write(f"{_shown(line)}\n")
    if "json" in own:
        with whole(pathlib.Path(own.json)) as part:
            text = json.dumps(report, indent=1, ensure_ascii=False)
            part.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")  # names of files
    return 0 if report["ready"] else 2


def _shown(line: str) -> str:
    """In one line, in letters that the terminal has."""
    encoding = sys.stdout.encoding or "utf-8"
    return line.replace("\n", "\\n").encode(encoding, "backslashreplace").decode(encoding)


def reported(words: Sequence[str], every: Sequence[Setting]) -> Report:
    """The report on what `train` would be given these words for."""
    from lora_train.data.memory import Memory, usual
    from lora_train.hosts.standalone.host import fitted, refusals
    from lora_train.job import assembled
    from lora_train.run.check import check, refused

    try:
        values, notes = train_values(words, every)
        parts, complaints = assembled(values)
    except Mistake as e:
        return refused(str(e).splitlines())
    if parts is None:
        return {**refused(complaints), "notes": notes}
    job, instead = fitted(parts[0], parts[2])
    parts = (job, *parts[1:])
    complaints += refusals(job, parts[2])
    tokens, missing = _tokens()
    log.info("Reading every picture; those that were read before, and are as they were, are remembered.")
    report = check(
        *parts, memory=Memory(usual()), tokens=tokens, complaints=complaints, models=_models
    )  # fmt: skip
    return {**report, "notes": [*notes, *instead, *missing, *report.get("notes", ())]}


def _models(job: Job) -> None:
    """Looks at the heads of the files alone."""
    from lora_train.models.files import find

    find(job.model.pretrained_model_name_or_path, job.model.vae)


def _tokens() -> tuple[Callable[[bool], Tokens] | None, list[str]]:
    """And what is to be said where tokens cannot be told."""
    from lora_train.hosts.standalone.tokens import Tokens

    if importlib.util.find_spec("transformers") is None:
        return None, ["tokens are not counted: that needs the package transformers"]
    return (lambda weighted: Tokens(weighted=weighted)), []


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(report: Report, shown: int | None = SHOWN) -> Iterator[str]:
    """The report for people.

    Args:
        shown: files of each kind that are named; None: all.
    """
    if "folders" in report:
        yield from _folders(report)
        yield from _buckets(report, shown)
        yield from _captions(report, shown)
    if "steps" in report:
        yield from _course(report, shown)
    yield from _remarks(report, shown)
    if report["complaints"]:
        yield from ("", "A run would be refused:")
        yield from _some(report["complaints"], shown and 4 * shown, "  ")
    else:
        yield from ("", "A run can begin.")


def _folders(report: Report) -> Iterator[str]:
    yield "Folders"
    several = any(row["dataset"] for row in report["folders"])
    for row in report["folders"]:
        said = ", ".join(f"{n} {word.replace('_', ' ')}" for word, n in row["captions"].items() if n)
        among = f" (dataset {row['dataset'] + 1})" * several + " (regularisation)" * row["regularisation"]
        counts = f"{row['pictures']} pictures x {row['repeats']:g} = {row['samples']} samples"
        unreadable = f"; unreadable: {row['unreadable']}" if row["unreadable"] else ""
        yield f"  {row['path']}{among}: {counts}"
        yield f"    captions: {said or 'none'}{unreadable}"
    sizes, endings = report["sizes"], report["endings"]
    least, most = (f"{_sized(sizes[of]['size'])} ({sizes[of]['path']})" for of in ("smallest", "largest"))
    yield f"  smallest {least}"
    yield f"  largest  {most}"
    kinds = ", ".join(f"{count} {ending}" for ending, count in endings.items())
    yield f"  mean {sizes['megapixels']:g} megapixels; {kinds}"


def _buckets(report: Report, shown: int | None) -> Iterator[str]:
    yield from ("", "Buckets")
    several = any(row["dataset"] for row in report["buckets"])
    for row in report["buckets"]:
        among = f"dataset {row['dataset'] + 1}, " * several
        yield (
            f"  {among}{_sized(row['size'])}: {row['pictures']} pictures, {row['samples']} samples"
            f" -> {row['batches']} batches of {row['batch_size']}"
        )
    if shown is None:
        yield "  each picture: size -> resized -> bucket (part that is cut off)"
        for p in report["pictures"]:
            way = " -> ".join(_sized(p[of]) for of in ("size", "resized", "bucket"))
            yield f"    {p['path']}: {way}, {p['scale']:.2f} times ({p['cut']:.0%}, crop {tuple(p['crop'])})"


def _captions(report: Report, shown: int | None) -> Iterator[str]:
    if report["tags"]:
        yield from ("", "Most frequent tags")
        top = report["tags"] if shown is None else report["tags"][:TAGS]
        more = len(report["tags"]) - len(top)
        yield "  " + ", ".join(f"{tag} ({count})" for tag, count in top) + f" and {more} more" * bool(more)
    long = [row for row in report["prompts"] if "lost" in row]
    if long:
        yield from (
            "",
            "Sample prompts longer than the captions that are trained; beyond | nothing was learned",
        )
        yield from _some([f"prompt {row['number']}, {row['text']}" for row in long], shown, "  ")


def _course(report: Report, shown: int | None) -> Iterator[str]:
    steps, latents = report["steps"], report["latents"]
    yield from ("", "Steps", f"  {steps['text']}")
    yield f"  files saved: {len(report['saves'])}, after steps {_moments(report['saves'], shown)}"
    if report["draws"]:
        yield f"  samples drawn: {len(report['draws'])} times, after steps {_moments(report['draws'], shown)}"
    where = {"disk": "kept on disk", "memory": "kept in memory", "nowhere": "made anew at each use"}
    if tried := report.get("validation"):
        yield f"  held out: {tried['pictures']} pictures, tried after steps {_moments(tried['after'], shown)}"
    if latents["count"]:
        yield f"  {latents['count']} latents of {latents['megabytes']:g} MB, {where[latents['kept']]}"


def _moments(steps: Sequence[int], shown: int | None) -> str:
    if shown is None or len(steps) <= shown + 1:
        return ", ".join(map(str, steps))
    first = ", ".join(map(str, steps[:shown]))
    return f"{first} and {len(steps) - shown - 1} more until {steps[-1]}"


def _remarks(report: Report, shown: int | None) -> Iterator[str]:
    """All findings but those that a run is refused for, kind by kind."""
    from lora_train.run.check import words

    kinds: dict[str, list[str]] = collections.defaultdict(list)
    for finding in report["findings"]:
        if finding["severity"] == "remark":
            files = _listed(finding["paths"], shown)
            text = finding["text"]
            kinds[finding["kind"]].append(text if files in text else f"{files}: {text}" if text else files)
    if kinds or report["notes"]:
        yield from ("", "To look at; none of it stops a run")
    for note in report["notes"]:
        yield f"  {note}"
    for kind, those in kinds.items():
        yield f"  {words(kind)} ({len(those)}):"
        yield from _some(those, shown, "    ")


def _listed(names: Sequence[str], shown: int | None) -> str:
    more = 0 if shown is None else max(0, len(names) - shown)
    return ", ".join(names[:shown]) + f" and {more} more" * bool(more)


def _some(texts: Sequence[str], shown: int | None, lead: str) -> Iterator[str]:
    for text in texts[:shown]:
        yield f"{lead}{text}"
    if shown is not None and len(texts) > shown:
        yield f"{lead}and {len(texts) - shown} more; --all names them"


def _sized(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
