"""SDXL's classes over those of ldm: their names, attributes and arithmetic, under one roof."""

import contextlib

import ldm.models.autoencoder
import torch
from ldm.models.diffusion.ddpm import make_beta_schedule
from ldm.modules import attention
from ldm.modules.diffusionmodules import openaimodel
from ldm.modules.encoders.modules import FrozenCLIPEmbedder as PlainCLIPEmbedder
from ldm.util import instantiate_from_config
from modules import devices
from torch import nn

from tests.hosts.standin import tower


class SpatialTransformer(attention.SpatialTransformer):
    """With any number of blocks, which all read the same context."""

    def forward(self, x, context=None):
        return super().forward(x, [context] * len(self.transformer_blocks))


def timestep_embedding(times, width):
    """As the WebUI has it, in the UNet's precision."""
    return openaimodel.timestep_embedding(times, width).to(devices.dtype_unet)


class UNetModel(openaimodel.UNetModel):
    def __init__(self, *, transformer_depth, adm_in_channels, num_classes, **widths):
        super().__init__(image_size=8, num_classes="continuous", **widths)
        self.num_classes = num_classes
        emb = 4 * self.model_channels
        linears = nn.Linear(adm_in_channels, emb), nn.SiLU(), nn.Linear(emb, emb)
        self.label_emb = nn.Sequential(nn.Sequential(*linears))
        down, up = enumerate(self.input_blocks), enumerate(self.output_blocks)
        depths = {block: transformer_depth[max(i - 1, 0) // 3] for i, block in down}
        depths |= {block: transformer_depth[::-1][i // 3] for i, block in up}
        depths[self.middle_block] = transformer_depth[-1]
        for block, depth in depths.items():
            for module in block:
                if isinstance(module, attention.SpatialTransformer):
                    self._deepen(module, depth, widths["context_dim"])

    @staticmethod
    def _deepen(module, depth, context_dim):
        one = module.transformer_blocks[0].attn1
        wide, dim = module.in_channels, module.in_channels // one.heads
        read = {"context_dim": context_dim, "checkpoint": False}
        blocks = [attention.BasicTransformerBlock(wide, one.heads, dim, **read) for _ in range(depth)]
        module.transformer_blocks, module.__class__ = nn.ModuleList(blocks), SpatialTransformer

    def forward(self, x, timesteps=None, context=None, y=None, **_):
        """Nothing is cast here, unlike in ldm's."""
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels)) + self.label_emb(y)
        h, passed = x, []
        for block in self.input_blocks:
            h = block(h, emb, context)
            passed.append(h)
        h = self.middle_block(h, emb, context)
        for block in self.output_blocks:
            h = block(torch.cat([h, passed.pop()], 1), emb, context)
        return self.out(h.type(x.dtype))


class OpenAIWrapper(nn.Module):
    def __init__(self, diffusion_model):
        super().__init__()
        self.diffusion_model = diffusion_model

    def forward(self, x, t, c):
        """The WebUI casts all of it, the times as well."""
        x, t, context, y = (v.to(devices.dtype_unet) for v in (x, t, c["crossattn"], c["vector"]))
        with devices.autocast():
            return self.diffusion_model(x, timesteps=t, context=context, y=y)


class EpsScaling:
    pass


class VScaling:
    pass


class DiscreteDenoiser(nn.Module):
    def __init__(self, scaling_config, **_):
        super().__init__()
        self.scaling = instantiate_from_config(scaling_config)


class AutoencoderKLInferenceWrapper(ldm.models.autoencoder.AutoencoderKL):
    def encode(self, x):
        return super().encode(x).sample()


class FrozenCLIPEmbedder(PlainCLIPEmbedder):
    def __init__(self, always_return_pooled=False, **params):
        super().__init__(**params)
        self.return_pooled = always_return_pooled


class FrozenOpenCLIPEmbedder2(nn.Module):
    """Hidden states of the last layer but one, without a norm, and what the last one makes of the end."""

    def __init__(self, arch, layer, always_return_pooled, device="cpu", **_):
        super().__init__()
        self.model, self.device, self.layer = tower.create_model_and_transforms(arch)[0], device, layer
        del self.model.visual
        self.return_pooled, self.legacy = always_return_pooled, False

    def encode_with_transformer(self, text):
        model, states = self.model, []
        x = (model.token_embedding(text) + model.positional_embedding).permute(1, 0, 2)
        for block in model.transformer.resblocks:
            states.append(x.permute(1, 0, 2))
            x = block(x, attn_mask=model.attn_mask)
        last = x.permute(1, 0, 2)
        ends = model.ln_final(last)[
            torch.arange(len(last)), text.argmax(-1)
        ]  # the end's number is the highest
        return {"penultimate": states[-1], "last": last, "pooled": ends @ model.text_projection}


class ConcatTimestepEmbedderND(nn.Module):
    def __init__(self, outdim):
        super().__init__()
        self.outdim = outdim

    def forward(self, x):
        return timestep_embedding(x.flatten(), self.outdim).unflatten(0, x.shape).flatten(1)


class GeneralConditioner(nn.Module):
    def __init__(self, emb_models):
        super().__init__()
        self.embedders = nn.ModuleList()
        for config in emb_models:
            embedder = instantiate_from_config(config).requires_grad_(False)
            embedder.is_trainable, embedder.ucg_rate = config.get("is_trainable", False), 0.0
            embedder.input_key, embedder.legacy_ucg_val = config["input_key"], None
            self.embedders.append(embedder)

    def forward(self, batch, force_zero_embeddings=None):
        """No embedder has a gradient that is not trainable."""
        found = {}
        for embedder in self.embedders:
            with contextlib.nullcontext() if embedder.is_trainable else torch.no_grad():
                made = embedder(batch[embedder.input_key])
            for tensor in made if isinstance(made, (list, tuple)) else [made]:
                if embedder.input_key in (force_zero_embeddings or ()):
                    tensor = torch.zeros_like(tensor)
                found.setdefault("vector" if tensor.ndim == 2 else "crossattn", []).append(tensor)
        return {key: torch.cat(tensors, -1) for key, tensors in found.items()}

    def _first(self, name):
        return next(getattr(embedder, name) for embedder in self.embedders if hasattr(embedder, name))

    def tokenize(self, texts):
        return self._first("tokenize")(texts)

    def process_texts(self, texts):
        return self._first("process_texts")(texts)

    def get_target_prompt_token_count(self, token_count):
        return self._first("get_target_prompt_token_count")(token_count)


class DiffusionEngine(nn.Module):
    def __init__(
        self, network_config, denoiser_config, first_stage_config, conditioner_config, scale_factor, **_
    ):
        super().__init__()
        self.model = OpenAIWrapper(instantiate_from_config(network_config))
        self.denoiser = instantiate_from_config(denoiser_config)
        self.conditioner = instantiate_from_config(conditioner_config)
        self.first_stage_model = instantiate_from_config(first_stage_config).eval().requires_grad_(False)
        self.scale_factor = scale_factor
        betas = make_beta_schedule("linear", 1000, linear_start=0.00085, linear_end=0.012)
        alphas = (1 - torch.as_tensor(betas, dtype=torch.float64)).cumprod(0)
        self.discretized = alphas.float()

    @torch.no_grad()
    def decode_first_stage(self, z):
        return self.first_stage_model.decode(z / self.scale_factor)

    @torch.no_grad()
    def encode_first_stage(self, x):
        """Drawn already, and scaled."""
        return self.scale_factor * self.first_stage_model.encode(x)

    def get_first_stage_encoding(self, x):
        return x

    def apply_model(self, x, t, cond):
        return self.model(x, t, cond)


def here(config):
    """A config whose targets are in this file."""
    if isinstance(config, dict):
        return {k: f"sgm.{v.split('.')[-1]}" if k == "target" and v.startswith("sgm.") else here(v)
                for k, v in config.items()}  # fmt: skip
    return [here(value) for value in config] if isinstance(config, list) else config
