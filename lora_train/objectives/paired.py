"""Paired: objectives that learn what makes of one picture another."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lora_train.data.pairs import One, Pair, in_files, in_folders, wanted
from lora_train.knobs import knob
from lora_train.objectives.objective import Objective

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.data.batches import Batch
    from lora_train.data.folder import Data, Item, Planned
    from lora_train.data.memory import Memory
    from lora_train.data.scan import Finding


@dataclasses.dataclass(frozen=True)
class Paired(Objective):
    """Which two pictures belong together."""

    original_image: pathlib.Path | None = knob(
        None, "Picture to begin from, of a single pair.", group="pairs", place=True, basic=True
    )
    target_image: pathlib.Path | None = knob(
        None, "The other picture of the pair, of the same size: with what is to be learned.", group="pairs",
        place=True, basic=True)  # fmt: skip
    original_prompt: str | None = knob(
        None, "Caption of original_image. Empty: its caption file.", group="pairs", basic=True
    )
    target_prompt: str | None = knob(
        None, "Caption of target_image. Empty: that of original_image.", group="pairs"
    )
    pair_suffix: str | None = knob(
        None, "For many pairs, in data.train_data_dir: what stands behind a picture's name in that of the "
        "other of its pair, such as _after in cat.png and cat_after.png.", group="pairs",
        basic=True)  # fmt: skip
    diff_revert_original_target: bool = knob(
        False, "Begin from the other picture of each pair.", group="pairs"
    )

    @property
    def folders(self) -> bool:
        return bool(self.pair_suffix)

    def shown(self, pair: Pair) -> Sequence[Item]:
        """What of a pair is learned, each at its strength."""
        raise NotImplementedError

    def survey(
        self, data: Data, *, decode: bool = False, memory: Memory | None = None
    ) -> tuple[Planned, list[Finding]]:
        files, back = self.images(), self.diff_revert_original_target
        wanted(files, self.pair_suffix)
        if self.pair_suffix:
            return in_folders(self.pair_suffix, data, self.shown, decode=decode, memory=memory, revert=back)
        one = One(*files, self.original_prompt, self.target_prompt)
        return in_files(one, data, self._turned if back else self.shown, memory)

    def _turned(self, pair: Pair) -> Sequence[Item]:
        return self.shown(pair[::-1])

    def images(self) -> tuple[pathlib.Path | None, pathlib.Path | None]:
        return self.original_image, self.target_image

    def files(self) -> list[pathlib.Path]:
        return [path for path in self.images() if path is not None]


@contextlib.contextmanager
def at(network: Network, batch: Batch) -> Iterator[None]:
    """At the strength that a batch's pictures are learned at."""
    if batch.strengths is None:
        yield
        return
    before, network.strength = network.strength, float(batch.strengths[0])
    try:
        yield
    finally:
        network.strength = before
