"""The text encoders of a loaded model: what they make of captions, and their layers."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lora_train import names
from lora_train.host import Cond

PIECES = ("q_proj", "k_proj", "v_proj", "out_proj")  # of an attention, as files name them
CHUNK = 77  # what CLIP makes of 75 tokens, a start and an end


class Texts:
    """One text encoder of SD 1.x (Hugging Face's CLIP) and SD 2.x (OpenCLIP), both of SDXL.

    SDXL has them, and what embeds sizes, as a list of embedders in a conditioner.
    """

    def __init__(self, loaded: nn.Module, arch: str):
        self.loaded = loaded
        self.embedders = [*loaded.conditioner.embedders] if arch == "sdxl" else [loaded.cond_stage_model]
        encoders = [embedder for embedder in self.embedders if hasattr(embedder, "wrapped")]
        self.encoders = dict(zip(names.ARCHS[arch].texts, encoders, strict=False))
        self.measures = [embedder for embedder in self.embedders if embedder not in encoders]
        self.pieces: dict[nn.Module, tuple[Piece, ...]] = {}  # of an attention

    @property
    def whole(self) -> nn.Module:
        """What the WebUI moves as one."""
        return self.loaded.cond_stage_model

    @contextlib.contextmanager
    def ready(self) -> Iterator[Texts]:
        """With gradients, and OpenCLIP's attention in pieces that an adapter can be put on."""
        frozen = [encoder for encoder in self.encoders.values() if not encoder.is_trainable]
        whole = [m for encoder in self.encoders.values() for m in encoder.modules()
                 if isinstance(m, nn.MultiheadAttention)]  # fmt: skip
        for encoder in frozen:
            encoder.is_trainable = True  # or SDXL's conditioner runs it without gradients
        for attention in whole:
            self.pieces[attention] = pieces(attention)
            attention.forward = functools.partial(attend, attention, self.pieces[attention])
        try:
            yield self
        finally:
            for attention in whole:
                del attention.forward
            self.pieces.clear()
            for encoder in frozen:
                encoder.is_trainable = False

    def encode(self, captions: Sequence[str], tokens: int) -> Cond:
        """Filled up with empty chunks to `tokens`, as the WebUI does where another prompt is longer: so conds
        of all captions are of one length."""
        made = self.loaded.get_learned_conditioning([*captions])
        context, vector = (made["crossattn"], made["vector"]) if isinstance(made, dict) else (made, None)
        lack = tokens // 75 - context.shape[1] // CHUNK
        if lack > 0:
            empty = self.loaded.get_learned_conditioning([""])
            empty = empty["crossattn"] if isinstance(empty, dict) else empty
            context = torch.cat([context, *[empty.expand(len(context), -1, -1)] * lack], 1)
        if vector is not None:  # behind it are the sizes of a picture that is not known here
            vector = vector[:, : vector.shape[1] - sum(map(_width, self.measures))]
        return Cond(context, vector)

    def vectors(self, text: str) -> dict[str, Tensor]:
        """See `lora_train.host.Lent`."""
        found = {}
        for part, encoder in self.encoders.items():
            weight = table(encoder).weight
            ids = torch.tensor(encoder.tokenize([text])[0], dtype=torch.long, device=weight.device)
            found[part] = weight.detach()[ids].float()
        return found

    def vector(self, cond: Cond, shape: Sequence[int]) -> Tensor | None:
        """What SDXL's denoiser is told beside the text: [B, V + 6 E].

        Args:
            shape: of the latents; whoever gives no sizes sees a whole picture in its size.
        """
        if cond.vector is None:
            return None
        sizes = cond.sizes
        if sizes is None:
            side = [8.0 * shape[-2], 8.0 * shape[-1]]
            sizes = torch.tensor([*side, 0.0, 0.0, *side]).expand(len(cond.vector), 6)
        pairs = sizes.to(cond.vector.device).split(2, 1)
        told = [embed(pair) for embed, pair in zip(self.measures, pairs, strict=True)]
        return torch.cat([cond.vector, *[part.to(cond.vector) for part in told]], 1)

    def layers(self) -> Iterator[tuple[str, str, nn.Module]]:
        """(part, path, module) of those that the conds come through."""
        for part, encoder in self.encoders.items():
            depth = used(encoder)
            for path, module in self._modules(encoder):
                if not path.startswith("encoder.layers.") or int(path.split(".")[2]) < depth:
                    yield part, path, module

    def _modules(self, encoder: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if hasattr(encoder.wrapped, "transformer"):
            for path, module in encoder.wrapped.transformer.named_modules():
                yield names.text_path(path), module
            return
        for path, module in encoder.wrapped.model.named_modules():
            if module in self.pieces:
                for name, piece in zip(PIECES, self.pieces[module], strict=True):
                    yield names.open_clip_path(f"{path}.{name}"), piece
            elif not path.endswith("attn.out_proj") and (ours := names.open_clip_path(path)):
                yield ours, module

    def blocks(self) -> list[nn.Module]:
        """Whose activations may be computed again."""
        return [block for encoder in self.encoders.values() for block in stack(encoder)]


def stack(encoder: nn.Module) -> nn.ModuleList:
    """An encoder's layers."""
    if hasattr(encoder.wrapped, "transformer"):
        return encoder.wrapped.transformer.text_model.encoder.layers
    return encoder.wrapped.model.transformer.resblocks


def table(encoder: nn.Module) -> nn.Module:
    """Of its tokens' vectors, without what the WebUI put around it."""
    hugging = hasattr(encoder.wrapped, "transformer")
    holder = encoder.wrapped.transformer.text_model.embeddings if hugging else encoder.wrapped.model
    return getattr(holder.token_embedding, "wrapped", holder.token_embedding)


def used(encoder: nn.Module) -> int:
    """How many layers, from the first, the conds come through."""
    count, kind, at = len(stack(encoder)), encoder.wrapped, getattr(encoder.wrapped, "layer_idx", None)
    if hasattr(kind, "transformer"):  # of the states before and behind each layer, the one at `at`
        return count if kind.layer != "hidden" else at % (count + 1)
    return count if getattr(kind, "return_pooled", False) else count - at  # what is pooled is the last state


def _width(measure: nn.Module) -> int:
    """Of a pair of numbers, embedded."""
    return 2 * measure.outdim


class Piece(nn.Module):
    """A part of an attention as a layer of its own. Weights are looked up at each use: they are moved about.

    Args:
        rows: of the one weight for queries, keys and values; None: the way out.
    """

    def __init__(self, attention: nn.MultiheadAttention, rows: slice | None):
        super().__init__()
        self.rows, self.of = rows, (attention,)  # in a tuple, or it would be a submodule

    @property
    def weight(self) -> Tensor:
        whole = self.of[0]
        return whole.out_proj.weight if self.rows is None else whole.in_proj_weight[self.rows]

    @property
    def bias(self) -> Tensor | None:
        whole = self.of[0]
        if self.rows is None:
            return whole.out_proj.bias
        return None if whole.in_proj_bias is None else whole.in_proj_bias[self.rows]

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight.element_size() == 1:  # float8 is for keeping alone
            weight, bias = weight.to(x), bias if bias is None else bias.to(x)
        return F.linear(x, weight, bias)


def pieces(attention: nn.MultiheadAttention) -> tuple[Piece, ...]:
    """In the order of PIECES."""
    width = attention.embed_dim
    rows = [slice(i * width, (i + 1) * width) for i in range(3)]
    return tuple(Piece(attention, part).eval() for part in (*rows, None))


def attend(  # noqa: PLR0913 (nn.MultiheadAttention.forward's own parameters)
    attention: nn.MultiheadAttention,
    parts: Sequence[Piece],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """`nn.MultiheadAttention.forward`, which reads its weights without calling a layer, so that no hook runs.

    Args:
        need_weights: they are not given; OpenCLIP has no use for them.
    """
    worn = getattr(sys.modules.get("networks"), "network_apply_weights", None)
    if worn is not None:  # as the Lora extension's own forward begins, which is in the class
        worn(attention)
    to_q, to_k, to_v, to_out = parts
    given = (to_q(query), to_k(key), to_v(value))  # [L, B, D], or [B, L, D]
    batched = given if attention.batch_first else [x.transpose(0, 1) for x in given]
    heads = [x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for x in batched]
    if attn_mask is not None:  # True is what is not seen, and here what is
        attn_mask = ~attn_mask if attn_mask.dtype is torch.bool else attn_mask.to(heads[0])
    seen = F.scaled_dot_product_attention(*heads, attn_mask=attn_mask).transpose(1, 2).flatten(2)
    return to_out(seen if attention.batch_first else seen.transpose(0, 1)), None
