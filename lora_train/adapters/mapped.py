"""Networks of several families: what a LayerMap says of a layer, as a family with settings of its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable

from lora_train.adapters import FAMILIES
from lora_train.adapters.family import Adapter, Family
from lora_train.adapters.layer import Layer
from lora_train.adapters.layermap import Rule
from lora_train.adapters.paced import RATIOS
from lora_train.errors import Mistake
from lora_train.knobs import build, flat, kind_of, settings
from lora_train.values import either, shown

ALGOS = {  # LyCORIS' names of families
    "lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr", "ia3": "ia3", "full": "full",
    "dylora": "dylora", "glora": "glora", "diag-oft": "oft", "boft": "boft",
}  # fmt: skip
CALLED = {  # other names of settings, those of its classes among them
    "use_cp": "use_tucker", "use_conv_cp": "use_tucker", "constrain": "constraint", "block_size": "unit",
    "weight_decompose": "dora_wd", "wd_on_out": "wd_on_output",
}  # fmt: skip
WITHOUT = ("bypass_mode", "rank_dropout_scale", "train_norm")  # which change nothing, or nothing of one layer
UNIT = 4  # block_size of LyCORIS' DyLoRA, where none is given
LARGEST = 512  # dim; LoKr takes more, and means the whole matrix
SIZES = ("dim", "alpha")


def maker(family: Family) -> Callable[[Layer], Adapter | None] | None:
    """What makes a layer's adapter; None where the family does so by itself."""
    if family.layer_map is None:
        return None
    made: dict[str, Family] = {}

    def make(layer: Layer) -> Adapter | None:
        rule = {} if layer.norm else family.layer_map.rule(layer)
        if rule is None:
            return None
        key = json.dumps(rule, sort_keys=True)
        if key not in made:
            made[key] = of(family, rule)
        return made[key].put(layer)

    return make


def of(family: Family, rule: Rule) -> Family:
    """The family that a rule says, with what else it says; and otherwise with the network's own settings.

    Raises:
        Mistake: there is no such family or setting, or not with this value.
    """
    found = {CALLED.get(name, name): value for name, value in rule.items() if name not in WITHOUT}
    algo = str(found.pop("algo", "")).lower()
    if algo == "dylora":
        found.setdefault("unit", UNIT)
    if algo and ALGOS.get(algo) not in FAMILIES:
        raise Mistake(f"algo = {algo}: expected {either(a for a, kind in ALGOS.items() if kind in FAMILIES)}")
    cls = FAMILIES[ALGOS[algo]] if algo else type(family)
    known = {s.path for s in settings(cls)}
    every = {s.path for kind in FAMILIES.values() for s in settings(kind)}
    if lost := [name for name in found if name not in every]:
        raise Mistake(
            "\n".join(f"{name} = {shown(found[name])}: a layer has no such setting" for name in lost)
        )
    if cls is FAMILIES["lokr"] and isinstance(found.get("dim"), int) and found["dim"] > LARGEST:
        del found["dim"]
        found["full_matrix"] = True
    # a layer's own size holds for 3x3 convolutions too, and in every block
    for name in [name for name in SIZES if name in found]:
        found |= {f"conv_{name}": found[name], f"block_{name}s": None, f"conv_block_{name}s": None}
    own = {**flat(family), "preset": None, "layer_map": None, **found}
    norms = {"train_norm": True} if own.pop("train_norm", False) and not rule else {}  # they are of no rule
    values = {name: value for name, value in own.items() if name in known}
    if not cls.late:
        values = {name: value for name, value in values.items() if name not in RATIOS}
    if "conv_dim" in known and "dim" in values and not family.convolutions:
        values |= {f"conv_{name}": values[name] for name in SIZES}  # as LyCORIS, where it has none of its own
    return dataclasses.replace(build(cls, values), layer_map=family.layer_map, **norms)


def complaints(family: Family, more: Callable[[Family], Iterable[str]] = lambda _: ()) -> list[str]:
    """What is wrong with a map's rules.

    Args:
        more: what else is said of a family; of a rule's, what is not said of the network's too.
    """
    if family.layer_map is None:
        return []
    found, known = [], {*more(family)}
    for place, rule in family.layer_map.rules():
        try:
            own = of(family, rule)
        except Mistake as e:
            found += [f"network.layer_map: {place}.{line}" for line in str(e).splitlines()]
        else:
            found += [f"network.layer_map: {place}: {line}" for line in more(own) if line not in known]
    return found


def record(family: Family) -> dict[str, object]:
    """What a saved file's metadata says of its network; with a map, LyCORIS' where it has the family."""
    found = family.record()
    if family.layer_map is None:
        return found
    args = {**json.loads(str(found.get("ss_network_args") or "{}")), "preset": str(family.layer_map)}
    algo = next((algo for algo, kind in ALGOS.items() if kind == kind_of(FAMILIES, family)), None)
    own = {} if algo is None else {"ss_network_module": "lycoris.kohya"}
    named = {} if algo is None else {"algo": algo}
    return {**found, **own, "ss_network_args": json.dumps({**args, **named})}
