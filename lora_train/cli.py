"""The command line: `lora-train train | check | sample | plot | ui | settings`.

Commands import what they need themselves: torch takes seconds, and neither help nor a wrong word needs it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train import tooling
from lora_train.errors import Mistake
from lora_train.knobs import nearest
from lora_train.options import Parser, add, parse, settings_file, to_write, train_runs, train_values
from lora_train.plots.axes import numbers
from lora_train.prompts import Prompt, parse_prompt, read_prompts, sampler

if TYPE_CHECKING:
    from lora_train.host import Lent
    from lora_train.job import Job, Output, Place
    from lora_train.run.control import Control

DONE, FAULT, MISTAKE, STOPPED = 0, 1, 2, 130
FAULTY = "This is a fault of lora-train. Please report it, with the lines below."
HELP = """usage: lora-train COMMAND [options]

Train LoRAs for Stable Diffusion, and see what they do.

{}

lora-train COMMAND --help lists a command's options.
"""

log = logging.getLogger("lora_train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 our fault, 2 a person's mistake, 130 stopped."""
    # threads that wait by spinning keep those they wait for from running, where cores are shared with other
    # work: steps of 30 s in place of 0.1 s were seen. Read when torch is loaded, so it is set before.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)  # of other packages
    rank = int(os.environ.get("RANK", "0"))  # among processes that a launcher started: the first one talks
    logging.getLogger("lora_train").setLevel(logging.ERROR if rank else logging.INFO)
    for stream in (sys.stdout, sys.stderr):  # files and old consoles may have no such letters
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(words)
    except Mistake as e:
        lead = f"process {rank}: " if rank else ""
        sys.stderr.write(f"{lead}{e}\n")
        return MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write("Stopped at once; what was saved before is whole.\n")
        return STOPPED
    except SystemExit as e:  # argparse's, after --help
        return DONE if e.code is None else int(e.code)
    except OSError as e:
        if e.filename is None or isinstance(e.filename, int):
            log.exception(FAULTY)
            return FAULT
        sys.stderr.write(f"{e.filename}: {e.strerror}; check the path and its rights\n")
        return MISTAKE
    except Exception:
        log.exception(FAULTY)
        return FAULT


