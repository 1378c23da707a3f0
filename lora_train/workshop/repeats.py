"""Repeats: how often the pictures of each folder are to be shown, so that folders count as they should."""

from __future__ import annotations

import dataclasses
import fractions
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lora_train.data import pictures
from lora_train.data.batches import Numbers, arithmetic, numbers
from lora_train.data.buckets import Buckets, Resolution
from lora_train.data.folder import MOST, Data, Dataset, Planned, Subset
from lora_train.data.memory import Memory, usual
from lora_train.data.plan import survey
from lora_train.errors import Mistake
from lora_train.knobs import knob, nearest
from lora_train.tools.tool import Report, Told, Tool, unheard
from lora_train.values import numeral, parted, shown

NAMED = re.compile(r"0*([1-9]\d*)(?:_(.*))?")  # repeats and name, as training reads them
TRIED = 20  # repeats of the folder that is shown least often


@dataclasses.dataclass(frozen=True)
class Concept:
    """A folder of pictures."""

    path: pathlib.Path
    pictures: int
    share: fractions.Fraction  # of an epoch that it is to have, beside those of the others

    @property
    def now(self) -> int:
        """Repeats that its name says."""
        named = NAMED.fullmatch(self.path.name)
        return int(named[1]) if named else 1

    @property
    def name(self) -> str:
        """Without them."""
        named = NAMED.fullmatch(self.path.name)
        return named[2] or "" if named else self.path.name

    def named(self, repeats: int) -> str:
        """What it is called when these stand in front."""
        return f"{repeats}_{self.name}" if self.name else str(repeats)


