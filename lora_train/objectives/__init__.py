"""The objectives there are: what an adapter can learn."""

from __future__ import annotations

from lora_train.objectives.addift import Addift
from lora_train.objectives.denoise import Denoise
from lora_train.objectives.difference import Difference
from lora_train.objectives.erase import Erase
from lora_train.objectives.pairslider import PairSlider
from lora_train.objectives.slider import Slider

OBJECTIVES = {
    "denoise": Denoise, "erase": Erase, "slider": Slider, "pair_slider": PairSlider,
    "difference": Difference, "addift": Addift,
}  # fmt: skip
