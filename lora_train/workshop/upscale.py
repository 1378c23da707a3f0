"""Upscale: pictures that training would enlarge are made large enough beforehand."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

from PIL import Image

from lora_train.data import pixels
from lora_train.data.buckets import Size
from lora_train.errors import Mistake
from lora_train.host import Host
from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop.beside import One
from lora_train.workshop.bucketed import Bucketed
from lora_train.workshop.image import scaled, transparent
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.work import Touched

Upscaler = Callable[[Image.Image, float], Image.Image]  # of an RGB picture, by a factor or about it


@dataclasses.dataclass(frozen=True)
class Upscale(Bucketed):
    """Enlarge pictures that are too small for the size of training, to just that size."""

    upscaler: str | None = knob(
        None, "One of the WebUI's upscalers, by its name there, such as R-ESRGAN 4x+; works inside it. "
        "Empty: Lanczos, which adds no detail.", group="upscale", basic=True)  # fmt: skip
    download: bool = knob(
        False, "Let the WebUI get the upscaler, if it is not on this machine.", group="upscale")  # fmt: skip
    most: float = knob(
        4.0, "Pictures that would have to grow by more are left as they are.", group="upscale", low=1,
        high=64, basic=True)  # fmt: skip

    title = "upscale"
    quick = True
    hosted = True

    def check(self) -> Iterable[str]:
        yield from super().check()
        yield from self.buckets.check()

    def within(self, host: Host, told: Told = unheard) -> Report:
        if self.upscaler is None:
            return self.run(told)
        own = host.upscaler(self.upscaler, download=self.download)

        def edit(opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
            return self.each(functools.partial(self._enlarged, own), opened, chosen, draft, told)

        return self.done_by(edit, told)

    def one(self, one: One) -> Iterator[Touched]:
        if self.upscaler is not None and not one.dry:
            raise Mistake("upscaler: works inside the WebUI alone; leave it empty for Lanczos")
        yield from self._enlarged(None, one)

    def _enlarged(self, own: Upscaler | None, one: One) -> Iterator[Touched]:
        size = one.opened.size(one.entry)
        if size is None:
            raise Mistake("cannot be read")
        to = self.buckets.fit(size).resized
        factor = max(to[0] / size[0], to[1] / size[1])
        if factor <= 1:
            return
        if factor > self.most:
            raise Mistake(f"{_by(size)} would have to grow {factor:.1f} times; take it out of the folder")
        if not one.dry:
            shot = one.shot()
            larger = enlarged(shot.image, to, own)

            def turn(image: Image.Image) -> Image.Image:
                return larger if image is shot.image else scaled(image, to, soft=True)

            one.replace(shot, turn)
        yield Touched(one.entry.name, f"{_by(size)} to {_by(to)} by {self.upscaler or 'Lanczos'}")


def enlarged(image: Image.Image, to: Size, own: Upscaler | None) -> Image.Image:
    """By Lanczos, or by what a host lends; how transparent it is, always by Lanczos."""
    if own is None:
        return scaled(image, to)
    factor = max(to[0] / image.width, to[1] / image.height)
    larger = scaled(own(pixels.rgb(image, None), factor).convert("RGB"), to)
    if transparent(image):
        larger.putalpha(scaled(pixels.opacity(image), to))
    return larger


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
