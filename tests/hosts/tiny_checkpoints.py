"""Small SD 2.x and SDXL checkpoints, made when a test asks: real names and structure, numbers drawn anew.

Autoencoder and CLIP are the demo checkpoint's, so that pictures are neither black nor noise. The file
has a .yaml beside it that the WebUI loads; it takes no other OpenCLIP towers than those it has by name, and
of these "ViT-S-32-alt" is the smallest. Every tensor has a generator of its own, seeded by its name, and
draws uniform numbers, which are the same on every machine.
"""

from __future__ import annotations

import functools
import json
import math
import pathlib
import types
import zlib
from collections.abc import Iterator, Mapping

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

DEMO = pathlib.Path(__file__).parents[2] / "demo" / "checkpoint"
CHANNELS, LATENT = 32, 4  # group normalization has 32 groups
TOWER, LAYERS, TOKENS, PLACES = 256, 10, 49408, 77  # of ViT-S-32-alt
HIDDEN = 64  # the demo's CLIP
SIZES = 6 * 256  # of the picture and its crop, as SDXL is told them
LEVELS = {  # widths in CHANNELS, and how many transformer blocks stand in a row there
    "sd2": ((1, 2, 4, 4), (1, 1, 1, 0)),
    "sdxl": ((1, 2, 4), (0, 2, 3)),
}
CONTEXT = {"sd2": TOWER, "sdxl": HIDDEN + TOWER}
VECTOR = {"sd2": 0, "sdxl": TOWER + SIZES}
TEXT = {"sd2": "cond_stage_model.model.", "sdxl": "conditioner.embedders.1.model."}

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def _layer(at: str, *shape: int, bias: bool = True) -> Shapes:
    yield f"{at}.weight", shape
    if bias:
        yield f"{at}.bias", shape[:1]


def _resnet(at: str, wide: int, out: int) -> Shapes:
    yield from _layer(f"{at}.in_layers.0", wide)
    yield from _layer(f"{at}.in_layers.2", out, wide, 3, 3)
    yield from _layer(f"{at}.emb_layers.1", out, 4 * CHANNELS)
    yield from _layer(f"{at}.out_layers.0", out)
    yield from _layer(f"{at}.out_layers.3", out, out, 3, 3)
    if wide != out:
        yield from _layer(f"{at}.skip_connection", out, wide, 1, 1)


def _transformer(at: str, wide: int, context: int, depth: int) -> Shapes:
    yield from _layer(f"{at}.norm", wide)
    for name in ("proj_in", "proj_out"):
        yield from _layer(f"{at}.{name}", wide, wide)
    for i in range(depth):
        block = f"{at}.transformer_blocks.{i}"
        for n in (1, 2, 3):
            yield from _layer(f"{block}.norm{n}", wide)
        for attention, read in (("attn1", wide), ("attn2", context)):
            yield from _layer(f"{block}.{attention}.to_q", wide, wide, bias=False)
            for name in ("to_k", "to_v"):
                yield from _layer(f"{block}.{attention}.{name}", wide, read, bias=False)
            yield from _layer(f"{block}.{attention}.to_out.0", wide, wide)
        yield from _layer(f"{block}.ff.net.0.proj", 8 * wide, wide)
        yield from _layer(f"{block}.ff.net.2", wide, 4 * wide)


