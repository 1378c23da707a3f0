"""LayerMap: which layers get an adapter and of which family and size, as LyCORIS' preset files say it."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
import pathlib
import re
from collections.abc import Iterable, Mapping

from lora_train.adapters.layer import Layer
from lora_train.errors import Mistake
from lora_train.names import unet_to_diffusers
from lora_train.toml import parsed_toml
from lora_train.values import either, shown

Rule = Mapping[str, object]

CLASSES = (  # what a layer's path has in it -> the class that the part around it has, from the outside in
    (r"\.(proj_in|proj_out|transformer_blocks\..+)$", ("Transformer2DModel",)),
    (r"\.(in_layers|emb_layers|out_layers)\.\d+$|\.skip_connection$", ("ResnetBlock2D",)),
    (r"\.op$", ("Downsample2D",)),
    (r"\.conv$", ("Upsample2D",)),
    (r"\.transformer_blocks\.\d+\.", ("BasicTransformerBlock",)),
    (r"\.attn[12]\.", ("CrossAttention", "Attention")),
    (r"\.ff\.", ("FeedForward",)),
    (r"\.ff\.net\.0\.", ("GEGLU",)),
    (r"encoder\.layers\.\d+\.", ("CLIPEncoderLayer",)),
    (r"\.self_attn\.", ("CLIPAttention", "CLIPSdpaAttention")),
    (r"\.mlp\.", ("CLIPMLP",)),
)
USUAL = {  # of LyCORIS' "full", where a file leaves it out
    "enable_conv": True,
    "unet_target_module": ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D"),
    "unet_target_name": ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"),
    "text_encoder_target_module": ("CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"),
    "text_encoder_target_name": (),
    "module_algo_map": {},
    "name_algo_map": {},
    "use_fnmatch": False,
}
LISTS = tuple(name for name, value in USUAL.items() if isinstance(value, tuple))
MAPS = ("module_algo_map", "name_algo_map")
WHY = dict.fromkeys(  # LyCORIS' other words
    ("target_module", "target_name", "exclude_name", "lora_prefix"),
    "of its use without sd-scripts; expected unet_target_name and text_encoder_target_name",
)


@dataclasses.dataclass(frozen=True)
class LayerMap:
    """`text`: what the file says, as JSON on one line; so equal files are equal."""

    text: str

    @classmethod
    def parse(cls, text: str) -> LayerMap:
        """JSON, or a TOML file's content. Raises ValueError: it is neither, or says what is not known."""
        stripped = text.strip()
        try:
            if stripped.startswith("{"):
                found = json.loads(stripped)
            elif "=" in stripped:
                found = parsed_toml(stripped.encode(), pathlib.Path("layer_map"))
            else:
                raise ValueError(stripped)
        except Mistake as e:
            raise ValueError(f"expected what stands in a preset file of LyCORIS; {e}") from e
        except (ValueError, RecursionError):
            raise ValueError(
                "expected what stands in a preset file of LyCORIS, as TOML or JSON; the command line reads "
                "the file itself, by its path"
            ) from None
        if complaints := [*_complaints(found)]:
            raise ValueError("; ".join(complaints))
        return cls(json.dumps(found, sort_keys=True, ensure_ascii=False))

    def __str__(self) -> str:
        return self.text

    @functools.cached_property
    def said(self) -> dict[str, object]:
        return {**USUAL, **json.loads(self.text)}

    def trains(self, part: str) -> bool:
        """Whether anything of a part is in it."""
        lead = "unet" if part == "unet" else "text_encoder"
        return bool(self.said[f"{lead}_target_module"] or self.said[f"{lead}_target_name"])

    def rule(self, layer: Layer) -> Rule | None:
        """What it says of a layer: {} where it has the network's own settings; None where it gets none.

        As LyCORIS (`kohya.py` 3.4.0): a layer in a target module has what the innermost class around it has
        in module_algo_map, one that is a target by its name what name_algo_map has.
        """
        lead = "unet" if layer.part == "unet" else "text_encoder"
        around, names, said = classes(layer), called(layer), self.said
        targets = said[f"{lead}_target_module"]
        place = next((i for i, kinds in enumerate(around) if set(kinds) & set(targets)), None)
        named = any(self._hit(pattern, names) for pattern in said[f"{lead}_target_name"])
        if place is None and not named:
            return None
        found: Rule = {}
        if place is None:
            found = self._by_name(names) or self._by_class(around[-1:]) or {}
        else:
            found = self._by_class(around[place:]) or {}
        wide = any(side > 1 for side in layer.kernel)
        return None if wide and not said["enable_conv"] and not found.get("dim") else found

    def _by_class(self, around: Iterable[tuple[str, ...]]) -> Rule | None:
        """The innermost's; what is around it may say the family, where that says none."""
        algo, found = None, None
        for kinds in around:
            for kind in kinds:
                if kind in self.said["module_algo_map"]:
                    found = self.said["module_algo_map"][kind]
                    algo = found.get("algo", algo)
        return found if found is None or algo is None else {**found, "algo": algo}

    def _by_name(self, names: Iterable[str]) -> Rule | None:
        rules = self.said["name_algo_map"]
        exact = next((rules[name] for name in names if name in rules), None)
        return exact or next((rule for key, rule in rules.items() if self._hit(key, names)), None)

    def _hit(self, pattern: str, names: Iterable[str]) -> bool:
        if self.said["use_fnmatch"]:
            return any(fnmatch.fnmatch(name, pattern) for name in names)
        return any(name == pattern or re.match(pattern, name) for name in names)

    def strays(self, layers: Iterable[Layer]) -> list[str]:
        """Names of layers that no layer of the model has."""
        names = [called(layer) for layer in layers]
        given = {name: value for name, value in self.said.items() if name in json.loads(self.text)}
        patterns = [p for name in given if name.endswith("_name") for p in given[name]]
        patterns += given.get("name_algo_map", {})
        return [p for p in dict.fromkeys(patterns) if not any(self._hit(p, own) for own in names)]

    def rules(self) -> list[tuple[str, Rule]]:
        """Each that it has, after its place in the file."""
        return [(f"{name}.{key}", rule) for name in MAPS for key, rule in self.said[name].items()]


