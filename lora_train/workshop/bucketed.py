"""Works that know the sizes pictures are trained at."""

from __future__ import annotations

import dataclasses

from lora_train.data.buckets import GRAIN, Buckets, Resolution
from lora_train.knobs import knob
from lora_train.workshop.beside import OfPictures


@dataclasses.dataclass(frozen=True)
class Bucketed(OfPictures):
    """The buckets that a training with these settings has."""

    resolution: Resolution = knob(
        Resolution(512, 512), "Size to train at: one number or width,height.", group="buckets", unit="pixels",
        basic=True)  # fmt: skip
    min_bucket_reso: int = knob(
        256, "Shortest side of a bucket.", group="buckets", low=GRAIN, high=8192, unit="pixels")  # fmt: skip
    max_bucket_reso: int = knob(
        1024, "Longest side of a bucket.", group="buckets", low=GRAIN, high=8192, unit="pixels")  # fmt: skip
    bucket_reso_steps: int = knob(
        64, "Sides of buckets are multiples of this.", group="buckets", low=GRAIN, high=1024,
        unit="pixels")  # fmt: skip

    @property
    def buckets(self) -> Buckets:
        return Buckets(
            self.resolution, True, self.min_bucket_reso, self.max_bucket_reso, self.bucket_reso_steps
        )
