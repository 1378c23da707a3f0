"""The objectives there are: what an adapter can learn."""

from __future__ import annotations

from lora_train.objectives.denoise import Denoise
from lora_train.objectives.erase import Erase
from lora_train.objectives.slider import Slider

OBJECTIVES = {"denoise": Denoise, "erase": Erase, "slider": Slider}
