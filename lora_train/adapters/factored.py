"""What families of factors share in LyCORIS: Tucker decomposition, a learned scale, rsLoRA's scale."""

from __future__ import annotations

import dataclasses
import json
import math

from lora_train.adapters.dora import Decomposable
from lora_train.knobs import knob


@dataclasses.dataclass(frozen=True)
class Factored(Decomposable):
    """Ranked families whose factors LyCORIS knows how to shape and to scale in other ways."""

    use_tucker: bool = knob(
        False, "In 3x3 convolutions, a factor for the kernel apart from those for the channels (Tucker "
        "decomposition): fewer values at the same rank.", group="network")  # fmt: skip
    use_scalar: bool = knob(
        False, "Start from a learned number that is 0, rather than from a factor that is: what is added is "
        "multiplied by it. It is worked into the saved file.", group="network")  # fmt: skip
    rs_lora: bool = knob(
        False, "Multiply what is added by alpha over the root of dim, so that high ranks learn as fast as "
        "low ones; the saved file's alpha says so.", group="network")  # fmt: skip

    @property
    def late(self) -> bool:
        """LoRA+ needs a factor that starts at zero."""
        return not self.use_scalar

    def scaled(self, dim: int, alpha: float) -> float:
        """Kalajdzievski 2023, arXiv:2312.03732, equation 3."""
        return alpha * math.sqrt(dim) if self.rs_lora else alpha

    def record(self) -> dict[str, object]:
        found, ways = super().record(), ("use_tucker", "use_scalar", "rs_lora")
        if given := {name: "True" for name in ways if vars(self)[name]}:
            found["ss_network_args"] = json.dumps({**json.loads(found.get("ss_network_args", "{}")), **given})
        return found
