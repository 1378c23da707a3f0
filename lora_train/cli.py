"""The command line: `lora-train train | sample | plot | settings`."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from lora_train import compat
from lora_train.errors import Mistake
from lora_train.knobs import Setting, settings

DONE, FAULT, MISTAKE, STOPPED = 0, 1, 2, 130

log = logging.getLogger("lora_train")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 a fault of ours, 2 a person's mistake, 130 stopped."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("lora_train").setLevel(logging.INFO)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _command(words)
    except Mistake as e:
        sys.stderr.write(f"{e}\n")
        return MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write("Stopped at once; what was saved before is whole.\n")
        return STOPPED
    except Exception:  # noqa: BLE001: the last one to hear of it
        log.exception("This is a fault of lora-train. Please report it, with the lines below.")
        return FAULT


class Parser(argparse.ArgumentParser):
    """Argparse, whose errors are Mistakes."""

    def error(self, message: str) -> None:
        raise Mistake(f"{message}; {self.prog} --help lists what there is")


def _command(words: list[str]) -> int:
    top = Parser(prog="lora-train", description="Train LoRAs for Stable Diffusion, and see what they do.")
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    if not words or words[0].startswith("-"):
        top.parse_args(words)
        top.print_help()
        return DONE
    if words[0] not in COMMANDS:
        raise Mistake(
            f"{words[0]}: no such command{compat.nearest(words[0], list(COMMANDS))}; known: {', '.join(COMMANDS)}"
        )
    return COMMANDS[words[0]][0](words[1:])


def _parse(parser: Parser, words: list[str], known: Sequence[str] = ()) -> dict[str, object]:
    """Options that were given, and nothing of those that were not."""
    given, lost = parser.parse_known_args(words)
    if lost:
        names = [word.lstrip("-").partition("=")[0] for word in lost if word.startswith("--")]
        options = [o.lstrip("-") for a in parser._actions for o in a.option_strings] + list(known)
        lines = [f"{name}: no such setting{compat.nearest(name, options)}" for name in names]
        raise Mistake("\n".join(lines or [f"{' '.join(lost)}: expected options, such as --output_name mine"]))
    return vars(given)


# ── train ────────────────────────────────────────────────────────────────────────────────────────────────────


def train(words: list[str]) -> int:
    from lora_train.job import assemble, declared

    every = declared()
    values, notes = _train_values(_parse(_train_parser(every), words, list(compat.FOREIGN)), every)
    for note in notes:
        log.info(note)
    job, output, place = assemble(values)

    from lora_train.hosts.standalone.host import StandaloneHost
    from lora_train.run.session import run
    from lora_train.run.watchers import Bar

    with _interruptible() as stop:
        ended = run(job, output, place, StandaloneHost(), watchers=[Bar()], stop=stop)
    if ended.progress.stopped:
        log.info(
            "Stopped after step %d. Go on with: lora-train train --resume %s",
            ended.progress.step,
            ended.state,
        )
        return STOPPED
    log.info("Saved %s", ended.file)
    return DONE


def _train_parser(every: Sequence[Setting]) -> Parser:
    parser = Parser(
        prog="lora-train train", argument_default=argparse.SUPPRESS, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a LoRA. Options are sd-scripts' where it has them; each also goes by its path, as in "
        "--network.dim.\nPrecedence: command line, --config_file, --resume, --from, default.")  # fmt: skip
    files = parser.add_argument_group("files of settings")
    files.add_argument("--config_file", metavar="TOML", help="Settings, by flat name or by path.")
    files.add_argument("--dataset_config", metavar="TOML", help="Datasets, as sd-scripts describes them.")
    files.add_argument("--from", metavar="FILE", help="Repeat the job inside a saved .safetensors.")
    groups: dict[str, object] = {}
    taken = {"config_file", "dataset_config", "from"}
    for s in (s for s in every if ".N." not in s.path):
        if s.group not in groups:
            groups[s.group] = parser.add_argument_group(s.group)
        names = [*s.aka, s.path]
        names = [name for name in dict.fromkeys(names) if name not in taken]
        taken.update(names)
        groups[s.group].add_argument(
            *[f"--{name}" for name in names], dest=s.path, nargs="*", metavar=_metavar(s), help=_help(s)
        )
    for name in compat.FOREIGN:
        if name not in taken:
            parser.add_argument(f"--{name}", nargs="*", help=argparse.SUPPRESS)
    return parser


def _metavar(s: Setting) -> str:
    return (
        s.expected.replace(", or nothing", "")
        .upper()
        .replace(" OR ", "|")
        .replace(", ", "|")
        .replace("%", "%%")
    )


def _help(s: Setting) -> str:
    kinds = f" Only for {', '.join(s.kinds)}." if s.kinds and s.name != "kind" and len(s.kinds) == 1 else ""
    default = "" if s.default is None else f" [{compat.shown(s.default)}]"
    return f"{s.help}{kinds}{default}".replace("%", "%%")


def _train_values(
    given: Mapping[str, object], every: Sequence[Setting]
) -> tuple[dict[str, object], list[str]]:
    """Flags over --config_file over --resume over --from -> {path: value}, and what has no effect."""
    words = {name: _word(value) for name, value in given.items()}
    values: dict[str, object] = {}
    if "from" in words:
        values.update(_job_inside(pathlib.Path(str(words.pop("from")))))
    config = {}
    if "config_file" in words:
        path = pathlib.Path(str(words.pop("config_file")))
        config = compat.read_config(path if path.suffix else path.with_suffix(".toml"), every)
    resume = words.get("place.resume", config.get("resume"))
    if resume is not None:
        from lora_train.run.store import State

        values.update(State.read(pathlib.Path(str(resume))).plain["values"])
    notes = []
    for source in (config, words):
        said = compat.translate(source, every)
        values.update(said.values)
        notes += said.notes
    return values, notes


def _word(value: object) -> object:
    """What argparse gathered: nothing after a flag is True, one word is itself."""
    if isinstance(value, list):
        return True if not value else value[0] if len(value) == 1 else value
    return value


def _job_inside(path: pathlib.Path) -> dict[str, object]:
    from lora_train.adapters.file import load

    _, texts = load(path)
    if "lora_train_job" not in texts:
        raise Mistake(f"from = {path}: expected a file that lora-train wrote; there is no job in this one")
    return json.loads(texts["lora_train_job"])


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks for a stop after the step that is under way, the second stops at once."""
    asked: list[bool] = []

    def ask(signum: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)
        sys.stderr.write("\nStopping after this step, with a saved state; press again to stop at once.\n")

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


