"""How fast each layer's adapter learns: rates by block, and LoRA+'s for the factor that starts at zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from lora_train.adapters.chosen import Chosen
from lora_train.adapters.layer import Layer
from lora_train.blocks import BlockRates, row_index, rows
from lora_train.knobs import knob
from lora_train.names import ARCHS

ROWS = ("down_lr_weight", "mid_lr_weight", "up_lr_weight")
RATIOS = ("loraplus_lr_ratio", "loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio")


@dataclasses.dataclass(frozen=True)
class Paced(Chosen):
    """Multiples of the learning rate."""

    down_lr_weight: BlockRates | None = knob(
        None, "Multiples of the UNet's learning rate for the blocks on the way down: 12 numbers, SDXL's 9, "
        "or sine, cosine, linear, reverse_linear or zeros, with +0.25 behind it to add that. Blocks at 0 get "
        "no adapter.", group="blocks")  # fmt: skip
    mid_lr_weight: BlockRates | None = knob(
        None, "Multiple of the UNet's learning rate for the middle block; SDXL: 3 numbers.", group="blocks"
    )
    up_lr_weight: BlockRates | None = knob(
        None, "Multiples of the UNet's learning rate for the blocks on the way up, as down_lr_weight.",
        group="blocks")  # fmt: skip
    block_lr_zero_threshold: float = knob(
        0.0, "Multiples of the learning rate that are not above it count as 0.", group="blocks", low=0,
        high=100)  # fmt: skip
    loraplus_lr_ratio: float | None = knob(
        None, "LoRA+: how many times the learning rate the factor that starts at zero has; 16 in the paper. "
        "Empty: the same rate.", group="rates", low=0.001, high=10000)  # fmt: skip
    loraplus_unet_lr_ratio: float | None = knob(
        None, "The same of the UNet alone. Empty: as loraplus_lr_ratio.", group="rates", low=0.001, high=10000
    )
    loraplus_text_encoder_lr_ratio: float | None = knob(
        None, "The same of the text encoders alone. Empty: as loraplus_lr_ratio.", group="rates", low=0.001,
        high=10000)  # fmt: skip

    late = False  # whether its adapters have a factor that starts at zero beside others that do not

    def check(self) -> Iterable[str]:
        yield from super().check()
        for name in RATIOS:
            if vars(self)[name] is not None and not self.late:
                yield (
                    f"{name} = {vars(self)[name]:g}: expected nothing; adapters of this kind have no factor "
                    "that starts at zero beside one that does not"
                )
        if self.mid_lr_weight is not None and self.mid_lr_weight.curve:
            yield f"mid_lr_weight = {self.mid_lr_weight}: expected numbers; there is no curve over one block"

    def wants(self, layer: Layer) -> bool:
        return super().wants(layer) and self.pace(layer) > 0

    def pace(self, layer: Layer) -> float:
        """What a layer's learning rate is multiplied with, for its block."""
        place = row_index(layer.path, layer.arch) if layer.part == "unet" else None
        if place is None:
            return 1.0
        row, index = place
        rates = vars(self)[ROWS[row]]
        if rates is None:
            return 1.0
        pace = rates.of(rows(layer.arch)[row])[index]
        return pace if pace > self.block_lr_zero_threshold else 0.0

    def ratio(self, part: str) -> float:
        """LoRA+'s, of a part: of the rate of the factor that starts at zero over that of the others.

        Source: Hayou et al. 2024, arXiv:2402.12354, section 4.
        """
        own = self.loraplus_unet_lr_ratio if part == "unet" else self.loraplus_text_encoder_lr_ratio
        return own or self.loraplus_lr_ratio or 1.0

    def remarks(self, arch: str) -> list[str]:
        """What is to be said of lists that are not as long as a model has blocks."""
        found = []
        for name, count in zip(ROWS, rows(arch), strict=True):
            rates = vars(self)[name]
            if rates is not None and not rates.curve and len(rates.values) != count:
                more = len(rates.values) > count
                what = f"the first {count} count" if more else "those behind them learn at the full rate"
                found.append(
                    f"{name}: {len(rates.values)} values, {ARCHS[arch].said} has {count} such blocks; {what}"
                )
        return found
