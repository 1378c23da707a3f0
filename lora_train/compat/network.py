"""Options of the network: module, arguments, and files to begin with."""

from __future__ import annotations

from lora_train.compat.rules import LATER, Refused, Rules, Translated, Values, off, pairs, unless_off
from lora_train.errors import Mistake
from lora_train.values import either, shown

ARGUMENTS = (
    "conv_dim", "conv_alpha", "dropout", "rank_dropout", "module_dropout", "block_dims", "block_alphas",
    "conv_block_dims", "conv_block_alphas", "algo", "preset", "factor", "use_tucker", "decompose_both",
    "full_matrix",
)  # fmt: skip
CALLED = {"use_cp": "use_tucker"}  # LyCORIS' older name
ALGOS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}  # its names of families
UNUSED = (  # arguments of LyCORIS that change nothing as long as they are off
    "bypass_mode", "dora_wd", "rank_dropout_scale", "rs_lora", "train_norm", "unbalanced_factorization",
    "use_scalar", "wd_on_output",
)  # fmt: skip
MODULES = {  # network_module -> what it means by itself; LyCORIS names the family among its arguments
    "networks.lora": {"network.kind": "lora"},
    "networks.loha": {"network.kind": "loha"},
    "networks.lokr": {"network.kind": "lokr"},
    "lycoris.kohya": {"network.preset": "full"},
}


def _network_args(value: object) -> Values:
    given = {CALLED.get(name, name): text for name, text in pairs(value).items()}
    found = {name: text for name, text in given.items() if not (name in UNUSED and off(text))}
    lost = [f"{name}={text}" for name, text in found.items() if name not in ARGUMENTS]
    if lost:
        raise Mistake(
            "\n".join(f"network_args {pair}: {LATER}; expected {either(ARGUMENTS)}" for pair in lost)
        )
    algo = found.pop("algo", None)
    if algo is not None and algo.lower() not in ALGOS:
        raise Mistake(f"network_args algo={algo}: {LATER}; expected {either(ALGOS)}")
    kind = {"network.kind": ALGOS[algo.lower()]} if algo else {}
    return {**kind, **{f"network.{name}": text for name, text in found.items()}}


def _network_module(value: object) -> Values:
    if str(value) not in MODULES:
        raise Mistake(f"network_module = {shown(value)}: {LATER}; expected {either(MODULES)}")
    return MODULES[str(value)]


NETWORK: Rules = {
    "network_args": Translated(_network_args),
    "network_module": Translated(_network_module),
    "scale_weight_norms": unless_off("network.scale_weight_norms"),
    "network_multiplier": Refused(off=("1", "1.0")),
    **dict.fromkeys(("base_weights", "base_weights_multiplier"), Refused()),
}