def unet(family: str) -> Shapes:
    """Names and shapes, as in LDM."""
    (widths, depths), context, emb = LEVELS[family], CONTEXT[family], 4 * CHANNELS
    yield from _layer("time_embed.0", emb, CHANNELS)
    yield from _layer("time_embed.2", emb, emb)
    if VECTOR[family]:
        yield from _layer("label_emb.0.0", emb, VECTOR[family])
        yield from _layer("label_emb.0.2", emb, emb)
    yield from _layer("input_blocks.0.0", CHANNELS, LATENT, 3, 3)
    wide, passed = CHANNELS, [CHANNELS]
    for level, (times, depth) in enumerate(zip(widths, depths, strict=True)):
        for _ in range(2):
            at, out = f"input_blocks.{len(passed)}", times * CHANNELS
            yield from _resnet(f"{at}.0", wide, out)
            if depth:
                yield from _transformer(f"{at}.1", out, context, depth)
            wide = out
            passed.append(wide)
        if level < len(widths) - 1:
            yield from _layer(f"input_blocks.{len(passed)}.0.op", wide, wide, 3, 3)
            passed.append(wide)
    yield from _resnet("middle_block.0", wide, wide)
    yield from _transformer("middle_block.1", wide, context, max(depths[-1], 1))
    yield from _resnet("middle_block.2", wide, wide)
    for level, (times, depth) in reversed([*enumerate(zip(widths, depths, strict=True))]):
        for i in range(3):
            at, out = f"output_blocks.{3 * (len(widths) - 1 - level) + i}", times * CHANNELS
            yield from _resnet(f"{at}.0", wide + passed.pop(), out)
            if depth:
                yield from _transformer(f"{at}.1", out, context, depth)
            if level and i == 2:
                yield from _layer(f"{at}.{2 if depth else 1}.conv", out, out, 3, 3)
            wide = out
    yield from _layer("out.0", wide)
    yield from _layer("out.2", LATENT, CHANNELS, 3, 3)


def tower() -> Shapes:
    """Names and shapes of an OpenCLIP text tower."""
    yield "positional_embedding", (PLACES, TOWER)
    yield "text_projection", (TOWER, TOWER)
    yield "logit_scale", ()
    yield from _layer("token_embedding", TOKENS, TOWER, bias=False)
    yield from _layer("ln_final", TOWER)
    for i in range(LAYERS):
        at = f"transformer.resblocks.{i}"
        yield from _layer(f"{at}.ln_1", TOWER)
        yield from _layer(f"{at}.ln_2", TOWER)
        yield f"{at}.attn.in_proj_weight", (3 * TOWER, TOWER)
        yield f"{at}.attn.in_proj_bias", (3 * TOWER,)
        yield from _layer(f"{at}.attn.out_proj", TOWER, TOWER)
        yield from _layer(f"{at}.mlp.c_fc", 4 * TOWER, TOWER)
        yield from _layer(f"{at}.mlp.c_proj", TOWER, 4 * TOWER)


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """As when a layer is new: outputs about as large as inputs, norms near one and biases near nothing. Not
    one of them is zero: a norm whose mean is exactly that makes the WebUI's emphasis divide by it."""
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    numbers = torch.rand(shape, generator=rng) * 2 - 1
    if not shape:
        return torch.tensor(math.log(100.0)).half()
    if len(shape) == 1:
        return (numbers / 10 + (not name.endswith("bias"))).half()
    return (numbers * (3 / math.prod(shape[1:])) ** 0.5).half()


@functools.cache
def tensors(family: str) -> Mapping[str, Tensor]:
    demo = load_file(DEMO / "demo.safetensors")
    made = {name: value for name, value in demo.items() if name.startswith("first_stage_model.")}
    if family == "sdxl":
        lead, new = "cond_stage_model.", "conditioner.embedders.0."
        made |= {new + k.removeprefix(lead): v for k, v in demo.items() if k.startswith(lead)}
    for lead, shapes in (("model.diffusion_model.", unet(family)), (TEXT[family], tower())):
        made |= {lead + name: drawn(name, shape) for name, shape in shapes}
    return types.MappingProxyType(made)


def write(path: pathlib.Path, family: str, prediction: str = "") -> pathlib.Path:
    """A checkpoint at `path` and its .yaml beside it.

    Args:
        family: "sd2" or "sdxl".
        prediction: "v" or "epsilon". Empty: "v" in SD 2.x, "epsilon" in SDXL.
    """
    save_file({**tensors(family)}, path)
    config = _sdxl(prediction or "epsilon") if family == "sdxl" else _sd2(prediction or "v")
    path.with_suffix(".yaml").write_text(json.dumps({"model": config}, indent=1), encoding="utf-8")
    return path


