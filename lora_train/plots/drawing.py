"""Drawing: makes the files, pictures and numbers of a sheet that are not there yet, and the sheet of them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from lora_train.emphasis import loras
from lora_train.errors import Mistake
from lora_train.host import HALF
from lora_train.job import assemble
from lora_train.knobs import flat
from lora_train.plots.cells import Grid
from lora_train.plots.differ import Likeness, changed, moved
from lora_train.plots.folder import Folder, key
from lora_train.plots.losses import Losses, Trial, evenly, settings_of
from lora_train.plots.shot import Shot, infotext, tagged
from lora_train.plots.suggestion import Measured
from lora_train.run.base import Base, digest
from lora_train.run.control import Control, Ended
from lora_train.run.draw import Wardrobe, Worn
from lora_train.run.runs import Run
from lora_train.run.session import run
from lora_train.run.store import RunStore
from lora_train.train.arithmetic import quick

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.host import Host, Lent
    from lora_train.job import Job, Place
    from lora_train.train.events import Watcher

VERSION = 1  # of how a picture comes about; one of another version is drawn anew
SHOWN = 64  # training pictures whose looks are taken

log = logging.getLogger(__name__)
Spot = tuple[int, int, int]


@dataclasses.dataclass
class Course:
    """How far a sheet is, for onlookers."""

    of: int = 0  # pictures, each once, those to compare with among them
    done: int = 0
    note: str = ""
    seconds: float = 0.0  # that pictures took which were drawn now
    drawn: int = 0

    @property
    def left(self) -> float | None:
        """Seconds, at the pace so far."""
        return self.seconds / self.drawn * (self.of - self.done) if self.drawn else None


class Drawing:
    """One sheet. Pictures, losses and runs that its folder has are not made again.

    Args:
        job, place: which model, and where.
        values: settings of the run whose pictures are measured with, where they are known.
        told: after each picture and before whatever takes long.
    """

    def __init__(  # noqa: PLR0913 (what a sheet is made of, and who looks on)
        self,
        grid: Grid,
        job: Job,
        place: Place,
        host: Host,
        *,
        values: Mapping[str, object] | None = None,
        control: Control | None = None,
        told: Callable[[Course], None] = lambda course: None,
        watchers: Sequence[Watcher] = (),
    ):
        self.grid, self.job, self.place, self.host = grid, job, place, host
        self.values, self.control = values, control or Control()
        self.told, self.watchers = told, watchers
        self.folder, self.course = Folder(grid.plan.outdir), Course()
        self.keys: dict[Shot, str] = {}
        self.cells: dict[Spot, dict[str, object]] = {}  # those that are done
        self.losses: list[float] = []  # without a LoRA, of each picture
        self.notes = [
            f"<lora:{name}> in a prompt counts for nothing here: the sheet says how strong it is."
            for name in grid.unheard
        ]
        self.trial: Trial | None = None
        self.likeness: Likeness | None = None

    def make(self) -> None:
        """Everything that a sheet is laid out from; see `page.laid_out`.

        Raises:
            Mistake: a file is no LoRA of this model, or a run cannot be made.
            Ended: a person does not want it any more.
        """
        self._train()
        self._prepare()
        job, place = self.job, self.place
        self._say("waiting for the model")
        with self.host.borrow(
            job.model, device=place.device, precision=job.training.mixed_precision, waiting=self.control.heed
        ) as lent, Base.of(job.model, lent.layers()).attached():  # fmt: skip
            Painter(self, lent).paint()
        self._say("")

    def _say(self, note: str) -> None:
        self.course.note = note
        self.told(self.course)

    def _train(self) -> None:
        """The runs whose files are not there yet; one that was cut off goes on."""
        missing = {
            result: run.settings
            for result, run in self.grid.runs.items()
            if not all(file.is_file() for file in run.files.values())
        }
        parts = [assemble(values, tolerant=True) for values in missing.values()]
        if complaints := [line for one in parts for line in self.host.refusals(*one)]:
            raise Mistake("\n".join(dict.fromkeys(complaints)))
        for number, (file, values) in enumerate(missing.items(), 1):
            self.control.heed()
            self._say(f"training run {number} of {len(missing)}: {file.stem}")
            log.info("Training run %d of %d: %s", number, len(missing), file.stem)
            store = RunStore(file.parent, file.stem)
            states = Run(store, {}).states if store.records.is_dir() else {}
            newest = max(states, key=states.get, default=None)
            resumed = {"place.resume": str(newest)} if newest else {}
            ended = run(
                *assemble({**values, **resumed}, tolerant=True), self.host, watchers=self.watchers,
                control=self.control)  # fmt: skip
            if ended.progress.stopped:
                raise Ended
            for step in states.values():  # what stops have left
                store.remove(store.at_step(step))
                store.remove_state(store.at_step(step))

    def _prepare(self) -> None:
        """What is measured with."""
        plan = self.grid.plan
        if not plan.score:
            return
        values = self.measured_with()
        if values is None:
            self.notes.append(
                "Neither the loss nor the looks were measured: the records of the run are not beside its "
                "file; give a folder of pictures with score_data."
            )
            return
        try:
            self.trial = Trial.of(values, plan.score_pictures)
        except Mistake as e:
            self.notes.append(f"Neither the loss nor the looks were measured: {e}")
            return
        self.likeness = Likeness.read(evenly(self.trial.learned(), SHOWN))

    def measured_with(self) -> Mapping[str, object] | None:
        """Settings of the run whose pictures are used."""
        grid = self.grid
        if (data := grid.plan.score_data) is not None:
            size = f"{grid.prompts[0].width},{grid.prompts[0].height}"
            return {"data.train_data_dir": str(data), "data.resolution": size}
        if self.values:
            return self.values
        if grid.runs:
            return next(iter(grid.runs.values())).settings
        return next((found for file in grid.files if (found := settings_of(file)) is not None), None)

    # ── what a painter asks ──

    @functools.cached_property
    def shots(self) -> dict[Spot, Shot]:
        return {place: self.grid.shot(place) for place in self.grid.places()}

    @functools.cached_property
    def places(self) -> dict[Shot, list[Spot]]:
        """Where each is shown."""
        found: dict[Shot, list[Spot]] = {}
        for place, shot in self.shots.items():
            found.setdefault(shot, []).append(place)
        return found

    def compared(self, place: Spot) -> Shot | None:
        """What a cell's picture is compared to."""
        shot = self.shots[place]
        if self.grid.compares_blocks:
            return self.grid.whole(place)
        return shot.bare() if self.grid.plan.score else None

    def order(self) -> list[Shot]:
        """Each once: those without a LoRA, then file by file, what is compared to first."""
        beside = [other for place in self.shots if (other := self.compared(place)) is not None]
        scored = [shot.bare() for shot in self.shots.values()] if self.grid.plan.score else []
        every = list(dict.fromkeys([*scored, *beside, *self.shots.values()]))
        files = list(dict.fromkeys(shot.file for shot in every if shot.on))
        return sorted(every, key=lambda shot: files.index(shot.file) + 1 if shot.on else 0)

    def arrived(self, shot: Shot) -> None:
        """Its picture is there, and those of before it."""
        for place in self.places.get(shot, ()):
            self.cells[place] = self.cell(place)
        self.course.done += 1
        self._say(self.course.note)

    def cell(self, place: Spot) -> dict[str, object]:
        """What is known of a cell. base: without the LoRA, or with all of it where blocks are compared; where
        the sheet has no such picture, None."""
        shot = self.shots[place]
        name = self.keys[shot]
        base = self.keys.get(self.compared(place) or shot.bare())
        known = self.folder.known(name) or {}
        return {
            "at": [*place], "values": self.grid.values(place), "key": name,
            "picture": f"cells/{name}.png", "base": base and f"cells/{base}.png",
            "seconds": known.get("seconds"),
            "infotext": known.get("infotext"), "metrics": self.metrics(place),
        }  # fmt: skip

    def bare(self) -> Measured:
        """What was measured without a LoRA."""
        shots = {shot.bare() for shot in self.shots.values()} if self.likeness is not None else ()
        images = (self.folder.opened(self.keys[shot]) for shot in shots)
        looks = [self.likeness.distance(image) for image in images]
        return Measured(tuple(self.losses), statistics.fmean(looks) if looks else None)

    def metrics(self, place: Spot) -> dict[str, float]:
        """moved, changed: how far from the picture it is compared to; looks: how far from what training
        pictures look like."""
        found, other = {}, self.compared(place)
        image = self.folder.opened(self.keys[self.shots[place]])
        if other is not None:
            before = self.folder.opened(self.keys[other])
            found["moved"] = round(moved(before, image), 4)
            found["changed"] = round(changed(before, image, self.grid.plan.threshold), 6)
        if self.likeness is not None:
            found["looks"] = round(self.likeness.distance(image), 4)
        return found


