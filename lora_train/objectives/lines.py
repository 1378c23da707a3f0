"""Files of prompts: sd-scripts' TOML, LECO's YAML, or a target on each line."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Iterator, Mapping

from lora_train.errors import Mistake
from lora_train.toml import read_toml
from lora_train.values import shown

Row = dict[str, object]

RENAMED = {"target_class": "target"}
SCALE = {"prompts": "guidance_scale", "targets": "guidance_strength"}
OWN = {"prompts": "erase", "targets": "slider"}  # kind of objective that has such rows
SEVERAL = {"neutrals": "neutral", "resolutions": "resolution"}  # each of them with each
BLANK = " "  # no words, where an empty setting means something else
FILES = ("neutral_prompt_file", "prompt_file")


def read_lines(path: pathlib.Path, form: str) -> tuple[list[Row], Row]:
    """The file's rows in our names, and what it says for all of them.

    Args:
        form: "prompts", where target and action are said, or "targets", with two ends.

    Raises:
        Mistake: it cannot be read, or has no such rows.
    """
    kind = path.suffix.lower()
    if kind == ".toml":
        found: object = read_toml(path)
    elif kind in (".yaml", ".yml"):
        found = _yaml(path)
    elif kind == ".txt":
        found = [{"target": line} for line in _listed(path)]
    else:
        raise Mistake(f"objective.prompts_file = {path}: expected a .toml, .yaml or .txt file")
    rows, around = _rows(found, path, form)
    made = [row for given in rows for row in _each({**around, **given}, path, form)]
    return made, {}


def _rows(found: object, path: pathlib.Path, form: str) -> tuple[list[Row], Row]:
    if isinstance(found, Mapping) and isinstance(found.get("slider"), Mapping):
        found = found["slider"]
    around: Row = {}
    if isinstance(found, Mapping):
        around = {name: value for name, value in found.items() if name not in OWN}
        there = [name for name in OWN if name in found]
        rows = found[there[0]] if there else [around]
        around = around if there else {}
    else:
        rows = found
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise Mistake(f"{path}: expected prompts, each with a target")
    mine = "targets" if any({"target_class", "negative"} & row.keys() for row in rows) else "prompts"
    if mine != form and path.suffix.lower() != ".txt":
        raise Mistake(f"{path}: has rows for a {OWN[mine]}; set objective.kind = {OWN[mine]}")
    return [dict(row) for row in rows], around


def _each(row: Row, path: pathlib.Path, form: str) -> Iterator[Row]:
    """A row as it stands, or for each of the neutrals and resolutions that it lists."""
    for name in FILES:
        if name in row:
            row["neutrals"] = [*row.get("neutrals", []), *_listed(path.parent / str(row.pop(name)))]
    lists = [[(SEVERAL[name], value) for value in row.pop(name)] for name in SEVERAL if row.get(name)]
    plain = {RENAMED.get(name, name): value for name, value in row.items() if value is not None}
    if "guidance_scale" in plain:
        plain[SCALE[form]] = plain.pop("guidance_scale")
    for chosen in itertools.product(*lists):
        made = {**plain, **dict(chosen)}
        if form == "targets" and made.get("neutral") == "":
            made["neutral"] = BLANK
        size = made.get("resolution")
        if isinstance(size, list) and len(size) == 2:  # height before width
            made["resolution"] = size[::-1]
        yield made


def _listed(path: pathlib.Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise Mistake(f"{path}: expected a text file in UTF-8 with a prompt on each line ({e})") from e
    return [line.strip() for line in lines if line.strip()]


def _yaml(path: pathlib.Path) -> object:
    try:
        import yaml
    except ImportError as e:
        raise Mistake(f"{path}: reading YAML needs the package PyYAML; pip install PyYAML") from e
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise Mistake(f"{path}: expected a YAML file of prompts ({shown(' '.join(str(e).split()))})") from e