def _made(target: str, **params: object) -> dict:
    return {"target": target, "params": params}


def _net(family: str) -> dict:
    widths, depths = LEVELS[family]
    resolutions = [2**level for level, depth in enumerate(depths) if depth]
    return {"in_channels": LATENT, "out_channels": LATENT, "model_channels": CHANNELS, "num_res_blocks": 2,
            "attention_resolutions": resolutions[::-1], "channel_mult": [*widths], "num_head_channels": 8,
            "use_spatial_transformer": True, "use_linear_in_transformer": True, "use_checkpoint": False,
            "context_dim": CONTEXT[family], "legacy": False}  # fmt: skip


def _autoencoder(target: str) -> dict:
    widths = {"double_z": True, "z_channels": LATENT, "resolution": 64, "in_channels": 3, "out_ch": 3,
              "ch": 64, "ch_mult": [1, 1, 1, 2], "num_res_blocks": 1, "attn_resolutions": [],
              "dropout": 0.0}  # fmt: skip
    return _made(target, embed_dim=4, ddconfig=widths, lossconfig={"target": "torch.nn.Identity"})


def _sd2(prediction: str) -> Mapping:
    net = _made("ldm.modules.diffusionmodules.openaimodel.UNetModel", **_net("sd2"), image_size=8,
                transformer_depth=1)  # fmt: skip
    text = _made("ldm.modules.encoders.modules.FrozenOpenCLIPEmbedder", arch="ViT-S-32-alt", freeze=True,
                 layer="penultimate")  # fmt: skip
    return _made(
        "ldm.models.diffusion.ddpm.LatentDiffusion", linear_start=0.00085, linear_end=0.012, timesteps=1000,
        channels=LATENT, conditioning_key="crossattn", scale_factor=0.18215, use_ema=False,
        parameterization="eps" if prediction == "epsilon" else "v", unet_config=net, cond_stage_config=text,
        first_stage_config=_autoencoder("ldm.models.autoencoder.AutoencoderKL"))  # fmt: skip


def _sdxl(prediction: str) -> Mapping:
    sgm, short = "sgm.modules.diffusionmodules", "V" if prediction == "v" else "Eps"
    depths = [max(depth, 1) for depth in LEVELS["sdxl"][1]]
    net = _made(f"{sgm}.openaimodel.UNetModel", **_net("sdxl"), adm_in_channels=VECTOR["sdxl"],
                num_classes="sequential", transformer_depth=depths)  # fmt: skip
    denoiser = _made(
        f"{sgm}.denoiser.DiscreteDenoiser", num_idx=1000,
        weighting_config={"target": f"{sgm}.denoiser_weighting.{short}Weighting"},
        scaling_config={"target": f"{sgm}.denoiser_scaling.{short}Scaling"},
        discretization_config={"target": f"{sgm}.discretizer.LegacyDDPMDiscretization"})  # fmt: skip
    encoders = "sgm.modules.encoders.modules"
    texts = [
        _made(f"{encoders}.FrozenCLIPEmbedder", version=str(DEMO / "demo_clip"), layer="hidden", layer_idx=1),
        _made(f"{encoders}.FrozenOpenCLIPEmbedder2", arch="ViT-S-32-alt", freeze=True, layer="penultimate",
              always_return_pooled=True, legacy=False)]  # fmt: skip
    told = [_made(f"{encoders}.ConcatTimestepEmbedderND", outdim=256) for _ in range(3)]
    keys = ("txt", "txt", "original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")
    every = [{"is_trainable": False, "input_key": k, **e} for k, e in zip(keys, texts + told, strict=True)]
    return _made(
        "sgm.models.diffusion.DiffusionEngine", scale_factor=0.13025, disable_first_stage_autocast=True,
        denoiser_config=denoiser, network_config=net,
        conditioner_config=_made("sgm.modules.GeneralConditioner", emb_models=every),
        first_stage_config=_autoencoder("sgm.models.autoencoder.AutoencoderKLInferenceWrapper"))  # fmt: skip
