"""OpenCLIP's text tower, as far as ldm and sgm ask `open_clip` for it; names and arithmetic are its own."""

from __future__ import annotations

import collections
import functools
import pathlib

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WORDS = pathlib.Path(__file__).parents[3] / "demo" / "checkpoint" / "demo_clip"
SIZES = {"ViT-S-32-alt": (256, 4, 10)}  # width, heads, layers
PLACES, TOKENS = 77, 49408


@functools.cache
def tokenizer():
    """Its words are those of OpenAI's CLIP."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(WORDS)


class LayerNorm(nn.LayerNorm):
    """Gives what it got: autocast makes it float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class ResidualAttentionBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.attn, self.ls_1 = LayerNorm(width), nn.MultiheadAttention(width, heads), nn.Identity()
        layers = {
            "c_fc": nn.Linear(width, 4 * width),
            "gelu": nn.GELU(),
            "c_proj": nn.Linear(4 * width, width),
        }
        self.ln_2, self.ls_2 = LayerNorm(width), nn.Identity()
        self.mlp = nn.Sequential(collections.OrderedDict(layers))

    def forward(self, q_x: Tensor, k_x=None, v_x=None, attn_mask: Tensor | None = None) -> Tensor:
        """Tokens come before samples: [T, B, C]."""
        x, mask = self.ln_1(q_x), None if attn_mask is None else attn_mask.to(q_x.dtype)
        x = q_x + self.ls_1(self.attn(x, x, x, need_weights=False, attn_mask=mask)[0])
        return x + self.ls_2(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.width, self.layers, self.grad_checkpointing = width, layers, False
        self.resblocks = nn.ModuleList(ResidualAttentionBlock(width, heads) for _ in range(layers))


class CLIP(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.visual = nn.Identity()
        self.transformer, self.vocab_size = Transformer(width, heads, layers), TOKENS
        self.token_embedding, self.ln_final = nn.Embedding(TOKENS, width), LayerNorm(width)
        self.positional_embedding = nn.Parameter(torch.empty(PLACES, width))
        self.text_projection = nn.Parameter(torch.empty(width, width))
        self.logit_scale = nn.Parameter(torch.ones(()))
        later = torch.full((PLACES, PLACES), float("-inf")).triu(1)
        self.register_buffer("attn_mask", later, persistent=False)


def create_model_and_transforms(arch: str, pretrained: object = None, device: object = None, **_):
    return CLIP(*SIZES[arch]), None, None
