"""A slider of pictures: one picture of a pair at the adapter's strength, the other as far below zero."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lora_train.data.pairs import Pair
from lora_train.knobs import knob
from lora_train.objectives.denoise import Denoise, Denoising
from lora_train.objectives.paired import Paired, at

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.data.folder import Item
    from lora_train.host import Lent


@dataclasses.dataclass(frozen=True)
class PairSlider(Denoise, Paired):
    """Learn one picture of each pair at a strength above zero, and the other as far below it."""

    validates = False

    pair_scale: float = knob(
        1.0, "Strength at which target_image is learned; original_image is at as much below zero.",
        group="pairs", low=0.01, high=10)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from Denoise.check(self)

    def shown(self, pair: Pair) -> Sequence[Item]:
        first, second = pair
        plus, minus = (
            dataclasses.replace(item, strength=sign * self.pair_scale)
            for item, sign in ((second, 1), (first, -1))
        )
        return [plus, minus]

    def begin(self, lent: Lent, network: Network) -> Sliding:
        """Raises Mistake: undefined for what the model predicts."""
        super().begin(lent, network)
        return Sliding(self, network, lent)


class Sliding(Denoising):
    """One run of it."""

    def during(self, batch: Batch) -> contextlib.AbstractContextManager[None]:
        return at(self.network, batch)