def _command(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(
            HELP.format("\n".join(f"  {name:<14}{text}" for name, (_, text) in COMMANDS.items()))
        )
        return DONE
    if words[0] not in COMMANDS:
        near = nearest(words[0], COMMANDS)
        raise Mistake(f"{words[0]}: no such command{near}; lora-train --help lists what there is")
    try:
        return COMMANDS[words[0]][0](words[1:])
    except ModuleNotFoundError as e:
        if not e.name or e.name.partition(".")[0] == "lora_train":
            raise
        missing = f"this needs the package {e.name}"
        raise Mistake(f"{missing}; in lora-train's folder, pip install '.[standalone]' brings it") from e


# ── train ───────────────────────────────────────────────────────────────────────────────────────────────────


def train(words: list[str]) -> int:
    from lora_train.job import assemble, declared, written
    from lora_train.stopping import interruptible

    every = declared()
    file = to_write(words, every)
    values, notes = train_runs(words, every)
    runs = [assemble(value) for value in values]
    if file is not None:
        job, output, place = runs[0]
        from lora_train.run.store import whole

        with whole(file) as part:
            part.write_text(settings_file(written(job, output, place), every), encoding="utf-8")
        log.info("Wrote the settings to %s", file)
        return DONE

    for note in notes:
        log.info(note)
    with interruptible("Stopping after this step, with a saved state") as control:
        for number, (job, output, place) in enumerate(runs, 1):
            if len(runs) > 1:
                log.info("Stage %d of %d: %s", number, len(runs), output.output_name)
            if result := _run(job, output, place, control):
                if len(runs) > 1:
                    log.info("Give the --config_file again as well, so that the later stages follow.")
                return result
    return DONE


def _run(job: Job, output: Output, place: Place, control: Control) -> int:
    """One run; returns 0, or how it ended before its end."""
    from lora_train.hosts.standalone.host import StandaloneHost, fitted
    from lora_train.run.session import Ended, run
    from lora_train.run.watchers import Bar

    host = StandaloneHost()
    job, instead = fitted(job, place)
    for note in instead:
        log.info(note)
    try:
        ended = run(job, output, place, host, watchers=[Bar()], control=control)
    except Ended:
        log.info("Stopped before the first step; there is nothing to save.")
        return STOPPED
    if ended.progress.stopped:
        log.info(
            "Stopped after step %d. Go on with: lora-train train --resume %s",
            ended.progress.step,
            ended.state,
        )
        return STOPPED
    log.info("Saved %s", ended.file)
    if os.environ.get("RANK", "0") == "0":
        for note in host.announce(ended.file, job, output):
            log.info(note)
    return DONE


def find_lr(words: list[str]) -> int:
    """Sweep the rate of a short run. Takes what `train` takes, and three options of its own."""
    parser = Parser(
        "lora-train find-lr",
        "Raise the learning rate of a short run until its loss rises, and suggest one. Takes what\n"
        "train takes, and writes <output_name>-find-lr.json and .png into output_dir.")  # fmt: skip
    parser.add_argument("--from_rate", type=float, help="Rate to begin with. [1e-6]")
    parser.add_argument("--to_rate", type=float, help="Rate to end with. [0.1]")
    parser.add_argument("--find_steps", type=int, help="Steps in between. [200]")
    own, rest = parser.parse_known_args(words)

    from lora_train.job import assemble, declared
    from lora_train.run.finder import Sweep, find

    names = {"from_rate": "low", "to_rate": "high", "find_steps": "steps"}
    sweep = Sweep(**{names[name]: value for name, value in vars(own).items()})
    values, notes = train_values(rest, declared())
    job, output, place = assemble(values)

    from lora_train.hosts.standalone.host import StandaloneHost, fitted
    from lora_train.run.watchers import Bar

    job, instead = fitted(job, place)
    for note in (*notes, *instead):
        log.info(note)
    found, file = find(job, output, place, StandaloneHost(), sweep, watchers=[Bar()])
    rate = found.suggested()
    said = "No rate lowers the loss; try more steps" if rate is None else f"Suggested learning rate: {rate:g}"
    log.info("%s. The curve: %s", said, file.with_suffix(".png"))
    return DONE


def check(words: list[str]) -> int:
    from lora_train.checking import command

    return command(words)


# ── sample, plot ────────────────────────────────────────────────────────────────────────────────────────────


def _picture_parser(prog: str, text: str) -> Parser:
    """A model, where it draws, prompts."""
    from lora_train.job import declared

    parser = Parser(prog, text)
    group = parser.add_argument_group("model")
    for s in declared():
        if s.path.startswith("model.") or s.path in ("place.device", "training.mixed_precision"):
            add(group, s, [s.name, s.path], dest=s.path)
    group = parser.add_argument_group("prompts")
    group.add_argument("--prompt", nargs="+", metavar="TEXT", help="Prompts, with the flags of --from_file.")
    group.add_argument(
        "--from_file", metavar="FILE", help="Prompts, one a line: text --n negative --w 512 --h 512 --d seed "
        "--s steps --l cfg --ss sampler; or a .toml or .json of sd-scripts.")  # fmt: skip
    group.add_argument("--sampler", metavar="NAME", help="Sampler of prompts that name none. [ddim]")
    group.add_argument(
        "--lora_dir", metavar="FOLDER", help="Where LoRAs are that prompts name, as in <lora:name:0.8>. [the "
        "folders of --network_weights, else output]")  # fmt: skip
    return parser


def _prompts(given: Mapping[str, object]) -> list[Prompt]:
    lines = given.get("prompt", [])
    try:
        name = sampler(str(given.get("sampler", "ddim")))
        found = [parse_prompt(line, name) for line in ([lines] if isinstance(lines, str) else lines)]
    except ValueError as e:
        raise Mistake(str(e)) from e
    if "from_file" in given:
        found += read_prompts(pathlib.Path(str(given["from_file"])), name)
    if not found:
        raise Mistake("prompt: expected --prompt or --from_file")
    return found


def _wardrobes(given: Mapping[str, object]) -> list[pathlib.Path]:
    """Folders of what prompts name."""
    if "lora_dir" in given:
        return [pathlib.Path(str(given["lora_dir"]))]
    files = [pathlib.Path(file) for file in _several(given, "network_weights")]
    return list(dict.fromkeys(file.parent for file in files)) or [pathlib.Path("output")]


def _borrowed(given: Mapping[str, object]) -> contextlib.AbstractContextManager[Lent]:
    from lora_train.hosts.standalone.host import StandaloneHost
    from lora_train.job import assemble

    job, _, place = assemble({path: value for path, value in given.items() if "." in path})
    return StandaloneHost().borrow(job.model, device=place.device, precision=job.training.mixed_precision)


def sample(words: list[str]) -> int:
    parser = _picture_parser(
        "lora-train sample", "Draw pictures, with any number of LoRA files on the model."
    )
    parser.add_argument("--network_weights", nargs="*", metavar="FILE", help="LoRA files.")
    parser.add_argument("--network_mul", nargs="*", metavar="X", help="Their strengths. [1]")
    parser.add_argument("--outdir", metavar="FOLDER", help="Where pictures go. [output]")
    given = parse(parser, words)
    files = _several(given, "network_weights")
    given_strengths = _several(given, "network_mul") or ["1"] * len(files)
    strengths = numbers(",".join(given_strengths)) if given_strengths else []
    if len(strengths) != len(files):
        raise Mistake(f"network_mul: expected {len(files)} numbers, one for each of network_weights")
    prompts, folder = _prompts(given), pathlib.Path(str(given.get("outdir", "output")))

    from lora_train.run.draw import Wardrobe, Worn
    from lora_train.run.store import whole

    with _borrowed(given) as lent, Worn(lent, [pathlib.Path(file) for file in files]).at(strengths) as worn:
        wardrobe = Wardrobe(lent, _wardrobes(given))
        wardrobe.read(prompts, list(worn))
        for i, prompt in enumerate(prompts):
            seed = "" if prompt.seed is None else f"_{prompt.seed}"
            path = folder / f"{i:03d}{seed}.png"
            with whole(path) as part:
                wardrobe.sample(prompt, worn).save(part, "PNG")
            log.info("Saved %s", path)
    return DONE


def _several(given: Mapping[str, object], name: str) -> list[str]:
    value = given.get(name, [])
    return [] if value is True else [value] if isinstance(value, str) else list(value)


def plot(words: list[str]) -> int:
    from lora_train.plotting import command

    return command(words)


def insight(words: list[str]) -> int:
    from lora_train.telling import command

    return command(words)


def dataset(words: list[str]) -> int:
    from lora_train.preparing import command

    return command(words)


def ui(words: list[str]) -> int:
    from lora_train.app import command

    return command(words)


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────


def manual(words: list[str]) -> int:
    """Print docs/settings.md, or with --check FILE say whether FILE is it."""
    parser = Parser("lora-train settings", "All settings, as Markdown.")
    parser.add_argument("--check", metavar="FILE", help="Say whether FILE is up to date.")
    parser.add_argument(
        "--compat", action="store_true", help="In their place other programs' options that do nothing here."
    )
    given = parse(parser, words)

    from lora_train.job import declared
    from lora_train.manual import foreign, page

    if given.get("compat"):
        sys.stdout.write(foreign())
        return DONE
    text = page(declared())
    if "check" not in given:
        sys.stdout.write(text)
        return DONE
    path = pathlib.Path(str(given["check"]))
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        raise Mistake(f"{path}: out of date; make it anew with: lora-train settings > {path}")
    return DONE


COMMANDS = {
    "train": (train, "Train a LoRA."),
    "find-lr": (find_lr, "Find a learning rate with a short run."),
    "check": (check, "Look at pictures, captions and settings before training."),
    "sample": (sample, "Draw pictures, with LoRA files on the model."),
    "plot": (plot, "Draw a labelled sheet over any axis, and suggest a strength."),
    "insight": (insight, "Say what runs' own records tell of losses, pictures and blocks."),
    "dataset": (dataset, "Prepare a folder of pictures: look, tag, caption, crop, mask, rename."),
    "ui": (ui, "Open a window to train in."),
    "settings": (manual, "List all settings, as Markdown."),
    **{name: (tooling.command(name), about) for name, about in tooling.ABOUT.items()},
}
