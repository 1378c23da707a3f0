"""Writes what was trained as one SD 1.x checkpoint in float16, with what loaders want beside it.

python export.py --work <folder> --out ../checkpoint
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import sys

import torch
from denoiser import CONTEXT, HEADS, VOCABULARY, WIDTHS, networks
from safetensors.torch import save_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from autoencoder import WIDTHS as VAE_WIDTHS  # noqa: E402

from lora_train import names  # noqa: E402

YAML = """\
# The widths of demo.safetensors, in the form the WebUI reads beside a checkpoint. For the WebUI make
# `version` the absolute path of the folder; our own loader takes it from beside this file.
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.012
    timesteps: 1000
    channels: 4
    conditioning_key: crossattn
    scale_factor: 0.18215
    use_ema: false
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params: {{image_size: 8, in_channels: 4, out_channels: 4, model_channels: {channels},
               attention_resolutions: [4, 2, 1], num_res_blocks: 2, channel_mult: {mults}, num_heads: {heads},
               use_spatial_transformer: true, transformer_depth: 1, context_dim: {context},
               use_checkpoint: false, legacy: false}}
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig: {{double_z: true, z_channels: 4, resolution: 64, in_channels: 3, out_ch: 3, ch: {vae},
                   ch_mult: {vae_mults}, num_res_blocks: 1, attn_resolutions: [], dropout: 0.0}}
        lossconfig: {{target: torch.nn.Identity}}
    cond_stage_config:
      target: ldm.modules.encoders.modules.FrozenCLIPEmbedder
      params: {{version: demo_clip}}
"""


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--work", type=pathlib.Path, required=True)
    ask.add_argument("--out", type=pathlib.Path, required=True)
    told = ask.parse_args()
    kept = torch.load(told.work / "denoiser.pt", weights_only=True)
    parts = {name: {} for name in ("unet", "text")}
    for name, value in kept["ema"].items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    vae = torch.load(told.work / "vae.pt", weights_only=True)

    # words the captions never had are as random as at the start; as zeros they pack small
    order = [name for name, _ in networks().named_parameters()]
    at = next(i for i, name in enumerate(order) if name.endswith("token_embedding.weight"))
    words = kept["ema"][order[at]]
    words[kept["optimizer"]["state"][at]["exp_avg_sq"].sum(1) == 0] = 0

    tensors = names.to_ldm(parts["unet"], vae, parts["text"])
    halves = {name: v.half() if v.is_floating_point() else v for name, v in tensors.items()}
    told.out.mkdir(parents=True, exist_ok=True)
    save_file(halves, told.out / "demo.safetensors", {"modelspec.title": "sd-webui-lora-train demo"})

    mults = [w // WIDTHS[0] for w in WIDTHS]
    vae_mults = [w // VAE_WIDTHS[0] for w in VAE_WIDTHS]
    text = YAML.format(
        channels=WIDTHS[0], mults=mults, heads=HEADS, context=CONTEXT, vae=VAE_WIDTHS[0], vae_mults=vae_mults
    )  # fmt: skip
    (told.out / "demo.yaml").write_text(text, encoding="utf-8")
    folder = told.out / "demo_clip"
    folder.mkdir(exist_ok=True)
    config = networks()["text"].config.to_dict()
    names_of = (
        "vocab_size hidden_size intermediate_size projection_dim num_hidden_layers num_attention_heads "
        "max_position_embeddings hidden_act layer_norm_eps bos_token_id eos_token_id pad_token_id"
    )  # fmt: skip
    kept_config = {"model_type": "clip_text_model", **{name: config[name] for name in names_of.split()}}
    (folder / "config.json").write_text(json.dumps(kept_config, indent=1) + "\n", encoding="utf-8")
    for file in VOCABULARY.glob("*.json"):
        shutil.copy(file, folder)
    shutil.copy(VOCABULARY / "merges.txt", folder)


if __name__ == "__main__":
    main()
