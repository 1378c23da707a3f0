"""The families of adapters there are."""

from __future__ import annotations

from lora_train.adapters.loha import Loha
from lora_train.adapters.lokr import Lokr
from lora_train.adapters.lora import Lora

FAMILIES = {"lora": Lora, "loha": Loha, "lokr": Lokr}
