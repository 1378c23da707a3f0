"""What is compared: our training step, and that of diffusers with peft, on the same frozen weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lora_train import names  # noqa: E402
from lora_train.adapters.family import Family  # noqa: E402
from lora_train.adapters.lora import Lora  # noqa: E402
from lora_train.adapters.network import Network  # noqa: E402
from lora_train.data.batches import Batch, Group  # noqa: E402
from lora_train.host import Cond, Lent, Model  # noqa: E402
from lora_train.hosts.standalone.host import StandaloneHost  # noqa: E402
from lora_train.objectives.denoise import Denoise  # noqa: E402
from lora_train.train.arithmetic import quick  # noqa: E402
from lora_train.train.events import Progress  # noqa: E402
from lora_train.train.finite import Guard  # noqa: E402
from lora_train.train.loop import Learner, Training, _Numbers, _Step, behind  # noqa: E402
from lora_train.train.lr import Constant  # noqa: E402
from lora_train.train.optim import AdamW  # noqa: E402
from lora_train.train.parallel import Team  # noqa: E402
from lora_train.train.recompute import recomputed  # noqa: E402

TINY = ROOT.parent / "shared" / "reference" / "tiny_sd1.safetensors"
TARGETS = r".*\.(to_q|to_k|to_v|to_out\.0|proj_in|proj_out|ff\.net\.0\.proj|ff\.net\.2)"  # 192 in SD 1.5
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Case:
    """What both have to do."""

    precision: str = "no"
    checkpointing: bool = False
    batch: int = 1
    side: int = 64  # of a latent: pixels / 8
    device: str = "cpu"
    width: int = 768  # of a caption's tokens


def cache() -> pathlib.Path:
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "sd-webui-lora-train" / "benchmarks"


def checkpoint() -> pathlib.Path:
    """A full-size SD 1.5 checkpoint of random weights in float16, 2.1 GB; made once."""
    path = cache() / "sd15_random.safetensors"
    if path.is_file():
        return path
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    blocks = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=blocks, down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, latent_channels=4)  # fmt: skip
    text = CLIPTextModel(
        CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                       num_attention_heads=12, hidden_act="quick_gelu"))  # fmt: skip
    unet = UNet2DConditionModel(cross_attention_dim=768)
    parts = [part.half().state_dict() for part in (unet, vae, text)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(names.to_ldm(*parts), part)
    part.replace(path)
    return path


class Same:
    """One batch, again and again."""

    def __init__(self, case: Case, device: torch.device):
        draw = torch.Generator().manual_seed(1)
        latents = torch.randn(case.batch, 4, case.side, case.side, generator=draw)
        context = torch.randn(case.batch, 77, case.width, generator=draw)
        self.case, self.ordinal = case, 0
        self.latents, self.cond = latents.to(device), Cond(context.to(device, DTYPES[case.precision]))

    def steps(self, epoch: int, skip: int = 0) -> Iterator[Group]:
        count = self.case.batch
        while True:
            ordinals = list(range(self.ordinal, self.ordinal + count))
            self.ordinal += count
            batch = Batch(self.latents, [""] * count, self.cond, ordinals, [""] * count)
            yield Group([batch], count)


@contextlib.contextmanager
def borrowed(path: pathlib.Path, case: Case) -> Iterator[Lent]:
    model = Model(pretrained_model_name_or_path=path)
    with StandaloneHost().borrow(model, device=case.device, precision=case.precision) as lent:
        yield lent


@contextlib.contextmanager
def ours(lent: Lent, case: Case, family: Family | None = None) -> Iterator[Step]:
    """As a session has it: captions are encoded before, adapters in float32 on 192 layers of the denoiser.

    Args:
        family: of the adapters, in place of LoRA at rank 4.
    """
    network = Network(family or Lora(dim=4, alpha=1.0, train_unet_only=True), lent.layers())
    lent.park("text")
    progress = Progress(steps=10**6, steps_per_epoch=10**6)
    training = Training(mixed_precision=case.precision, seed=0)
    lr = Constant(learning_rate=1e-4)
    groups = Same(case, lent.device).steps(0)
    before = torch.get_float32_matmul_precision()
    with quick(lent.device):  # tries multiplication out; once in a run
        fast = torch.get_float32_matmul_precision()
    with recomputed(lent.checkpoint_blocks() if case.checkpointing else []):
        course = Denoise().begin(lent, network)
        learner = Learner.new(network, course, optimizer=AdamW(), lr=lr, progress=progress)
        numbers = _Numbers(Guard(learner), [], behind(lent.device))

        def step() -> None:
            torch.set_float32_matmul_precision(fast)
            taken = _Step(learner, lent, next(groups), training, Team())
            with network.attached():  # for each step, so that two may take turns
                numbers.take(taken.run(functools.partial(lr.at, progress.step, 10**6)))
            torch.set_float32_matmul_precision(before)

        yield step


def copied(unet: nn.Module) -> nn.Module:
    """diffusers' own model, on the same weights in the same memory."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        copy = UNet2DConditionModel.from_config(unet.config)
    copy.load_state_dict(unet.state_dict(), assign=True)
    return copy


def peers(unet: nn.Module, case: Case) -> Step:
    """diffusers' examples/text_to_image/train_text_to_image_lora.py, its loop's body, without accelerate."""
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    device, mixed = torch.device(case.device), case.precision != "no"
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=1, init_lora_weights="gaussian", target_modules=TARGETS))
    if mixed:
        from diffusers.training_utils import cast_training_params

        cast_training_params(unet, dtype=torch.float32)
    if case.checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    params = [p for p in unet.parameters() if p.requires_grad]
    assert len(params) % 32 == 0
    optimizer = torch.optim.AdamW(params, lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    course = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    batch = next(Same(case, device).steps(0)).batches[0]
    latents, context = batch.latents.to(DTYPES[case.precision]), batch.conds.context

    def step() -> None:
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (len(latents),), device=device)
        noisy = scheduler.add_noise(latents, noise, t)
        with torch.autocast(device.type, dtype=DTYPES[case.precision] if mixed else None, enabled=mixed):
            guess = unet(noisy, t, context, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(guess.float(), noise.float(), reduction="mean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        course.step()
        optimizer.zero_grad()
        loss.item()

    return step
