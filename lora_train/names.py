"""What layers of SD 1.x, SD 2.x and SDXL are called: by LDM, by diffusers, in a LoRA file, in a checkpoint.

The house speaks LDM for the denoiser ("input_blocks.4.1.transformer_blocks.0.attn1.to_q") and for the
autoencoder, and Hugging Face without "text_model." for the text encoders ("encoder.layers.0.mlp.fc1"), also
for OpenCLIP's. Module paths and tensor names ("….weight") are translated alike.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

LEVELS = 4  # resolutions of every autoencoder
PREFIXES = {  # in a single-file checkpoint
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "te1": "cond_stage_model.transformer.",
}


@dataclasses.dataclass(frozen=True)
class Arch:
    """What sets the models of one architecture apart."""

    said: str
    levels: int  # resolutions of the denoiser
    attended: tuple[int, ...]  # those with attention, from the finest, 0
    depth: int  # the most transformer blocks in one attention
    texts: dict[str, str]  # text encoder -> how its layers' keys in a LoRA file begin
    spelling: str  # of the denoiser's layers in such a file


ARCHS = {
    "sd1": Arch("SD 1.x", 4, (0, 1, 2), 1, {"te1": "lora_te_"}, "diffusers"),
    "sd2": Arch("SD 2.x", 4, (0, 1, 2), 1, {"te1": "lora_te_"}, "diffusers"),
    "sdxl": Arch("SDXL", 3, (1, 2), 10, {"te1": "lora_te1_", "te2": "lora_te2_"}, "ldm"),
}

ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
SIZES = {"label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}  # SDXL's
RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
BLOCK = (
    *("norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"),
    *(f"{a}.{p}" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")),
)
OPEN_CLIP = {  # OpenCLIP's name of a part of a text encoder's layer -> Hugging Face's
    "attn.q_proj": "self_attn.q_proj",  # as parts of a module of its own, see `open_clip_path`
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}
VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
OLD_VAE_ATTENTION = {"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"}  # diffusers before 0.15


def _resnets(arch: Arch) -> Iterator[tuple[str, str]]:
    for level in range(arch.levels):
        for j in range(2):
            yield f"input_blocks.{1 + 3 * level + j}.0", f"down_blocks.{level}.resnets.{j}"
        for j in range(3):
            yield f"output_blocks.{3 * level + j}.0", f"up_blocks.{level}.resnets.{j}"
    for j in range(2):
        yield f"middle_block.{2 * j}", f"mid_block.resnets.{j}"


def _attentions(arch: Arch) -> Iterator[tuple[str, str]]:
    for level in arch.attended:
        for j in range(2):
            yield f"input_blocks.{1 + 3 * level + j}.1", f"down_blocks.{level}.attentions.{j}"
        up = arch.levels - 1 - level
        for j in range(3):
            yield f"output_blocks.{3 * up + j}.1", f"up_blocks.{up}.attentions.{j}"
    yield "middle_block.1", "mid_block.attentions.0"


def _samplers(arch: Arch) -> Iterator[tuple[str, str]]:
    for level in range(arch.levels - 1):
        place = (
            2 if arch.levels - 1 - level in arch.attended else 1
        )  # after the attention, where there is one
        yield f"input_blocks.{3 * level + 3}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
        yield f"output_blocks.{3 * level + 2}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"


@functools.cache
def _unet(arch: str) -> dict[str, str]:
    """LDM -> diffusers for every module with weights; skip_connection also where a width does not change."""
    of = ARCHS[arch]
    blocks = [f"transformer_blocks.{i}.{part}" for i in range(of.depth) for part in BLOCK]
    resnets = {f"{a}.{x}": f"{b}.{y}" for a, b in _resnets(of) for x, y in RESNET.items()}
    attentions = {
        f"{a}.{x}": f"{b}.{x}" for a, b in _attentions(of) for x in ("norm", "proj_in", "proj_out", *blocks)
    }
    return {**ENDS, **(SIZES if arch == "sdxl" else {}), **resnets, **attentions, **dict(_samplers(of))}


@functools.cache
def _unet_back(arch: str) -> dict[str, str]:
    return {diffusers: ldm for ldm, diffusers in _unet(arch).items()}


@functools.cache
def _unet_flat(arch: str) -> dict[str, str]:
    """Underscored path as in a file -> LDM path; both the diffusers spelling and the LDM one."""
    pairs = _unet(arch).items()
    return {ldm.replace(".", "_"): ldm for ldm, _ in pairs} | {d.replace(".", "_"): ldm for ldm, d in pairs}


def _looked_up(table: Mapping[str, str], path: str, arch: str) -> str:
    if path in table:
        return table[path]
    module, _, tensor = path.rpartition(".")
    if module not in table:
        raise KeyError(f"{path}: no such module in an {ARCHS[arch].said} denoiser")
    return f"{table[module]}.{tensor}"


def unet_to_diffusers(path: str, arch: str = "sd1") -> str:
    """E.g. "input_blocks.1.0.in_layers.2" -> "down_blocks.0.resnets.0.conv1". KeyError: no such module."""
    return _looked_up(_unet(arch), path, arch)


def unet_to_ldm(path: str, arch: str = "sd1") -> str:
    """E.g. "down_blocks.0.resnets.0.conv1" -> "input_blocks.1.0.in_layers.2". KeyError: no such module."""
    return _looked_up(_unet_back(arch), path, arch)


def open_clip_path(path: str) -> str | None:
    """A module of OpenCLIP's text encoder in Hugging Face's words: "transformer.resblocks.3.mlp.c_fc" ->
    "encoder.layers.3.mlp.fc1"; None for what is in no layer. Its attention has one weight for queries, keys
    and values; whoever takes that apart calls the parts attn.q_proj, attn.k_proj, attn.v_proj."""
    found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(\w+(?:\.\w+)?)", path)
    if not found or found[2] not in OPEN_CLIP:
        return None
    return f"encoder.layers.{found[1]}.{OPEN_CLIP[found[2]]}"


def text_path(path: str) -> str:
    """Without the "text_model." that transformers 4 and most checkpoints have and transformers 5 has not."""
    return path.removeprefix("text_model.")


def vae_to_diffusers(path: str, levels: int = LEVELS) -> str:
    """E.g. "decoder.up.3.block.0.nin_shortcut" -> "decoder.up_blocks.0.resnets.0.conv_shortcut".

    Args:
        levels: resolutions of the autoencoder; the decoder's are counted from the other end.
    """
    path = re.sub(
        r"\bmid\.attn_1\.(norm|q|k|v|proj_out)\b",
        lambda m: f"mid_block.attentions.0.{VAE_ATTENTION[m[1]]}",
        path,
    )
    path = re.sub(r"\bmid\.block_(\d)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}", path)
    path = re.sub(r"\bdown\.(\d+)\.", r"down_blocks.\1.", path)
    path = re.sub(r"\bup\.(\d+)\.", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.", path)
    path = re.sub(r"\.block\.(\d+)", r".resnets.\1", path)
    path = re.sub(r"\.(down|up)sample\.conv", r".\1samplers.0.conv", path)
    return path.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")


def vae_to_ldm(path: str, levels: int = LEVELS) -> str:
    """The way back; also reads the attention's old names (query, key, value, proj_attn)."""
    back = {new: old for old, new in VAE_ATTENTION.items()} | OLD_VAE_ATTENTION
    names = "|".join(map(re.escape, back))
    path = re.sub(rf"\bmid_block\.attentions\.0\.({names})\b", lambda m: f"mid.attn_1.{back[m[1]]}", path)
    path = re.sub(r"\bmid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", path)
    path = re.sub(r"\bdown_blocks\.(\d+)\.", r"down.\1.", path)
    path = re.sub(r"\bup_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", path)
    path = re.sub(r"\.resnets\.(\d+)", r".block.\1", path)
    path = re.sub(r"\.(down|up)samplers\.0\.conv", r".\1sample.conv", path)
    return path.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def file_key(part: str, path: str, arch: str = "sd1") -> str:
    """As kohya's files have it: ("unet", "out.2") -> "lora_unet_conv_out", of SDXL "lora_unet_out_2"."""
    of = ARCHS[arch]
    if part == "unet":
        spelled = path if of.spelling == "ldm" else unet_to_diffusers(path, arch)
        return "lora_unet_" + spelled.replace(".", "_")
    return f"{of.texts[part]}text_model_{path.replace('.', '_')}"


