"""Background: the ground behind a subject, taken away or given a colour."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image, ImageColor

from lora_train.data import pixels
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.values import shown
from lora_train.workshop.beside import One
from lora_train.workshop.image import MODES, Shot, srgb, written
from lora_train.workshop.soft import REACH, foreground
from lora_train.workshop.subject import ALPHA, Cut, covered, single
from lora_train.workshop.work import Touched

CLEAR = "transparent"
ROWS = 512  # that are worked on together


@dataclasses.dataclass(frozen=True)
class Background(Cut):
    """Take a subject's background away, or give it a colour."""

    to: str = knob(
        "white", f"What takes the ground's place: a colour, such as white or #808080; or {CLEAR}, for which "
        "JPEGs become PNGs.", group="output", basic=True)  # fmt: skip
    edges: bool = knob(
        True, "Take the old ground's colour out of soft edges and hair, too.", group="output")  # fmt: skip

    title = "background"

    def check(self) -> Iterable[str]:
        yield from super().check()
        try:
            self.to == CLEAR or ImageColor.getrgb(self.to)
        except ValueError:
            yield f"to = {shown(self.to)}: expected a colour, such as white or #808080, or {CLEAR}"
        if self.by == ALPHA and self.to == CLEAR and not (self.grow or self.soften or self.threshold):
            yield f"to = {CLEAR}: expected a colour beside by = {ALPHA}; it is transparent there already"

    def one(self, one: One) -> Iterator[Touched]:
        shot = one.shot()
        single(shot)
        mask = self.subject(shot)
        path, kind = one.path, shot.format
        if self.to == CLEAR and "RGBA" not in MODES.get(kind, ("RGBA",)):
            path, kind = one.path.with_suffix(".png"), "PNG"
            if path.exists() and not one.same(path):
                raise Mistake(f"{path.name} is there already; rename one of them")
            one.claim(path)
        if not one.dry:
            ending = None if kind == shot.format else ".png"
            image, shot.icc = self._made(shot, mask), None
            one.draft.put(path, written(shot, image, ending=ending, quality=self.quality))
        if path != one.path:
            one.draft.remove(one.path)
        one.outdated()
        yield Touched(one.entry.name, f"{1 - covered(mask):.0%} of it is ground")

    def _made(self, shot: Shot, mask: Image.Image) -> Image.Image:
        """Some rows at a time: of 12 million pixels numbers with a point would fill a gigabyte."""
        alpha = np.asarray(mask)
        seen = np.asarray(pixels.rgb(srgb(shot.image, shot.icc), None))
        rows = [self._rows(seen, alpha, top) for top in range(0, len(seen), ROWS)]
        return Image.fromarray(np.concatenate(rows))

    def _rows(self, seen: np.ndarray, alpha: np.ndarray, top: int) -> np.ndarray:
        low, high = max(0, top - REACH), top + ROWS + REACH
        a, own = alpha[low:high].astype(np.float32) / 255, seen[low:high].astype(np.float32) / 255
        front = foreground(own, a) if self.edges and self.by != ALPHA else own
        a, front = a[top - low :][:ROWS, :, None], front[top - low :][:ROWS]
        if self.to == CLEAR:
            front = np.where(a == 0, 1, front)  # nothing of the ground stays in the file
            both = np.concatenate([front, a], 2)
        else:
            both = a * front + (1 - a) * (np.array(ImageColor.getrgb(self.to)[:3], np.float32) / 255)
        found = np.rint(both * 255).clip(0, 255).astype(np.uint8)
        whole = alpha[top:][:ROWS] == 255
        found[whole, :3] = seen[top:][:ROWS][whole]
        return found
