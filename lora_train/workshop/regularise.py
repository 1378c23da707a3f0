"""Regularise: pictures of the class, drawn by the model as it is, beside pictures of a subject."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch

from lora_train.data import classes
from lora_train.data.buckets import Buckets
from lora_train.data.classes import Lack, lacking
from lora_train.data.folder import Data, Dataset, Planned, Subset
from lora_train.data.plan import balanced, survey
from lora_train.data.subject import SubjectRules
from lora_train.errors import Mistake
from lora_train.host import Host, Model
from lora_train.knobs import knob
from lora_train.run.classes import drawn
from lora_train.run.control import Ended
from lora_train.tools.tool import Report, Told, unheard
from lora_train.train.parallel import Team
from lora_train.workshop.opened import Opened
from lora_train.workshop.work import EXAMPLES, Touched, Work

NUMBERED = re.compile(r"0*([1-9]\d*)(?:_(.*))?")  # folders that say their repeats


@dataclasses.dataclass(frozen=True)
class Regularise(SubjectRules, Buckets, Model, Work):
    """Draw regularisation pictures with the model as it is; only those that lack."""

    class_prompt: str | None = knob(
        None, "What they are drawn with, and their caption, such as: a photo of a dog. [filewords] in it "
        "stands for the caption of a picture of the subject, so that [filewords] alone draws one like each.",
        group="class", basic=True)  # fmt: skip
    num_class_images: int = knob(
        0, "How many there are to be, with those that are there already.", group="class", low=0,
        high=100_000, basic=True)  # fmt: skip
    num_class_images_per: int = knob(
        0, "The same, as so many for each picture of the subject.", group="class", low=0, high=1000,
        basic=True)  # fmt: skip
    class_data_dir: pathlib.Path | None = knob(
        None, "Folder that they go to, each with its caption. Empty: reg/1_NAME beside the folder, of which "
        "reg can be given as reg_data_dir.", group="class", place=True, basic=True)  # fmt: skip
    repeats: float | None = knob(
        None, "Repeats of the subject's pictures, for the balance that is shown. Empty: what the folder's "
        "name says, as 10_name does, else 1.", group="class", low=0.001, high=1_000_000)  # fmt: skip
    device: str = knob(
        "auto", "Where to draw: the first CUDA device if there is one, else the CPU.", group="memory",
        choices=("auto", "cpu", "cuda"), place=True)  # fmt: skip
    mixed_precision: str | None = knob(
        None, "What the model is in. Empty: half precision on a GPU, full precision on a CPU.",
        group="memory", choices=("no", "bf16", "fp16"))  # fmt: skip

    light = False
    hosted = True
    title: ClassVar[str] = "regularise"

    def check(self) -> Iterable[str]:
        for kind in (Work, Model, Buckets):
            yield from kind.check(self)
        yield from self.lacks()
        if not self.makes_class:
            yield ("num_class_images: expected how many pictures there are to be, or in num_class_images_per "
                   "how many for each of the subject's")  # fmt: skip
        if self.folder and self.home.absolute() == self.folder.absolute():
            yield f"class_data_dir = {self.home}: expected another folder than that of the subject"

    def makes(self) -> Iterable[tuple[str, pathlib.Path]]:
        return [("class_data_dir", self.home / "class.png")] if self.folder else ()

    @property
    def home(self) -> pathlib.Path:
        """Where they go to."""
        folder = self.folder.absolute()
        name = NUMBERED.fullmatch(folder.name)
        return self.class_data_dir or folder.parent / "reg" / f"1_{name and name[2] or folder.name}"

    def foreseen(self, opened: Opened) -> dict[str, object]:
        chosen, planned = self._planned(opened)
        lacks = lacking(planned)
        shown = [dataclasses.asdict(_touched(lack)) for lack in lacks[:EXAMPLES]]
        return {"of": chosen, "count": len(lacks), "examples": shown, "balance": self._balance(planned)}

    def run(self, told: Told = unheard) -> Report:
        """Raises Mistake: there is something to draw, which only `within` can."""
        return self._done(told, None)

    def within(self, host: Host, told: Told = unheard) -> Report:
        def draw(planned: Planned, count: int) -> bool:
            done = 0

            def heed(what: str, now: int, of: int) -> None:
                nonlocal done
                done = now
                told(now, of)

            try:
                with host.borrow(
                    self, device=self.device, precision=self._precision, waiting=lambda: told(done, count)
                ) as lent:
                    drawn(lent, planned, Team(), model=self, told=heed)
            except Ended:
                return True
            return False

        return self._done(told, draw)

    def _done(self, told: Told, draw: Callable[[Planned, int], bool] | None) -> Report:
        """draw: draws what lacks, so many, and says whether it was stopped."""
        opened = self.opened()
        chosen, planned = self._planned(opened)
        lacks, stopped = lacking(planned), False
        if lacks and not self.dry_run:
            if draw is None:
                raise Mistake("regularise: expected a model to draw with; run it as a command or on the page")
            stopped = draw(planned, len(lacks))
            chosen, planned = self._planned(opened)
        left = {*lacking(planned)} if not self.dry_run else set()
        made, balance = [lack for lack in lacks if lack not in left], self._balance(planned)
        if self.dry_run:
            lines = [f"{len(lacks)} lack in {self.home}"]
            lines += [f"  {lack.stem}: {lack.prompt}" for lack in lacks[:EXAMPLES]]
        else:
            lines = [f"{len(made)} of {len(lacks)} drawn{', then stopped' * stopped}, in {self.home}"]
        lines += _told(balance)
        touched = [dataclasses.asdict(_touched(lack)) for lack in made]
        facts = {"changed": len(made), "of": chosen, "touched": touched, "left": [], "stopped": stopped,
                 "balance": balance}  # fmt: skip
        files = () if self.dry_run else tuple(m.folder / f"{m.stem}.png" for m in made)
        return Report(tuple(lines), facts, files)

    @property
    def _precision(self) -> str:
        card = self.device != "cpu" and torch.cuda.is_available()
        return self.mixed_precision or ("fp16" if card else "no")

    def _planned(self, opened: Opened) -> tuple[int, Planned]:
        """(pictures of the subject that are meant, what a run with them and with those of the class has).

        Raises:
            Mistake: there are none.
        """
        names = {entry.name for entry in self.chosen(opened)}
        if not names:
            raise Mistake(f"{self.folder}: no picture to draw pictures of the class for")
        own = {f.name: getattr(self, f.name) for kind in (Buckets, SubjectRules)
               for f in dataclasses.fields(kind)}  # fmt: skip
        own |= {"class_data_dir": self.home, "caption_extension": (self.caption_extension,)}
        folders = sorted({(opened.folder / name).parent for name in names})
        subsets = [Subset(image_dir=folder, **_of(Subset, own)) for folder in folders]
        dataset = Dataset(subsets=tuple(subsets), **_of(Dataset, own))
        planned, _ = survey(Data(datasets=(dataset,), skip_unreadable=True), memory=opened.memory)
        paths = {opened.path(name) for name in names}
        sources = [
            dataclasses.replace(s, items=tuple(i for i in s.items if i.subset.is_reg or i.path in paths))
            for s in planned.sources
        ]
        if mute := sum(
            not self.of_class(i.own).strip() for s in sources for i in s.items if not i.subset.is_reg
        ):
            raise Mistake(f"class_prompt = {self.class_prompt}: says nothing of {mute} pictures without a "
                          "caption; caption them, or leave them out with only = is:captioned")  # fmt: skip
        return len(names), dataclasses.replace(planned, sources=tuple(sources))

    def _balance(self, planned: Planned) -> dict[str, object]:
        """How often a run shows either kind, where the class's folder is its regularisation."""
        subject: collections.Counter[pathlib.Path] = collections.Counter()
        for item in planned.items:
            subject[item.path.parent] += not item.subset.is_reg
        samples = round(sum(count * self._repeats(folder) for folder, count in subject.items()))
        there = sum(item.subset.is_reg for item in planned.items)
        shown = balanced([1] * there, samples)
        return {"pictures": sum(subject.values()), "samples": samples, "class": there,
                "unused": sum(not times for times in shown), "shown": samples / there if there else None,
                "lacking": len(lacking(planned)), "strange": sum(classes.strange(planned).values()),
                "folder": str(self.home)}  # fmt: skip

    def _repeats(self, folder: pathlib.Path) -> float:
        named = NUMBERED.fullmatch(folder.name)
        return self.repeats or (float(named[1]) if named else 1.0)


def _of(kind: type, values: dict[str, object]) -> dict[str, object]:
    names = {f.name for f in dataclasses.fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def _touched(lack: Lack) -> Touched:
    return Touched(f"{lack.stem}.png", lack.prompt)


def _told(balance: dict[str, object]) -> Sequence[str]:
    samples, there = balance["samples"], balance["class"]
    lines = [f"{balance['pictures']} pictures of the subject make {samples} samples an epoch"]
    if not there:
        return [*lines, "there are no pictures of the class"]
    lines.append(f"{there} pictures of the class make as many: each is shown {balance['shown']:.3g} times")
    if balance["unused"]:
        lines.append(f"{balance['unused']} of them are not used: one for each sample is enough")
    if balance["strange"]:
        lines.append(f"{balance['strange']} of them were drawn with other prompts; take them out if they are "
                     "of another class")  # fmt: skip
    return lines
