"""Finds the parts of an SD 1.x, SD 2.x or SDXL model on disk. Never asks a hub."""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping

from torch import Tensor

from lora_train import names
from lora_train.errors import Mistake
from lora_train.models.facts import Facts, of_file, of_folder, read_json
from lora_train.weights import PAINTS, Weights, content, open_weights

CHECKPOINT, AUTOENCODER = "model.pretrained_model_name_or_path", "model.vae"
EXPECTED = "expected an SD 1.x, SD 2.x or SDXL checkpoint (.safetensors, .ckpt) or a diffusers folder of one"
FOLDERS = {  # part -> folder in a diffusers pipeline, and its file's name without its ending
    "unet": ("unet", "diffusion_pytorch_model"),
    "vae": ("vae", "diffusion_pytorch_model"),
    "te1": ("text_encoder", "model"),
    "te2": ("text_encoder_2", "model"),
}
PIPELINES = (
    "StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionXLInpaintPipeline",
)  # fmt: skip
INPAINTING = 9  # channels: the noisy latent, where it is painted anew, and the latent of the rest
ENDINGS = (  # the first that is there; large ones lie in several files, with an index
    *(".safetensors", ".safetensors.index.json", ".fp16.safetensors", ".safetensors.index.fp16.json"),
    *(".bin", ".bin.index.json"),
)
PROJECTION = "down_blocks.0.attentions.0.proj_in.weight"
LAYER = r"encoder\.layers\.(\d+)\."
TOWER = "embeddings.token_embedding.weight"
LANDMARKS = {  # a tensor that every model of the part has; its absence means the part is not there
    "unet": "conv_in.weight",
    "vae": "decoder.conv_in.weight",
    "te1": TOWER,
    "te2": TOWER,
}
KINDS = {"an SD 1.x checkpoint": "sd1", "an SD 2.x checkpoint": "sd2", "an SDXL checkpoint": "sdxl"}
CLIP, OPEN_CLIP = "Hugging Face's names", "OpenCLIP's"
TEXTS = {  # architecture -> text encoder -> how its keys in a single file begin, and who named the rest
    "sd1": {"te1": ("cond_stage_model.transformer.", CLIP)},
    "sd2": {"te1": ("cond_stage_model.model.", OPEN_CLIP)},
    "sdxl": {
        "te1": ("conditioner.embedders.0.transformer.", CLIP),
        "te2": ("conditioner.embedders.1.model.", OPEN_CLIP),
    },
}
TOWERS = {  # OpenCLIP's names of what is in no layer -> Hugging Face's; see `names.open_clip_path`
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
    "text_projection": "text_projection.weight",
}
WORDS = {
    "unet": "denoiser", "vae": "autoencoder", "te1": "text encoder", "te2": "second text encoder",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a tensor of a model is in a file."""

    key: str
    third: int | None = None  # of one weight for queries, keys and values
    turned: bool = False  # it is multiplied from the other side there

    def of(self, stored: Tensor) -> Tensor:
        """stored: what the file has under the key."""
        value = stored if self.third is None else stored.chunk(3)[self.third]
        return value.t() if self.turned else value

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        if self.third is not None:
            stored = (stored[0] // 3, *stored[1:])
        return stored[::-1] if self.turned else stored


@dataclasses.dataclass(frozen=True)
class Part:
    """One model's tensors in a file, named as in diffusers' or transformers' model, without "text_model."."""

    weights: Weights
    keys: dict[str, Source]  # name in the model -> where it is in the file

    def shape(self, name: str) -> tuple[int, ...]:
        source = self.keys[name]
        return source.shape(self.weights.shapes[source.key])

    def count(self, pattern: str) -> int:
        """How many things a model has of which the tensors' names give the number."""
        found = (re.match(pattern, name) for name in self.keys)
        return 1 + max((int(match[1]) for match in found if match), default=-1)


@dataclasses.dataclass(frozen=True)
class Found:
    """A model on disk."""

    path: pathlib.Path
    parts: dict[str, Part]  # "unet", "vae", "te1" and SDXL's "te2"
    facts: Facts
    vae_path: pathlib.Path | None  # where the autoencoder is not the checkpoint's own


def find(path: pathlib.Path, vae: pathlib.Path | None = None, *, idle: bool = False) -> Found:
    """Look at a model without loading it.

    Args:
        path: a single file, or a folder that diffusers' `save_pretrained` wrote.
        vae: a file or folder whose autoencoder replaces the model's own.
        idle: keep the last layer of SDXL's first text encoder, which nothing comes through.

    Raises:
        Mistake: it is not there, cannot be read, or is no such model; says what it looks like.
    """
    path = path.expanduser()
    _exists(CHECKPOINT, path)
    parts, facts = _folder(path) if path.is_dir() else _file(path)
    if vae is not None:
        vae = vae.expanduser()
        _exists(AUTOENCODER, vae)
        parts["vae"] = _autoencoder(vae)
    for part in ("unet", "vae", *TEXTS[facts.arch]):
        if part not in parts or LANDMARKS[part] not in parts[part].keys:
            raise Mistake(f"{CHECKPOINT} = {path}: has no {WORDS[part]}; {EXPECTED}")
    if facts.arch == "sdxl":
        _whole(path, parts["unet"])
        parts["te1"] = parts["te1"] if idle else _without_last(parts["te1"])
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
    kind = content(weights.shapes).removesuffix(PAINTS)
    if kind not in KINDS:
        first = next(iter(weights.shapes), None)
        seen = kind or (f"unknown; its first tensor is {first}" if first else "a file without tensors")
        raise Mistake(f"{CHECKPOINT} = {path}: is {seen}; {EXPECTED}")
    arch, unet = KINDS[kind], _below(weights, names.PREFIXES["unet"])
    try:
        parts = {
            "unet": Part(weights, _renamed(unet, lambda name: names.unet_to_diffusers(name, arch))),
            "vae": _vae_part(weights, _below(weights, names.PREFIXES["vae"])),
        }
    except KeyError as e:
        raise Mistake(f"{CHECKPOINT} = {path}: {e.args[0]}; {EXPECTED}") from e
    for part, (prefix, words) in TEXTS[arch].items():
        keys = _below(weights, prefix)
        parts[part] = Part(weights, _tower(keys) if words is OPEN_CLIP else _renamed(keys, names.text_path))
    if arch == "sd2":
        parts["te1"] = _without_last(parts["te1"])
    if arch != "sdxl" and _linear(parts["unet"]) not in (None, arch == "sd2"):
        raise Mistake(
            f"{CHECKPOINT} = {path}: its denoiser and its text encoder are of two architectures; {EXPECTED}"
        )
    return parts, of_file(weights, arch)


def _linear(unet: Part) -> bool | None:
    """Whether attentions begin with a linear layer, as in SD 2.x; in SD 1.x it is a convolution."""
    return len(unet.shape(PROJECTION)) == 2 if PROJECTION in unet.keys else None


def _below(weights: Weights, prefix: str) -> dict[str, str]:
    """Name behind the prefix -> key in the file."""
    return {key.removeprefix(prefix): key for key in weights.shapes if key.startswith(prefix)}


def _renamed(keys: Mapping[str, str], rename: Callable[[str], str]) -> dict[str, Source]:
    return {rename(name): Source(key) for name, key in keys.items()}


def _tower(keys: Mapping[str, str]) -> dict[str, Source]:
    """An OpenCLIP text encoder as Hugging Face's has it, whose queries, keys and values are layers each."""
    found = {}
    for name, key in keys.items():
        module, _, tensor = name.rpartition(".")
        if name in TOWERS:
            found[TOWERS[name]] = Source(key, turned=name == "text_projection")
        elif module.endswith(".attn") and tensor.startswith("in_proj_"):
            for i, piece in enumerate(("q_proj", "k_proj", "v_proj")):
                path = names.open_clip_path(f"{module}.{piece}")
                found[f"{path}.{tensor.removeprefix('in_proj_')}"] = Source(key, third=i)
        elif path := names.open_clip_path(module):
            found[f"{path}.{tensor}"] = Source(key)
    return found


def _without_last(part: Part) -> Part:
    """Nothing comes through the last layer of SD 2.x' text encoder, nor through that of SDXL's first."""
    last = f"encoder.layers.{part.count(LAYER) - 1}."
    return Part(part.weights, {name: at for name, at in part.keys.items() if not name.startswith(last)})


def _vae_part(weights: Weights, keys: Mapping[str, str]) -> Part:
    """keys: name in the autoencoder, LDM's or diffusers', -> name in the file."""
    levels = names.levels(keys)
    roots = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    ldm = {name: key for name, key in keys.items() if name.startswith(roots)}
    if any("_blocks." in name for name in ldm):
        ldm = {names.vae_to_ldm(name, levels): key for name, key in ldm.items()}
    return Part(weights, _renamed(ldm, lambda name: names.vae_to_diffusers(name, levels)))


def _autoencoder(path: pathlib.Path) -> Part:
    """A VAE alone, one in a diffusers folder, or that of a checkpoint."""
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        path = _weights_in(folder, FOLDERS["vae"][1], AUTOENCODER)
    weights = _opened(AUTOENCODER, path)
    keys = _below(weights, names.PREFIXES["vae"])
    part = _vae_part(weights, keys or {key: key for key in weights.shapes})
    if LANDMARKS["vae"] not in part.keys:
        seen = content(weights.shapes) or "unknown"
        raise Mistake(f"{AUTOENCODER} = {path}: is {seen}; expected an autoencoder (VAE)")
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
    kind = read_json(index).get("_class_name", "unknown")
    if kind not in PIPELINES:
        raise Mistake(f"{CHECKPOINT} = {path}: is a {kind}; {EXPECTED} (a {' or '.join(PIPELINES[:2])})")
    wanted = ("unet", "vae", *TEXTS["sdxl" if "XL" in kind else "sd1"])
    opened = {part: _opened(CHECKPOINT, _weights_in(path / FOLDERS[part][0], FOLDERS[part][1]))
              for part in wanted}  # fmt: skip
    keys = {part: {key: key for key in weights.shapes} for part, weights in opened.items()}
    parts = {part: Part(weights, _renamed(keys[part], names.text_path)) for part, weights in opened.items()}
    parts["vae"] = _vae_part(opened["vae"], keys["vae"])
    arch = _of_pipeline(path, kind, parts["unet"])
    for name in parts["unet"].keys:
        try:
            names.unet_to_ldm(name, arch)
        except KeyError as e:
            raise Mistake(f"{CHECKPOINT} = {path}: {e.args[0]}; {EXPECTED}") from e
    return parts, of_folder(path, arch)


def _of_pipeline(path: pathlib.Path, kind: str, unet: Part) -> str:
    """The architecture. SD 1.x and SD 2.x have one pipeline."""
    shape = unet.shape(LANDMARKS["unet"]) if LANDMARKS["unet"] in unet.keys else ()
    if len(shape) == 4 and shape[1] not in (4, INPAINTING):
        raise Mistake(f"{CHECKPOINT} = {path}: takes {shape[1]} channels, as for edits; {EXPECTED}")
    if "XL" in kind:
        return "sdxl"
    return "sd2" if _linear(unet) else "sd1"


def depths(unet: Part) -> list[set[int]]:
    """For each resolution, from the finest, how many transformer blocks its attentions have; behind them, the
    middle's."""
    levels = unet.count(r"down_blocks\.(\d+)\.")
    places = [
        [f"down_blocks.{i}.attentions.{j}" for j in range(2)]
        + [f"up_blocks.{levels - 1 - i}.attentions.{j}" for j in range(3)]
        for i in range(levels)
    ]
    every = [*places, ["mid_block.attentions.0"]]
    return [{unet.count(rf"{re.escape(at)}\.transformer_blocks\.(\d+)\.") for at in level} for level in every]


def _whole(path: pathlib.Path, unet: Part) -> None:
    """Raises Mistake: blocks are missing, as nobody's SDXL has but those that were made smaller."""
    *levels, middle = depths(unet)
    if middle != levels[-1] or any(len(level) > 1 for level in levels):
        raise Mistake(
            f"{CHECKPOINT} = {path}: is SDXL with blocks taken out, as SSD-1B and Segmind Vega; {EXPECTED}"
        )
