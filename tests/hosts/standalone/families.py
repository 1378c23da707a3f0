"""What the tests of SD 2.x and SDXL share: small checkpoints, loans of them, and diffusers' own pipelines."""

from __future__ import annotations

import functools
import pathlib
from typing import Any

import torch
from safetensors.torch import load_file

from lora_train import names
from lora_train.host import Model
from tests.hosts import tiny_checkpoints as tiny

ARCHS = ("sd2", "sdxl")


def borrowed(path: pathlib.Path, precision: str = "no", **settings: Any) -> Any:
    from lora_train.hosts.standalone.host import StandaloneHost

    return StandaloneHost().borrow(Model(path, **settings), device="cpu", precision=precision)


def _tower(tensors: dict[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """OpenCLIP's text tower in Hugging Face's names, by another way than the package's."""
    width = tensors["ln_final.weight"].shape[0]
    made = {
        "embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        "embeddings.position_embedding.weight": tensors["positional_embedding"],
        "final_layer_norm.weight": tensors["ln_final.weight"],
        "final_layer_norm.bias": tensors["ln_final.bias"],
    }
    for i in range(layers):
        theirs, ours = f"transformer.resblocks.{i}", f"encoder.layers.{i}"
        for kind in ("weight", "bias"):
            whole = tensors[f"{theirs}.attn.in_proj_{kind}"]
            for j, name in enumerate("qkv"):
                made[f"{ours}.self_attn.{name}_proj.{kind}"] = whole[j * width : (j + 1) * width]
            for old, new in (("attn.out_proj", "self_attn.out_proj"), ("mlp.c_fc", "mlp.fc1"),
                             ("mlp.c_proj", "mlp.fc2"), ("ln_1", "layer_norm1"),
                             ("ln_2", "layer_norm2")):  # fmt: skip
                made[f"{ours}.{new}.{kind}"] = tensors[f"{theirs}.{old}.{kind}"]
    return made


def _loaded(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
    there = set(module.state_dict())
    renamed = {name if name in there else f"text_model.{name}": tensor for name, tensor in tensors.items()}
    lost = module.load_state_dict(renamed, strict=False)
    assert not lost.unexpected_keys
    assert all("position_ids" in name for name in lost.missing_keys)
    return module.float().eval().requires_grad_(False)


def _tower_model(kind: type, tensors: dict[str, torch.Tensor], layers: int, act: str, **more: Any) -> Any:
    import transformers

    width = tensors["final_layer_norm.weight"].shape[0]
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, num_hidden_layers=layers, hidden_act=act,
        intermediate_size=tensors["encoder.layers.0.mlp.fc1.weight"].shape[0],
        bos_token_id=49406, eos_token_id=49407, pad_token_id=49407, **more)  # fmt: skip
    return _loaded(kind(config), tensors)


def models(path: pathlib.Path, arch: str) -> dict[str, Any]:
    """diffusers' and transformers' models of a small checkpoint, each made by hand: of ours nothing but the
    names of the denoiser's and the autoencoder's layers, which have tests of their own."""
    import diffusers
    import transformers

    tensors = load_file(path)

    def below(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): t.float() for k, t in tensors.items() if k.startswith(prefix)}

    vae = diffusers.AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(64, 64, 64, 128), layers_per_block=1, latent_channels=4,
        scaling_factor=0.13025 if arch == "sdxl" else 0.18215)  # fmt: skip
    parts = below("first_stage_model.")
    made = {"vae": _loaded(vae, {names.vae_to_diffusers(k): names.as_linear(k, t) for k, t in parts.items()})}
    wide = {
        "sd2": {
            "block_out_channels": (32, 64, 128, 128), "cross_attention_dim": 256,
            "attention_head_dim": (4, 8, 16, 16), "use_linear_projection": True},
        "sdxl": {
            "block_out_channels": (32, 64, 128), "cross_attention_dim": 320, "use_linear_projection": True,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 3), "attention_head_dim": (4, 8, 16),
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 256 + 6 * 256}}  # fmt: skip
    unet = diffusers.UNet2DConditionModel(sample_size=8, **wide[arch])
    parts = below("model.diffusion_model.")
    made["unet"] = _loaded(unet, {names.unet_to_diffusers(k, arch): t for k, t in parts.items()})
    tower = below(tiny.TEXT[arch])
    if arch == "sd2":
        made["text_encoder"] = _tower_model(
            transformers.CLIPTextModel, _tower(tower, tiny.LAYERS - 1), tiny.LAYERS - 1, "gelu",
            num_attention_heads=4)  # fmt: skip
        return made
    clip = below("conditioner.embedders.0.transformer.text_model.")
    clip = {name: t for name, t in clip.items() if "position_ids" not in name}
    depth = 1 + max(int(name.split(".")[2]) for name in clip if name.startswith("encoder.layers."))
    made["text_encoder"] = _tower_model(
        transformers.CLIPTextModel, clip, depth, "quick_gelu", num_attention_heads=_heads()
    )
    second = _tower(tower, tiny.LAYERS) | {"text_projection.weight": tower["text_projection"].t()}
    made["text_encoder_2"] = _tower_model(
        transformers.CLIPTextModelWithProjection, second, tiny.LAYERS, "gelu", num_attention_heads=4,
        projection_dim=256)  # fmt: skip
    return made


@functools.cache
def _heads() -> int:
    import json

    return json.loads((tiny.DEMO / "demo_clip" / "config.json").read_text())["num_attention_heads"]


def pipeline(path: pathlib.Path, arch: str, scheduler: Any) -> Any:
    import diffusers
    import transformers

    from lora_train.hosts.standalone.tokens import VOCABULARY

    first = transformers.CLIPTokenizer.from_pretrained(str(VOCABULARY))
    second = transformers.CLIPTokenizer.from_pretrained(str(VOCABULARY), pad_token="!")
    if arch == "sdxl":
        made = diffusers.StableDiffusionXLPipeline(
            tokenizer=first, tokenizer_2=second, scheduler=scheduler, add_watermarker=False,
            **models(path, arch))  # fmt: skip
    else:
        made = diffusers.StableDiffusionPipeline(
            tokenizer=second, scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False, **models(path, arch))  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made
