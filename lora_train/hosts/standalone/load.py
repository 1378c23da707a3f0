"""Builds diffusers' and transformers' models from what a file holds; widths are read from the tensors."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_train import names
from lora_train.errors import Mistake
from lora_train.hosts.standalone.attention import Processor
from lora_train.hosts.standalone.packed import Packed
from lora_train.models.facts import Facts
from lora_train.models.files import LAYER, WORDS, Found, Part, Source, depths

TOKENS = 49408  # of CLIP's vocabulary
SIZE = 256  # numbers that one of SDXL's sizes is embedded in
PROJECTION = "text_projection.weight"


def hollow(found: Found) -> dict[str, nn.Module]:
    """Part -> its model, without weights (on the device "meta").

    Raises:
        Mistake: tensors are missing, or shapes do not fit together.
    """
    makers = {"unet": _unet, "vae": _vae, "te1": _text, "te2": _second}
    made = {}
    for part, there in found.parts.items():
        try:
            with torch.device("meta"):
                made[part] = makers[part](there, found.facts)
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as e:
            raise Mistake(f"{there.weights.path}: an unknown kind of {WORDS[part]} ({e})") from e
        made[part].eval().requires_grad_(False)
        _compare(made[part], there, part)
    _fit(found, made)
    return made


def _fit(found: Found, made: dict[str, nn.Module]) -> None:
    """Raises Mistake: the text encoders do not make what the denoiser reads."""
    texts = [made[part] for part in names.ARCHS[found.facts.arch].texts]
    width, read = sum(text.config.hidden_size for text in texts), made["unet"].config.cross_attention_dim
    told = made["unet"].config.projection_class_embeddings_input_dim
    if told is not None and width == read:
        width, read = texts[-1].config.projection_dim, told - 6 * SIZE
    if width != read:
        raise Mistake(f"{found.path}: the denoiser reads texts {read} wide, and here they are {width}")


def fill(module: nn.Module, part: Part, *, dtype: torch.dtype, device: torch.device) -> None:
    """Read the weights, each converted as it arrives: the peak is a tensor or two above the model's size."""
    packed = {f"{name}.weight": m for name, m in module.named_modules() if isinstance(m, Packed)}
    wanted = {names.text_path(name): name for name in (*module.state_dict(), *packed)}
    there = {name: part.keys[short] for short, name in wanted.items() if short in part.keys}
    takers: dict[str, list[tuple[str, Source]]] = {}  # key in the file -> what is made of it
    for name, source in there.items():
        takers.setdefault(source.key, []).append((name, source))
    nn.Module.to(module, dtype)  # diffusers' own warns of what concerns other models
    module.to_empty(device=device)  # all at once: tensors made between what is read leave gaps
    places = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for key, value in part.weights.read(takers):
            for name, source in takers[key]:  # the autoencoder's 1x1 convolutions are linear here
                if name in packed:
                    packed[name].take(source.of(value))
                else:
                    places[name].copy_(source.of(value).reshape(places[name].shape))
        for name, buffer in module.named_buffers():
            if name not in there and name.endswith("position_ids"):  # CLIP's, which is not in every file
                buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
    module.requires_grad_(False)


def _compare(module: nn.Module, part: Part, word: str) -> None:
    """Raises Mistake: `fill` would not find all it needs."""
    for name, value in module.state_dict().items():
        short = names.text_path(name)
        if short.endswith("position_ids"):
            continue
        if short not in part.keys:
            raise Mistake(f"{part.weights.path}: the {WORDS[word]} has no {short}; is the file whole?")
        shape = part.shape(short)
        if value.numel() != torch.Size(shape).numel() or value.shape[:2] != shape[:2]:
            expected = "x".join(map(str, value.shape))
            raise Mistake(
                f"{part.weights.path}: {part.keys[short].key} is {'x'.join(map(str, shape))}, "
                f"expected {expected}"
            )


def _divides(heads: int, width: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads for {width} channels")


def _unet(part: Part, facts: Facts) -> nn.Module:
    levels = part.count(r"down_blocks\.(\d+)\.")
    widths = [part.shape(f"down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    heads: Any = facts.heads
    if facts.head_width is not None:
        heads = [width // facts.head_width for width in widths]
    for width, count in zip(widths, heads if isinstance(heads, list) else [heads] * levels, strict=True):
        _divides(count, width)
    attended = names.ARCHS[facts.arch].attended
    first = f"down_blocks.{attended[0]}.attentions.0"
    unet = UNet2DConditionModel(
        sample_size=64,  # older pipelines want one
        in_channels=part.shape("conv_in.weight")[1],
        out_channels=part.shape("conv_out.weight")[0],
        down_block_types=[f"{'CrossAttn' if i in attended else ''}DownBlock2D" for i in range(levels)],
        up_block_types=[f"{'CrossAttn' if i in attended else ''}UpBlock2D" for i in reversed(range(levels))],
        block_out_channels=widths,
        transformer_layers_per_block=[max(1, *blocks) for blocks in depths(part)[:levels]],
        use_linear_projection=len(part.shape(f"{first}.proj_in.weight")) == 2,
        cross_attention_dim=part.shape(f"{first}.transformer_blocks.0.attn2.to_k.weight")[1],
        attention_head_dim=heads,  # the number of heads, in spite of its name
        **(_sizes(part) if facts.arch == "sdxl" else {}),
    )
    unet.set_attn_processor(Processor())
    return unet


def _sizes(part: Part) -> dict[str, Any]:
    """What SDXL's denoiser is told beside the context: a text's vector, and six numbers, each embedded."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE,
        "projection_class_embeddings_input_dim": part.shape("add_embedding.linear_1.weight")[1],
    }


def _vae(part: Part, facts: Facts) -> nn.Module:
    levels = part.count(r"encoder\.down_blocks\.(\d+)\.")
    widths = [part.shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    latents = part.shape("decoder.conv_in.weight")[1]
    if (levels, latents) != (names.LEVELS, 4):
        raise ValueError(
            f"latents of {latents} channels, {2 ** (levels - 1)} times smaller; expected 4 and 8"
        )
    return AutoencoderKL(
        in_channels=part.shape("encoder.conv_in.weight")[1],
        out_channels=part.shape("decoder.conv_out.weight")[0],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        block_out_channels=widths,
        layers_per_block=part.count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        latent_channels=latents,
        scaling_factor=facts.scale,
    )


def _text(part: Part, facts: Facts) -> nn.Module:
    return CLIPTextModel(_config(part, facts.text_heads, facts.text_activation))


def _second(part: Part, facts: Facts) -> nn.Module:
    return CLIPTextModelWithProjection(_config(part, facts.second_heads, facts.second_activation))


def _config(part: Part, heads: int | None, activation: str) -> CLIPTextConfig:
    tokens, width = part.shape("embeddings.token_embedding.weight")
    if tokens < TOKENS:
        raise ValueError(f"{tokens} tokens; CLIP has {TOKENS}")
    heads = heads or max(1, width // 64)
    _divides(heads, width)
    projected = part.shape(PROJECTION)[0] if PROJECTION in part.keys else width
    return CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=width,
        intermediate_size=part.shape("encoder.layers.0.mlp.fc1.weight")[0],
        projection_dim=projected,
        num_hidden_layers=part.count(LAYER),
        num_attention_heads=heads,
        max_position_embeddings=part.shape("embeddings.position_embedding.weight")[0],
        hidden_act=activation,
        bos_token_id=TOKENS - 2,
        eos_token_id=TOKENS - 1,
        pad_token_id=TOKENS - 1,
    )
