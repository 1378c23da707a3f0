"""What diffusers' and transformers' models are built from: shapes of tensors, and the facts beside them."""

from __future__ import annotations

from typing import Any

from lora_train import names
from lora_train.models.facts import Facts
from lora_train.models.files import LAYER, Part, depths

TOKENS = 49408  # of CLIP's vocabulary
SIZE = 256  # numbers that one of SDXL's sizes is embedded in
PROJECTION = "text_projection.weight"


def unet(part: Part, facts: Facts) -> dict[str, Any]:
    """Arguments of diffusers' UNet2DConditionModel.

    Raises:
        KeyError, ValueError: tensors are missing, or shapes do not fit together; and so below.
    """
    levels = part.count(r"down_blocks\.(\d+)\.")
    widths = [part.shape(f"down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    heads: Any = facts.heads
    if facts.head_width is not None:
        heads = [width // facts.head_width for width in widths]
    for width, count in zip(widths, heads if isinstance(heads, list) else [heads] * levels, strict=True):
        _divides(count, width)
    attended = names.ARCHS[facts.arch].attended
    first = f"down_blocks.{attended[0]}.attentions.0"
    return {
        "sample_size": 64,  # older pipelines want one
        "in_channels": part.shape("conv_in.weight")[1],
        "out_channels": part.shape("conv_out.weight")[0],
        "down_block_types": [f"{'CrossAttn' if i in attended else ''}DownBlock2D" for i in range(levels)],
        "up_block_types": [
            f"{'CrossAttn' if i in attended else ''}UpBlock2D" for i in reversed(range(levels))
        ],
        "block_out_channels": widths,
        "transformer_layers_per_block": [max(1, *blocks) for blocks in depths(part)[:levels]],
        "use_linear_projection": len(part.shape(f"{first}.proj_in.weight")) == 2,
        "cross_attention_dim": part.shape(f"{first}.transformer_blocks.0.attn2.to_k.weight")[1],
        "attention_head_dim": heads,  # the number of heads, in spite of its name
        **(_sizes(part) if facts.arch == "sdxl" else {}),
    }


def _sizes(part: Part) -> dict[str, Any]:
    """What SDXL's denoiser is told beside the context: a text's vector, and six numbers, each embedded."""
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE,
        "projection_class_embeddings_input_dim": part.shape("add_embedding.linear_1.weight")[1],
    }


def vae(part: Part, facts: Facts) -> dict[str, Any]:
    """Arguments of diffusers' AutoencoderKL."""
    levels = part.count(r"encoder\.down_blocks\.(\d+)\.")
    widths = [part.shape(f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)]
    latents = part.shape("decoder.conv_in.weight")[1]
    if (levels, latents) != (names.LEVELS, 4):
        raise ValueError(
            f"latents of {latents} channels, {2 ** (levels - 1)} times smaller; expected 4 and 8"
        )
    return {
        "in_channels": part.shape("encoder.conv_in.weight")[1],
        "out_channels": part.shape("decoder.conv_out.weight")[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": part.count(r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": latents,
        "scaling_factor": facts.scale,
    }


def text(part: Part, facts: Facts, *, second: bool = False) -> dict[str, Any]:
    """Arguments of transformers' CLIPTextConfig.

    Args:
        second: it is SDXL's second text encoder.
    """
    tokens, width = part.shape("embeddings.token_embedding.weight")
    if tokens < TOKENS:
        raise ValueError(f"{tokens} tokens; CLIP has {TOKENS}")
    heads = (facts.second_heads if second else facts.text_heads) or max(1, width // 64)
    _divides(heads, width)
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": part.shape("encoder.layers.0.mlp.fc1.weight")[0],
        "projection_dim": part.shape(PROJECTION)[0] if PROJECTION in part.keys else width,
        "num_hidden_layers": part.count(LAYER),
        "num_attention_heads": heads,
        "max_position_embeddings": part.shape("embeddings.position_embedding.weight")[0],
        "hidden_act": facts.second_activation if second else facts.text_activation,
        "bos_token_id": TOKENS - 2,
        "eos_token_id": TOKENS - 1,
        "pad_token_id": TOKENS - 1,
    }


def _divides(heads: int, width: int) -> None:
    if heads < 1 or width % heads:
        raise ValueError(f"{heads} heads for {width} channels")
