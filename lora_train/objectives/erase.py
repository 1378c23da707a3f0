"""Erase: take something out of what the model draws, bring it out, or put another thing in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from lora_train.knobs import knob, many
from lora_train.objectives.worded import Line
from lora_train.objectives.words import Prompted, Sized, Wording, given
from lora_train.values import numeral

SIGNS = {"erase": -1.0, "enhance": 1.0, "replace": 1.0}


@dataclasses.dataclass(frozen=True)
class Erasing(Wording):
    """What is to be done with a prompt."""

    action: str = knob(
        "erase", "erase: without what is positive. enhance: with more of it; scale above 1. replace: as the "
        "model draws positive.", group="words", choices=tuple(SIGNS), basic=True)  # fmt: skip
    unconditional: str = knob(
        "", "Prompt without what is positive, from which the difference is counted.", group="words"
    )
    guidance_scale: float = knob(
        1.0, "How far: times the difference between positive and unconditional.", group="words", low=0,
        high=100, basic=True)  # fmt: skip

    def check(self) -> Iterable[str]:
        line = self.line("")
        if self.action == "enhance" and self.guidance_scale == 1 and self.target:
            same = line.positive == line.target and line.neutral == line.unconditional
            if same:
                yield (
                    f"guidance_scale = {numeral(self.guidance_scale)}: expected more than 1 to enhance "
                    "target itself; at 1 it stays as it is"
                )

    def line(self, name: str) -> Line:
        positive = self.positive if self.positive is not None else self.target
        if self.action == "replace":
            positive = self.positive or ""
        own = vars(self)
        return Line(
            name=name,
            target=self.target,
            positive=positive,
            unconditional=self.unconditional,
            neutral=self.unconditional if self.neutral is None else self.neutral,
            scale=SIGNS[self.action] * self.guidance_scale,
            strength=self.multiplier,
            weight=self.weight,
            even=False,
            resolution=own.get("resolution"),
            batch_size=own.get("batch_size"),
            dynamic_resolution=self.dynamic_resolution,
            dynamic_crops=self.dynamic_crops,
        )


@dataclasses.dataclass(frozen=True)
class ErasePrompt(Sized, Erasing):
    """One of several."""


@dataclasses.dataclass(frozen=True)
class Erase(Prompted, Erasing):
    """Take something out of what the model draws, by its own predictions and without pictures."""

    form: ClassVar[str] = "prompts"

    prompts: tuple[ErasePrompt, ...] = many(ErasePrompt, "Prompts with settings of their own.", group="words")

    def check(self) -> Iterable[str]:
        yield from Erasing.check(self)
        yield from Prompted.check(self)

    def lines(self) -> list[Line]:
        return given(row.line(f"prompt {i}") for i, row in enumerate(self.rows(), 1))
