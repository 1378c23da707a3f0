"""Suggestion: of the files and strengths that were measured, the one to take, and why."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping

Place = tuple[str, float]  # file, strength
FULL = 1.0  # the strength that files are trained at
NOTHING = "nothing learned"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found at one file and strength."""

    losses: tuple[float, ...] = ()  # of each picture, with the same noise at every place
    looks: float | None = None  # distance of what was drawn to the training pictures
    moved: float | None = None  # distance of what was drawn to the bare model's

    @property
    def loss(self) -> float | None:
        return statistics.fmean(self.losses) if self.losses else None


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """file is None where the bare model is the best there is."""

    file: str | None
    strength: float
    reason: str
    verdict: str  # "good", "underfit", "overfit" or "nothing learned"

    def said(self) -> str:
        where = "the model without a LoRA" if self.file is None else f"{self.file} at {self.strength:g}"
        return f"Suggested: {where}. {self.reason}"


def suggestion(found: Mapping[Place, Measured], *, held: bool, on: str = "pictures") -> Suggestion | None:
    """By the loss where there is one, else by the looks of what was drawn; None without either.

    Of the places whose loss is no further from the lowest than the standard error of their difference over
    pictures, it is the one that is the least strong (the rule of one standard error, Breiman et al. 1984,
    section 3.4.3): what is as good with less of it leaves more of the model as it is.

    Args:
        held: whether the losses are of pictures that were not learned from.
        on: what they are of, in words.
    """
    if not found:
        return None
    by_loss = all(one.losses for one in found.values())
    if not by_loss and any(one.looks is None for one in found.values()):
        return None
    score = {place: one.loss if by_loss else one.looks for place, one in found.items()}
    lowest = min(score, key=lambda place: (score[place], abs(place[1])))
    near = [p for p in found if p == lowest or (by_loss and _same(found[p], found[lowest]))]
    files = [*dict.fromkeys(file for file, _ in found)]
    chosen = min(near, key=lambda p: (abs(p[1]), files.index(p[0])))
    return _said(chosen, found, score, on if by_loss else "", held=held or not by_loss)


def _same(one: Measured, best: Measured) -> bool:
    """Whether pictures do not tell them apart."""
    apart = [a - b for a, b in zip(one.losses, best.losses, strict=True)]
    if len(apart) == 1:
        return False
    return statistics.fmean(apart) <= statistics.stdev(apart) / math.sqrt(len(apart))


def _said(
    chosen: Place, found: Mapping[Place, Measured], score: Mapping[Place, float], on: str, *, held: bool
) -> Suggestion:
    file, strength = chosen
    own = sorted((s for f, s in found if f == file), key=abs)
    of = f"the loss on {on}" if on else "the distance to the looks of the training pictures"
    blind = "" if held else " (which were learned from, so that too much of it does not show)"
    value, lowest = score[chosen], min(score.values())
    best = f"{of} is lowest there, {value:.4g}"
    if value > lowest:
        best = f"{of} is {value:.4g} there, which pictures do not tell from the lowest, {lowest:.4g}"
    full = score.get((file, FULL))
    if strength == 0:
        return Suggestion(None, 0.0, _sentence(f"at no strength {of}{blind} is lower than without"), NOTHING)
    if strength == own[-1] and len(own) > 1 and strength > FULL:
        why = f"{best}, and still falls at the highest strength: it has learned too little; train it longer"
        return Suggestion(file, strength, _sentence(f"{why} or faster{blind}"), "underfit")
    if full is not None and strength < FULL and full > value:
        why = f"{best}, and {full:.4g} at full strength: it has learned its own pictures more than what they "
        return Suggestion(
            file, strength, _sentence(f"{why}share; an earlier file may be better{blind}"), "overfit"
        )
    zero = next((score[f, s] for f, s in found if s == 0), None)
    beside = "" if zero is None else f", and {zero:.4g} without it"
    return Suggestion(file, strength, _sentence(f"{best}{beside}{blind}"), "good")


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
