"""Which places of a picture are its subject: what works on ground and on masks share."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageStat

from lora_train.data import pixels
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.values import shown
from lora_train.workshop import flood
from lora_train.workshop.beside import OfPictures
from lora_train.workshop.image import Shot, srgb, transparent
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.removers import PERSON, REMOVERS, Find, finder
from lora_train.workshop.soft import grown, softened
from lora_train.workshop.work import Touched

ALPHA, COLOUR, REMOVER = "alpha", "colour", "remover"
REACH = 200  # pixels that a mask may be grown or shrunk by


@dataclasses.dataclass(frozen=True)
class Cut(OfPictures):
    """Finds what is subject, as it is told to."""

    by: str = knob(
        COLOUR, "What tells subject from ground. alpha: the picture's own transparency. colour: what hangs "
        "together with the border in its commonest colour is ground, for drawings and the like. remover: a "
        "network.", group="subject", choices=(ALPHA, COLOUR, REMOVER), basic=True)  # fmt: skip
    remover: str = knob(
        "u2net", f"The network: {', '.join(REMOVERS)}, whose .onnx file lies where rembg keeps it; an .onnx "
        f"file of that kind; or {PERSON}, which the package mediapipe brings along.", group="subject",
        basic=True)  # fmt: skip
    tolerance: int = knob(
        24, "By colour: how far the ground may be from its commonest colour, in any of red, green and blue, "
        "0 to 255. More for JPEGs and shaded ground.", group="subject", low=0, high=254)  # fmt: skip
    holes: bool = knob(
        False, "By colour: ground that the subject encloses goes, too.", group="subject")  # fmt: skip
    threshold: float | None = knob(
        None, "Places that are less sure than this are ground, and others subject: 0.5 makes hard edges. "
        "Empty: edges stay soft.", group="subject", low=0.01, high=0.99)  # fmt: skip
    grow: int = knob(
        0, "The subject is taken to be so much larger all round; below 0 smaller.", group="subject",
        low=-REACH, high=REACH, unit="pixels")  # fmt: skip
    soften: float = knob(
        0.0, "How far its edge is blurred then.", group="subject", low=0, high=REACH,
        unit="pixels")  # fmt: skip
    least: float = knob(
        0.005, "A picture of which less than this share is subject, or less is ground, is left as it is.",
        group="subject", low=0, high=0.5)  # fmt: skip

    light = False
    keeps = True

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        if self.by == REMOVER and self.remover.lower().endswith(".onnx"):
            yield "remover", pathlib.Path(self.remover)

    def check(self) -> Iterable[str]:
        yield from super().check()
        known = self.remover in (*REMOVERS, PERSON) or self.remover.lower().endswith(".onnx")
        if self.by == REMOVER and not known:
            yield (f"remover = {shown(self.remover)}: expected {', '.join(REMOVERS)}, {PERSON}, or an .onnx "
                   "file")  # fmt: skip

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        self.ready()
        return super().edit(opened, chosen, draft, told)

    def ready(self) -> None:
        """Raises Mistake: the network is missing, and so all pictures'."""
        if self.by == REMOVER:
            self.finder  # noqa: B018

    @functools.cached_property
    def finder(self) -> Find:
        return finder(self.remover)

    def subject(self, shot: Shot) -> Image.Image:
        """How much each place is subject, "L".

        Raises:
            Mistake: none is found.
        """
        mask = softened(grown(self._hard(self._found(shot)), self.grow), self.soften)
        share = covered(mask)
        if not self.least <= share <= 1 - self.least:
            what = "no subject" if share < 0.5 else "no ground"
            raise Mistake(f"{what} is found: {share:.1%} of it is taken for the subject")
        return mask

    def _found(self, shot: Shot) -> Image.Image:
        if self.by == ALPHA:
            if not transparent(shot.image):
                raise Mistake("nothing in it is transparent")
            return pixels.opacity(shot.image)
        seen = seen_as(shot)
        if self.by == COLOUR:
            found = flood.subject(seen, self.tolerance, holes=self.holes)
        else:
            found = self.finder(seen)
        return ImageChops.multiply(found, pixels.opacity(shot.image)) if transparent(shot.image) else found

    def _hard(self, mask: Image.Image) -> Image.Image:
        if self.threshold is None:
            return mask
        return Image.fromarray(np.where(np.asarray(mask) >= self.threshold * 255, 255, 0).astype(np.uint8))


def single(shot: Shot) -> None:
    """Raises Mistake: it is an animation, which would become one picture."""
    if shot.frames > 1:
        raise Mistake(f"an animation of {shot.frames} pictures; take its first with convert and rgb")


def seen_as(shot: Shot) -> Image.Image:
    """RGB, as it is seen on white."""
    return pixels.rgb(srgb(shot.image, shot.icc), (255, 255, 255))


def covered(mask: Image.Image) -> float:
    """The share of a picture that it shows."""
    return ImageStat.Stat(mask).mean[0] / 255
