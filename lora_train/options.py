"""Words on the command line: the parsers with their help, and what the words of `train` come to."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import typing
from collections.abc import Iterable, Mapping, Sequence

from lora_train.errors import Mistake
from lora_train.knobs import Setting, general, nearest
from lora_train.records import inside
from lora_train.toml import read_toml
from lora_train.values import either, numeral, shown, unwrapped

FILES = ("config_file", "dataset_config", "from")
KEYS = {  # where who asks for it looks for it; it goes no other way -> where it is shown, and whose it is
    "wandb_api_key": ("WANDB_API_KEY", "log", "wandb's"),
    "huggingface_token": ("HF_TOKEN", "hub", "Hugging Face's"),
}
FETCH, WRITE = "resume_from_huggingface", "output_config"
INSTEAD = {"data.train_data_dir": "data.datasets.", "training.max_train_steps": "training.max_train_epochs"}
FAR = 1e6  # a bound above it is there against slips, and not worth a word
NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)  # argparse's knows no exponent
LONG = 50  # characters; more choices than that stand in the text
METAVARS = {int: "N", float: "X", bool: "true|false", pathlib.Path: "PATH"}


class Parser(argparse.ArgumentParser):
    """Argparse, whose errors are Mistakes and whose usage is one line."""

    def __init__(self, prog: str, description: str):
        super().__init__(
            prog=prog, usage=f"{prog} [options]", description=description, allow_abbrev=False,
            argument_default=argparse.SUPPRESS, formatter_class=Formatter)  # fmt: skip
        self._negative_number_matcher = NEGATIVE

    def error(self, message: str) -> None:
        alone = re.fullmatch(r"argument --([^/:]+).*: expected (?:one|at least one) argument", message)
        text = f"{alone[1]}: expected a value after it" if alone else message
        raise Mistake(f"{text}; {self.prog} --help lists what there is")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Says what comes after an option once, and not after each of its names."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        default = self._get_default_metavar_for_optional(action)
        return f"{', '.join(action.option_strings)} {self._format_args(action, default)}".strip()


def parse(parser: Parser, words: Sequence[str], known: Iterable[str] = ()) -> dict[str, object]:
    """Options that were given, and nothing of those that were not.

    Args:
        known: names that a wrong one may have been meant to be; those of the parser where empty.

    Raises:
        Mistake: names that there are not, or a value that stands alone.
    """
    given, lost = parser.parse_known_args(words)
    if lost:
        options = [*known] or [o.lstrip("-") for action in parser._actions for o in action.option_strings]
        names = [word.lstrip("-").partition("=")[0] for word in lost if word.startswith("--")]
        lines = [f"{shown(name)}: no such setting{nearest(name, options)}" for name in names if name]
        raise Mistake("\n".join(lines or [f"{shown(lost)}: expected options, such as --output_name mine"]))
    return {name: _word(value) for name, value in vars(given).items()}


def train_parser(every: Sequence[Setting], words: Sequence[str] = ()) -> Parser:
    """All settings in their groups, each under sd-scripts' name and under its path; and, unseen, sd-scripts'
    other options, and of the items that `words` speak of theirs."""
    from lora_train import compat  # not before: adapters stand behind it, and torch

    parser = Parser(
        "lora-train train",
        "Train a LoRA. Options are sd-scripts' where it has them; each also goes by its path.\n"
        "Precedence: --dataset_config over the command line, over --config_file, over --resume,\n"
        "over --from, over the default, which stands in [].")  # fmt: skip
    files = parser.add_argument_group("files of settings")
    files.add_argument(
        "--config_file",
        metavar="TOML",
        help="Settings, by flat name or by path; or a job.json, a preset, or the JSON of kohya_ss, "
        "TrainTrain, OneTrainer or the Dreambooth extension.",
    )
    files.add_argument("--dataset_config", metavar="TOML", help="Datasets, as sd-scripts describes them.")
    files.add_argument("--from", metavar="FILE", help="Repeat the job inside a saved .safetensors.")
    groups: dict[str, argparse._ArgumentGroup] = {}
    files.add_argument(
        f"--{WRITE}", nargs="?", const=True, metavar="true|false",
        help="Write the settings to --config_file, which is not there yet, and end.")  # fmt: skip
    taken = {*FILES, *KEYS, FETCH, WRITE}
    for s in (s for s in every if ".N." not in s.path):
        if s.group not in groups:
            groups[s.group] = parser.add_argument_group(s.group)
        option = add(groups[s.group], s, [*s.aka, s.path], dest=s.path, kinds=few(s, every))
        for name in s.aka:
            if name in compat.FOREIGN:  # it is translated, under that name
                option.dest, option.nargs = name, "+" if name in compat.SEVERAL else option.nargs
        taken.update(s.aka)
    for name, (_, group, whose) in KEYS.items():
        groups.get(group, files).add_argument(
            f"--{name}", metavar="TEXT", help=f"{whose} key; written nowhere."
        )
    groups.get("time", files).add_argument(
        f"--{FETCH}", nargs="?", const=True, metavar="true|false",
        help="Fetch the state to go on from: --resume is then user/name/folder on Hugging Face.")  # fmt: skip
    for name in compat.FOREIGN:
        if name not in taken:
            parser.add_argument(f"--{name}", nargs="*", help=argparse.SUPPRESS)
    items = {s.path: s for s in every if ".N." in s.path}
    for name in dict.fromkeys(word[2:].partition("=")[0] for word in words if word.startswith("--data")):
        if general(name) in items:
            add(parser, items[general(name)], [name], dest=name).help = argparse.SUPPRESS
    return parser


def train_values(words: Sequence[str], every: Sequence[Setting]) -> tuple[dict[str, object], list[str]]:
    """The words of `train` -> {path: value}, and what of them has no effect; of a job with stages the first.

    Raises:
        Mistake: unknown or refused options, or a file of settings that cannot be read.
    """
    runs, notes = train_runs(words, every)
    return runs[0], notes


def train_runs(words: Sequence[str], every: Sequence[Setting]) -> tuple[list[dict[str, object]], list[str]]:
    """As `train_values`, of each run of a job with stages."""
    from lora_train import compat, configs, stages  # not before: adapters stand behind it, and torch

    given = parse(train_parser(every, words), words, [*FILES, *compat.known_names(every)])
    config, file, parts = {}, "", []
    for name, (variable, *_) in KEYS.items():
        if key := given.pop(name, None):
            os.environ[variable] = str(key)
    if "config_file" in given and not compat.off(given.get(WRITE)):
        given = {name: value for name, value in given.items() if name not in ("config_file", WRITE)}
    if "config_file" in given:
        path = pathlib.Path(str(given.pop("config_file")))
        path = path if path.suffix else path.with_suffix(".toml")
        config, file = configs.read_config(path, every), f"{path}: "
        parts = config.pop("stages", [])
    resume = given.get("place.resume", config.get("resume", config.get("place.resume")))
    datasets = given.pop("dataset_config", config.pop("dataset_config", None))
    if resume and not compat.off(given.get(FETCH, config.get(FETCH))):
        from lora_train.run.hub import fetched

        resume = given["place.resume"] = fetched(str(resume))
        given[FETCH] = config[FETCH] = False

    before: dict[str, object] = {}
    if "from" in given:
        before.update(_job_inside(pathlib.Path(str(given.pop("from")))))
    if resume and not parts:  # else the file says all, and the state's are those of one stage
        before.update(_of_state(pathlib.Path(str(resume))))
    values, notes = _translated(((config, file), (given, "")), every)
    if datasets:
        values.update(configs.read_dataset_config(pathlib.Path(str(datasets))))
    values = {**_kept(before, values, datasets=bool(datasets)), **values}
    if not parts:
        return [values], notes
    said = [_translated(((part, f"{file}stages.{i}: "),), every) for i, part in enumerate(parts)]
    runs = stages.staged(values, [own for own, _ in said])
    return stages.left(runs, _of_state), [*notes, *(note for _, own in said for note in own)]


def _of_state(folder: pathlib.Path) -> dict[str, object]:
    from lora_train.run.store import State

    return State.read(folder).plain["values"]


def to_write(words: Sequence[str], every: Sequence[Setting]) -> pathlib.Path | None:
    """Where --output_config has the settings written to; None: it is not asked for.

    Raises:
        Mistake: there is such a file.
    """
    from lora_train import compat  # not before: adapters stand behind it, and torch

    given = parse(train_parser(every, words), words, [*FILES, *compat.known_names(every)])
    if compat.off(given.get(WRITE)) or "config_file" not in given:
        return None
    path = pathlib.Path(str(given["config_file"]))
    path = path if path.suffix else path.with_suffix(".toml")
    if path.exists():
        raise Mistake(f"config_file = {path}: is there already, and is not overwritten; give another name")
    return path


def settings_file(values: Mapping[str, object], every: Sequence[Setting]) -> str:
    """Values by path, as a --config_file that says the same. TOML has no empty value: a text without
    characters is one, and stands where the default is another."""
    usual = {s.path: s.default for s in every}
    said = {path: "" if v is None else v for path, v in values.items() if v is not None or usual.get(path)}
    return "".join(f"{json.dumps(path)} = {_toml(value)}\n" for path, value in said.items())


def _toml(value: object) -> str:
    """A plain value. JSON's texts are TOML's, but for one character that it leaves as it is."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _translated(
    sources: Iterable[tuple[Mapping[str, object], str]], every: Sequence[Setting]
) -> tuple[dict[str, object], list[str]]:
    """Sources of words, each with what complaints about it begin with; the later hold over the earlier."""
    from lora_train import compat  # not before: adapters stand behind it, and torch

    values: dict[str, object] = {}
    notes: list[str] = []
    complaints: list[str] = []
    for source, lead in sources:
        try:
            said = compat.translate(source, every)
        except Mistake as e:
            complaints += [lead + line for line in str(e).splitlines()]
        else:
            values.update(_opened(said.values))
            notes += said.notes
    if complaints:
        raise Mistake("\n".join(complaints))
    return values, notes


