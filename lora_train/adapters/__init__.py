"""The families of adapters there are."""

from __future__ import annotations

from lora_train.adapters.full import Full
from lora_train.adapters.glora import Glora
from lora_train.adapters.ia3 import Ia3
from lora_train.adapters.loha import Loha
from lora_train.adapters.lokr import Lokr
from lora_train.adapters.lora import Lora
from lora_train.adapters.oft import Boft, Oft

FAMILIES = {
    "lora": Lora, "loha": Loha, "lokr": Lokr, "ia3": Ia3, "oft": Oft, "boft": Boft, "glora": Glora,
    "full": Full,
}  # fmt: skip
