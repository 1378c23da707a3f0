"""What the owner of a machine has chosen: how a new page begins, whom to tell, what a job may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from lora_train.errors import Mistake
from lora_train.run.recipes import BALANCED
from lora_train.values import numeral

ENDS, FOLDER = "training.max_train_steps", "output.output_dir"


@dataclasses.dataclass(frozen=True)
class Rules:
    """Of the numbers, 0 sets no limit."""

    preset: str = BALANCED  # that a new page begins with
    webhook: str = ""  # address; see `run.hook`
    jobs: int = 0  # most that wait or run
    steps: int = 0  # most of a run
    minutes: float = 0.0  # that a run may take; then it is stopped and saved
    gigabytes: float = 0.0  # of the disk, that a run has to leave free

    @classmethod
    def read(cls, given: Mapping[str, object]) -> Rules:
        """Of what a settings page holds, which may be anything."""
        limits = {name: _limit(given.get(name)) for name in ("jobs", "steps", "minutes", "gigabytes")}
        words = {name: str(given.get(name) or "").strip() for name in ("preset", "webhook")}
        return cls(
            preset=words["preset"] or BALANCED, webhook=words["webhook"], jobs=int(limits["jobs"]),
            steps=int(limits["steps"]), minutes=limits["minutes"], gigabytes=limits["gigabytes"])  # fmt: skip

    def room(self, held: int) -> None:
        """Raises Mistake: the queue holds as many jobs as it may."""
        if self.jobs and held >= self.jobs:
            text = f"the queue holds as many jobs as are allowed here: {self.jobs}"
            raise Mistake(f"{text}; remove one, or wait until one has ended")

    def complaints(
        self, plan: Mapping[str, object], estimate: Mapping[str, object] | None
    ) -> Iterator[tuple[str, str]]:
        """(setting, sentence) of each limit that a run would go over."""
        if self.steps and plan["steps"] > self.steps:
            text = f"the run has {plan['steps']} steps, and no more than {self.steps} are allowed here"
            yield ENDS, f"{ENDS}: {text}; lower it, or the epochs or repeats"
        minutes = ((estimate or {}).get("seconds") or 0) / 60
        if self.minutes and minutes > self.minutes:
            text = f"the run takes about {minutes:.0f} minutes, and no more than {numeral(self.minutes)}"
            yield ENDS, f"{ENDS}: {text} are allowed here; lower it, or the epochs or repeats"
        disk = plan["disk"]
        left = max(0.0, (disk["free_megabytes"] - disk["megabytes"]) / 1024)
        if self.gigabytes and left < self.gigabytes:
            text = (
                f"the run would leave {left:.1f} GB of the disk free, and {numeral(self.gigabytes)} GB have"
            )
            then = "save fewer files or states, or clear those of earlier runs"
            yield FOLDER, f"{FOLDER} = {disk['path']}: {text} to stay free here; {then}"


def _limit(value: object) -> float:
    try:
        return max(0.0, float(value or 0))
    except (TypeError, ValueError):
        return 0.0
