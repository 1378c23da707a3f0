"""Mask: which places of pictures are learned from, as files that training reads."""

from __future__ import annotations

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from PIL import Image, ImageChops

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop.beside import LONGEST, One
from lora_train.workshop.handed import fitted, painted
from lora_train.workshop.image import Shot, read
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.soft import grown, softened
from lora_train.workshop.subject import ALPHA, COLOUR, REMOVER, Cut, covered
from lora_train.workshop.work import Touched

PAINTED, WHOLE, THERE = "painted", "whole", "there"
REPLACE, FILL, ADD, SUBTRACT, WITHIN = "replace", "fill", "add", "subtract", "within"


@dataclasses.dataclass(frozen=True)
class Mask(Cut):
    """Make masks for masked loss: white is learned from, black is not."""

    by: str = knob(
        ALPHA, "Where a mask comes from. alpha: the picture's own transparency. colour: what hangs together "
        "with the border in its commonest colour is black. remover: a network. painted: by hand. whole: all "
        "white. there: the mask that it has, to grow, soften or turn it round.", group="subject",
        choices=(ALPHA, COLOUR, REMOVER, PAINTED, WHOLE, THERE), basic=True)  # fmt: skip
    painted: str = knob(
        "", "A mask painted by hand, white where it is painted: a PNG file, or one as a data: address. Of "
        "several pictures each gets it.", group="subject", place=True)  # fmt: skip
    mode: str = knob(
        REPLACE, "Where a picture has a mask already: replace it; fill, only those without one get one; add "
        "to what is white; subtract from it; within it.", group="subject",
        choices=(REPLACE, FILL, ADD, SUBTRACT, WITHIN), basic=True)  # fmt: skip
    invert: bool = knob(
        False, "Turn it round: the subject becomes black, such as to learn a place without who is there.",
        group="subject")  # fmt: skip
    conditioning_data_dir: pathlib.Path | None = knob(
        None, "Folder that masks go to, named like their pictures; within the folder. Empty: beside the "
        "pictures, with mask_suffix behind their names.", group="masks", place=True)  # fmt: skip
    least: float = knob(
        0.0, "A picture of which less than this share is white, or less is black, gets none.",
        group="subject", low=0, high=0.5)  # fmt: skip

    title = "masks"

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        yield from super().named()
        if self.painted and not self.painted.startswith("data:"):
            yield "painted", pathlib.Path(self.painted)

    def check(self) -> Iterable[str]:
        yield from super().check()
        if (self.by == PAINTED) != bool(self.painted):
            yield ("painted: expected by = painted beside it" if self.painted else
                   "painted: expected what was painted, a PNG")  # fmt: skip
        if self.by == THERE and self.mode in (ADD, SUBTRACT, WITHIN, FILL):
            yield f"mode = {self.mode}: expected replace beside by = {THERE}"
        if self.mask_suffix is None and self.conditioning_data_dir is None:
            yield "mask_suffix: expected what stands behind names, or a folder in conditioning_data_dir"

    def run(self, told: Told = unheard) -> Report:
        report = super().run(told)
        where = self.conditioning_data_dir
        how = (
            f"data.conditioning_data_dir = {self._folder}"
            if where
            else f"data.mask_suffix = {self.mask_suffix}"
        )
        return dataclasses.replace(
            report, lines=(*report.lines, f"To train with them: objective.masked_loss = true, {how}")
        )

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        own = self
        if (
            self._folder is not None and not self._folder.is_dir()
        ):  # of which there is nothing to be known yet
            own = dataclasses.replace(self, conditioning_data_dir=None, mask_suffix=None)
        self.ready()
        return own.each(self.one, opened, chosen, draft, told)

    def one(self, one: One) -> Iterator[Touched]:
        shot = one.shot()
        there = one.beside.masks(one.entry.name)
        if there and self.mode == FILL:
            return
        mask = self._joined(self._white(shot, there), there, shot)
        path = self._path(one)
        if len(os.fsencode(path.name)) > LONGEST:
            raise Mistake("its name is too long for a mask's; rename it")
        one.claim(path)
        for other in (p for p in there if p != path and not one.beside.shared(p, one.entry.name)):
            one.draft.remove(other)
        file = io.BytesIO()
        mask.save(file, "PNG", optimize=True)
        one.draft.put(path, file.getvalue())
        yield Touched(one.entry.name, f"{covered(mask):.0%} of it is learned from")

    @property
    def _folder(self) -> pathlib.Path | None:
        where = self.conditioning_data_dir
        return where and pathlib.Path(os.path.normpath(self.folder.absolute() / where))  # of .., as well

    def _path(self, one: One) -> pathlib.Path:
        if self._folder is None:
            return one.path.with_name(f"{one.path.stem}{self.mask_suffix}.png")
        lead = one.path.parent.relative_to(one.opened.folder)
        return self._folder / lead / f"{one.path.stem}.png"

    def _white(self, shot: Shot, there: Sequence[pathlib.Path]) -> Image.Image:
        """Raises Mistake: there is nothing to make one of."""
        if self.by in (ALPHA, COLOUR, REMOVER):
            mask = self.subject(shot)
        else:
            found = self._handed(shot, there)
            mask = softened(grown(self._hard(found), self.grow), self.soften)
        return ImageChops.invert(mask) if self.invert else mask

    def _handed(self, shot: Shot, there: Sequence[pathlib.Path]) -> Image.Image:
        if self.by == PAINTED:
            return fitted(self._painting, shot.image.size)
        if self.by == WHOLE:
            return Image.new("L", shot.image.size, 255)
        if not there:
            raise Mistake("has no mask")
        return _read(there[0], shot)

    def ready(self) -> None:
        """Raises Mistake: the painting cannot be read, and so all pictures'."""
        super().ready()
        if self.by == PAINTED:
            self._painting  # noqa: B018

    @functools.cached_property
    def _painting(self) -> Image.Image:
        return painted(self.painted)

    def _joined(self, mask: Image.Image, there: Sequence[pathlib.Path], shot: Shot) -> Image.Image:
        """With the one that it has; one without a mask is learned from all over."""
        if self.mode in (REPLACE, FILL) or (self.mode == ADD and not there):
            return mask
        before = _read(there[0], shot) if there else Image.new("L", mask.size, 255)
        if self.mode == ADD:
            return ImageChops.lighter(before, mask)
        return ImageChops.darker(before, mask if self.mode == WITHIN else ImageChops.invert(mask))


def _read(path: pathlib.Path, shot: Shot) -> Image.Image:
    """As training reads it: its red.

    Raises:
        Mistake: it has another size than the picture.
    """
    found = read(path).image.convert("RGB").getchannel("R")
    if found.size != shot.image.size:
        (width, height), (wide, high) = found.size, shot.image.size
        raise Mistake(f"{path.name}, its mask, has {width}x{height} pixels, and the picture {wide}x{high}")
    return found