# ── sample, plot ─────────────────────────────────────────────────────────────────────────────────────────────


def _picture_parser(prog: str, text: str) -> Parser:
    """What `sample` and `plot` share: a model, files on it, prompts."""
    parser = Parser(prog=prog, argument_default=argparse.SUPPRESS, allow_abbrev=False, description=text)
    from lora_train.host import Model

    model = parser.add_argument_group("model")
    for s in settings(Model):
        model.add_argument(f"--{s.path}", nargs="*", metavar=_metavar(s), help=_help(s))
    model.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="Where to draw. [auto]"
    )
    model.add_argument(
        "--precision", default="no", choices=("no", "bf16", "fp16"), help="What the model is in; no is float32. [no]"
    )  # fmt: skip
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--prompt", nargs="+", metavar="TEXT", help="One or more prompts, with the flags of --from_file."
    )
    prompts.add_argument("--from_file", metavar="FILE", help="Prompts, one a line: text --n negative --w 512 --h 512 --d seed "
                         "--s steps --l cfg --ss sampler")  # fmt: skip
    prompts.add_argument(
        "--sampler", default="ddim", metavar="NAME", help="Sampler of prompts that name none. [ddim]"
    )
    return parser


def _prompts(given: Mapping[str, object]) -> list:
    from lora_train.prompts import parse_prompt, read_prompts, sampler

    try:
        name = sampler(str(given["sampler"]))
        found = [parse_prompt(line, name) for line in given.get("prompt", ())]
    except ValueError as e:
        raise Mistake(str(e)) from e
    if "from_file" in given:
        found += read_prompts(pathlib.Path(str(given["from_file"])), name)
    if not found:
        raise Mistake("prompt: expected --prompt or --from_file")
    return found


def _borrowed(given: Mapping[str, object]) -> contextlib.AbstractContextManager:
    from lora_train.host import Model
    from lora_train.hosts.standalone.host import StandaloneHost
    from lora_train.knobs import build

    names = [s.path for s in settings(Model)]
    model = build(Model, {name: _word(given[name]) for name in names if name in given})
    if model.pretrained_model_name_or_path is None:
        raise Mistake("pretrained_model_name_or_path: expected a checkpoint to draw with")
    return StandaloneHost().borrow(model, device=given["device"], precision=given["precision"])


