"""What a model's tensors do not tell: from the .yaml or JSON files beside them, and from the file itself."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from lora_train.errors import Mistake
from lora_train.host import Model
from lora_train.values import shown
from lora_train.weights import Weights

STANDARD_TEXT = "openai/clip-vit-large-patch14"
PREDICTIONS = {"epsilon": "noise", "v": "v"}  # -> as it is said


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the tensors do not tell; the defaults are the SD 1.x family's."""

    arch: str = "sd1"  # one of names.ARCHS
    heads: int | list[int] = 8  # of the denoiser's attention; a list: of each resolution
    head_width: int | None = None  # channels of a head, where the number of heads follows from it
    text_heads: int | None = None  # None: one for each 64 channels
    text_activation: str = "quick_gelu"
    second_heads: int | None = None  # of SDXL's second text encoder
    second_activation: str = "gelu"
    prediction: str | None = "epsilon"  # or "v"; None: nobody says, only the denoiser itself can
    by: str = dataclasses.field(default="is usual", compare=False)  # who says so, behind "as"
    last_is_noise: bool = False  # no signal is left at the last step
    scale: float = 0.18215  # what latents are multiplied with
    start: float = 0.00085  # of the noise schedule's betas
    end: float = 0.012
    steps: int = 1000
    empty_is_zero: bool = False  # an empty negative prompt is zeros, and not what is made of an empty text


USUAL = {
    "sd1": Facts(),
    "sd2": Facts("sd2", head_width=64, text_activation="gelu", prediction=None),
    "sdxl": Facts("sdxl", head_width=64, scale=0.13025, empty_is_zero=True),
}


def asked(facts: Facts, model: Model) -> Facts:
    """With what is said of the prediction in place of what the files say."""
    if model.v_parameterization is None:
        return facts
    prediction = "v" if model.v_parameterization else "epsilon"
    return dataclasses.replace(facts, prediction=prediction, by="model.v_parameterization says")


def last_is_noise(facts: Facts, model: Model) -> bool:
    """Whether no signal is left at the last step, of a model whose prediction is known."""
    if model.zero_terminal_snr is None:
        return facts.last_is_noise and facts.prediction == "v"
    return model.zero_terminal_snr


def told(source: pathlib.Path, arch: str, **known: Any) -> Facts:
    """What is usual of an architecture, but for what is known.

    Raises:
        Mistake: not numbers that a model can have.
    """
    known = {name: value for name, value in known.items() if value is not None}
    if "heads" in known:
        known.setdefault("head_width", None)
    facts = dataclasses.replace(USUAL[arch], **known)
    for name in ("scale", "start", "end", "steps"):
        value = vars(facts)[name]
        if not isinstance(value, int | float) or not 0 < value < math.inf:  # nan neither
            raise Mistake(f"{source}: {name} = {shown(value)}: expected a number above 0")
    return facts


def of_folder(path: pathlib.Path, arch: str) -> Facts:
    """From the settings in a diffusers folder."""
    unet, text, second, vae, noise = (
        read_json(path / folder) if (path / folder).is_file() else {}
        for folder in (
            "unet/config.json",
            "text_encoder/config.json",
            "text_encoder_2/config.json",
            "vae/config.json",
            "scheduler/scheduler_config.json",
        )
    )
    prediction = {"v_prediction": "v", "epsilon": "epsilon"}.get(noise.get("prediction_type"))
    return told(
        path,
        arch,
        heads=unet.get("num_attention_heads") or unet.get("attention_head_dim"),  # which means the first here
        text_heads=text.get("num_attention_heads"),
        text_activation=text.get("hidden_act"),
        second_heads=second.get("num_attention_heads"),
        second_activation=second.get("hidden_act"),
        prediction=prediction,
        by=prediction and "its scheduler's settings say",
        last_is_noise=noise.get("rescale_betas_zero_snr"),
        scale=vae.get("scaling_factor"),
        start=noise.get("beta_start"),
        end=noise.get("beta_end"),
        steps=noise.get("num_train_timesteps"),
        empty_is_zero=read_json(path / "model_index.json").get("force_zeros_for_empty_prompt"),
    )


def of_file(weights: Weights, arch: str) -> Facts:
    """From the .yaml of the checkpoint's name, in the WebUI's layout; else from words in the file itself: the
    empty tensors `v_pred` and `ztsnr` that some carry, and modelspec's entries; else what is usual."""
    config = weights.path.with_suffix(".yaml")
    if config.is_file():
        facts = _beside(config, arch)
    else:
        facts, said = USUAL[arch], str(weights.metadata.get("modelspec.prediction_type"))
        if "v_pred" in weights.shapes:
            facts = dataclasses.replace(facts, prediction="v", by="its entry v_pred says")
        elif said in PREDICTIONS:
            facts = dataclasses.replace(facts, prediction=said, by="its metadata say")
    return dataclasses.replace(facts, last_is_noise="ztsnr" in weights.shapes)


def _beside(config: pathlib.Path, arch: str) -> Facts:
    import yaml

    try:
        model = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["params"]
        known = _sgm(model) if arch == "sdxl" else _ldm(model)
        unet, version = known.pop("unet"), known.pop("version")
        text = _text_config(config, version)
        heads, width = (unet.get(name) or -1 for name in ("num_heads", "num_head_channels"))
        return told(
            config,
            arch,
            heads=heads if heads > 0 else None,
            head_width=width if width > 0 else None,
            text_heads=text.get("num_attention_heads"),
            text_activation=text.get("hidden_act"),
            by="its .yaml says",
            scale=model.get("scale_factor"),
            **known,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as e:
        reason = f" ({e})" if isinstance(e, yaml.YAMLError | OSError) else ""
        raise Mistake(f"{config}: expected a checkpoint's settings as the WebUI reads them{reason}") from e


def _ldm(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of SD 1.x and 2.x."""
    return {
        "unet": _params(model, "unet_config"),
        "version": _params(model, "cond_stage_config").get("version"),
        "prediction": "v" if model.get("parameterization") == "v" else "epsilon",
        "start": model.get("linear_start"),
        "end": model.get("linear_end"),
        "steps": model.get("timesteps"),
    }


def _sgm(model: Mapping[str, Any]) -> dict[str, Any]:
    """Of SDXL."""
    denoiser = _params(model, "denoiser_config")
    noise = _params(denoiser, "discretization_config")
    kind = str((denoiser.get("scaling_config") or {}).get("target", "EpsScaling")).rpartition(".")[2]
    texts = _params(model, "conditioner_config").get("emb_models") or [{}]
    return {
        "unet": _params(model, "network_config"),
        "version": (texts[0].get("params") or {}).get("version"),
        "prediction": {"EpsScaling": "epsilon", "VScaling": "v"}[kind],
        "start": noise.get("linear_start"),
        "end": noise.get("linear_end"),
        "steps": noise.get("num_timesteps"),
    }


def _params(model: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return (model.get(name) or {}).get("params") or {}


def _text_config(config: pathlib.Path, version: str | None) -> Mapping[str, Any]:
    """version: a folder with config.json, relative to the .yaml or absolute; None or CLIP's name: usual."""
    if version in (None, STANDARD_TEXT):
        return {}
    return read_json(config.parent / version / "config.json")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise Mistake(f"{path}: expected JSON ({e})") from e
    if not isinstance(found, dict):
        raise Mistake(f"{path}: expected a JSON object")
    return found