@dataclasses.dataclass(frozen=True)
class Repeats(Tool):
    """Suggest repeats, so that folders count as wanted, and say the steps they give."""

    folder: pathlib.Path | None = knob(
        None, "Folder with folders of pictures, named like 10_name or otherwise.", group="pictures",
        basic=True, place=True)  # fmt: skip
    shares: str = knob(
        "", "How much folders shall count beside each other: cat = 2, dog = 1. Those that are not named "
        "count 1.", group="balance", basic=True)  # fmt: skip
    within: float = knob(
        0.05, "How far a folder's share may be from what is wanted; whole repeats seldom meet it exactly. "
        "0.05 is a twentieth of it.", group="balance", low=0, high=1)  # fmt: skip
    max_train_epochs: int = knob(
        10, "Epochs that steps are counted for.", group="time", low=1, high=1_000_000)  # fmt: skip
    batch_size: int = knob(
        1, "Pictures in one batch.", group="time", low=1, high=4096, aka="train_batch_size")  # fmt: skip
    gradient_accumulation_steps: int = knob(1, "Batches to a step.", group="time", low=1, high=65536)
    resolution: Resolution = knob(
        Resolution(512, 512), "Size to train at: one number or width,height.", group="time",
        unit="pixels")  # fmt: skip
    enable_bucket: bool = knob(
        True, "Each picture gets a size near its own shape; of such a size the last batch may be smaller.",
        group="time")  # fmt: skip

    about = """Suggest repeats for the folders of a training, so that each counts as wanted however many
        pictures it has, and say how many steps that gives. Nothing is renamed."""
    alone = "folder"
    light = True

    def check(self) -> Iterable[str]:
        if self.folder is None or not self.folder.is_dir():
            yield f"folder = {self.folder}: expected a folder with folders of pictures"
        try:
            self._wanted()
        except (ValueError, ZeroDivisionError) as e:
            yield f"shares = {shown(self.shares)}: expected name = number above 0, such as cat = 2 ({e})"
        yield from self._buckets.check()

    @property
    def _buckets(self) -> Buckets:
        sides = self.resolution.width, self.resolution.height
        return Buckets(
            resolution=self.resolution, enable_bucket=self.enable_bucket,
            min_bucket_reso=min(Buckets.min_bucket_reso, *sides),
            max_bucket_reso=max(Buckets.max_bucket_reso, *sides))  # fmt: skip

    def run(self, told: Told = unheard) -> Report:
        concepts = self._concepts()
        found = suggested([c.pictures for c in concepts], [c.share for c in concepts], self.within)
        before, after = self._planned([c.now for c in concepts], concepts), self._planned(found, concepts)
        facts = self._facts(concepts, found, after)
        facts["now"], facts["then"] = self._steps(before), self._steps(after)
        return Report(tuple(self._lines(facts, before, after)), facts)

    def _wanted(self) -> dict[str, fractions.Fraction]:
        """Raises ValueError: not names and numbers."""
        found = {}
        for part in parted(self.shares, ",\n"):
            name, _, number = part.rpartition("=")
            if not name.strip():
                raise ValueError(part)
            share = fractions.Fraction(number.strip())
            if share <= 0:
                raise ValueError(part)
            found[name.strip()] = share
        return found

    def _concepts(self) -> list[Concept]:
        """Raises Mistake: there are none, or a name is of none of them."""
        wanted, found = self._wanted(), []
        for path in sorted(p for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            count = sum(_ending(name) in pictures.ENDINGS for name in os.listdir(path) if name[0] != ".")  # noqa: PTH208
            if count:
                concept = Concept(path, count, fractions.Fraction(1))
                given = {name for name in (path.name, concept.name) if name in wanted}
                share = wanted[given.pop()] if given else concept.share
                found.append(dataclasses.replace(concept, share=share))
        if not found:
            raise Mistake(
                f"{self.folder}: no folder with pictures in it; what is balanced are folders side by side"
            )
        known = [name for concept in found for name in (concept.path.name, concept.name)]
        lost = [name for name in wanted if name not in known]
        if lost:
            raise Mistake("\n".join(f"shares: {name}: no such folder in {self.folder}{nearest(name, known)}"
                                    for name in lost))  # fmt: skip
        return found

    def _planned(self, repeats: Sequence[int], concepts: Sequence[Concept]) -> Planned:
        """What training makes of them.

        Raises:
            Mistake: pictures cannot be read.
        """
        subsets = [
            Subset(image_dir=c.path, num_repeats=float(r)) for c, r in zip(concepts, repeats, strict=True)
        ]  # fmt: skip
        dataset = Dataset(subsets=tuple(subsets), batch_size=self.batch_size, **vars(self._buckets))
        return survey(Data(datasets=(dataset,), skip_unreadable=True), memory=Memory(usual()))[0]

    def _steps(self, planned: Planned) -> dict[str, int]:
        found: Numbers = numbers(planned, self.gradient_accumulation_steps)
        every = dataclasses.asdict(found)
        return {**every, "epochs": self.max_train_epochs, "all": found.steps * self.max_train_epochs}

    def _facts(
        self, concepts: Sequence[Concept], found: Sequence[int], planned: Planned
    ) -> dict[str, object]:
        samples = [
            sum(s.count for s in planned.sources[0].shares if c.path == _of(planned, s)) for c in concepts
        ]
        whole, shares = sum(samples) or 1, sum(c.share for c in concepts)
        exact = [c.share / c.pictures for c in concepts]
        rows = [
            {"folder": c.path.name, "pictures": c.pictures, "wanted": float(c.share / shares), "now": c.now,
             "repeats": r, "samples": n, "share": n / whole, "name": c.named(r),
             "exact": round(float(e / min(exact)), 3)}
            for c, r, n, e in zip(concepts, found, samples, exact, strict=True)
        ]  # fmt: skip
        return {"folders": rows}

    def _lines(self, facts: Mapping[str, object], before: Planned, after: Planned) -> Iterator[str]:
        for row in facts["folders"]:
            yield (
                f"{row['folder']}: {row['pictures']} pictures x {row['repeats']} (now {row['now']}) = "
                f"{row['samples']} samples, {row['share']:.1%} of an epoch; wanted {row['wanted']:.1%}"
            )
        changed = [row for row in facts["folders"] if row["name"] != row["folder"]]
        if changed:
            yield "Rename, or set num_repeats of the folder, which may also have a fraction:"
            yield from [
                f"  {row['folder']} -> {row['name']}, or num_repeats = {numeral(row['exact'])}"
                for row in changed
            ]
        for title, planned, of in (("Now", before, facts["now"]), ("Then", after, facts["then"])):
            yield f"{title}: {arithmetic(planned, of['all'], self.gradient_accumulation_steps)}"


def suggested(counts: Sequence[int], shares: Sequence[fractions.Fraction], within: float) -> list[int]:
    """The smallest whole repeats with which no folder's share is further from what is wanted than `within` of
    it; where even more repeats do not do it, those that come closest."""
    exact = [share / count for share, count in zip(shares, counts, strict=True)]
    best: tuple[float, list[int]] | None = None
    for tenths in range(10, 10 * TRIED + 1):
        repeats = [min(MOST, max(1, round(tenths * each / min(exact) / 10))) for each in exact]
        far = furthest(counts, shares, repeats)
        if best is None or far < best[0]:
            best = far, repeats
        if far <= within:
            return repeats
    return best[1]


def furthest(counts: Sequence[int], shares: Sequence[fractions.Fraction], repeats: Sequence[int]) -> float:
    """The largest distance of a folder's share from what is wanted, in parts of that."""
    made = [count * times for count, times in zip(counts, repeats, strict=True)]
    whole, wanted = sum(made), sum(shares)
    return max(abs(float(n / whole / (share / wanted)) - 1) for n, share in zip(made, shares, strict=True))


def _of(planned: Planned, share: object) -> pathlib.Path:
    """The folder whose pictures a share of an epoch is made of."""
    return planned.sources[0].items[share.items[0]].subset.image_dir


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 (of 100,000 names)
