"""What the WebUI puts into a model's classes and objects when it is loaded."""

import types

import ldm.modules.attention
import torch
from ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import nn

from modules import sd_hijack_clip, sd_hijack_optimizations, sd_unet
from modules.shared import opts

plain_forward = ldm.modules.attention.CrossAttention.forward
plain_unet_forward = UNetModel.forward
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
        self.embeddings.fixes = None
        return self.wrapped(input_ids)


class EmbeddingDatabase:
    def __init__(self):
        self.word_embeddings, self.skipped_embeddings, self.ids_lookup = {}, {}, {}

    def find_embedding_at_position(self, tokens, offset):
        return None, None

    def load_textual_inversion_embeddings(self, force_reload=False):
        pass


def _weighted_forward(model, *args, **kwargs):
    return model.forward(*args, **kwargs)


class StableDiffusionModelHijack:
    def __init__(self):
        self.fixes = self.layers = self.clip = self.optimization_method = None
        self.circular_enabled, self.extra_generation_params, self.comments = False, {}, []
        self.embedding_db = EmbeddingDatabase()

    def apply_optimizations(self, option=None):
        self.optimization_method = apply_optimizations(option)

    def hijack(self, m):
        embeddings = m.cond_stage_model.transformer.text_model.embeddings
        embeddings.token_embedding = EmbeddingsWithFixes(embeddings.token_embedding, self)
        m.cond_stage_model = sd_hijack_clip.FrozenCLIPEmbedderWithCustomWords(m.cond_stage_model, self)
        m.weighted_forward = types.MethodType(_weighted_forward, m)
        UNetModel.forward = sd_unet.create_unet_forward(plain_unet_forward)
        self.apply_optimizations()
        self.clip, self.layers = m.cond_stage_model, list(m.modules())

    def undo_hijack(self, m):
        m.cond_stage_model = m.cond_stage_model.wrapped
        embeddings = m.cond_stage_model.transformer.text_model.embeddings
        embeddings.token_embedding = embeddings.token_embedding.wrapped
        undo_optimizations()
        UNetModel.forward = plain_unet_forward
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