def sample(words: list[str]) -> int:
    parser = _picture_parser(
        "lora-train sample", "Draw pictures, with any number of LoRA files on the model."
    )
    parser.add_argument("--network_weights", nargs="*", default=[], metavar="FILE", help="LoRA files.")
    parser.add_argument("--network_mul", nargs="*", default=[], metavar="NUMBER", help="Their strengths. [1]")
    parser.add_argument("--outdir", default="output", metavar="FOLDER", help="Where pictures go. [output]")
    given = _parse(parser, words)
    files = [pathlib.Path(file) for file in given["network_weights"]]
    from lora_train.plots.axes import numbers

    strengths = numbers(",".join(given["network_mul"])) if given["network_mul"] else [1.0] * len(files)
    if len(strengths) != len(files):
        raise Mistake(
            f"network_mul: expected {len(files)} numbers, one for each of network_weights; got {len(strengths)}"
        )
    prompts, folder = _prompts(given), pathlib.Path(given["outdir"])
    with _borrowed(given) as lent:
        from lora_train.run.draw import Worn
        from lora_train.run.store import whole

        worn = Worn(lent, files)
        with worn.at(strengths):
            for i, prompt in enumerate(prompts):
                seed = "" if prompt.seed is None else f"_{prompt.seed}"
                with whole(folder / f"{i:03d}{seed}.png") as part:
                    lent.sample(prompt).save(part, "PNG")
                log.info("Saved %s", folder / f"{i:03d}{seed}.png")
    return DONE


def plot(words: list[str]) -> int:
    parser = _picture_parser("lora-train plot", "One sheet: prompts down the side, strengths along the top.")
    parser.add_argument("--network_weights", metavar="FILE", help="The LoRA file.")
    parser.add_argument(
        "--strengths", default="0, 0.5-1.0:0.25", metavar="NUMBERS", help="Such as 0, 0.5-1.0:0.25, the default."
    )  # fmt: skip
    parser.add_argument(
        "--output", default="plot.png", metavar="PNG", help="Where the sheet goes. [plot.png]"
    )
    given = _parse(parser, words)
    if "network_weights" not in given:
        raise Mistake("network_weights: expected a LoRA file to plot")
    from lora_train.plots.axes import numbers

    values, prompts, path = numbers(given["strengths"]), _prompts(given), pathlib.Path(given["output"])
    with _borrowed(given) as lent:
        from lora_train.run.draw import strengths
        from lora_train.run.store import whole

        page = strengths(lent, pathlib.Path(given["network_weights"]), values, prompts)
        with whole(path) as part:
            page.save(part, "PNG")
    log.info("Saved %s", path)
    return DONE


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────


def manual(words: list[str]) -> int:
    """Print docs/settings.md, or with --check FILE say whether FILE is it."""
    parser = Parser(
        prog="lora-train settings",
        argument_default=argparse.SUPPRESS,
        description="All settings, as Markdown.",
    )
    parser.add_argument("--check", metavar="FILE", help="Say whether FILE is up to date.")
    given = _parse(parser, words)
    from lora_train.job import declared

    text = page(declared())
    if "check" not in given:
        sys.stdout.write(text)
        return DONE
    path = pathlib.Path(str(given["check"]))
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        raise Mistake(f"{path}: out of date; make it anew with: lora-train settings > {path}")
    return DONE


def page(every: Sequence[Setting]) -> str:
    """docs/settings.md: a table for each group."""
    lines = ["# Settings", "", "Made by `lora-train settings`; every setting once, where it is declared.", ""]
    for group in dict.fromkeys(s.group for s in every):
        lines += [
            f"## {group}",
            "",
            "| path | flag | default | expected | what it does |",
            "|---|---|---|---|---|",
        ]
        for s in (s for s in every if s.group == group):
            flags = " ".join(f"`--{name}`" for name in s.aka) if ".N." not in s.path else ""
            default = "" if s.default is None else f"`{compat.shown(s.default)}`"
            only = f" Only for {', '.join(s.kinds)}." if len(s.kinds) == 1 and s.name != "kind" else ""
            lines.append(f"| `{s.path}` | {flags} | {default} | {s.expected} | {s.help}{only} |")
        lines.append("")
    return "\n".join(lines)


COMMANDS = {
    "train": (train, "Train a LoRA."),
    "sample": (sample, "Draw pictures, with LoRA files on the model."),
    "plot": (plot, "Draw a labelled sheet of strengths and prompts."),
    "settings": (manual, "List all settings, as Markdown."),
}
