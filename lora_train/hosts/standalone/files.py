"""Finds the parts of an SD 1.x model on disk, and what their tensors do not tell. Never asks a hub."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from lora_train import names
from lora_train.errors import Mistake
from lora_train.values import shown
from lora_train.weights import Weights, content, open_weights

CHECKPOINT, AUTOENCODER = "model.pretrained_model_name_or_path", "model.vae"
EXPECTED = "expected an SD 1.x checkpoint (.safetensors, .ckpt) or a diffusers folder of one"
FOLDERS = {  # part -> folder in a diffusers pipeline, and its file's name without its ending
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "te1": ("text_encoder", "model"),
}
ENDINGS = (".safetensors", ".fp16.safetensors", ".bin")
LANDMARKS = {  # a tensor that every model of the part has; its absence means the part is not there
    "unet": "conv_in.weight",
    "vae": "decoder.conv_in.weight",
    "te1": "embeddings.token_embedding.weight",
}
STANDARD_TEXT = "openai/clip-vit-large-patch14"
WORDS = {"unet": "denoiser", "vae": "autoencoder", "te1": "text encoder"}


@dataclasses.dataclass(frozen=True)
class Part:
    """One model's tensors in a file, named as in diffusers' or transformers' model, without "text_model."."""

    weights: Weights
    keys: dict[str, str]  # name in the model -> name in the file

    def shape(self, name: str) -> tuple[int, ...]:
        return self.weights.shapes[self.keys[name]]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What the tensors do not tell; the defaults are the SD 1.x family's."""

    heads: int = 8  # of the denoiser's attention
    head_width: int | None = None  # channels of a head, where the number of heads follows from it
    text_heads: int | None = None  # None: one for each 64 channels
    text_activation: str = "quick_gelu"
    prediction: str = "epsilon"
    scale: float = 0.18215  # what latents are multiplied with
    start: float = 0.00085  # of the noise schedule's betas
    end: float = 0.012
    steps: int = 1000


@dataclasses.dataclass(frozen=True)
class Found:
    """A model on disk."""

    path: pathlib.Path
    parts: dict[str, Part]  # "unet", "vae", "te1"
    facts: Facts
    vae_path: pathlib.Path | None  # where the autoencoder is not the checkpoint's own


def find(path: pathlib.Path, vae: pathlib.Path | None = None) -> Found:
    """Look at a model without loading it.

    Args:
        path: a single file, or a folder that diffusers' `save_pretrained` wrote.
        vae: a file or folder whose autoencoder replaces the model's own.

    Raises:
        Mistake: it is not there, cannot be read, or is not an SD 1.x model; says what it looks like.
    """
    path = path.expanduser()
    _exists(CHECKPOINT, path)
    parts, facts = _folder(path) if path.is_dir() else _file(path)
    if vae is not None:
        vae = vae.expanduser()
        _exists(AUTOENCODER, vae)
        parts["vae"] = _autoencoder(vae)
    for part, landmark in LANDMARKS.items():
        if part not in parts or landmark not in parts[part].keys:
            raise Mistake(f"{CHECKPOINT} = {path}: has no {WORDS[part]}; {EXPECTED}")
    return Found(path, parts, facts, vae)


def _exists(setting: str, path: pathlib.Path) -> None:
    if not path.exists():
        raise Mistake(f"{setting} = {path}: no such file or folder; models are not downloaded, give a path")


def _opened(setting: str, path: pathlib.Path) -> Weights:
    try:
        return open_weights(path)
    except Mistake as e:
        raise Mistake(f"{setting} = {e}") from e


def _file(path: pathlib.Path) -> tuple[dict[str, Part], Facts]:
    weights = _opened(CHECKPOINT, path)
    kind = content(weights.shapes)
    if kind != "an SD 1.x checkpoint":
        first = next(iter(weights.shapes), None)
        seen = kind or (f"unknown; its first tensor is {first}" if first else "a file without tensors")
        raise Mistake(f"{CHECKPOINT} = {path}: is {seen}; {EXPECTED}")
    split = names.split({key: key for key in weights.shapes})
    try:
        parts = {
            "unet": Part(weights, _renamed(split["unet"], names.unet_to_diffusers)),
            "vae": _vae_part(weights, split["vae"]),
            "te1": Part(weights, split["te1"]),
        }
    except KeyError as e:
        raise Mistake(f"{CHECKPOINT} = {path}: {e.args[0]}; {EXPECTED}") from e
    return parts, _beside(path)


def _renamed(keys: Mapping[str, str], rename: Callable[[str], str]) -> dict[str, str]:
    return {rename(name): key for name, key in keys.items()}


def _vae_part(weights: Weights, keys: Mapping[str, str]) -> Part:
    """keys: name in the autoencoder, LDM's or diffusers', -> name in the file."""
    levels = names.levels(keys)
    roots = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    ldm = {name: key for name, key in keys.items() if name.startswith(roots)}
    if any("_blocks." in name for name in ldm):
        ldm = _renamed(ldm, lambda name: names.vae_to_ldm(name, levels))
    return Part(weights, _renamed(ldm, lambda name: names.vae_to_diffusers(name, levels)))


