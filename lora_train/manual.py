"""docs/settings.md: every setting, from its declaration; and what docs/compatibility.md ends with."""

from __future__ import annotations

import pathlib
import typing
from collections.abc import Sequence

from lora_train.compat import FOREIGN, Ignored, Refused, network
from lora_train.knobs import Setting
from lora_train.options import few, usual
from lora_train.run import kohya
from lora_train.values import either, numeral, unwrapped

HEAD = ("path", "flag", "type", "default", "range", "what it does")
TYPES = {int: "whole number", float: "number", bool: "true or false", pathlib.Path: "path"}


def page(every: Sequence[Setting]) -> str:
    """A table for each group, in Markdown."""
    lines = [
        "# Settings", "",
        "Made by `lora-train settings`; every setting once, where it is declared. A setting goes by its path "
        "everywhere: as `--network.dim 8`, and in TOML as `dim = 8` under `[network]`; and by its flag, "
        "which is sd-scripts' where it has the option. Settings of `data.datasets.N` hold for the dataset of "
        "that number, counted from 0; what one leaves unset it takes from what is around it.",
    ]  # fmt: skip
    for group in dict.fromkeys(s.group for s in every):
        rows = [_cells(s, every) for s in every if s.group == group]
        lines += ["", f"## {group}", "", *map(_row, [HEAD, ["---"] * len(HEAD), *rows])]
    return "\n".join([*lines, ""])


def foreign() -> str:
    """For docs/compatibility.md, in Markdown: of other programs' options those that do nothing here, and
    those that cannot be."""
    arguments = {f"network_args {name}": reason for name, reason in network.WITHOUT.items()}
    idle = {name: rule.reason for name, rule in FOREIGN.items() if isinstance(rule, Ignored)}
    wrong = {name: rule.reason for name, rule in FOREIGN.items() if isinstance(rule, Refused)}
    wrong |= {f"network_args {name}": reason for name, reason in network.REFUSED.items()}
    boxes = dict.fromkeys((f"{name}_checkbox" for name in kohya.FAMILIES), kohya.OTHERS)
    form = dict.fromkeys(kohya.FORM, "of its form, and of how it starts sd-scripts")
    others = [*(f"{lead}…" for lead in kohya.OF_OTHERS), *kohya.ELSEWHERE]
    form |= dict.fromkeys(others, "of other models than these, whose box is not ticked; nothing is said")
    parts = (
        ("Options without effect", "One line says so where such an option is given.", idle | arguments),
        ("Options refused", "Where one is given as switched off, nothing is said.", wrong),
        ("Of kohya_ss' JSON, without effect", "Its other names are sd-scripts', or read as its form means "
         "them.", form),
        ("Of kohya_ss' JSON, refused", "Others are refused as sd-scripts' options of their names.", boxes),
    )  # fmt: skip
    lines = []
    for title, text, rows in parts:
        reasons: dict[str, list[str]] = {}
        for name, reason in rows.items():
            reasons.setdefault(reason, []).append(f"`{name}`")
        cells = [[" ".join(names), reason] for reason, names in reasons.items()]
        lines += [f"## {title}", text, "", *map(_row, [("option", "why"), ("---", "---"), *cells]), ""]
    return "\n".join(lines)


def _cells(s: Setting, every: Sequence[Setting]) -> list[str]:
    flags = " ".join(f"`--{name}`" for name in s.aka) if ".N." not in s.path else ""
    default = f"`{usual(s)}`" if usual(s) else ""
    return [f"`{s.path}`", flags, _type(s), default, _range(s), f"{s.help}{few(s, every)}"]


def _type(s: Setting) -> str:
    inner, optional = unwrapped(s.type)
    if typing.get_origin(inner) is tuple:
        text = f"list of {TYPES.get(typing.get_args(inner)[0], 'text')}s"
    else:
        text = TYPES.get(inner, "text")
    return f"{text}, or empty" if optional else text


def _range(s: Setting) -> str:
    if s.choices:
        return either(f"`{choice}`" for choice in s.choices)
    if s.low is None:
        return ""
    unit = f" {s.unit}" if s.unit else ""
    return (
        f"{numeral(s.low)} or more" if s.high is None else f"{numeral(s.low)} to {numeral(s.high)}"
    ) + unit


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
