"""Trains the demo's denoiser and text encoder together on the frozen autoencoder. Resumes where it stopped.

python denoiser.py --noto <noto package> --emojibase <emojibase-data package> --work <folder> --steps 2400
"""

from __future__ import annotations

import argparse
import pathlib
import random
import time

import torch
from autoencoder import SIZE, keep
from autoencoder import model as autoencoder
from diffusers import DDPMScheduler, UNet2DConditionModel
from pictures import Icons, caption, listed, placed, slug, words
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

BATCH, RATE, UNCONDITIONAL, GAMMA = 64, 1e-3, 0.1, 5.0
VARIANTS = 48  # placements of each picture whose latents are computed once
WIDTHS, CONTEXT, HEADS = (32, 64, 128, 128), 64, 8
SCALE_FACTOR = 0.18215
VOCABULARY = pathlib.Path(__file__).parents[2] / "lora_train" / "hosts" / "standalone" / "clip"


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=WIDTHS,
        cross_attention_dim=CONTEXT,
        attention_head_dim=HEADS,
    )


def text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=CONTEXT,
            intermediate_size=4 * CONTEXT,
            projection_dim=CONTEXT,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
    )


def networks() -> torch.nn.ModuleDict:
    return torch.nn.ModuleDict({"unet": unet(), "text": text_encoder()})


def schedule() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


@torch.no_grad()
def standardised(vae: torch.nn.Module, pictures: torch.Tensor) -> None:
    """Fold the latents' mean and deviation per channel into the two 1x1 convolutions next to them, so that a
    latent times SCALE_FACTOR has mean 0 and deviation 1, as every Stable Diffusion tool takes for granted."""
    z = torch.cat([vae.quant_conv(vae.encoder(some)).chunk(2, 1)[0] for some in pictures.split(32)])
    mean, deviation = z.mean((0, 2, 3)), z.std((0, 2, 3)) * SCALE_FACTOR
    into, out = vae.quant_conv, vae.post_quant_conv
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= deviation[None, :, None, None]
    into.bias[:4] = (into.bias[:4] - mean) / deviation
    into.weight[:4] /= deviation[:, None, None, None]
    into.bias[4:] -= 2 * deviation.log()


@torch.no_grad()
def latents_of(vae: torch.nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """[VARIANTS, N, 4, h, w], scaled: every picture in its own place and in others."""
    draw = torch.Generator().manual_seed(1)
    rows = [pictures] + [placed(pictures, draw) for _ in range(VARIANTS - 1)]
    return torch.stack([vae.quant_conv(vae.encoder(row)).chunk(2, 1)[0] for row in rows]) * SCALE_FACTOR


def prepared(icons: Icons, labels: list[str], work: pathlib.Path) -> torch.Tensor:
    """Latents of all that is taught; leaves the standardised autoencoder in `work`."""
    vae = autoencoder()
    vae.load_state_dict(torch.load(work / "autoencoder.pt", weights_only=True)["ema"])
    vae.eval().requires_grad_(False)
    pictures = icons.tensor([slug(label) for label in labels], SIZE)
    standardised(vae, pictures)
    torch.save(vae.state_dict(), work / "vae.pt")
    return latents_of(vae, pictures)


def min_snr(alphas: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    snr = (alphas / (1 - alphas))[t]
    return snr.clamp(max=GAMMA) / snr


def main() -> None:
    ask = argparse.ArgumentParser()
    for name in ("noto", "emojibase", "work"):
        ask.add_argument(f"--{name}", type=pathlib.Path, required=True)
    ask.add_argument("--steps", type=int, default=2400)
    ask.add_argument("--threads", type=int, default=2)
    ask.add_argument("--vocabulary", type=pathlib.Path, default=VOCABULARY)
    told = ask.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(0)
    labels = listed("concepts.txt")
    tags = words(told.emojibase)
    tokenizer = CLIPTokenizer.from_pretrained(told.vocabulary)

    latents = prepared(Icons(told.noto), labels, told.work)
    print(f"{len(labels)} concepts, latents' deviation {latents.std():.3f}", flush=True)

    nets = networks()
    slow = networks().requires_grad_(False)
    slow.load_state_dict(nets.state_dict())
    optimizer = torch.optim.AdamW(nets.parameters(), lr=RATE, weight_decay=1e-3, betas=(0.9, 0.99))
    state, start = told.work / "denoiser.pt", 0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        nets.load_state_dict(kept["nets"]), slow.load_state_dict(kept["ema"])
        optimizer.load_state_dict(kept["optimizer"])
        start = kept["step"]

    noises = schedule()
    clock, seen = time.time(), []
    for step in range(start, told.steps):
        draw, dice = torch.Generator().manual_seed(step), random.Random(step)
        which = torch.randint(len(labels), (BATCH,), generator=draw)
        x0 = latents[torch.randint(VARIANTS, (BATCH,), generator=draw), which]
        prompts = [
            "" if dice.random() < UNCONDITIONAL else caption(labels[i], tags[labels[i]], dice)
            for i in which.tolist()
        ]
        ids = tokenizer(
            prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        noise = torch.randn(x0.shape, generator=draw)
        t = torch.randint(1000, (BATCH,), generator=draw)
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 100) * min(1, max(0.02, (told.steps - step) / (0.4 * told.steps)))
            )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = nets["unet"](
                noises.add_noise(x0, noise, t), t, nets["text"](ids).last_hidden_state
            ).sample
        errors = (guess.float() - noise).square().flatten(1).mean(1)
        loss = (errors * min_snr(noises.alphas_cumprod, t)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 10))
        for a, b in zip(slow.parameters(), nets.parameters(), strict=True):
            a.lerp_(b.detach(), 1 - decay)
        seen.append(errors.mean().item())
        if (step + 1) % 50 == 0:
            print(
                f"{step + 1} loss {sum(seen) / len(seen):.4f} {(time.time() - clock) / 50:.2f} s/step",
                flush=True,
            )
            clock, seen = time.time(), []
        if (step + 1) % 100 == 0 or step + 1 == told.steps:
            keep(state, step + 1, nets=nets, ema=slow, optimizer=optimizer)


if __name__ == "__main__":
    main()
