"""Convert: pictures of another size or kind of file, upright, without what they say of themselves."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator

from PIL import Image, ImageColor

from lora_train.data.buckets import Resolution, Size
from lora_train.data.pixels import ALPHA
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.values import shown
from lora_train.workshop.beside import OfPictures, One
from lora_train.workshop.image import FORMATS, Shot, head, scaled, srgb, transparent, written
from lora_train.workshop.stripped import stripped
from lora_train.workshop.work import Touched

KINDS = {"png": ".png", "jpg": ".jpg", "webp": ".webp"}


@dataclasses.dataclass(frozen=True)
class Convert(OfPictures):
    """Resize pictures, turn them upright, strip them, or make other kinds of files of them."""

    format: str | None = knob(
        None, "Kind of file. Empty: as it is. What a PNG says in words, such as a WebUI's prompt, stays in "
        "PNGs only.", group="output", choices=tuple(KINDS), basic=True)  # fmt: skip
    lossless: bool = knob(
        False, "WebP without loss, of pictures that have another kind.", group="output")  # fmt: skip
    longest: int | None = knob(
        None, "Longer side of larger pictures.", group="pictures", low=1, high=65535, unit="pixels",
        basic=True)  # fmt: skip
    shortest: int | None = knob(
        None, "Shorter side of larger pictures.", group="pictures", low=1, high=65535, unit="pixels",
        basic=True)  # fmt: skip
    max_resolution: Resolution | None = knob(
        None, "Area of larger pictures: 1024, or 1024x768.", group="pictures", unit="pixels")  # fmt: skip
    enlarge: bool = knob(
        False, "Smaller pictures get that size, too.", group="pictures")  # fmt: skip
    upright: bool = knob(
        False, "Turn the pixels of pictures that only say how they are to be turned (EXIF). Whatever is "
        "written anew is upright anyway.", group="pictures", basic=True)  # fmt: skip
    rgb: bool = knob(
        False, "Three channels of 8 bits in the colours of sRGB: of palettes, grey, 16 bits, CMYK, colour "
        "profiles and transparency, and of an animation the first picture.", group="pictures",
        basic=True)  # fmt: skip
    background: str | None = knob(
        None, "Colour that transparent pictures are laid on: a name or #rrggbb. Empty: they stay "
        "transparent; with rgb, white.", group="pictures")  # fmt: skip
    strip: bool = knob(
        False, "Take away what a file says of itself: camera, place, date, prompts, small pictures. Colour "
        "profiles stay. The pixels are not encoded anew for it.", group="pictures", basic=True)  # fmt: skip

    title = "convert"

    def check(self) -> Iterable[str]:
        yield from super().check()
        sizes = [name for name in ("longest", "shortest", "max_resolution") if vars(self)[name]]
        size = bool(sizes)
        if not (self.format or size or self.upright or self.rgb or self.background or self.strip):
            yield "convert: expected what to do, such as format = png, longest = 1024, upright, rgb or strip"
        if len(sizes) > 1:
            second = vars(self)[sizes[1]]
            yield f"{sizes[1]} = {second}: expected none beside {sizes[0]}, for both cannot hold"
        if self.enlarge and not size:
            yield "enlarge = true: expected longest, shortest or max_resolution beside it, which say the size"
        if self.lossless and self.format != "webp":
            yield "lossless = true: expected format = webp beside it; PNG has no other way"
        try:
            ImageColor.getrgb(self.background or "white")
        except ValueError:
            yield f"background = {shown(self.background)}: expected a colour, such as grey or #808080"

    def one(self, one: One) -> Iterator[Touched]:
        own = head(one.path)
        done = [*self._wanted(own)]
        size, kind = self._sized(own.size), self._kind(own)
        if size != own.size:
            done.append(f"{_by(own.size)} to {_by(size)}")
        pixels = bool(done)
        if kind:
            done.append(f"{own.format} to {FORMATS[kind]}")
        short = self._silent(one, own) if self.strip else None
        if short is not None:
            done.append("stripped")
        if not done:
            return
        to = one.path.with_suffix(kind) if kind else one.path
        if to != one.path:
            if to.exists() and not one.same(to):
                raise Mistake(f"{to.name} is there already; rename one of them")
            one.claim(to)
        if pixels or kind:
            self._anew(one, to, kind, size)
        else:
            one.put(to, short)
        if pixels:
            one.outdated()
        yield Touched(one.entry.name, "; ".join(done))

    def _wanted(self, own: Shot) -> Iterator[str]:
        """What is to be done to the pixels, but for their number."""
        if own.turned and (self.upright or self.strip):
            yield "turned upright"
        if transparent(own.image) and (self.background or self.rgb):
            yield f"laid on {self.background or 'white'}"
        if self.rgb:
            if own.frames > 1:
                yield f"the first of {own.frames} pictures"
            if own.image.mode not in ("RGB", *ALPHA) or own.deep:
                yield f"{'16 bits' if own.deep else own.image.mode} to RGB"
            elif own.coloured:
                yield "into sRGB"

    def _silent(self, one: One, own: Shot) -> bytes | None:
        """The file without what it says of itself; None: it says nothing."""
        content = one.path.read_bytes()
        short = stripped(content)
        if short is not None:
            return short if short != content else None
        if not (own.exif or own.xmp or own.image.info.get("comment")):
            return None
        if not own.lossless:
            raise Mistake(f"{own.format} cannot be stripped without encoding it anew; give format, too")
        shot = one.shot()
        return written(shot.silent(), shot.image)

    def _sized(self, size: Size) -> Size:
        most, asked = self.max_resolution, self.longest or self.shortest
        if most:
            factor = math.sqrt(most.width * most.height / (size[0] * size[1]))
        elif asked:
            factor = asked / (max(size) if self.longest else min(size))
        else:
            return size
        if factor > 1 and not self.enlarge:
            return size
        width, height = (max(1, round(n * factor)) for n in size)
        return width, height

    def _kind(self, own: Shot) -> str | None:
        """The ending, of files that are of another kind than what is asked for."""
        if self.format is None or FORMATS[KINDS[self.format]] == own.format:
            return None
        return KINDS[self.format]

    def _anew(self, one: One, to: pathlib.Path, kind: str | None, size: Size) -> None:
        shot = one.shot()
        masks = one.masked(shot, lambda mask: scaled(mask, size, soft=True)) if size != shot.size else []
        if not one.dry:
            image = self._pixels(shot)
            image = scaled(image, size)
            if self.rgb:
                shot.icc = None
            if self.strip:
                shot = shot.silent()
            sharp = self.lossless if kind == ".webp" else None
            one.put(to, written(shot, image, ending=kind, quality=self.quality, lossless=sharp))
        if to != one.path:
            one.remove(one.path)
        for mask, content in masks:
            one.put(mask, content)

    def _pixels(self, shot: Shot) -> Image.Image:
        image = shot.image
        if self.rgb:
            image = srgb(image, shot.icc)
        if transparent(image) and (self.background or self.rgb):
            ground = Image.new("RGBA", image.size, (*ImageColor.getrgb(self.background or "white")[:3], 255))
            image = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
        return image


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
