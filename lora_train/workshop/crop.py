"""Crop: the part of a picture that is worth training on, by hand, around a face, or where the eye goes."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from PIL import Image

from lora_train.data import pixels
from lora_train.data.buckets import Size
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Told
from lora_train.values import shown
from lora_train.workshop.beside import One
from lora_train.workshop.bucketed import Bucketed
from lora_train.workshop.faces import DRAWN, FACE, PERSON, Find, finder
from lora_train.workshop.focus import Box, around, interest, largest
from lora_train.workshop.image import Shot, scaled
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Touched

BOX, FOCUS, CENTRE = "box", "focus", "centre"
SKIP, LARGEST, EACH, ALL = "skip", "largest", "each", "all"
RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*[:x/]\s*(\d+(?:\.\d+)?)")


@dataclasses.dataclass(frozen=True)
class Crop(Bucketed):
    """Cut pictures: by hand, around faces or persons, or where there is most to see."""

    by: str = knob(
        FOCUS, "What to cut around: box, given by hand; face; person; focus, where edges and colours that "
        "stand out are; centre.", group="crop", choices=(BOX, FACE, PERSON, FOCUS, CENTRE),
        basic=True)  # fmt: skip
    shape: str | None = knob(
        None, "square, a ratio of width to height such as 3:4, or bucket: that of the bucket of training "
        "that is nearest. Empty: a box, face or person as it is.", group="crop", basic=True)  # fmt: skip
    box: tuple[int, ...] | None = knob(
        None, "Left, top, width and height of what is kept, in pixels of the upright picture.", group="crop",
        low=0)  # fmt: skip
    boxes: tuple[str, ...] = knob(
        (), "The same of several pictures, a line each: name: left,top,width,height.",
        group="crop")  # fmt: skip
    margin: float = knob(
        0.5, "Room on each side of a face or person, in sizes of it.", group="crop", low=0, high=20,
        basic=True)  # fmt: skip
    faces: str = knob(
        LARGEST, "Where several are found: the largest; each, as a copy, and the picture stays; or all in "
        "one.", group="crop", choices=(LARGEST, EACH, ALL))  # fmt: skip
    missing: str = knob(
        SKIP, "Where none is found: skip leaves the picture as it is and says so; else it is cut by focus or "
        "centre, which needs a shape.", group="crop", choices=(SKIP, FOCUS, CENTRE))  # fmt: skip
    detector: str | None = knob(
        None, f"What finds faces and persons: {DRAWN}, a package for drawn faces; an OpenCV cascade (.xml), "
        "such as lbpcascade_animeface.xml; a YOLO (.onnx); or a folder with one of them. Empty: OpenCV's "
        "cascades for photographs. Only a YOLO knows persons; else they are a face and what is below it.",
        group="crop", place=True)  # fmt: skip
    face_weight: float = knob(
        0.0, "By focus: how much faces count beside edges and colours.", group="crop", low=0,
        high=1)  # fmt: skip
    copy: bool = knob(
        False, "Keep the picture, and write what is cut out beside it as NAME_crop, with its caption.",
        group="output")  # fmt: skip
    resize: bool = knob(
        False, "Also bring it to the size of training: the bucket's, or resolution's area.", group="buckets",
        basic=True)  # fmt: skip
    enlarge: bool = knob(False, "Also where that makes it larger.", group="buckets")
    title = "crop"

    def check(self) -> Iterable[str]:
        yield from super().check()
        given = bool(self.box or self.boxes)
        if self.by == BOX and not given:
            yield "box: expected left,top,width,height of what is kept, or boxes"
        if self.by != BOX and given:
            yield f"by = {self.by}: expected box, for {'box is' if self.box else 'boxes are'} given"
        if self.box and (len(self.box) != 4 or not (self.box[2] and self.box[3])):
            yield f"box = {','.join(map(str, self.box))}: expected four numbers: left,top,width,height"
        for line in self.boxes:
            if _named(line) is None:
                yield f"boxes = {shown(line)}: expected name: left,top,width,height"
        if self.shape not in (None, "square", "bucket") and not self._ratio():
            yield f"shape = {shown(self.shape)}: expected square, bucket, or a ratio such as 3:4"
        if self.shape is None and (self.by in (FOCUS, CENTRE) or self._else in (FOCUS, CENTRE)):
            yield "shape: expected square, bucket, or a ratio such as 3:4"

        if self.shape == "bucket":
            yield from self.buckets.check()

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        if self.detector and self.detector != DRAWN:
            yield "detector", pathlib.Path(self.detector)

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        boxes = dict(found for line in self.boxes if (found := _named(line)))
        for name in boxes:
            opened.named(name)
        if boxes and not self.box:
            chosen = [entry for entry in chosen if entry.name in boxes]
        looking = self.by in (FACE, PERSON) or (self.by == FOCUS and self.face_weight)
        find = finder(PERSON if self.by == PERSON else FACE, self.detector) if looking else None
        return self.each(lambda one: self._cut(one, boxes, find), opened, chosen, draft, told)

    def _cut(self, one: One, boxes: Mapping[str, Box], find: Find | None) -> Iterator[Touched]:
        if one.copied("_(crop|(face|person)[0-9]+)") and (self.copy or self.faces == EACH):
            return
        shot = one.shot()
        cuts = [*self._cuts(one, shot, boxes, find)]
        several = self.by in (FACE, PERSON) and self.faces == EACH
        for number, (box, why) in enumerate(cuts, 1):
            size = self._sized(box)
            what = f"{why}{_by(shot.size)} to {_by(size)}"

            def turn(image: Image.Image, box: Box = box, size: Size = size) -> Image.Image:
                return scaled(image.crop(box), size, soft=image.mode == "L")

            if several or self.copy:
                end = f"_{self.by}{number}" if several else "_crop"
                name = one.copy(shot, turn, end)
                if name is None:
                    raise Mistake(f"{one.named(end).name} is there already")
                yield Touched(one.entry.name, f"{what}, as {name}")
            elif size != shot.size or box != (0, 0, *shot.size):
                one.replace(shot, turn)
                yield Touched(one.entry.name, what)

    def _cuts(
        self, one: One, shot: Shot, boxes: Mapping[str, Box], find: Find | None
    ) -> Iterator[tuple[Box, str]]:
        """What is kept, and what was found there.

        Raises:
            Mistake: nothing can be.
        """
        size = shot.size
        if self.by == BOX:
            left, top, width, height = boxes.get(one.entry.name, self.box)
            box = left, top, left + width, top + height
            if box[2] > size[0] or box[3] > size[1]:
                raise Mistake(f"the box reaches to {box[2]},{box[3]}, and the picture only to {_by(size)}")
            yield around(box, size, ratio=self._shaped((width, height))), ""
            return
        image = pixels.rgb(shot.image, (255, 255, 255)) if self._else == FOCUS or find else None
        found = find(image) if find else []
        if self.by in (FACE, PERSON) and found:
            if self.faces == ALL:
                found = [_together(found)]
            for box in found if self.faces == EACH else found[:1]:
                wide = around(box, size, margin=self.margin)
                ratio = self._shaped((wide[2] - wide[0], wide[3] - wide[1]))
                yield (
                    around(box, size, margin=self.margin, ratio=ratio),
                    f"{self.by} of {box[2] - box[0]}x{box[3] - box[1]}; ",
                )
            return
        if self._else == SKIP:
            raise Mistake(f"no {self.by} was found")
        places = interest(image, found, self.face_weight) if self._else == FOCUS else None
        yield largest(size, self._shaped(size), places), f"no {self.by} found; " * (self.by in (FACE, PERSON))

    @property
    def _else(self) -> str:
        """What is cut by where nothing is found."""
        return self.missing if self.by in (FACE, PERSON) else self.by

    def _ratio(self) -> float | None:
        """Width to height, where it is said."""
        found = RATIO.fullmatch((self.shape or "").strip())
        sides = [float(side) for side in found.groups()] if found else []
        return sides[0] / sides[1] if sides and all(sides) else None

    def _shaped(self, size: Size) -> float | None:
        """The ratio that something of this size is brought to."""
        if self.shape == "bucket":
            wide, high = self.buckets.fit(size).bucket
            return wide / high
        return 1.0 if self.shape == "square" else self._ratio()

    def _sized(self, box: Box) -> Size:
        """What a part of a picture is resized to."""
        size = box[2] - box[0], box[3] - box[1]
        if not self.resize:
            return size
        if self.shape == "bucket":
            to = self.buckets.fit(size).bucket
        else:
            side, ratio = math.sqrt(self.resolution.width * self.resolution.height), size[0] / size[1]
            ratio = self._shaped(size) or ratio
            to = round(side * math.sqrt(ratio)), round(side / math.sqrt(ratio))
        return to if self.enlarge or (to[0] <= size[0] and to[1] <= size[1]) else size


def _named(line: str) -> tuple[str, Box] | None:
    """(picture, what is kept of it) of a line of `boxes`."""
    name, _, numbers = line.rpartition(":")
    found = [n.strip() for n in numbers.split(",")]
    if not name.strip() or len(found) != 4 or not all(re.fullmatch("[0-9]{1,9}", n) for n in found):
        return None
    left, top, width, height = map(int, found)
    return (name.strip(), (left, top, width, height)) if width and height else None


def _together(boxes: Sequence[Box]) -> Box:
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
