"""Every setting as a form needs it; so a form has the settings that there are, and no list of its own."""

from __future__ import annotations

import pathlib
import typing

from lora_train.job import declared
from lora_train.knobs import Setting
from lora_train.values import plain, unwrapped

TITLES = {  # in the order in which a form shows them
    "model": "Model", "data": "Data", "captions": "Captions", "buckets": "Sizes and buckets",
    "augmentation": "Augmentation", "masks": "Masks", "regularisation": "Regularisation",
    "words": "Prompts to learn from", "pairs": "Pairs of pictures",
    "network": "Network",
    "blocks": "Network by block", "loss": "Noise and loss", "time": "Length", "rates": "Learning rates",
    "validation": "Validation",
    "optimizer": "Optimizer", "memory": "Memory and speed", "samples": "Samples", "output": "Output",
    "card": "Card of the file", "log": "Log", "hub": "Hugging Face",
    "relora": "Relora", "dreambooth": "Dreambooth", "embedding": "Embedding",
}  # fmt: skip
TYPES = {bool: "bool", int: "int", float: "float", pathlib.Path: "path"}


def schema() -> dict[str, list[dict[str, object]]]:
    """{"groups": …, "settings": …}; settings of single datasets are left out."""
    every = [s for s in declared() if ".N." not in s.path]
    kinds = {s.path: s.choices for s in every if s.name == "kind"}
    groups = dict.fromkeys([*TITLES, *(s.group for s in every)])
    titles = [{"name": g, "title": TITLES.get(g, g.capitalize())} for g in groups]
    return {"groups": titles, "settings": [row(s, kinds) for s in every]}


def row(s: Setting, kinds: dict[str, tuple]) -> dict[str, object]:
    """kinds: path of each choice of a component -> what there is to choose from."""
    inner, optional = unwrapped(s.type)
    listed = typing.get_origin(inner) is tuple
    chosen = f"{s.path.rpartition('.')[0]}.kind"
    partly = s.name != "kind" and chosen in kinds and len(s.kinds) < len(kinds[chosen])
    return {
        "path": s.path, "name": s.name, "group": s.group,
        "type": "list" if listed else "choice" if s.choices else TYPES.get(inner, "text"),
        "choices": None if s.choices is None else plain(tuple(s.choices)), "low": s.low, "high": s.high,
        "unit": s.unit, "default": plain(s.default), "optional": optional, "help": s.help, "basic": s.basic,
        "kinds": {"of": chosen, "are": list(s.kinds)} if partly else None,
        "source": f"sd-scripts: --{s.aka[0]}" if s.aka else None,
    }  # fmt: skip
