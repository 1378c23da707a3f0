"""The families of adapters there are."""

from __future__ import annotations

from lora_train.adapters.dylora import Dylora
from lora_train.adapters.full import Full
from lora_train.adapters.glora import Glora
from lora_train.adapters.ia3 import Ia3
from lora_train.adapters.loha import Loha
from lora_train.adapters.lokr import Lokr
from lora_train.adapters.lora import Lora
from lora_train.adapters.lora_fa import LoraFa
from lora_train.adapters.mora import Mora
from lora_train.adapters.oft import Boft, Oft
from lora_train.adapters.tied import Tied
from lora_train.adapters.vera import Vera

FAMILIES = {
    "lora": Lora, "loha": Loha, "lokr": Lokr, "ia3": Ia3, "oft": Oft, "boft": Boft, "glora": Glora,
    "full": Full, "lora_fa": LoraFa, "dylora": Dylora, "vera": Vera, "tied": Tied, "mora": Mora,
}  # fmt: skip
