"""On a GPU: steps a second, peak memory, and that a step never waits for the device; against diffusers+peft.

python benchmarks/gpu.py            (--try: small models on the CPU, to see that the benchmark itself works)
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import time
from collections.abc import Iterator

import torch
from models import DTYPES, Case, Step, copied, ours, peers
from torch import Tensor, nn

from lora_train.adapters.layer import Layer
from lora_train.host import Cond
from lora_train.noise import Schedule

SD15 = {"cross_attention_dim": 768}
SDXL = {
    "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048, "use_linear_projection": True,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
}  # fmt: skip
SMALL = {"cross_attention_dim": 64, "block_out_channels": (32, 64, 64, 64)}
MODELS = {"SD 1.5, 512x512": (SD15, 64), "SDXL-size, 1024x1024": (SDXL, 128)}


class Bare:
    """A denoiser of random weights alone, lent; no text encoder, no autoencoder, no second condition."""

    def __init__(self, config: dict, case: Case):
        from diffusers import UNet2DConditionModel

        self.device = torch.device(case.device)
        with self.device:
            self.unet = nn.Module.to(UNet2DConditionModel(**config), DTYPES[case.precision])
        self.unet.eval().requires_grad_(False)
        self.schedule, self.mixed = Schedule.scaled_linear(), case.precision != "no"

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        dtype = torch.bfloat16 if self.mixed else None
        with torch.autocast(self.device.type, dtype=dtype, enabled=self.mixed):
            return self.unet(x_t, t.to(x_t.device), cond.to(x_t).context, return_dict=False)[0]

    def layers(self) -> list[Layer]:
        found = (Layer.of("unet", path, module) for path, module in self.unet.named_modules())
        return [layer for layer in found if layer is not None]

    def checkpoint_blocks(self) -> list[nn.Module]:
        stages = [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]
        return [b for s in stages for b in [*s.resnets, *(getattr(s, "attentions", None) or [])]]

    def park(self, part: str) -> None:
        pass


@contextlib.contextmanager
def waiting_is_refused(device: torch.device) -> Iterator[None]:
    """torch raises inside `with` where Python would wait for the device."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def seconds(step: Step, count: int, device: torch.device) -> float:
    """A step's."""
    _settle(device)
    began = time.perf_counter()
    for _ in range(count):
        step()
    _settle(device)
    return (time.perf_counter() - began) / count


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak(step: Step, device: torch.device) -> float:
    if device.type != "cuda":
        step()
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    step()
    _settle(device)
    return torch.cuda.max_memory_allocated(device) / 2**20


def compared(config: dict, case: Case, *, rounds: int, count: int) -> str:
    """The steps in turn; the two share the frozen weights, so each one's peak holds them once."""
    lent = Bare(config, case)
    theirs = peers(copied(lent.unet), case)
    with ours(lent, case) as own:
        for step in (own, theirs, own, theirs):
            step()
        peaks = [peak(step, lent.device) for step in (own, theirs)]
        pairs = [[seconds(step, count, lent.device) for step in (own, theirs)] for _ in range(rounds)]
        waits = "does not wait"
        try:
            with waiting_is_refused(lent.device):
                own()
        except RuntimeError as e:
            waits = f"WAITS FOR THE DEVICE: {str(e).splitlines()[0]}"
    mine, peer = (statistics.median(each) for each in zip(*pairs, strict=True))
    return (
        f"{1 / mine:.2f} steps/s against {1 / peer:.2f}, time ratio {mine / peer:.2f}; "
        f"peak {peaks[0]:.0f} against {peaks[1]:.0f} MB; {waits}"
    )


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--precision", nargs="+", default=["bf16"], choices=["no", "bf16"])
    ask.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--count", type=int, default=10, help="steps of each in a round")
    ask.add_argument("--try", dest="small", action="store_true")
    told = ask.parse_args()
    if not torch.cuda.is_available() and not told.small:
        print("skipped: there is no CUDA device here")
        return
    device = "cpu" if told.small else "cuda"
    models = {"small": (SMALL, 8)} if told.small else MODELS
    failed = False
    for name, (config, side) in models.items():
        for precision, batch, again in itertools.product(told.precision, told.batch, (False, True)):
            case = Case(precision, again, batch, side, device, config["cross_attention_dim"])
            line = compared(config, case, rounds=told.rounds, count=told.count)
            failed |= "WAITS" in line
            print(f"{name}, {precision}, batch {batch}{', checkpointing' * again}: {line}", flush=True)
            if device == "cuda":
                torch.cuda.empty_cache()
    if failed:
        raise SystemExit("a step waits for the device")


if __name__ == "__main__":
    main()