def _autoencoder(path: pathlib.Path) -> Part:
    """A VAE alone, one in a diffusers folder, or that of a checkpoint."""
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        path = _weights_in(folder, FOLDERS["vae"][1], AUTOENCODER)
    weights = _opened(AUTOENCODER, path)
    prefix = names.PREFIXES["vae"]
    keys = {key.removeprefix(prefix): key for key in weights.shapes if key.startswith(prefix)}
    part = _vae_part(weights, keys or {key: key for key in weights.shapes})
    if LANDMARKS["vae"] not in part.keys:
        seen = content(weights.shapes) or "unknown"
        raise Mistake(f"{AUTOENCODER} = {path}: is {seen}; expected an SD 1.x autoencoder (VAE)")
    return part


def _weights_in(folder: pathlib.Path, stem: str, setting: str = CHECKPOINT) -> pathlib.Path:
    for stem_ in (stem, "pytorch_model") if stem == "model" else (stem,):
        for ending in ENDINGS:
            if (folder / (stem_ + ending)).is_file():
                return folder / (stem_ + ending)
    raise Mistake(f"{setting} = {folder}: expected {stem}.safetensors in it")


def _folder(path: pathlib.Path) -> tuple[dict[str, Part], Facts]:
    index = path / "model_index.json"
    if not index.is_file():
        files = sorted(p.name for p in path.glob("*.safetensors"))
        hint = f"; did you mean {path / files[0]}?" if files else ""
        raise Mistake(f"{CHECKPOINT} = {path}: a folder without model_index.json{hint or '; ' + EXPECTED}")
    kind = _json(index).get("_class_name", "unknown")
    if kind != "StableDiffusionPipeline":
        raise Mistake(f"{CHECKPOINT} = {path}: is a {kind}; {EXPECTED} (a StableDiffusionPipeline)")
    files = {part: _weights_in(path / folder, stem) for part, (folder, stem) in FOLDERS.items()}
    opened = {part: _opened(CHECKPOINT, file) for part, file in files.items()}
    keys = {part: {key: key for key in weights.shapes} for part, weights in opened.items()}
    parts = {
        "unet": Part(opened["unet"], keys["unet"]),
        "vae": _vae_part(opened["vae"], keys["vae"]),
        "te1": Part(opened["te1"], _renamed(keys["te1"], names.text_path)),
    }
    for name in parts["unet"].keys:
        try:
            names.unet_to_ldm(name)
        except KeyError as e:
            raise Mistake(f"{CHECKPOINT} = {path}: {e.args[0]}; {EXPECTED}") from e
    return parts, _folder_facts(path)


def _folder_facts(path: pathlib.Path) -> Facts:
    unet, text, vae, noise = (
        _json(path / name) if (path / name).is_file() else {}
        for name in (
            "unet/config.json",
            "text_encoder/config.json",
            "vae/config.json",
            "scheduler/scheduler_config.json",
        )
    )
    return _facts(
        path,
        heads=unet.get("num_attention_heads") or unet.get("attention_head_dim"),  # which means the first here
        text_heads=text.get("num_attention_heads"),
        text_activation=text.get("hidden_act"),
        prediction={"v_prediction": "v"}.get(noise.get("prediction_type"), "epsilon"),
        scale=vae.get("scaling_factor"),
        start=noise.get("beta_start"),
        end=noise.get("beta_end"),
        steps=noise.get("num_train_timesteps"),
    )


def _facts(source: pathlib.Path, **known: Any) -> Facts:
    """Raises Mistake: not numbers that a model can have."""
    facts = Facts(**{name: value for name, value in known.items() if value is not None})
    for name in ("scale", "start", "end", "steps"):
        value = vars(facts)[name]
        if not isinstance(value, int | float) or not 0 < value < math.inf:  # nan neither
            raise Mistake(f"{source}: {name} = {shown(value)}: expected a number above 0")
    return facts


def _beside(path: pathlib.Path) -> Facts:
    """From the .yaml of the checkpoint's name, in the WebUI's layout; the standard where there is none."""
    config = path.with_suffix(".yaml")
    if not config.is_file():
        return Facts()
    import yaml

    try:
        model = yaml.safe_load(config.read_text(encoding="utf-8"))["model"]["params"]
        unet = _params(model, "unet_config")
        text = _text_config(config, _params(model, "cond_stage_config").get("version"))
        return _facts(
            config,
            heads=unet.get("num_heads") if (unet.get("num_heads") or -1) > 0 else None,
            head_width=unet.get("num_head_channels") if (unet.get("num_head_channels") or -1) > 0 else None,
            text_heads=text.get("num_attention_heads"),
            text_activation=text.get("hidden_act"),
            prediction="v" if model.get("parameterization") == "v" else "epsilon",
            scale=model.get("scale_factor"),
            start=model.get("linear_start"),
            end=model.get("linear_end"),
            steps=model.get("timesteps"),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as e:
        reason = f" ({e})" if isinstance(e, yaml.YAMLError | OSError) else ""
        raise Mistake(f"{config}: expected a checkpoint's settings as the WebUI reads them{reason}") from e


def _params(model: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return (model.get(name) or {}).get("params") or {}


def _text_config(config: pathlib.Path, version: str | None) -> Mapping[str, Any]:
    """version: a folder with config.json, relative to the .yaml or absolute; None or CLIP's name: usual."""
    if version in (None, STANDARD_TEXT):
        return {}
    return _json(config.parent / version / "config.json")


def _json(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise Mistake(f"{path}: expected JSON ({e})") from e
    if not isinstance(found, dict):
        raise Mistake(f"{path}: expected a JSON object")
    return found
