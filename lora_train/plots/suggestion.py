"""Suggestion: of the files and strengths that were measured, the one to take, and why."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping

Place = tuple[str, float]  # file, strength
FULL = 1.0  # the strength that files are trained at
WEAK = 0.6  # what is best at no more than that went beyond what it was to learn
NOTHING, UNDER, OVER, GOOD = "nothing learned", "underfit", "overfit", "good"


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
    """file is None where the bare model is the best there is. The reason is in English; what comes behind it
    are the facts, for who says it in another language."""

    file: str | None
    strength: float
    reason: str
    verdict: str
    numbers: Mapping[
        str, Mapping[str, float]
    ]  # "loss" and "looks" -> "here", "bare", and "full" if it counts
    of: str  # what the loss is of
    held: bool  # whether those pictures were not learned from; so too where there is no loss

    def said(self) -> str:
        where = "the model without a LoRA" if self.file is None else f"{self.file} at {self.strength:g}"
        return f"Suggested: {where}. {self.reason}"


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was measured everywhere, and without a LoRA.

    Loss and looks say different things: the loss is what training lowers, one step at a time, and does not
    see that pictures of many steps fall apart; looks do, but know nothing of what is shown.

    Args:
        held: whether the losses are of pictures that were not learned from.
        on: what they are of, in words.
    """

    found: Mapping[Place, Measured]
    bare: Measured
    held: bool
    on: str = "pictures"

    @property
    def by_loss(self) -> bool:
        return bool(self.bare.losses) and all(one.losses for one in self.found.values())

    @property
    def by_looks(self) -> bool:
        return bool(self.bare.looks) and all(one.looks is not None for one in self.found.values())

    def scores(self) -> dict[Place, float]:
        """Mean of loss and looks, each as a share of what it is without a LoRA: lower is better, and 1 as
        good as nothing. Empty where neither is known."""
        if not self.found or not (self.by_loss or self.by_looks):
            return {}
        return {place: statistics.fmean(self._shares(one)) for place, one in self.found.items()}

    def _shares(self, one: Measured) -> list[float]:
        shares = [one.loss / self.bare.loss] if self.by_loss else []
        return [*shares, one.looks / self.bare.looks] if self.by_looks else shares

    def suggestion(self) -> Suggestion | None:
        """The lowest score; of those that pictures do not tell from it the least strong, for what is as good
        with less of it leaves more of the model as it is (the rule of one standard error: Breiman et al.
        1984, section 3.4.3)."""
        scores = self.scores()
        if not scores:
            return None
        lowest = min(scores, key=lambda place: (scores[place], abs(place[1])))
        near = [p for p in scores if scores[p] - scores[lowest] <= self._error(p, lowest)]
        files = [*dict.fromkeys(file for file, _ in self.found)]
        chosen = min(near, key=lambda p: (abs(p[1]), files.index(p[0])))
        return self._said(chosen, scores)

    def _error(self, one: Place, other: Place) -> float:
        """Standard error of the difference of two scores, as far as it comes from the losses' pictures."""
        if not self.by_loss:
            return 0.0
        pairs = zip(self.found[one].losses, self.found[other].losses, strict=True)
        apart = [(a - b) / self.bare.loss for a, b in pairs]
        if len(apart) == 1:
            return 0.0
        parts = 2 if self.by_looks else 1
        return statistics.stdev(apart) / math.sqrt(len(apart)) / parts

    def _said(self, chosen: Place, scores: Mapping[Place, float]) -> Suggestion:
        file, strength = chosen
        blind = ""
        if self.by_loss and not self.held:
            blind = ". The loss is of pictures that were learned from, and so it does not see too much of it"
        here, place = self._numbers(self.found[chosen]), {"here": self.found[chosen]}
        if strength == 0 or scores[chosen] >= 1:
            said = f"{self._names}: {here} at best, and {self._numbers(self.bare)} without it{blind}."
            return self._told((None, 0.0), said, NOTHING, place)
        best = f"{self._names} {here}, the best there is; without it {self._numbers(self.bare)}"
        full, highest = (file, FULL), max((abs(s) for f, s in self.found if f == file))
        if abs(strength) == highest > FULL:
            more = (
                ". It still gets better at the highest strength: it has learned too little; train it longer"
            )
            return self._told(chosen, f"{best}{more} or faster{blind}.", UNDER, place)
        if abs(strength) <= WEAK and full in scores and scores[full] > scores[chosen]:
            worse = f"; at full strength {self._numbers(self.found[full])}"
            more = (
                ". It has learned too much or too fast; train it shorter or slower, or take an earlier file"
            )
            place["full"] = self.found[full]
            return self._told(chosen, f"{best}{worse}{more}{blind}.", OVER, place)
        return self._told(chosen, f"{best}{blind}.", GOOD, place)

    def _told(
        self, chosen: tuple[str | None, float], reason: str, verdict: str, measured: Mapping[str, Measured]
    ) -> Suggestion:
        """With its facts. measured: at the places that count, by what a page calls them."""
        every = {**measured, "bare": self.bare}
        numbers = {}
        if self.by_loss:
            numbers["loss"] = {place: round(one.loss, 6) for place, one in every.items()}
        if self.by_looks:
            numbers["looks"] = {place: round(one.looks, 4) for place, one in every.items()}
        return Suggestion(*chosen, reason, verdict, numbers, self.on, self.held or not self.by_loss)

    def _numbers(self, one: Measured) -> str:
        loss = [f"{one.loss:.3g}"] if self.by_loss else []
        return " and ".join([*loss, *([f"{one.looks:.2g}"] if self.by_looks else [])])

    @property
    def _names(self) -> str:
        loss = [f"loss on {self.on}"] * self.by_loss
        names = " and ".join([*loss, *["distance to the training pictures' looks"] * self.by_looks])
        return f"{names[0].upper()}{names[1:]}"