def path_of(key: str, arch: str = "sd1") -> tuple[str, str] | None:
    """A LoRA file's key without its tensor -> (part, path); None where a model has no such layer.

    Reads "lora_te1_" and "lora_te_" alike, "oft_unet_" as "lora_unet_", and the denoiser's LDM spelling
    beside diffusers', as the WebUI does.
    """
    if key.startswith(("lora_unet_", "oft_unet_")):
        path = _unet_flat(arch).get(key.partition("_unet_")[2])
        return path and ("unet", path)
    match = re.fullmatch(r"lora_te([12]?)_text_model_encoder_layers_(\d+)_(self_attn|mlp)_(\w+)", key)
    if match and (part := f"te{match[1] or 1}") in ARCHS[arch].texts:
        return part, f"encoder.layers.{match[2]}.{match[3]}.{match[4]}"
    return None


def part_of(key: str) -> tuple[str, str] | None:
    """A single-file checkpoint's key -> (part, name in it, as in LDM); None for what is no part of it."""
    for part, prefix in PREFIXES.items():
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            return part, text_path(name) if part == "te1" else name
    return None


def split(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """A single-file checkpoint -> {"unet": …, "vae": …, "te1": …}, names within each part as in LDM."""
    parts: dict[str, dict[str, T]] = {part: {} for part in PREFIXES}
    for key, value in tensors.items():
        if found := part_of(key):
            parts[found[0]][found[1]] = value
    return parts


def levels(names: Mapping[str, object]) -> int:
    """How many resolutions an autoencoder has, from its tensors' names in either spelling."""
    found = (re.match(r"encoder\.down(?:_blocks)?\.(\d+)\.", name) for name in names)
    return 1 + max((int(match[1]) for match in found if match), default=LEVELS - 1)


def to_diffusers(tensors: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """A single-file checkpoint -> {"unet", "vae", "te1"}: state dicts of diffusers' and transformers' models.

    The text encoder's names have no "text_model."; values are tensors.
    """
    parts = split(tensors)
    count = levels(parts["vae"])
    return {
        "unet": {unet_to_diffusers(name): t for name, t in parts["unet"].items()},
        "vae": {vae_to_diffusers(name, count): as_linear(name, t) for name, t in parts["vae"].items()},
        "te1": parts["te1"],
    }


def to_ldm(unet: Mapping[str, T], vae: Mapping[str, T], text: Mapping[str, T]) -> dict[str, T]:
    """Diffusers' UNet and AutoencoderKL and transformers' CLIPTextModel -> one SD 1.x checkpoint.

    The values are tensors, ready for `save_file`. The noise schedule's buffers, which old files carry, are
    not made: every loader computes them.
    """
    count = levels(vae)
    texts = {text_path(name): value for name, value in text.items()}
    places = texts["embeddings.position_embedding.weight"]
    counted = places.new_ones((1, len(places))).float().cumsum(1).long() - 1
    texts.setdefault("embeddings.position_ids", counted)  # [1, 77]; transformers 5 does not keep them
    vaes = {vae_to_ldm(name, count): value for name, value in vae.items()}
    return (
        {PREFIXES["unet"] + unet_to_ldm(name): value.contiguous() for name, value in unet.items()}
        | {PREFIXES["vae"] + name: as_conv(name, value).contiguous() for name, value in vaes.items()}
        | {f"{PREFIXES['te1']}text_model.{name}": value.contiguous() for name, value in texts.items()}
    )


def as_linear(name: str, value: T) -> T:
    """An autoencoder's tensor, `name` in LDM, as diffusers holds it: q, k, v, proj_out are linear there."""
    return value.flatten(1) if _is_projection(name) and value.ndim == 4 else value


def as_conv(name: str, value: T) -> T:
    """An autoencoder's tensor, `name` in LDM, as LDM holds it: q, k, v and proj_out are 1x1 convolutions."""
    return value[:, :, None, None] if _is_projection(name) and value.ndim == 2 else value


def _is_projection(name: str) -> bool:
    return re.search(r"\battn_1\.(q|k|v|proj_out)\.weight$", name) is not None
