"""How other programs spell a LoRA's layers: what is written for them. The way back is `spelling`."""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Callable, Mapping

from lora_train.adapters.lora import DOWN, UP
from lora_train.adapters.spelled import ALPHA, MAGNITUDES
from lora_train.names import file_key, text_path, unet_to_diffusers

Place = tuple[str, str, str]  # part, path in the house's language, architecture
ENCODERS = {"te1": "text_encoder", "te2": "text_encoder_2", "unet": "unet"}  # folders of diffusers' pipelines
PEFT = {DOWN: "lora_A.weight", UP: "lora_B.weight", MAGNITUDES: "lora_magnitude_vector"}
OLD_PIECES = {"to_q": "to_q_lora", "to_k": "to_k_lora", "to_v": "to_v_lora", "to_out.0": "to_out_lora"}
CLIPS = {"sd1": {"te1": "clip_l"}, "sd2": {"te1": "clip_h"}, "sdxl": {"te1": "clip_l", "te2": "clip_g"}}


def dotted(place: Place) -> str:
    """A layer as diffusers' and transformers' models name it, within its part."""
    part, path, arch = place
    return unet_to_diffusers(path, arch) if part == "unet" else f"text_model.{path}"


def _lora(begin: str, name: Callable[[Place], str]) -> Callable[[Place, str], str]:
    """Kohya's spelling, but for the denoiser's layers."""

    def key(place: Place, tensor: str) -> str:
        part, path, arch = place
        flat = begin + name(place).replace(".", "_") if part == "unet" else file_key(part, path, arch)
        return f"{flat}.{tensor}"

    return key


def _comfy(place: Place, tensor: str) -> str:
    part, path, arch = place
    if part == "unet":
        return f"diffusion_model.{path}.{tensor}"
    return f"text_encoders.{CLIPS[arch][part]}.transformer.text_model.{path}.{tensor}"


def _peft(place: Place, tensor: str) -> str:
    """Before the / the folder that it goes to."""
    return f"{ENCODERS[place[0]]}/base_model.model.{dotted(place)}.{PEFT[tensor]}"


def _diffusers(place: Place, tensor: str) -> str:
    return f"{ENCODERS[place[0]]}.{dotted(place)}.{PEFT[tensor]}"


def _processors(place: Place, tensor: str) -> str:
    """As diffusers before 0.22 names them. KeyError: not of attention."""
    side = {DOWN: "down", UP: "up"}[tensor]
    path = dotted(place)
    if place[0] != "unet":
        return f"text_encoder.{path}.lora_linear_layer.{side}.weight"
    at, _, piece = path.partition(".attn1.") if ".attn1." in path else path.partition(".attn2.")
    attention = "attn1" if ".attn1." in path else "attn2"
    return f"unet.{at}.{attention}.processor.{OLD_PIECES[piece]}.{side}.weight"


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How a program spells."""

    key: Callable[[Place, str], str]  # layer, tensor as kohya calls it -> key in a file
    about: str  # who reads it
    tensors: frozenset[str] | None = None  # of those that hold LoRA alone, and have no word for alpha


def _kohya(place: Place, tensor: str) -> str:
    return f"{file_key(*place)}.{tensor}"


LDM = _lora("lora_unet_", lambda place: place[1])
DIALECTS = {
    "kohya": Dialect(_kohya, "the WebUI, sd-scripts, additional-networks, every tool"),
    "kohya_diffusers": Dialect(_lora("lora_unet_", dotted), "as kohya, SDXL's layers by diffusers' names"),
    "kohya_ldm": Dialect(LDM, "as kohya, all layers by LDM's names"),
    "lycoris": Dialect(_lora("lycoris_", dotted), "LyCORIS' own wrapper, SimpleTuner"),
    "comfy": Dialect(_comfy, "what ComfyUI saves"),
    "peft": Dialect(_peft, "PEFT: a folder", frozenset((DOWN, UP, ALPHA, MAGNITUDES))),
    "diffusers": Dialect(_diffusers, "every version", frozenset((DOWN, UP, ALPHA, MAGNITUDES))),
    "processors": Dialect(_processors, "diffusers before 0.22", frozenset((DOWN, UP, ALPHA))),
}


def settings(ranks: Mapping[str, int], alphas: Mapping[str, float], *, dora: bool) -> dict[str, object]:
    """PEFT's, as its adapter_config.json has them. By layer, its name within the model, whose "text_model."
    transformers 5 has not: PEFT takes the end of a name for it."""
    ranks = {text_path(name): rank for name, rank in ranks.items()}
    alphas = {text_path(name): alpha for name, alpha in alphas.items()}
    rank, alpha = most(ranks.values()), most(alphas.values())
    return {
        "peft_type": "LORA", "auto_mapping": None, "base_model_name_or_path": None, "task_type": None,
        "bias": "none", "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
        "lora_dropout": 0.0, "r": rank, "lora_alpha": alpha, "use_rslora": False, "use_dora": dora,
        "rank_pattern": {name: own for name, own in ranks.items() if own != rank},
        "alpha_pattern": {name: own for name, own in alphas.items() if own != alpha},
        "target_modules": sorted(ranks),
    }  # fmt: skip


def most(values: object) -> float:
    """The one that there are most of."""
    return collections.Counter(values).most_common(1)[0][0]


def told(parts: Mapping[str, Mapping[str, object]]) -> str:
    """Settings of each part as diffusers has them in a file's metadata."""
    return json.dumps({f"{part}.{name}": value for part, own in parts.items() for name, value in own.items()})
