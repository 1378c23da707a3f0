"""What the WebUI puts into a model's classes and objects when it is loaded."""

import types

import ldm.modules.attention
import sgm
import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from modules import sd_hijack_clip, sd_hijack_open_clip, sd_hijack_optimizations, sd_unet
from modules.shared import opts

plain_forward = ldm.modules.attention.CrossAttention.forward
plain_unet_forwards = {kind: kind.forward for kind in (UNetModel, sgm.UNetModel)}
WRAPPERS = {  # by the class of a text encoder
    "FrozenCLIPEmbedder": sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords,
    "FrozenOpenCLIPEmbedder": sd_hijack_open_clip.FrozenOpenCLIPEmbedderWithCustomWords,
    "FrozenOpenCLIPEmbedder2": sd_hijack_open_clip.FrozenOpenCLIPEmbedder2WithCustomWords,
}
optimizers = sd_hijack_optimizations.ALL
current_optimizer = None


def apply_optimizations(option=None):
    """The chosen attention, in the class, for every model there is."""
    global current_optimizer
    undo_optimizations()
    wanted = option or opts.cross_attention_optimization
    if wanted == "None":
        current_optimizer = None
        return ""
    chosen = [x for x in optimizers if wanted in (x.name, x.title())] or optimizers[:1]
    current_optimizer = chosen[0]
    current_optimizer.apply()
    return current_optimizer.name


def undo_optimizations():
    ldm.modules.attention.CrossAttention.forward = plain_forward


class EmbeddingsWithFixes(nn.Module):
    """Puts the vectors of learned words in place of their tokens'."""

    def __init__(self, wrapped, embeddings, textual_inversion_key="clip_l"):
        super().__init__()
        self.wrapped, self.embeddings, self.textual_inversion_key = wrapped, embeddings, textual_inversion_key

    def forward(self, input_ids):
        fixes, self.embeddings.fixes = self.embeddings.fixes, None
        rows = list(self.wrapped(input_ids))
        for i, row in enumerate(fixes or []):
            for offset, embedding in row:
                vec = embedding.vec
                vec = vec[self.textual_inversion_key] if isinstance(vec, dict) else vec
                at, room = offset + 1, len(rows[i]) - offset - 1
                rows[i] = torch.cat([rows[i][:at], vec[:room], rows[i][at + len(vec) :]]).to(rows[i].dtype)
        return torch.stack(rows)


class EmbeddingDatabase:
    def __init__(self):
        self.word_embeddings, self.skipped_embeddings, self.ids_lookup = {}, {}, {}

    def find_embedding_at_position(self, tokens, offset):
        for ids, embedding in self.ids_lookup.get(tokens[offset], ()):
            if tokens[offset : offset + len(ids)] == ids:
                return embedding, len(ids)
        return None, None

    def load_textual_inversion_embeddings(self, force_reload=False):
        pass


def _words(text):
    """What holds an encoder's token_embedding."""
    return text.model if hasattr(text, "model") else text.transformer.text_model.embeddings


def _unwrapped(embedder):
    holder = _words(embedder.wrapped)
    holder.token_embedding = holder.token_embedding.wrapped
    return embedder.wrapped


def _weighted_forward(model, *args, **kwargs):
    return model.forward(*args, **kwargs)


class StableDiffusionModelHijack:
    def __init__(self):
        self.fixes = self.layers = self.clip = self.optimization_method = None
        self.circular_enabled, self.extra_generation_params, self.comments = False, {}, []
        self.embedding_db = EmbeddingDatabase()

    def apply_optimizations(self, option=None):
        self.optimization_method = apply_optimizations(option)

    def _wrapped(self, text, sdxl):
        """The encoder in the class that reads prompts of any length, and its words in theirs."""
        holder, kind = _words(text), WRAPPERS[type(text).__name__]
        if sdxl and kind is sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords:
            kind = sd_hijack_clip.FrozenCLIPEmbedderForSDXLWithCustomWords
        key = "clip_g" if type(text).__name__.endswith("2") else "clip_l"
        holder.token_embedding = EmbeddingsWithFixes(holder.token_embedding, self, key)
        return kind(text, self)

    def hijack(self, m):
        if hasattr(m, "conditioner"):
            for i, embedder in enumerate(m.conditioner.embedders):
                if type(embedder).__name__ in WRAPPERS:
                    m.conditioner.embedders[i] = self._wrapped(embedder, sdxl=True)
            m.cond_stage_model = m.conditioner
        else:
            m.cond_stage_model = self._wrapped(m.cond_stage_model, sdxl=False)
        m.weighted_forward = types.MethodType(_weighted_forward, m)
        for kind, plain in plain_unet_forwards.items():
            kind.forward = sd_unet.create_unet_forward(plain)
        self.apply_optimizations()
        self.clip, self.layers = m.cond_stage_model, list(m.modules())

    def undo_hijack(self, m):
        if hasattr(m, "conditioner"):
            for i, embedder in enumerate(m.conditioner.embedders):
                if hasattr(embedder, "wrapped"):
                    m.conditioner.embedders[i] = _unwrapped(embedder)
            del m.cond_stage_model
        else:
            m.cond_stage_model = _unwrapped(m.cond_stage_model)
        undo_optimizations()
        for kind, plain in plain_unet_forwards.items():
            kind.forward = plain
        del m.weighted_forward
        self.apply_circular(False)
        self.layers = self.clip = None

    def redo_hijack(self, m):
        self.undo_hijack(m)
        self.hijack(m)

    def apply_circular(self, enable):
        if self.circular_enabled == enable:
            return
        self.circular_enabled = enable
        for layer in self.layers:
            if type(layer) is torch.nn.Conv2d:
                layer.padding_mode = "circular" if enable else "zeros"

    def clear_comments(self):
        self.comments, self.extra_generation_params = [], {}


model_hijack = StableDiffusionModelHijack()