def _opened(values: Mapping[str, object]) -> dict[str, object]:
    """With what stands in a preset file of LyCORIS in place of its path: the job holds it, and no page of
    ours reads a file for it."""
    text = str(values.get("network.layer_map") or "")
    if not text.lower().endswith(".toml"):
        return dict(values)
    return {**values, "network.layer_map": json.dumps(read_toml(pathlib.Path(text)))}


def _kept(before: Mapping[str, object], values: Mapping[str, object], *, datasets: bool) -> dict[str, object]:
    """What of an earlier job stands beside the values now given: not what they stand in place of.

    Args:
        datasets: all of them are given anew.
    """
    gone = [other for now, other in INSTEAD.items() if now in values]
    gone += ["data.datasets.", "data.train_data_dir"] if datasets else []
    return {path: value for path, value in before.items() if not path.startswith(tuple(gone))}


def _job_inside(path: pathlib.Path) -> dict[str, object]:
    from lora_train.adapters.file import load

    return inside(load(path)[1], path)


def add(
    group: argparse._ActionsContainer, s: Setting, names: Sequence[str], *, dest: str, kinds: str = ""
) -> argparse.Action:
    """One setting as an option. A switch is on where nothing comes after it; lists take one word or more.

    Args:
        dest: what it is called among what was given.
        kinds: see `few`.
    """
    inner, _ = unwrapped(s.type)
    nargs = {bool: "?", tuple: "+"}.get(typing.get_origin(inner) or inner)
    flags = [f"--{name}" for name in dict.fromkeys(names)]
    action = group.add_argument(*flags, dest=dest, metavar=_metavar(s), nargs=nargs, help=_help(s, kinds))
    if inner is bool:
        action.const = True
    return action


