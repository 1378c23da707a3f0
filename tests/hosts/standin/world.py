"""Puts the stand-in in the WebUI's place for the length of a test, and takes it away again."""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import sys
import types
from collections.abc import Iterator

import torch

from tests.hosts import tiny_checkpoints
from tests.hosts.standin import encoder

SITE = pathlib.Path(__file__).with_name("site")
DEMO = pathlib.Path(__file__).parents[3] / "demo" / "checkpoint"
OURS = ("modules", "network", "networks", "ldm", "sgm")  # top-level names that come and go


class World:
    """A WebUI with the demo checkpoint loaded, or a small one of another family."""

    def __init__(self, folder: pathlib.Path, family: str):
        self.folder, self.family = folder, family
        self.loras, self.checkpoints = folder / "models" / "Lora", folder / "models" / "Stable-diffusion"

    def __getattr__(self, name: str) -> types.ModuleType:
        return importlib.import_module(f"modules.{name}")

    @property
    def model(self) -> torch.nn.Module:
        return self.shared.sd_model

    def checkpoint(self, name: str, scale: float | None = None, family: str = "") -> pathlib.Path:
        """The model under another name, or one of another family, with its UNet's output scaled if asked;
        listed."""
        from safetensors.torch import load_file, save_file

        path = self.checkpoints / f"{name}.safetensors"
        family = family or self.family
        if family == "sd1":
            path.write_bytes((DEMO / "demo.safetensors").read_bytes())
            config = (DEMO / "demo.yaml").read_text(encoding="utf-8")
            path.with_suffix(".yaml").write_text(
                config.replace("demo_clip", str(DEMO / "demo_clip")), encoding="utf-8"
            )
        else:
            tiny_checkpoints.write(path, family)
        if scale is not None:
            tensors = load_file(path)
            tensors["model.diffusion_model.out.2.weight"] *= scale
            save_file(tensors, path)
        self.sd_models.list_models()
        return path

    def picture(self, prompt: str, **others: object):
        """As a person gets it from txt2img: waits for the lock, and leaves behind what the WebUI leaves."""
        given = {"seed": 5, "steps": 4, "width": 64, "height": 64, "sampler_name": "Euler", **others}
        processing, call_queue = self.processing, self.call_queue
        with call_queue.queue_lock:
            self.shared.state.begin("task")
            made = processing.process_images(
                processing.StableDiffusionProcessingTxt2Img(prompt=prompt, **given)
            )
            self.shared.state.end()
        return made.images[0] if made.images else None

    def switch(self, title: str) -> bool:
        """A person chooses another checkpoint; False: the page shows the old one again."""
        return self.shared.opts.set("sd_model_checkpoint", title)

    def load_chosen(self) -> None:
        """What follows from it waits for the lock."""
        with self.call_queue.queue_lock:
            self.sd_models.reload_model_weights()


@contextlib.contextmanager
def world(
    folder: pathlib.Path, *, family: str = "sd1", half: bool = False, fp8: bool = False, **flags: object
) -> Iterator[World]:
    """A WebUI of its own: fresh modules, patched classes, a model loaded; all of it gone afterwards.

    Args:
        family: "sd1", the demo, or a family of `tests.hosts.tiny_checkpoints`.
        half: the model in half precision; bfloat16, as there is no card.
        flags: of the command line, such as medvram=True.
    """
    there = {name: module for name, module in sys.modules.items() if name.split(".")[0] in OURS}
    for name in there:
        del sys.modules[name]
    sys.path.insert(0, str(SITE))
    try:
        sys.modules.update(encoder.imported())
        yield from _started(World(folder, family), half, fp8, flags)
    finally:
        sys.path.remove(str(SITE))
        for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
            del sys.modules[name]
        sys.modules.update(there)


def _started(made: World, half: bool, fp8: bool, flags: dict) -> Iterator[World]:
    for place in (made.loras, made.checkpoints):
        place.mkdir(parents=True, exist_ok=True)
    shared, devices, paths = made.shared, made.devices, made.paths
    shared.cmd_opts.__dict__.update(
        flags, lora_dir=str(made.loras), data_path=str(made.folder), no_half=not half
    )
    paths.models_path, paths.data_path = str(made.folder / "models"), str(made.folder)
    made.sd_models.model_path, made.sd_vae.vae_path = (
        str(made.checkpoints),
        str(made.folder / "models" / "VAE"),
    )
    if half or fp8:
        devices.dtype = devices.dtype_inference = devices.dtype_unet = torch.bfloat16
        _norms_as_on_a_card()
    if fp8:
        shared.opts.data["fp8_storage"] = "Enable"
    networks = importlib.import_module("networks")
    made.script_callbacks.on_model_loaded(networks.assign_network_names_to_compvis_modules)
    shared.opts.data_labels["sd_model_checkpoint"].onchange = made.load_chosen
    made.checkpoint("demo" if made.family == "sd1" else f"tiny_{made.family}")
    networks.install()
    try:
        made.sd_models.load_model()
        yield made
    finally:
        networks.uninstall()
        made.sd_hijack.undo_optimizations()
        for path in made.checkpoints.glob("*.safetensors"):
            path.unlink()  # tens of megabytes each, and pytest keeps folders


def _norms_as_on_a_card() -> None:
    """There autocast gives a norm its input and its weights in float32."""
    import torch.nn.functional as F  # noqa: N812
    from ldm.modules.diffusionmodules.util import GroupNorm32

    def forward(self: torch.nn.GroupNorm, x: torch.Tensor) -> torch.Tensor:
        wide = (x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        return F.group_norm(*wide).type(x.dtype)

    GroupNorm32.forward = forward
