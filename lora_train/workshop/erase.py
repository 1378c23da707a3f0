"""Erase: a painted region, filled with what could have been behind it."""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageChops

from lora_train.data import pixels
from lora_train.errors import Mistake
from lora_train.host import Host
from lora_train.knobs import knob
from lora_train.prompts import Prompt
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop.beside import Act, OfPictures, One
from lora_train.workshop.flood import pieces
from lora_train.workshop.handed import fitted, painted
from lora_train.workshop.image import Shot, srgb, transparent, written
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.painters import Painter, lama, lama_file, opencv
from lora_train.workshop.soft import grown, softened
from lora_train.workshop.subject import covered, single
from lora_train.workshop.work import Touched

LAMA, WEBUI, OPENCV = "lama", "webui", "opencv"
AROUND = 64  # pixels of the picture that are seen around a hole, or as many as it has itself
MOST = 32  # holes that are filled one by one; more are one
PAINTED = 128  # from which on a place is painted


@dataclasses.dataclass(frozen=True)
class Erase(OfPictures):
    """Erase what is painted, such as a watermark, and fill the place."""

    painted: str = knob(
        "", "What is to go, white: a PNG file, or one as a data: address. Of several pictures the same place "
        "goes, as of a watermark.", group="erase", place=True, basic=True)  # fmt: skip
    by: str | None = knob(
        None, "What fills the place. lama: a network for just this, in an .onnx file. webui: inpainting with "
        "the model that the WebUI has. opencv: from the edges inwards, for small places. Empty: the first of "
        "them that there is.", group="erase", choices=(LAMA, WEBUI, OPENCV), basic=True)  # fmt: skip
    lama: pathlib.Path | None = knob(
        None, "LaMa's .onnx file, such as lama_fp32.onnx.", group="erase", place=True)  # fmt: skip
    grow: int = knob(
        4, "The painted place is taken to be so much larger all round.", group="erase", low=0, high=200,
        unit="pixels")  # fmt: skip
    soften: float = knob(
        2.0, "How far its edge is blurred into the picture.", group="erase", low=0, high=100,
        unit="pixels")  # fmt: skip
    prompt: str = knob(
        "", "Of the WebUI's inpainting: what is to be there.", group="webui")  # fmt: skip
    negative_prompt: str = knob(
        "text, watermark", "Of the WebUI's inpainting: what is not.", group="webui")  # fmt: skip
    strength: float = knob(
        1.0, "Of the WebUI's inpainting: how far it goes from what the place was filled with at first.",
        group="webui", low=0.05, high=1)  # fmt: skip
    steps: int = knob(30, "Of the WebUI's inpainting.", group="webui", low=1, high=1000)
    scale: float = knob(7.0, "Guidance of the WebUI's inpainting.", group="webui", low=1, high=100)
    seed: int = knob(0, "Seed of the WebUI's inpainting.", group="webui", low=0, high=2**32 - 1)
    resolution: int = knob(
        512, "Size at which the WebUI's inpainting sees a place with what is around it: 512 for SD 1.x, 1024 "
        "for SDXL.", group="webui", low=64, high=4096, unit="pixels")  # fmt: skip

    title = "erase"
    light = False
    keeps = True
    hosted = True

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        if self.painted and not self.painted.startswith("data:"):
            yield "painted", pathlib.Path(self.painted)

    def check(self) -> Iterable[str]:
        yield from super().check()
        if not self.painted:
            yield "painted: expected what was painted, a PNG"
        if self.lama and self.by not in (None, LAMA):
            yield f"lama = {self.lama}: expected by = {LAMA} beside it"

    def within(self, host: Host, told: Told = unheard) -> Report:
        act = self._act(host)

        def edit(opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
            return self.each(act, opened, chosen, draft, told)

        return self.done_by(edit, told)

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        return self.each(self._act(None), opened, chosen, draft, told)

    def _act(self, host: Host | None) -> Act:
        """Raises Mistake: what is wrong is so with all pictures."""
        self._painting  # noqa: B018
        return functools.partial(self._erased, *self._painter(host))

    def _painter(self, host: Host | None) -> tuple[str, Painter]:
        """Raises Mistake: there is none."""
        if self.by == LAMA or (self.by is None and lama_file(self.lama)):
            return LAMA, lama(self.lama)
        if self.by in (None, WEBUI):
            try:
                if host is None:
                    raise Mistake("by = webui: works inside the WebUI alone; take lama or opencv")
                own = host.inpainter(self._prompt, self.strength)
                return WEBUI, functools.partial(_at, self.resolution, own)
            except Mistake:
                if self.by == WEBUI:
                    raise
        return OPENCV, opencv()

    @property
    def _prompt(self) -> Prompt:
        return Prompt(self.prompt, self.negative_prompt, seed=self.seed, sample_steps=self.steps,
                      scale=self.scale, sample_sampler="euler_a")  # fmt: skip

    @functools.cached_property
    def _painting(self) -> Image.Image:
        return painted(self.painted)

    def _erased(self, name: str, painter: Painter, one: One) -> Iterator[Touched]:
        shot = one.shot()
        single(shot)
        hole = np.asarray(fitted(self._painting, shot.image.size)) >= PAINTED
        if not hole.any():
            raise Mistake("nothing is painted in it")
        core = Image.fromarray(hole.astype(np.uint8) * 255)
        mask = grown(core, self.grow)
        if not one.dry:
            made = self._filled(shot, mask, core, painter)
            one.draft.put(one.path, written(shot, made, quality=self.quality))
        one.outdated()
        yield Touched(one.entry.name, f"{covered(mask):.2%} of it is painted anew, by {name}")

    def _filled(self, shot: Shot, mask: Image.Image, core: Image.Image, painter: Painter) -> Image.Image:
        """core: of which nothing is to stay, however soft the mask's edge is."""
        if shot.image.mode in ("RGB", "RGBA", "L", "LA"):
            seen = pixels.rgb(shot.image, None)
        else:
            seen, shot.icc = pixels.rgb(srgb(shot.image, shot.icc), None), None
        made = seen.copy()
        for box in boxes(np.asarray(mask) > 0):
            patch, hole = made.crop(box), mask.crop(box)
            soft = ImageChops.lighter(softened(hole, self.soften), core.crop(box))
            made.paste(painter(patch, hole).convert("RGB"), box[:2], soft)
        if transparent(shot.image):
            made.putalpha(pixels.opacity(shot.image))
        return made


def boxes(hole: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of each hole with what is around it; those that see each other are one."""
    piece = pieces(hole)
    numbers = np.unique(piece[hole])
    groups = [piece == n for n in numbers] if len(numbers) <= MOST else [hole]
    found = [_around(group) for group in groups]
    i = 0
    while i < len(found):
        j = next((j for j in range(i + 1, len(found)) if _meet(found[i], found[j])), None)
        if j is None:
            i += 1
            continue
        a, b = found[i], found.pop(j)
        found[i], i = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])), 0
    return found


def _around(group: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(group.any(1)), np.flatnonzero(group.any(0))
    room = int(max(AROUND, np.ptp(rows) + 1, np.ptp(columns) + 1))
    height, width = group.shape
    return (max(0, int(columns[0]) - room), max(0, int(rows[0]) - room),
            min(width, int(columns[-1]) + 1 + room), min(height, int(rows[-1]) + 1 + room))  # fmt: skip


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _at(resolution: int, painter: Painter, image: Image.Image, hole: Image.Image) -> Image.Image:
    """At about the size that a model was made for, in sides that it takes."""
    scale = resolution / math.sqrt(image.width * image.height)
    size = tuple(max(64, round(side * scale / 64) * 64) for side in image.size)
    small = image.resize(size, Image.Resampling.LANCZOS)
    return painter(small, hole.resize(size)).resize(image.size, Image.Resampling.LANCZOS)
