"""Runs on the stand-in, and all that they have to leave as it was."""

from __future__ import annotations

import contextlib
import pathlib
import random

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.hosts.webui.host import WebuiHost
from lora_train.job import assemble
from lora_train.run.control import Control
from lora_train.run.session import run
from lora_train.train.events import Watcher


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    folder = tmp_path / "pictures" / "2_thing"
    folder.mkdir(parents=True)
    for name in "ab":
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
    return folder.parent


@pytest.fixture
def train(pictures, tmp_path):
    """train(name, …): a short run on the loaded model; gives its file."""

    def train(name: str = "thing", watchers=(), control=None, **others: object) -> pathlib.Path:
        values = {
            "data.train_data_dir": pictures, "data.resolution": 64, "training.max_train_steps": 3,
            "training.seed": 1, "network.dim": 2, "lr.learning_rate": 0.01,
            "output.output_dir": tmp_path / "out", "output.output_name": name,
            **{path.replace("__", "."): value for path, value in others.items()},
        }  # fmt: skip
        job, output, place = assemble(values)
        return run(job, output, place, WebuiHost(), watchers=watchers, control=control or Control()).file

    return train


OWN = {"last_z_shape"}  # a decoder's note of its last picture


def traces(webui) -> dict:
    """All that a run has to leave as it was."""
    import ldm.modules.attention
    import sgm
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    model, hijack, devices = webui.model, webui.sd_hijack.model_hijack, webui.devices
    free = webui.call_queue.queue_lock.acquire(blocking=False)
    if free:
        webui.call_queue.queue_lock.release()
    held = [*model.named_parameters(), *model.named_buffers()]  # each once: SDXL's texts have two names
    kinds = (UNetModel, sgm.UNetModel, ldm.modules.attention.CrossAttention, torch.nn.Linear,
             torch.nn.Conv2d, torch.nn.MultiheadAttention)  # fmt: skip
    return {
        "weights": {k: (v.dtype, v.device, v.detach().clone()) for k, v in held},
        "modules": [
            (id(m), type(m), len(m._forward_hooks), len(m._forward_pre_hooks), m.training)
            + tuple(sorted(vars(m).keys() - OWN))
            for m in model.modules()
        ],
        "padding": [m.padding_mode for m in model.modules() if isinstance(m, torch.nn.Conv2d)],
        "asks for gradients": [p.requires_grad for p in model.parameters()],
        "has gradients": [p.grad is not None for p in model.parameters()],
        "classes": [(kind.forward, kind.__call__, sorted(vars(kind))) for kind in kinds],
        "schedule": (id(model.alphas_cumprod), model.alphas_cumprod.clone()),
        "options": dict(webui.shared.opts.data),
        "devices": {k: v for k, v in vars(devices).items() if k.startswith(("dtype", "fp8", "unet_"))},
        "hijack": (hijack.circular_enabled, hijack.optimization_method, webui.sd_hijack.current_optimizer),
        "hypernetworks": list(webui.shared.loaded_hypernetworks),
        "unet": (webui.sd_unet.current_unet, webui.sd_unet.current_unet_option),
        "job": (webui.shared.state.job, webui.shared.state.job_count, webui.shared.state.interrupted),
        "random": (torch.get_rng_state(), random.getstate(), str(np.random.get_state())),
        "torch": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.is_inference_mode_enabled(),
                  torch.get_float32_matmul_precision()),
        "lock is free": free,
    }  # fmt: skip


def same(before: object, after: object, at: str = "") -> None:
    """Equal to the bit, with what differs named."""
    if isinstance(before, torch.Tensor):
        assert before.dtype == after.dtype, at
        if before.element_size() == 1:  # torch 2.1 compares no float8
            before, after = before.view(torch.uint8), after.view(torch.uint8)
        assert torch.equal(before, after), at
    elif isinstance(before, dict):
        assert before.keys() == after.keys(), at
        for key in before:
            same(before[key], after[key], f"{at} {key}")
    elif isinstance(before, tuple | list):
        assert len(before) == len(after), f"{at}: {before} became {after}"
        for i, pair in enumerate(zip(before, after, strict=True)):
            same(*pair, f"{at} {i}")
    else:
        assert before == after, at


@contextlib.contextmanager
def untouched(webui):
    before = traces(webui)
    yield
    after = traces(webui)
    assert after["lock is free"]
    same(before, after)


class At(Watcher):
    """Does something after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def stepped(self, progress):
        if progress.step == self.step:
            self.act()


def casts_float8() -> bool:
    """Newer versions of torch do not, so the WebUI itself cannot draw with such weights on them."""
    linear = torch.nn.Linear(4, 4).to(torch.float8_e4m3fn)
    with contextlib.suppress(RuntimeError), torch.autocast("cpu", torch.bfloat16):
        return linear(torch.ones(1, 4)).dtype == torch.bfloat16
    return False


def learns(file: dict[str, torch.Tensor]) -> bool:
    """All layers, but for the attention of a single token to itself."""
    ups = {name: t for name, t in file.items() if name.endswith("lora_up.weight")}
    still = [name for name, t in ups.items() if not t.abs().max() > 0 or not t.isfinite().all()]
    return len(ups) >= 200 and all("attn1_to_q" in name or "attn1_to_k" in name for name in still)


def failing():
    raise RuntimeError("on purpose")