class Painter:
    """Draws a drawing's pictures on a lent model, and measures its losses."""

    def __init__(self, drawing: Drawing, lent: Lent):
        self.drawing, self.lent, self.grid = drawing, lent, drawing.grid
        self.order = drawing.order()
        self.files = list(dict.fromkeys(shot.file for shot in self.order if shot.on)) or [*self.grid.files]
        self.worn: dict[pathlib.Path, Worn] = {}  # the last one
        folder = self.grid.plan.lora_dir
        self.wardrobe = Wardrobe(
            lent, [folder] if folder else list(dict.fromkeys(f.parent for f in self.files))
        )
        self.digests = {file: digest(file) for file in self.files}
        self.named: dict[str, list[object]] = {}

    def paint(self) -> None:
        drawing, course = self.drawing, self.drawing.course
        for file in self.files:  # whether it is a LoRA of this model
            self._wear(file)
        stems = list(dict.fromkeys(file.stem for file in self.files))
        self.wardrobe.read(list(dict.fromkeys(shot.prompt for shot in self.order)), stems)
        drawing.keys = {shot: self.key(shot) for shot in self.order}
        course.of = len(self.order)
        for shot in self.order:
            drawing.control.heed()
            drawing._say("")
            if drawing.folder.known(drawing.keys[shot]) is None:
                self._draw(shot)
            drawing.arrived(shot)
        if drawing.trial is not None:
            self._measure()

    def _wear(self, file: pathlib.Path) -> Worn:
        if file not in self.worn:
            self.worn.clear()
            self.worn[file] = Worn(self.lent, [file])
        return self.worn[file]

    @contextlib.contextmanager
    def _on(self, shot: Shot) -> Iterator[dict]:
        """Yields what is on, by name."""
        if not shot.on:
            yield {}
            return
        with self._wear(shot.file).at([1.0]) as on:
            on[shot.file.stem].weigh(shot.te, shot.unet, shot.blocks)
            yield on

    def _draw(self, shot: Shot) -> None:
        drawing, began = self.drawing, time.monotonic()
        prompt = dataclasses.replace(shot.prompt, prompt=tagged(shot))
        with self._on(shot) as on:
            image = self.wardrobe.sample(prompt, on)
            while HALF in image.info:  # which is drawn anew
                drawing.control.heed()
                image = self.wardrobe.sample(prompt, on)
        seconds = time.monotonic() - began
        drawing.course.seconds += seconds
        drawing.course.drawn += 1
        told = {"seconds": round(seconds, 3), "infotext": noted(image, shot)}
        drawing.folder.keep(drawing.keys[shot], image, told)

    def _measure(self) -> None:
        drawing, losses = self.drawing, None
        bare = next(iter(drawing.shots.values())).bare()
        wanted = {self.loss_key(shot): shot for shot in (bare, *drawing.shots.values())}
        for number, (name, shot) in enumerate(wanted.items()):
            if drawing.folder.losses(name) is not None:
                continue
            drawing.control.heed()
            drawing._say(f"measuring the loss, {number + 1} of {len(wanted)}")
            losses = losses or Losses.on(drawing.trial, self.lent)
            network = self._wear(shot.file or self.files[0]).networks[0]
            with self._on(shot), quick(self.lent.device):  # not for pictures, which are to be the host's own
                drawing.folder.keep_losses(name, losses.of(network))
        drawing.losses = drawing.folder.losses(self.loss_key(bare)) or []
        for place, shot in drawing.shots.items():
            found = drawing.folder.losses(self.loss_key(shot))
            drawing.cells[place]["metrics"]["loss"] = round(sum(found) / len(found), 6)
            drawing.cells[place]["losses"] = found

    # ── names ──

    @functools.cached_property
    def model(self) -> list[object]:
        """All that pictures of the bare model depend on, beside the prompt."""
        job, origin = self.drawing.job, self.lent.origin
        own = {p: v for p, v in flat(job.model).items() if p != "pretrained_model_name_or_path"}
        beneath = [(digest(file), times) for file, times in job.model.beneath()]
        return [VERSION, origin.new_hash or origin.name, origin.vae_name, own, beneath,
                job.training.mixed_precision, self.lent.device.type]  # fmt: skip

    def key(self, shot: Shot) -> str:
        others = [one.name for one in loras(shot.prompt.prompt)[1]]
        named = [self._named(name) for name in others]
        return key(self.model, vars(shot.prompt), named, self._lora(shot), shot.times)

    def _named(self, name: str) -> list[object]:
        """A LoRA that a prompt names."""
        if name not in self.named:
            every = [file for folder in self.wardrobe.folders for file in folder.rglob("*.safetensors")]
            found = [file for file in every if file.stem == name and file.is_file()]
            self.named[name] = [name, *sorted(map(digest, found))]
        return self.named[name]

    def _lora(self, shot: Shot) -> list[object]:
        return [self.digests[shot.file], shot.te, shot.unet, str(shot.blocks)] if shot.on else []

    def loss_key(self, shot: Shot) -> str:
        return key("loss", self.model, self._lora(shot), self.tried)

    @functools.cached_property
    def tried(self) -> list[object]:
        trial = self.drawing.trial
        return [flat(trial.job.objective), trial.said()]


def noted(image: Image.Image, shot: Shot) -> str:
    """What draws the picture again, as the host wrote it where it wrote something."""
    written, text = image.info.get("parameters", ""), loras(shot.prompt.prompt)[0]
    if text and written.startswith(text):
        return infotext(shot) + written[len(text) :]
    p = shot.prompt
    negative = f"\nNegative prompt: {p.negative_prompt}" if p.negative_prompt else ""
    return (
        f"{infotext(shot)}{negative}\nSteps: {p.sample_steps}, Sampler: {p.sample_sampler}, CFG scale: "
        f"{p.scale:g}, Seed: {p.seed}, Size: {p.width}x{p.height}"
    )
