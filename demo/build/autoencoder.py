"""Trains the demo's autoencoder: SD 1.x layout, 8x smaller, 4 channels. Resumes where it stopped.

python autoencoder.py --noto <noto package> --work <folder> --steps 4000
"""

from __future__ import annotations

import argparse
import pathlib
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from pictures import Icons, listed, placed, recoloured, slug

SIZE, BATCH, RATE, KL = 64, 16, 1e-3, 1e-6
WIDTHS = (64, 64, 64, 128)


def model() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        latent_channels=4,
        sample_size=SIZE,
    )


def edges(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """L1 between the pictures' differences to their right and lower neighbours: keeps outlines crisp."""
    return F.l1_loss(a.diff(dim=2), b.diff(dim=2)) + F.l1_loss(a.diff(dim=3), b.diff(dim=3))


def keep(path: pathlib.Path, step: int, **parts: torch.nn.Module | torch.optim.Optimizer) -> None:
    """Write all that is needed to go on after `step`, whole or not at all."""
    part = path.with_suffix(".part")
    torch.save({**{name: p.state_dict() for name, p in parts.items()}, "step": step}, part)
    part.replace(path)


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--noto", type=pathlib.Path, required=True)
    ask.add_argument("--work", type=pathlib.Path, required=True)
    ask.add_argument("--steps", type=int, default=4000)
    ask.add_argument("--threads", type=int, default=2)
    told = ask.parse_args()
    torch.set_num_threads(told.threads)
    torch.manual_seed(0)
    icons = Icons(told.noto)
    everything = icons.tensor(icons.names(), SIZE)
    taught = icons.tensor([slug(label) for label in listed("concepts.txt")], SIZE)
    print(f"{len(everything)} pictures, {len(taught)} of them taught later", flush=True)

    net = model()
    ema = model().requires_grad_(False)
    ema.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0, betas=(0.9, 0.99))
    state, start = told.work / "autoencoder.pt", 0
    if state.exists():
        kept = torch.load(state, weights_only=True)
        net.load_state_dict(kept["net"]), ema.load_state_dict(kept["ema"])
        optimizer.load_state_dict(kept["optimizer"])
        start = kept["step"]

    clock = time.time()
    for step in range(start, told.steps):
        draw = torch.Generator().manual_seed(step)
        some = everything[torch.randint(len(everything), (BATCH // 2,), generator=draw)]
        some = recoloured(some, draw)
        x = torch.cat([some, taught[torch.randint(len(taught), (BATCH - len(some),), generator=draw)]])
        x = placed(x, draw, shrink=0.3, shift=0.1)
        for group in optimizer.param_groups:
            group["lr"] = (
                RATE * min(1, (step + 1) / 100) * min(1, max(0.02, (told.steps - step) / (0.3 * told.steps)))
            )
        with torch.autocast("cpu", dtype=torch.bfloat16):
            moments = net.quant_conv(net.encoder(x)).float()
            mean, logvar = moments.chunk(2, 1)
            logvar = logvar.clamp(-30, 20)
            z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=draw)
            y = net.decoder(net.post_quant_conv(z)).float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1).mean()
        error = F.mse_loss(y, x)
        loss = error + 0.2 * F.l1_loss(y, x) + 0.2 * edges(y, x) + KL * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 10))
        for slow, fast in zip(ema.parameters(), net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - decay)
        if (step + 1) % 50 == 0:
            pace = (time.time() - clock) / 50
            print(f"{step + 1} mse {error.item():.4f} kl {kl.item():.0f} {pace:.2f} s/step", flush=True)
            clock = time.time()
        if (step + 1) % 200 == 0 or step + 1 == told.steps:
            keep(state, step + 1, net=net, ema=ema, optimizer=optimizer)


if __name__ == "__main__":
    main()
