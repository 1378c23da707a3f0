"""Axes of ours in the WebUI's own script X/Y/Z plot. They edit the prompt, so each picture's infotext says
what was drawn, and draws it again.

What varies is the first LoRA that the prompt names, or those with lbw=XYZ where it has such.
"""

from __future__ import annotations

import csv
import io
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lora_train.blocks import BLOCKS
from lora_train.emphasis import KINDS, TAG, placed, words_of
from lora_train.errors import Mistake
from lora_train.hosts.webui.blockwise import book
from lora_train.hosts.webui.folders import folders
from lora_train.plots.axes import AXES, SPAN, blocks_of, numbers
from lora_train.values import numeral

LEAD = "[LoRA] "
FILE, CHECKPOINT = f"{LEAD}File", f"{LEAD}Checkpoint of a run"
SCRIPT = "xyz_grid.py"
ASKED, OTHER_WAY = "XYZ", "ZYX"  # presets whose place a value takes; the second is 1 less it


def ready() -> None:
    """For `on_before_ui`: once for each time that the script is loaded."""
    from modules import scripts

    for found in scripts.scripts_data:
        if pathlib.Path(found.path).name == SCRIPT and hasattr(found.module, "axis_options"):
            there = {option.label for option in found.module.axis_options}
            options = [option for option in _options(found.module) if option.label not in there]
            found.module.axis_options.extend(options)


def _options(script: Any) -> list[Any]:
    rows = [  # label, type, what a value does to a tag, values of a text, choices
        (FILE, str, _file, None, _files),
        (CHECKPOINT, str, _file, _checkpoints, _saved),
        (f"{LEAD}Strength", float, _strengths("te", "unet"), _spans, None),
        (f"{LEAD}TE strength", float, _strengths("te"), _spans, None),
        (f"{LEAD}UNet strength", float, _strengths("unet"), _spans, None),
        (f"{LEAD}Block weights", str, _weights, _lists, None),
        (f"{LEAD}Block ID", str, _block, _blocks, None),
    ]
    made = []
    for label, kind, act, read, choices in rows:
        option = script.AxisOption(label, kind, _applied(label, act), choices=choices)
        option.prepare, option.confirm = read, _confirmed(label, act)
        made.append(option)
    return made


Act = Callable[[dict[str, str], Any], None]


def _applied(label: str, act: Act) -> Callable[[Any, Any, Sequence[Any]], None]:
    def apply(p: Any, value: Any, values: Sequence[Any]) -> None:
        p.prompt = changed(p.prompt, act, value, added=label in (FILE, CHECKPOINT))
        if getattr(p, "hr_prompt", ""):
            p.hr_prompt = changed(p.hr_prompt, act, value, added=False)

    return apply


def _confirmed(label: str, act: Act) -> Callable[[Any, Sequence[Any]], None]:
    """Values are looked at before the first picture, and tried."""

    def confirm(p: Any, values: Sequence[Any]) -> None:
        if label in (FILE, CHECKPOINT):
            known = [*_files()]
            if lost := [value for value in values if value not in known]:
                raise Mistake(f"{label} = {lost[0]}: no LoRA of this name; Refresh the Lora tab if it is new")
        elif not any(tag[1] in KINDS for tag in TAG.finditer(p.prompt)):
            raise Mistake(f"{label}: expected a LoRA in the prompt, such as <lora:name:1>")
        for prompt in (p.prompt, getattr(p, "hr_prompt", "")):
            for value in values:
                changed(prompt, act, value, added=False)

    return confirm


def changed(prompt: str, act: Act, value: Any, *, added: bool) -> str:
    """A prompt with the LoRA that varies changed.

    Args:
        added: whether one is added where there is none.
    """
    tags = [tag for tag in TAG.finditer(prompt) if tag[1] in KINDS]
    asked = (
        [tag for tag in tags if _preset(tag) in (ASKED, OTHER_WAY)]
        if act is _weights or act is _block
        else []
    )
    for tag in reversed(asked or tags[:1]):
        values = placed(tag[2].split(":"))
        act(values, value)
        prompt = f"{prompt[: tag.start()]}<{tag[1]}:{':'.join(words_of(values))}>{prompt[tag.end() :]}"
    if tags or not added:
        return prompt
    return f"{prompt}<lora:{value}:1>"


def _preset(tag: re.Match[str]) -> str:
    return placed(tag[2].split(":")).get("lbw", "").upper()


# ── what a value does to a tag ──────────────────────────────────────────────────────────────────────────────


def _file(values: dict[str, str], value: str) -> None:
    values["name"] = value


def _strengths(*parts: str) -> Act:
    def act(values: dict[str, str], value: float) -> None:
        te = values.get("te", "1")
        values.setdefault("te", te)
        values.setdefault("unet", te)  # or it would follow the text encoder's
        values.update(dict.fromkeys(parts, numeral(round(value, 8))))

    return act


def _weights(values: dict[str, str], value: str) -> None:
    if values.get("lbw", "").upper() == OTHER_WAY:
        value = _rest(value)
    values["lbw"] = value


def _rest(value: str) -> str:
    """1 less each weight."""
    there = book().presets.get(value.upper(), value)
    try:
        return ",".join(numeral(round(1 - float(one), 6)) for one in there.split(","))
    except ValueError:
        raise Mistake(
            f"{LEAD}Block weights = {value}: expected plain numbers, for lbw={OTHER_WAY} in the prompt takes "
            f"1 less each of them, and {there} has others"
        ) from None


def _block(values: dict[str, str], value: str) -> None:
    """All others off."""
    chosen = blocks_of(value)
    _weights(values, ",".join(str(int(block in chosen)) for block in BLOCKS))


# ── values of a text ────────────────────────────────────────────────────────────────────────────────────────


def _row(text: str) -> list[str]:
    cells = (cell.strip() for row in csv.reader(io.StringIO(text), skipinitialspace=True) for cell in row)
    return [cell for cell in cells if cell]


def _spans(text: str) -> list[str]:
    """As in our sheets, 0.5-1.0:0.25; the WebUI's own ways are read by its script."""
    return [
        one for word in _row(text) for one in (map(numeral, numbers(word)) if SPAN.match(word) else [word])
    ]


def _lists(text: str) -> list[str]:
    """Presets' names with commas, or lists with ; or line ends between, or "1,0,…" in quotes each."""
    known, cells = book(), _row(text)
    whole = [word.strip().strip('"') for word in re.split(r"[;\n]", text) if word.strip()]
    for found in (cells, whole):
        try:
            for word in found:
                known.weights(word)
        except ValueError as e:
            said = e
        else:
            return found
    raise Mistake(f"{LEAD}Block weights: {said}")


def _blocks(text: str) -> list[str]:
    return [*AXES["block_id"].read(text)]


def _files() -> list[str]:
    """The names of all LoRAs that prompts can name."""
    networks = sys.modules.get("networks")
    return sorted(networks.available_networks, key=str.casefold) if networks is not None else []


def _runs() -> dict[str, list[str]]:
    """What runs saved that prompts can name: {run: names, the newest last}; the newest run first."""
    from lora_train.run.runs import Runs

    known = {*_files()}
    found = {
        run.store.name: [f.stem for f in run.files() if f.stem in known]
        for run in Runs(folders().desk / "runs").all()
    }
    return {name: files for name, files in found.items() if files}


def _saved() -> list[str]:
    return [file for files in _runs().values() for file in files]


def _checkpoints(text: str) -> list[str]:
    """A run's name means all that it saved."""
    runs = _runs()
    return [file for word in _row(text) for file in runs.get(word, [word])]