def _word(value: object) -> object:
    """What argparse gathered: nothing after a foreign flag is True, one word is itself."""
    if isinstance(value, list):
        return True if not value else value[0] if len(value) == 1 else value
    return value


def _metavar(s: Setting) -> str:
    inner, _ = unwrapped(s.type)
    if s.choices:
        word = f"{{{','.join(map(str, s.choices))}}}"
        return word if len(word) <= LONG else "NAME"
    return METAVARS.get((*typing.get_args(inner), inner)[0], "TEXT")


def _help(s: Setting, kinds: str) -> str:
    """What it does, its bounds, the kinds it belongs to where not all have it, its default."""
    bounds = f" {either(s.choices)}." if _metavar(s) == "NAME" else ""
    if s.low is not None:
        far = s.high is None or s.high >= FAR
        bounds = f" {numeral(s.low)} {'or more' if far else f'to {numeral(s.high)}'}."
    default = f" [{usual(s)}]" if usual(s) else ""
    return f"{s.help}{bounds}{kinds}{default}".replace("%", "%%")


def usual(s: Setting) -> str:
    """The default, in words; "" where it is nothing."""
    if s.default is None:
        return ""
    each = s.default if isinstance(s.default, tuple) else (s.default,)
    return ", ".join(shown(value).removesuffix(".0") for value in each)


def few(s: Setting, every: Iterable[Setting]) -> str:
    """The words "Only for …" where some kinds of a component have a setting and others have not."""
    room = s.path.rpartition(".")[0]
    kinds = next((len(other.choices) for other in every if other.path == f"{room}.kind"), 0)
    return f" Only for {either(s.kinds)}." if s.name != "kind" and 0 < len(s.kinds) < kinds else ""
