"""The families of adapters there are."""

from __future__ import annotations

from lora_train.adapters.lora import Lora

FAMILIES = {"lora": Lora}
