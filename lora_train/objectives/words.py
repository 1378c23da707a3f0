"""Words: prompts that an adapter learns from without pictures, and how they are declared and read."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from lora_train.data.buckets import GRAIN, Resolution, Size
from lora_train.data.spoken import Spoken, spoken
from lora_train.errors import Mistake
from lora_train.knobs import build, flat, knob
from lora_train.objectives.lines import read_lines
from lora_train.objectives.worded import Asked, Line, Worded

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.folder import Data, Planned
    from lora_train.data.memory import Memory
    from lora_train.data.scan import Finding
    from lora_train.host import Lent

STEP = 64  # between sides that dynamic_resolution draws


@dataclasses.dataclass(frozen=True)
class Wording:
    """What may be said for one prompt, or for all of them."""

    target: str = knob(
        "", "Prompt whose pictures the adapter changes.", group="words", basic=True)  # fmt: skip
    positive: str | None = knob(
        None, "Prompt that has what it is about. Empty: the target; with replace: no words.", group="words",
        basic=True)  # fmt: skip
    neutral: str | None = knob(
        None, "Prompt from which the change is counted. Empty: unconditional; of a slider the target, and a "
        "blank is no words.",
        group="words")  # fmt: skip
    weight: float = knob(1.0, "Weight of the prompt in the loss.", group="words", low=0, high=100)
    multiplier: float = knob(
        1.0, "Strength of the adapter at which the prompt is learned.", group="words", low=-10, high=10
    )
    dynamic_resolution: bool = knob(
        False, "Learn at sizes of many shapes, whose sides are at least half the resolution's.", group="words"
    )
    dynamic_crops: bool = knob(
        False, "Tell SDXL each time of another size and crop of the picture.", group="words"
    )


@dataclasses.dataclass(frozen=True)
class Sized:
    """What of one prompt `data` says otherwise."""

    resolution: Resolution | None = knob(
        None, "Size of its pictures. Empty: data.resolution.", group="words", unit="pixels"
    )
    batch_size: int | None = knob(
        None, "Its samples in a batch. Empty: data.batch_size.", group="words", low=1, high=4096
    )


@dataclasses.dataclass(frozen=True)
class Prompted(Asked):
    """Learn from what the model itself makes of prompts."""

    form: ClassVar[str] = ""  # which of the files' two kinds of rows it reads; see `read_lines`

    prompts_file: pathlib.Path | None = knob(
        None, "File of several prompts, each with its own settings: TOML as sd-scripts has it, YAML as LECO "
        "has it, or a text file with a target on each line.", group="words", place=True)  # fmt: skip

    def rows(self) -> Sequence[Wording]:
        """Its prompts; where none are given one by one, itself."""
        return vars(self).get("prompts") or [self]

    def lines(self) -> list[Line]:
        """What is learned of each prompt.

        Raises:
            Mistake: of a prompt nothing is said.
        """
        raise NotImplementedError

    def settled(self) -> Prompted:
        if self.prompts_file is None:
            return self
        own = {path: value for path, value in flat(self).items() if value is not None}
        own = {path: value for path, value in own.items() if not path.startswith("prompts")}
        rows, around = read_lines(self.prompts_file, self.form)
        if vars(self)["prompts"]:
            raise Mistake(f"objective.prompts_file = {self.prompts_file}: expected none beside prompts")
        given = {f"prompts.{i}.{name}": value for i, row in enumerate(rows) for name, value in row.items()}
        try:
            return build(type(self), {**own, **around, **given})
        except Mistake as e:
            told = "\n".join(f"{self.prompts_file}: {line}" for line in str(e).splitlines())
            raise Mistake(told) from e

    def files(self) -> list[pathlib.Path]:
        return [self.prompts_file] if self.prompts_file else []

    def survey(
        self, data: Data, *, decode: bool = False, memory: Memory | None = None
    ) -> tuple[Planned, list[Finding]]:
        settled = self.settled()
        lines, sizes = settled.lines(), []
        for line in lines:
            size = line.resolution or data.resolution
            sizes.append(shapes(size) if line.dynamic_resolution else (_size(size),))
        return spoken(
            [
                Spoken(line.name, line.target, size, line.batch_size or data.batch_size)
                for line, size in zip(lines, sizes, strict=True)
            ]
        ), []

    def record(self) -> dict[str, object]:
        return {**super().record(), "ss_leco_prompt_count": len(self.rows())}

    def begin(self, lent: Lent, network: Network) -> Worded:
        """Raises Mistake: undefined for what the model predicts."""
        schedule = lent.schedule
        if said := self.refusals(schedule.prediction, schedule.last_is_noise):
            raise Mistake("\n".join(f"objective.{line}" for line in said))
        lines = self.lines()
        texts = [text for line in lines for text in line.texts]
        with torch.no_grad(), network.off():
            conds = {text: lent.encode([text]) for text in dict.fromkeys([*texts, *self.apart()])}
        return Worded(self, lines, network, conds, len(schedule))


def given(lines: Iterable[Line]) -> list[Line]:
    """The lines, if there is something to learn.

    Raises:
        Mistake: no prompt says anything.
    """
    lines = [*lines]
    if not any(text for line in lines for text in line.texts):
        raise Mistake("objective.target: expected the prompt to change, or a prompts_file")
    return lines


def shapes(size: Resolution) -> tuple[Size, ...]:
    """Sides from half of the resolution's up to it, as LECO draws them (which never takes the largest)."""
    sides = [range(max(1, side // 2 // STEP), side // STEP + 1) for side in _size(size)]
    found = tuple((w * STEP, h * STEP) for w in sides[0] for h in sides[1])
    return found or (_size(size),)


def _size(size: Resolution) -> Size:
    """In whole latents, as pictures without buckets are cut to."""
    return size.width - size.width % GRAIN, size.height - size.height % GRAIN
