"""Foreign options: what sd-scripts' flags mean here. One table, so that none is silently lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from lora_train.compat.loss import LOSS
from lora_train.compat.network import NETWORK, finished
from lora_train.compat.pictures import OF_DATASETS, PICTURES
from lora_train.compat.rates import RATES
from lora_train.compat.rules import (
    BLANK,
    LATER,
    Ignored,
    Refused,
    Rule,
    Rules,
    Translated,
    Values,
    off,
)
from lora_train.compat.running import HUGGING_FACE, RUNNING
from lora_train.errors import Mistake
from lora_train.knobs import Setting, general, nearest
from lora_train.values import shown

__all__ = [
    "FOREIGN", "LATER", "OF_DATASETS", "SEVERAL", "Heard", "Ignored", "Refused", "Rule", "Said", "Translated",
    "Values", "known_names", "off", "translate",
]  # fmt: skip

FOREIGN: Rules = {**NETWORK, **RATES, **LOSS, **PICTURES, **RUNNING, **HUGGING_FACE}

SEVERAL = ("text_encoder_lr", "optimizer_args")  # of one value here, of which sd-scripts takes more than one


@dataclasses.dataclass(frozen=True)
class Said:
    """What words came to."""

    values: Values  # path -> value
    notes: tuple[str, ...]  # options without effect


@dataclasses.dataclass
class Heard:
    """What another program's file says, in names that `translate` takes."""

    words: Values = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)  # without effect
    refused: list[str] = dataclasses.field(default_factory=list)  # what would train something else

    def follow(self, found: Mapping[str, object], rules: Mapping[str, Rule]) -> None:
        """Take settings by a table of that program's names; of those it has not, one says so."""
        for name, value in found.items():
            rule = rules.get(name, Refused("no such setting here"))
            try:
                if isinstance(rule, str):
                    self.words.update({} if value in BLANK else {rule: value})
                elif isinstance(rule, Translated):
                    self.words.update(rule.into(value))
                elif not off(value, rule):
                    kept = self.notes if isinstance(rule, Ignored) else self.refused
                    kept += [f"{name} = {shown(value)}: {rule.reason}"] if rule.reason else []
            except Mistake as e:
                self.refused += str(e).splitlines()


def translate(words: Mapping[str, object], declared: Sequence[Setting]) -> Said:
    """Flat names, ours or sd-scripts', and paths -> {path: value}.

    Raises:
        Mistake: unknown or refused options; all of them.
    """
    paths = {s.path for s in declared}
    flat = {name: s.path for s in declared if ".N." not in s.path for name in s.aka}
    values: Values = {}
    notes, complaints = [], []
    # the module says what its arguments then may say otherwise
    for name, value in sorted(words.items(), key=lambda word: word[0] != "network_module"):
        rule = FOREIGN.get(name)
        if general(name) in paths:
            values[name] = value
        elif isinstance(rule, Translated):
            try:
                values.update(rule.into(value))
                notes += rule.notes(value)
            except Mistake as e:
                complaints.append(str(e))
        elif name in flat:
            values[flat[name]] = value
        elif isinstance(rule, Ignored):
            notes += [] if off(value, rule) else [f"{name} has no effect here: {rule.reason}"]
        elif isinstance(rule, Refused):
            complaints += [] if off(value, rule) else [f"{name} = {shown(value)}: {rule.reason}"]
        else:
            complaints.append(f"{name}: no such setting{nearest(name, known_names(declared))}")
    if complaints:
        raise Mistake("\n".join(complaints))
    notes += finished(words, values) if "network_module" in words else []
    return Said(values, tuple(notes))


def known_names(declared: Sequence[Setting]) -> list[str]:
    """What a name that is not known may have been meant to be: all but what would be refused."""
    flat = [name for s in declared if ".N." not in s.path for name in s.aka]
    useful = [name for name, rule in FOREIGN.items() if not isinstance(rule, Refused)]
    return [*flat, *useful, *(s.path for s in declared)]
