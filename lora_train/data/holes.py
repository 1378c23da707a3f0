"""Holes: what of a picture a model made for inpainting learns to paint anew, and what it sees of the rest."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_train.data import pictures
from lora_train.data.buckets import GRAIN, Size
from lora_train.data.cache import Encode, Sample, encoded
from lora_train.draws import drawn, key

WHOLE = 0.25  # of the holes are all of the picture, as when Stable Diffusion's own were trained


def hole(size: Size, rng: torch.Generator) -> Tensor:
    """1 where a picture of this size is painted anew, [1, h, w]: all of it, or a rectangle or an ellipse of
    any size that fits, anywhere. On latents' own grid, so that none is half in it."""
    width, height = size[0] // GRAIN, size[1] // GRAIN
    whole, round_ = torch.rand(2, generator=rng).tolist()
    if whole < WHOLE:
        return torch.ones(1, height, width)
    (top, high), (left, wide) = (_span(side, rng) for side in (height, width))
    y = (torch.arange(height) + 0.5 - top - high / 2)[:, None] / (high / 2)
    x = (torch.arange(width) + 0.5 - left - wide / 2)[None] / (wide / 2)
    inside = x.square() + y.square() <= 1 if round_ < 0.5 else (x.abs() <= 1) & (y.abs() <= 1)
    return inside.float()[None]


def _span(side: int, rng: torch.Generator) -> tuple[int, int]:
    """Where something begins, and how long it is."""
    length = int(torch.randint(1, side + 1, (), generator=rng))
    return int(torch.randint(0, side - length + 1, (), generator=rng)), length


class Holes:
    """A hole for each sample, with the latents of what is left: grey in the hole, as in every inpainting.

    Args:
        encode: see cache.Encode.
        count: different holes of a picture; each is then encoded once, where the picture looks the same
            again. None: another one each time.
    """

    def __init__(self, encode: Encode, seed: int, count: int | None = None):
        self.encode, self.seed, self.count = encode, seed, count
        self.kept: dict[tuple, Tensor] = {}

    def fetch(self, samples: Sequence[Sample]) -> list[tuple[Tensor, Tensor] | None]:
        """Of each sample the hole and the pixels around it; None: they are encoded already."""
        return [None if self._known(s) in self.kept else self._cut(s) for s in samples]

    def finish(self, fetched: Sequence[tuple[Tensor, Tensor] | None], samples: Sequence[Sample]) -> Tensor:
        """-> [B, 5, h, w], see `host.Cond.inpaint`."""
        new = [i for i, found in enumerate(fetched) if found is not None]
        made: dict[int, Tensor] = {}
        if new:
            holes, pixels = (torch.stack(each) for each in zip(*(fetched[i] for i in new), strict=True))
            rngs = [drawn(self.seed, "hole", "latents", self._words(samples[i])) for i in new]
            latents = encoded(self.encode, pixels, rngs, [samples[i].picture for i in new])
            made = dict(zip(new, torch.cat([holes.to(latents), latents], 1), strict=True))
        for i in new:
            if self._known(samples[i]) is not None:
                self.kept[self._known(samples[i])] = made[i].cpu()
        found = [made[i] if i in made else self.kept[self._known(s)] for i, s in enumerate(samples)]
        return torch.stack([one.cpu() for one in found])

    def _cut(self, sample: Sample) -> tuple[Tensor, Tensor]:
        made = hole(sample.picture.fit.bucket, drawn(self.seed, "hole", self._words(sample)))
        whole = made.repeat_interleave(GRAIN, 1).repeat_interleave(GRAIN, 2)
        return made, pictures.load(sample.picture, sample.look) * (1 - whole)

    def _words(self, sample: Sample) -> tuple:
        """What a hole depends on."""
        return self._known(sample) or (sample.ordinal,)

    def _known(self, sample: Sample) -> tuple | None:
        """What it is known by; None: it is made for this sample alone."""
        look = sample.look
        if self.count is None or look.crop or look.angle or look.colour or look.face:
            return None
        which = key(self.seed, "which hole", sample.ordinal) % self.count
        return sample.picture.name, sample.picture.fit.bucket, look.flip, which
