"""Samples: pictures of a few prompts while the run goes on, and the list of what was drawn."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import pathlib
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from PIL import PngImagePlugin

from lora_train.data.subject import SLOT
from lora_train.prompts import Prompt, defaults, read_prompts
from lora_train.run.control import Control
from lora_train.run.store import RunStore, Unwritable, whole
from lora_train.train.events import Progress, Watcher

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.data.folder import Planned
    from lora_train.job import Job, Output
    from lora_train.run.trackers import Tracker

Draw = Callable[["Prompt"], "Image.Image"]

FEW = 1000  # captions that are looked at for two to draw

log = logging.getLogger(__name__)


class Samples(Watcher):
    """Draws prompts, each with its number among all, with the adapters as they are."""

    def __init__(  # noqa: PLR0913 (what is drawn, with what, and who wants to know)
        self,
        output: Output,
        store: RunStore,
        prompts: Sequence[tuple[int, Prompt]],
        draw: Draw,
        *,
        base: Draw | None = None,
        control: Control | None = None,
    ):
        """base: draws without the adapters; control: a stop does not wait for all prompts."""
        self.output, self.store, self.prompts, self.draw, self.base = output, store, prompts, draw, base
        self.control, self.told = control or Control(), False
        self.trackers: Sequence[Tracker] = ()
        self.others: Sequence[Watcher] = ()  # who is told of each picture
        self.bases: dict[int, pathlib.Path | None] = {}

    def started(self, progress: Progress) -> None:
        if self.output.sample_every_n_epochs and self.output.sample_every_n_steps:
            log.info("sample_every_n_steps has no effect here: samples are drawn by epoch")
        if progress.step == 0:
            with contextlib.suppress(OSError):
                (self.store.records / "samples.jsonl").unlink(missing_ok=True)
        if self.output.sample_at_first and progress.step == 0:
            self._sample("000000", progress)

    def stepped(self, progress: Progress) -> None:
        steps, epochs = self.output.sample_every_n_steps, self.output.sample_every_n_epochs
        if epochs is not None:  # as sd-scripts: epochs win over steps
            if progress.ends_epoch and progress.epoch % epochs == 0:
                self._sample(f"e{progress.epoch:06d}", progress)
        elif steps is not None and progress.step % steps == 0:
            self._sample(f"{progress.step:06d}", progress)

    def now(self, progress: Progress) -> None:
        """Because a person asks for it."""
        self._sample(f"{progress.step:06d}", progress)

    def _sample(self, moment: str, progress: Progress) -> None:
        for done, (i, prompt) in enumerate(self.prompts):
            if self.control.stopping:
                break
            self._say("drawing samples", done)
            stamp = time.strftime("%Y%m%d%H%M%S")
            seed = "" if prompt.seed is None else f"_{prompt.seed}"
            image = self.draw(prompt)
            for tracker in self.trackers:
                tracker.pictured(progress, i, prompt.prompt, image)
            path = self._kept(image, f"{moment}_{i:02d}_{stamp}{seed}")
            if path is not None:
                self._note(i, prompt, progress, image, path)
        self._say("", 0)

    def _say(self, what: str, done: int) -> None:
        for watcher in self.others:
            watcher.preparing(what, done, len(self.prompts) if what else 0)

    def _kept(self, image: Image.Image, words: str) -> pathlib.Path | None:
        path = self.store.samples / f"{self.store.name}_{words}.png"
        texts = PngImagePlugin.PngInfo()
        if "parameters" in image.info:
            texts.add_itxt("parameters", image.info["parameters"])
        try:
            with whole(path) as part:
                image.save(part, "PNG", pnginfo=texts)
        except Unwritable as e:
            if not self.told:
                log.warning("%s. The run goes on without this sample", e)
            self.told = True
            return None
        return path

    def _without(self, i: int, prompt: Prompt) -> pathlib.Path | None:
        """The prompt's picture without the adapters, drawn once a run."""
        if i not in self.bases:
            self.bases[i] = None
            if self.base and self.output.sample_base and prompt.seed is not None:
                self.bases[i] = self._kept(self.base(prompt), f"base_{i:02d}_{prompt.seed}")
        return self.bases[i]

    def _note(
        self, i: int, prompt: Prompt, progress: Progress, image: Image.Image, path: pathlib.Path
    ) -> None:
        """Keep a line of it beside the run, and tell who watches."""
        base = self._without(i, prompt)
        line = {
            "step": progress.step, "number": i, "prompt": prompt.prompt, "file": str(path),
            "base": base and str(base), "infotext": image.info.get("parameters"),
        }  # fmt: skip
        with contextlib.suppress(OSError):  # the picture itself is there
            self.store.records.mkdir(parents=True, exist_ok=True)
            with (self.store.records / "samples.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        for watcher in self.others:
            watcher.sampled(progress, line)


def _told(prompt: Prompt, number: int, planned: Planned) -> Prompt:
    """With a picture's caption and the tokens of its subject, where it asks for them."""
    if SLOT not in prompt.prompt:
        return prompt
    items = [item for item in planned.items if not item.subset.is_reg]
    item = items[number % len(items)]
    text = prompt.prompt.replace(SLOT, item.own.split("\n")[0])
    return dataclasses.replace(prompt, prompt=item.subset.put(text))


def wanted(job: Job, output: Output, planned: Planned) -> list[Prompt]:
    """What is drawn while training, by itself or when asked: the file's prompts, or where there is none the
    trigger word and two captions."""
    if output.sample_prompts is not None:
        found = read_prompts(output.sample_prompts, output.sample_sampler)
        return [_told(prompt, number, planned) for number, prompt in enumerate(found)]
    rules, unused = planned.sources[0].dataset, random.Random(0)
    spoken = (item.subset.apply(item.caption, unused) for item in planned.items if not item.subset.is_reg)
    size = rules.resolution.width, rules.resolution.height
    return defaults(
        planned.items[0].subset.call,
        [*itertools.islice(spoken, FEW)],
        size,
        weighted=job.model.weighted_captions,
    )
