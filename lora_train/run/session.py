"""One job from start to end: plan, borrow, cache, attach, loop, save, give back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import pathlib
import random
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.file import begun, save, save_word
from lora_train.adapters.mapped import maker
from lora_train.adapters.network import Network
from lora_train.data import summary
from lora_train.data.batches import Batches, arithmetic, numbers
from lora_train.data.classes import placed
from lora_train.data.folder import Planned
from lora_train.data.holes import Holes
from lora_train.data.memory import Memory, usual
from lora_train.data.plan import plan
from lora_train.errors import Mistake
from lora_train.host import Host, Lent
from lora_train.job import Job, Output, Place, written
from lora_train.prompts import Prompt
from lora_train.run.base import Base
from lora_train.run.caches import Caches
from lora_train.run.classes import drawn, heeding, home
from lora_train.run.control import Control, Ended
from lora_train.run.copier import Copier
from lora_train.run.draw import Wardrobe, noted
from lora_train.run.embeddings import checked, spoken, unspoken, word
from lora_train.run.fit import fitted
from lora_train.run.hub import Uploads
from lora_train.run.losses import Losses
from lora_train.run.measure import enough
from lora_train.run.metadata import Facts, metadata
from lora_train.run.refusals import refusals
from lora_train.run.samples import Samples, wanted
from lora_train.run.states import States, settled
from lora_train.run.store import RunStore, State
from lora_train.run.trackers import trackers
from lora_train.run.validation import Validating
from lora_train.run.watchers import Metrics, Saves
from lora_train.run.whole import taken, target, worked_in
from lora_train.train.arithmetic import quick
from lora_train.train.compiled import compiled
from lora_train.train.events import Progress, Watcher
from lora_train.train.finite import Guard
from lora_train.train.learner import Learner, scaler
from lora_train.train.loop import train
from lora_train.train.parallel import Team, team
from lora_train.train.parked import parked
from lora_train.train.recompute import recomputed
from lora_train.train.relora import Jagged

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WAITING = "waiting for the model"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    progress: Progress
    file: pathlib.Path  # the last one written
    state: pathlib.Path | None  # to resume from, where one was written at the end


def run(
    job: Job,
    output: Output,
    place: Place,
    host: Host,
    *,
    watchers: Sequence[Watcher] = (),
    control: Control | None = None,
) -> Outcome:
    """Train. Nothing is written before the job, the folders, the pictures and the model are known good.

    Raises:
        Mistake: the job cannot be done as it stands; the message says why.
        Ended: asked to stop before the first step.
    """
    control = control or Control()
    asked = refusals(job, output, place), host.refusals(job, output, place), taken(output, place, host)
    if complaints := [line for lines in asked for line in lines]:
        raise Mistake("\n".join(complaints))
    resumed = State.read(place.resume) if place.resume else None
    with team(place.device) as crew:
        job = crew.all(settled(job, resumed, crew.world))[0]  # a seed that was drawn is the first process's
        store = RunStore(output.output_dir, output.output_name, output.run_dir)
        if crew.first:
            store.writable()
        kept = place.caches(job.data)
        job = dataclasses.replace(job, data=placed(job.data, home(store, host.folders)))
        look = functools.partial(plan, job.data, decode=not kept, look=job.objective.survey)
        planned = look(memory=Memory(usual()))
        together = job.training.gradient_accumulation_steps * crew.world
        checked(job, planned)
        count = numbers(planned, together)
        steps = job.training.steps(count.steps)
        prompts = wanted(job, output, planned)
        log.info(arithmetic(planned, steps, together))
        place, most = fitted(job, place, host, planned)
        tell(watchers, WAITING)
        precision = job.training.mixed_precision
        with host.borrow(job.model, device=place.device, precision=precision, waiting=control.heed) as lent:
            control.heed()
            heed = functools.partial(tell, watchers)
            heed = heeding(lent, control, heed) if crew.world == 1 else heed
            if drawn(lent, planned, crew, model=job.model, told=heed):
                planned = look(memory=Memory(usual()))
                count = numbers(planned, together)
                steps = job.training.steps(count.steps)
                log.info(arithmetic(planned, steps, together))
            copier = Copier(job, place, store, lent, crew, control, functools.partial(tell, watchers))
            job = copier.made(planned, resumed is not None)
            begin = job.training.begin(count.steps)
            progress = Progress(steps, count.steps, step=begin, origin=begin)
            session = Session(job, output, place, store, lent, planned, progress, crew)
            session.control, session.others = control, watchers
            with enough(job, place, planned), session.attached() as learner:
                learner.pieces.most = most
                session.train(learner, prompts, resumed)
                session.whole(target(output, host.folders))
            return session.outcome()


def tell(watchers: Sequence[Watcher], what: str, done: int = 0, of: int = 0) -> None:
    for watcher in watchers:
        watcher.preparing(what, done, of)


class Session:
    """What a run holds while it goes on."""

    def __init__(  # noqa: PLR0913 (the one place where all of a run meets)
        self,
        job: Job,
        output: Output,
        place: Place,
        store: RunStore,
        lent: Lent,
        planned: Planned,
        progress: Progress,
        crew: Team,
    ):
        self.crew = crew
        self.job, self.output, self.place, self.store = job, output, place, store
        self.lent, self.planned, self.progress = lent, planned, progress
        self.began, self.clock = time.time(), time.monotonic()  # the one may be set while the run goes on
        self.wrote, self.state = store.result, None
        self.base = Base.of(job.model, lent.layers())
        self.network = _network(job, lent)
        self.network.word = word(job, lent)
        self.wardrobe = Wardrobe(lent, [output.output_dir])
        self.session = random.SystemRandom().randrange(2**32)
        self.control, self.others = Control(), ()
        self.caches: Caches | None = None
        self.guard: Guard | None = None
        self.uploads: Uploads | None = None
        self.on = contextlib.ExitStack()  # what of ours is on the model

    @contextlib.contextmanager
    def attached(self) -> Iterator[Learner]:
        with self.on:
            self.attach()
            course = self.job.objective.begin(self.lent, self.network)
            self.learner = Learner.new(
                self.network, course, optimizer=self.job.optimizer, lr=self.job.lr, progress=self.progress
            )  # fmt: skip
            if self.job.training.mixed_precision == "fp16":
                self.learner.scaler = scaler()
            self.learner.averaged(self.job.ema)
            self.learner.growing(self.job.relora, maker(self.job.network))
            yield self.learner

    def attach(self) -> None:
        """All that a run changes of the model and of torch; `self.on.close()` takes it back."""
        place = self.place
        blocks = self.lent.checkpoint_blocks() if place.gradient_checkpointing else []
        again = recomputed(blocks, away=place.cpu_offload_checkpointing)
        roots = self.lent.denoisers() if place.torch_compile else []
        fast = compiled(roots, place.dynamo_backend)
        read = spoken(self.lent, self.network.word)
        beneath = self.base.attached()
        for change in (quick(self.lent.device), beneath, self.network.attached(), again, fast, read):
            self.on.enter_context(change)

    def between(self, progress: Progress) -> None:
        """What is asked for between two steps; during a pause the host has its model to itself."""
        control = self.control
        if control.take_save():
            self.saves.now(progress)
        if control.paused and not control.stopping:
            began = time.monotonic()
            self.rest(progress)
            progress.began += time.monotonic() - began
        if not control.stopping and control.take_sample() and self.samples:
            self.samples.now(progress)

    def rest(self, progress: Progress | None = None) -> None:
        """Until a person says go on, or stop; after a stop the model is left with whoever has it."""
        if progress:  # a person may end the program now
            self.saves.keep(progress)
        self.on.close()
        try:
            with parked(*self.held()), self.lent.given_back(self.waiting):
                self.idle(progress)
        except Ended:
            if progress is None:
                raise
            return  # what there is to save needs no model
        tell(self.others, "")
        layers = self.lent.layers()
        own = self.learner.course.networks()
        for network in (self.network, *own, *self.base.networks, *self.wardrobe.networks.values()):
            network.move(layers)
        self.attach()

    def idle(self, progress: Progress | None) -> None:
        control = self.control
        with control.rest():
            while control.paused and not control.stopping:
                if progress and control.take_save():
                    self.saves.now(progress)
                control.wait(1.0)

    def waiting(self) -> None:
        """Told while another has the model that a pause gave back."""
        tell(self.others, WAITING)
        self.control.heed()

    def held(self) -> list[object]:
        """What lies beside the model on its device, and has to leave it in a pause."""
        if not self.place.park_on_pause:
            return []
        made = self.caches and self.caches.made
        return [self.learner, self.guard, made, [*self.base.networks, *self.wardrobe.networks.values()]]

    def train(self, learner: Learner, prompts: Sequence[Prompt], resumed: State | None) -> None:
        """Everything between a model that is lent and a file that is written."""
        job, crew = self.job, self.crew
        self.wardrobe.read(prompts, [self.output.output_name])
        if resumed:
            self.states.restore(learner, resumed)
        crew.same(learner.parameters, "the adapters to begin with")
        batches = self.batches()  # caching reads every picture to its end, so it comes before writing
        seen = self.watchers(prompts)
        if crew.first:
            self.store.write_job(written(job, self.output, self.place))
            seen += self.others
        if self.planned.held:  # before what saves: a state knows what was found at its step
            seen = [self.validating(batches, seen), *seen]
        self.guard = Guard(learner)
        train(
            learner, self.lent, batches, training=job.training, lr=Jagged(job.relora, job.lr), watchers=seen,
            control=self.control, between=self.between, team=crew, guard=self.guard)  # fmt: skip

    def batches(self) -> Batches:
        training = self.job.training
        self.caches = caches = Caches(
            self.job, self.place, self.store, self.lent, self.planned, self.crew, self.cached)  # fmt: skip
        latents, parts = caches.latents(), self.network.parts()
        text = self.network.word or any(params for part, params in parts.items() if part != "unet")
        conds = None if text else caches.conds()
        holes = None
        if self.lent.inpaints and self.planned.pictures:
            holes = Holes(self.lent.encode_images, training.seed, self.job.data.inpainting_masks)
        return Batches(
            self.planned, latents, seed=training.seed, accumulation=training.gradient_accumulation_steps,
            conds=conds, steps=self.progress.steps, rank=self.crew.rank, world=self.crew.world,
            holes=holes)  # fmt: skip

    def cached(self, what: str, done: int, of: int) -> None:
        """Told while latents and conds are made; a stop is a stop here too, and a pause is one."""
        tell(self.others, what, done, of)
        if self.crew.world > 1:
            return
        self.control.heed()
        if self.control.paused:
            self.rest()

    def watchers(self, prompts: Sequence[Prompt]) -> list[Watcher]:
        mine = self.crew.share([*enumerate(prompts)])
        self.samples = Samples(
            self.output, self.store, mine, self.draw, base=self.draw_base, control=self.control
        )
        losses = Losses(self.store, self.planned, self.crew)
        if not self.crew.first:
            return [self.samples, losses]
        seen: list[Watcher] = [Metrics(self.store, self.lent.device), losses]
        settings = written(self.job, self.output, self.place, places=False)
        logged = trackers(self.output, self.store.records, settings)
        self.samples.trackers = logged
        self.saves = Saves(self.output, self.store, write=self.write, write_state=self.write_state)
        self.samples.others = self.saves.others = self.others
        if self.output.hub.repo_id is not None:
            self.uploads = Uploads(self.output.hub)
            self.saves.others = [*self.others, self.uploads]
            logged = [*logged, self.uploads]  # behind what saves at the end
        return [*seen, self.samples, self.saves, *logged]

    def validating(self, batches: Batches, seen: Sequence[Watcher]) -> Validating:
        first = self.crew.first
        return Validating(
            self.job.validation, self.learner, self.lent, batches, self.job.training.mixed_precision,
            self.crew, best=self.saves.best if first else lambda progress: None,
            watchers=seen if first else ())  # fmt: skip

    def draw(self, prompt: Prompt) -> Image.Image:
        """A sample of the adapters as they are, without the dropouts of training, and of what else the prompt
        names."""
        return noted(self._drawn(prompt), prompt, self.output.output_name)

    def draw_base(self, prompt: Prompt) -> Image.Image:
        """The same without the adapters."""
        with self.network.off(), unspoken(self.lent, self.network.word):
            return self._drawn(prompt)

    def _drawn(self, prompt: Prompt) -> Image.Image:
        self.network.eval()
        try:
            with self.learner.shown():
                return self.wardrobe.sample(prompt, {self.output.output_name: self.network})
        finally:
            self.network.train()

    def write(self, path: pathlib.Path, progress: Progress) -> None:
        with self.learner.shown():
            self._write(path, progress)

    def _write(self, path: pathlib.Path, progress: Progress) -> None:
        facts = Facts(
            session=self.session,
            started=self.began,
            finished=self.began + time.monotonic() - self.clock,
            steps=progress.step,
            epoch=progress.epoch,
            max_steps=progress.steps,
            epochs=progress.epochs,
            origin=self.lent.origin,
            data=summary.facts(self.planned, self.job.training.gradient_accumulation_steps, self.crew.world),
        )
        texts = metadata(self.job, self.output, self.place, facts)
        texts |= {} if self.output.no_metadata else self.base.record()
        save(
            self.network, path, metadata=texts, dtype=PRECISIONS[self.output.save_precision],
            native=self.store.native_of(path), rank=self.output.export_rank)  # fmt: skip
        if self.network.word and self.output.save_embedding:
            named = self.store.word_of(path, self.network.word.name)
            save_word(self.network.word, named, metadata=texts, dtype=PRECISIONS[self.output.save_precision])
        self.wrote = path

    def whole(self, file: pathlib.Path) -> None:
        if self.output.save_checkpoint and self.crew.first and not self.progress.stopped:
            dtype, networks = PRECISIONS[self.output.save_precision], [*self.base.networks, self.network]
            worked_in(networks, self.lent, file, dtype, self.learner)

    def write_state(self, folder: pathlib.Path, progress: Progress) -> None:
        values = written(self.job, self.output, self.place)
        self.states.of(self.learner, values).write(folder)
        self.state = folder
        if self.uploads and folder != self.store.last:
            self.uploads.kept(folder)

    @functools.cached_property
    def states(self) -> States:
        return States(
            self.job, self.place, self.lent.origin, self._samples(), self._together(), self.crew.world,
            self.base.said)  # fmt: skip

    def _together(self) -> int:
        """Batches to a step, of all processes."""
        return self.job.training.gradient_accumulation_steps * self.crew.world

    def _samples(self) -> int:
        return numbers(self.planned).samples

    def outcome(self) -> Outcome:
        return Outcome(self.progress, self.wrote, self.state)


def _network(job: Job, lent: Lent) -> Network:
    """The adapters, drawn from the job's seed, or continued from a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.training.seed)
        return begun(job.network, lent.layers())
