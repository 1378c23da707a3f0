"""Options of the network: module, arguments, and files to begin with."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping

from lora_train.adapters import FAMILIES
from lora_train.adapters.chosen import PRESETS
from lora_train.adapters.mapped import ALGOS, CALLED, LARGEST, UNIT
from lora_train.compat.rules import LATER, Refused, Rules, Translated, Values, off, unless_off
from lora_train.errors import Mistake
from lora_train.knobs import settings
from lora_train.values import either, shown

# All that sd-scripts' modules (48d368f) and LyCORIS' (3.4) read of --network_args is in one of these tables.
ARGUMENTS = (  # those that are settings of ours by the same name
    "algo", "block_alphas", "block_dims", "block_lr_zero_threshold", "constraint", "conv_alpha",
    "conv_block_alphas", "conv_block_dims", "conv_dim", "decompose_both", "dim_is_count", "dora_wd",
    "down_lr_weight", "dropout", "exclude_patterns", "factor", "full_matrix", "include_patterns",
    "loraplus_lr_ratio", "loraplus_text_encoder_lr_ratio", "loraplus_unet_lr_ratio", "mid_lr_weight",
    "module_dropout", "preset", "rank_dropout", "rescaled", "rs_lora", "train_norm", "train_on_input",
    "unit", "up_lr_weight", "use_scalar", "use_tucker", "wd_on_output",
)  # fmt: skip
UNSET = (  # arguments whose 0 is their modules' way to leave them unset
    "block_lr_zero_threshold", "conv_dim", "constraint", "loraplus_lr_ratio", "loraplus_unet_lr_ratio",
    "loraplus_text_encoder_lr_ratio", "unit",
)  # fmt: skip
PATTERNS = ("exclude_patterns", "include_patterns")  # lists, in Python's words
WITHOUT = {  # arguments that change nothing here
    "bypass_mode": "what an adapter adds is always computed beside its layer",
    "rank_dropout_scale": "what is left of the ranks is always scaled up by as much as was dropped",
    "use_reentrant": "gradient checkpointing is of the kind that is not reentrant",
    "train_t5xxl": "Stable Diffusion has no T5",
    "verbose": "the log says which layers learn",
    "varbose": "the log says which layers learn",
}
REFUSED = {
    "unbalanced_factorization": LATER,
    "enable_all_linear": "of networks.oft; set network.preset to unet-transformer-only",
    "enable_conv": "of networks.oft; set network.preset to unet-only",
    "disable_conv_cp": "LyCORIS takes it for its opposite; set use_tucker",
}
MODULES = {  # network_module -> what it means by itself; LyCORIS names the family among its arguments
    "networks.lora": {"network.kind": "lora"},
    "networks.lora_fa": {"network.kind": "lora_fa"},
    "networks.dylora": {"network.kind": "dylora"},
    "networks.oft": {
        "network.kind": "oft", "network.preset": "attn-only", "network.train_unet_only": True,
        "network.dim_is_count": True,
    },
    "networks.loha": {"network.kind": "loha"},
    "networks.lokr": {"network.kind": "lokr"},
    "lycoris.kohya": {"network.preset": "full"},
    "locon.locon_kohya": {"network.kind": "lora"},  # and conv_dim, see `finished`
}  # fmt: skip
SIZES = ("dim", "alpha", "conv_dim", "conv_alpha", "dropout")  # which sd-scripts passes to every module
USUAL = 4  # network_dim, where none is given


@functools.cache
def _declared() -> set[str]:
    """Settings of any family there is."""
    return {s.path for cls in FAMILIES.values() for s in settings(cls)}


def given(value: object) -> dict[str, object]:
    """`["conv_dim=4", "preset=full"]` -> {name: text}, by the names here; lists of patterns as lists."""
    if value is True:  # the flag, and nothing after it
        return {}
    found: dict[str, object] = {}
    for word in value if isinstance(value, list | tuple) else str(value).split():
        name, equals, text = str(word).partition("=")
        if not equals:
            raise Mistake(f"{shown(word)}: expected name=value")
        name = CALLED.get(name.strip(), name.strip())
        found[name] = _patterns(text) if name in PATTERNS else text.strip(" \"'()[]")
    return found


def _patterns(text: str) -> list[str]:
    """As sd-scripts reads them: a list or a text in Python's words; a bare pattern is one."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = text
    return [str(one) for one in (value if isinstance(value, list | tuple) else [value])]


def argument(name: str, value: object) -> Values:
    """What one of network_args, by the name that `given` has it under, means here.

    Raises:
        Mistake: it cannot be done.
    """
    name = CALLED.get(name, name)
    text = str(value).strip().lower()
    if name in WITHOUT or (off(value) and text in ("", "false", "none", "0") and name in _switches()):
        return {}
    if name in REFUSED:
        if off(value):
            return {}
        raise Mistake(f"network_args {name}={shown(value)}: {REFUSED[name]}")
    if name == "algo":
        return {"network.kind": family(str(value))}
    if name == "preset" and text not in PRESETS:
        return _preset(str(value))
    if name in UNSET and off(value):
        return {}
    if name not in ARGUMENTS or name not in _declared():
        raise Mistake(f"network_args {name}={shown(value)}: {LATER}; expected {either(known())}")
    return {f"network.{name}": value}


