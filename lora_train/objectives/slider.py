"""Slider: more of something at one end of the adapter's strength, and less of it at the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import ClassVar

from lora_train.knobs import knob, many
from lora_train.objectives.worded import Line
from lora_train.objectives.words import Prompted, Sized, Wording, given


@dataclasses.dataclass(frozen=True)
class Sliding(Wording):
    """The two ends of one slider."""

    negative: str = knob(
        "", "Prompt of the other end, of which there is less.", group="words", basic=True
    )  # fmt: skip
    guidance_strength: float = knob(
        3.0, "How far: times the difference between positive and negative.", group="words", low=0, high=100,
        basic=True)  # fmt: skip
    match_neutral: bool = knob(
        True, "Give what is to be predicted the mean and the spread that it has of neutral, so that pictures "
        "keep their contrast.", group="words")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.target and (self.positive or "") == self.negative:
            yield "negative: expected another prompt than positive, or nothing is learned"

    def ends(self, name: str) -> Iterator[Line]:
        """At its strength the one end is learned, at as much below zero the other."""
        own = vars(self)
        line = Line(
            name=f"{name} +",
            target=self.target,
            positive=self.positive or "",
            unconditional=self.negative,
            neutral=self.target if self.neutral is None else self.neutral,
            scale=self.guidance_strength,
            strength=self.multiplier,
            weight=self.weight,
            even=self.match_neutral,
            resolution=own.get("resolution"),
            batch_size=own.get("batch_size"),
            dynamic_resolution=self.dynamic_resolution,
            dynamic_crops=self.dynamic_crops,
        )
        yield line
        yield dataclasses.replace(
            line, name=f"{name} -", scale=-self.guidance_strength, strength=-self.multiplier
        )


@dataclasses.dataclass(frozen=True)
class SliderPrompt(Sized, Sliding):
    """One of several."""


@dataclasses.dataclass(frozen=True)
class Slider(Prompted, Sliding):
    """Learn from the model's own predictions to move one quality, up and down by the adapter's strength."""

    form: ClassVar[str] = "targets"

    prompts: tuple[SliderPrompt, ...] = many(
        SliderPrompt, "Prompts with settings of their own.", group="words"
    )

    def check(self) -> Iterable[str]:
        yield from Sliding.check(self)
        yield from Prompted.check(self)

    def lines(self) -> list[Line]:
        return given(line for i, row in enumerate(self.rows(), 1) for line in row.ends(f"prompt {i}"))