def classes(layer: Layer) -> list[tuple[str, ...]]:
    """Of the parts around a layer, from the outside in, and its own; each with what else it is called."""
    found = [names for pattern, names in CLASSES if re.search(pattern, f".{layer.path}")]
    return [*found, ("Conv2d",) if layer.kernel else ("Linear",)]


def called(layer: Layer) -> tuple[str, ...]:
    """Dotted names that LyCORIS may know it by: diffusers' of the UNet, and in SDXL sd-scripts' own."""
    if layer.part != "unet":
        return (f"text_model.{layer.path}", layer.path)
    try:
        return (unet_to_diffusers(layer.path, layer.arch), layer.path)
    except KeyError:
        return (layer.path,)


def _complaints(found: object) -> Iterable[str]:
    if not isinstance(found, dict):
        yield f"expected a table, got {shown(str(found))}"
        return
    for name, value in found.items():
        if name not in USUAL:
            yield f"{name}: {WHY.get(name, f'no such entry; expected {either(USUAL)}')}"
        elif name in LISTS and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            yield f"{name}: expected a list of names"
        elif name in MAPS and not (
            isinstance(value, dict) and all(isinstance(v, dict) for v in value.values())
        ):
            yield f"{name}: expected a table for each name"
        elif isinstance(USUAL[name], bool) and not isinstance(value, bool):
            yield f"{name}: expected true or false"
    if not found.get("use_fnmatch"):
        yield from _unreadable(found)


def _unreadable(found: Mapping[str, object]) -> Iterable[str]:
    patterns = [p for name, value in found.items() if name.endswith("_name") for p in value]
    for pattern in [*patterns, *found.get("name_algo_map", {})]:
        try:
            re.compile(str(pattern))
        except re.error as e:
            yield f"{pattern}: expected a regular expression; {e}"