def _preset(text: str) -> Values:
    if off(text):
        return {}
    if not (text.lower().endswith(".toml") or text.lstrip().startswith("{")):
        raise Mistake(
            f"network_args preset={text}: expected {either(PRESETS)}, or a .toml file of LyCORIS' form"
        )
    return {"network.preset": None, "network.layer_map": text}


@functools.cache
def _switches() -> set[str]:
    """Arguments that are off where they are not given, so that "off" says nothing."""
    found = {s.path for cls in FAMILIES.values() for s in settings(cls) if s.default is False}
    return {name for name in ARGUMENTS if name in found or name not in _declared()} | {"wd_on_output"}


def known() -> list[str]:
    return [name for name in ARGUMENTS if name == "algo" or name in _declared()]


def family(algo: str) -> str:
    """LyCORIS' name of one -> ours.

    Raises:
        Mistake: there is none such.
    """
    kind = ALGOS.get(algo.lower())
    if kind not in FAMILIES:
        raise Mistake(
            f"network_args algo={algo}: {LATER}; expected "
            f"{either(name for name, kind in ALGOS.items() if kind in FAMILIES)}"
        )
    return kind


def _network_args(value: object) -> Values:
    found: Values = {}
    complaints = []
    for name, text in given(value).items():
        try:
            found |= argument(name, text)
        except Mistake as e:
            complaints.append(str(e))
    if complaints:
        raise Mistake("\n".join(complaints))
    return found


def _without(value: object) -> list[str]:
    """A line for each of network_args that changes nothing here and was given as if it did."""
    return [
        f"network_args {name} has no effect here: {WITHOUT[name]}"
        for name, text in given(value).items()
        if name in WITHOUT and not off(text)
    ]


def module(value: object) -> Values:
    """What a network_module means by itself.

    Raises:
        Mistake: it is not here.
    """
    found = MODULES.get(str(value))
    if found is None or found.get("network.kind", "lora") not in FAMILIES:
        there = [n for n, v in MODULES.items() if v.get("network.kind", "lora") in FAMILIES]
        raise Mistake(f"network_module = {shown(value)}: {LATER}; expected {either(there)}")
    return found


def finished(words: Mapping[str, object], values: Values) -> list[str]:
    """Beside a network_module: what follows from several options together is put into `values`.

    LyCORIS and LoCon take dim and alpha for convolutions too where they have none of their own, sd-scripts'
    own modules 1 for alpha. LyCORIS' LoKr takes any dim, and a large one means the whole matrix; its DyLoRA
    learns UNIT ranks at a time.

    Returns:
        A line for each that is not as it was given.
    """
    name, notes = str(words.get("network_module")), []
    sized = {"network.conv_dim", "network.conv_alpha"} & values.keys()
    if (name == "lycoris.kohya" and sized) or name == "locon.locon_kohya":
        values.setdefault("network.conv_dim", values.get("network.dim") or USUAL)
        values.setdefault("network.conv_alpha", values.get("network.alpha", 1.0))
    if name == "lycoris.kohya" and values.get("network.kind") == "dylora":
        values.setdefault("network.unit", UNIT)
    for path in ("network.dim", "network.conv_dim") * (values.get("network.kind") == "lokr"):
        if _above(values.get(path), LARGEST):
            notes.append(
                f"{path} = {shown(values.pop(path))}: taken as network.full_matrix, as LoKr means it"
            )
            values["network.full_matrix"] = True
    if name == "networks.oft":  # which reads alpha as how far a layer may be turned
        values["network.constraint"] = values.pop("network.alpha", 1.0)
        notes.append("network_alpha: taken as network.constraint, as networks.oft means it")
    kind = str(values.get("network.kind", "lora"))
    if kind == "ia3" and "preset" not in given(words.get("network_args") or True):
        values.pop("network.preset", None)  # it has layers of its own, which LyCORIS too asks to be named
    own = {f"network.{s.path}" for s in settings(FAMILIES[kind])} if kind in FAMILIES else set()
    for path in [f"network.{name}" for name in SIZES if own and f"network.{name}" not in own]:
        if values.pop(path, None) is not None:
            notes.append(f"{path} has no effect here: {kind} has none")
    return notes


def _above(value: object, limit: int) -> bool:
    try:
        return float(str(value)) > limit
    except ValueError:
        return False


NETWORK: Rules = {
    "network_args": Translated(_network_args, _without),
    "network_module": Translated(module),
    "scale_weight_norms": unless_off("network.scale_weight_norms"),
    "network_multiplier": Refused(
        "an adapter is trained at the strength it is used at; objective.kind = slider trains at 1 and -1",
        off=("1", "1.0"),
    ),
}
