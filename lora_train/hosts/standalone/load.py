"""Builds diffusers' and transformers' models from what a file holds; widths are read from the tensors."""

from __future__ import annotations

import re
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_train import names
from lora_train.errors import Mistake
from lora_train.hosts.standalone.attention import Processor
from lora_train.hosts.standalone.files import WORDS, Facts, Found, Part

TOKENS = 49408  # of CLIP's vocabulary


def hollow(found: Found) -> dict[str, nn.Module]:
    """Part -> its model, without weights (on the device "meta").

    Raises:
        Mistake: tensors are missing, or shapes do not fit together.
    """
    makers = {"unet": _unet, "vae": _vae, "te1": _text}
    made = {}
    for part, make in makers.items():
        there = found.parts[part]
        try:
            with torch.device("meta"):
                made[part] = make(there, found.facts)
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as e:
            raise Mistake(f"{there.weights.path}: an unknown kind of {WORDS[part]} ({e})") from e
        made[part].eval().requires_grad_(False)
        _compare(made[part], there, part)
    return made


def fill(module: nn.Module, part: Part, *, dtype: torch.dtype, device: torch.device) -> None:
    """Read the weights, each converted as it arrives: the peak is a tensor or two above the model's size."""
    wanted = {names.text_path(name): name for name in module.state_dict()}
    keys = {part.keys[short]: name for short, name in wanted.items() if short in part.keys}
    nn.Module.to(module, dtype)  # diffusers' own warns of what concerns other models
    module.to_empty(device=device)  # all at once: tensors made between what is read leave gaps
    places = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for key, value in part.weights.read(keys):
            place = places[keys[key]]
            place.copy_(value.reshape(place.shape))  # the autoencoder's 1x1 convolutions are linear here
        for name, buffer in module.named_buffers():
            if name not in keys.values():  # CLIP's position_ids, which is not in every file
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
                f"{part.weights.path}: {part.keys[short]} is {'x'.join(map(str, shape))}, expected {expected}"
            )


def _count(part: Part, pattern: str) -> int:
    """How many things a model has of which the tensors' names give the number."""
    found = (re.match(pattern, name) for name in part.keys)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _divides(heads: int, width: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads for {width} channels")


def _unet(part: Part, facts: Facts) -> nn.Module:
    levels = _count(part, r"down_blocks\.(\d+)\.")
    widths = [part.shape(f"down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    heads: Any = facts.heads
    if facts.head_width is not None:
        heads = [width // facts.head_width for width in widths]
    for width, count in zip(widths, heads if isinstance(heads, list) else [heads] * levels, strict=True):
        _divides(count, width)
    unet = UNet2DConditionModel(
        sample_size=64,  # older pipelines want one
        in_channels=part.shape("conv_in.weight")[1],
        out_channels=part.shape("conv_out.weight")[0],
        block_out_channels=widths,
        cross_attention_dim=part.shape("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight")[
            1
        ],
        attention_head_dim=heads,  # the number of heads, in spite of its name
    )
    unet.set_attn_processor(Processor())
    return unet


def _vae(part: Part, facts: Facts) -> nn.Module:
    levels = _count(part, r"encoder\.down_blocks\.(\d+)\.")
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
        layers_per_block=_count(part, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        latent_channels=latents,
        scaling_factor=facts.scale,
    )


def _text(part: Part, facts: Facts) -> nn.Module:
    tokens, width = part.shape("embeddings.token_embedding.weight")
    if tokens < TOKENS:
        raise ValueError(f"{tokens} tokens; CLIP has {TOKENS}")
    heads = facts.text_heads or max(1, width // 64)
    _divides(heads, width)
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokens,
            hidden_size=width,
            intermediate_size=part.shape("encoder.layers.0.mlp.fc1.weight")[0],
            projection_dim=width,
            num_hidden_layers=_count(part, r"encoder\.layers\.(\d+)\."),
            num_attention_heads=heads,
            max_position_embeddings=part.shape("embeddings.position_embedding.weight")[0],
            hidden_act=facts.text_activation,
            bos_token_id=TOKENS - 2,
            eos_token_id=TOKENS - 1,
            pad_token_id=TOKENS - 1,
        )
    )
