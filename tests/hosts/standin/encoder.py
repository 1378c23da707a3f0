"""The real classes of `ldm`, made without what it asks for and does not need here."""

from __future__ import annotations

import contextlib
import importlib
import sys
import types
from collections.abc import Iterator
from unittest import mock

import torch
from torch import nn

from tests.hosts.standin import tower


def _identity(x):
    return x


ABSENT = {  # packages that ldm imports, and the names it takes from them
    "pytorch_lightning": {"LightningModule": nn.Module},
    "pytorch_lightning.utilities": {},
    "pytorch_lightning.utilities.distributed": {"rank_zero_only": _identity},
    "torchvision": {},
    "torchvision.utils": {"make_grid": _identity},
    "omegaconf": {"ListConfig": list},
    "omegaconf.listconfig": {"ListConfig": list},
    "open_clip": {"create_model_and_transforms": tower.create_model_and_transforms},
}


@contextlib.contextmanager
def stubs() -> Iterator[None]:
    """Only while ldm is imported: others look whether these packages are there."""
    made = {name: types.ModuleType(name) for name in ABSENT}
    for name, members in ABSENT.items():
        vars(made[name]).update(members)
    with mock.patch.dict(sys.modules, made):
        yield
    # patch.dict takes away what was imported inside as well


def imported() -> dict[str, types.ModuleType]:
    """All of ldm that is used. The caller keeps it in sys.modules."""
    from transformers import CLIPTextModel, CLIPTokenizer  # before the stubs, for good

    assert CLIPTextModel is not CLIPTokenizer
    with stubs():
        for name in ("models.diffusion.ddpm", "models.autoencoder", "modules.encoders.modules"):
            importlib.import_module(f"ldm.{name}")
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "ldm"}


class Version4(nn.Module):
    """transformers 5 has dropped a level that WebUIs know."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.text_model, self.config = model, model.config

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.text_model(*args, **kwargs)


def text_model(version: str) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        model = CLIPTextModel(CLIPTextConfig.from_pretrained(version))
    return model if hasattr(model, "text_model") else Version4(model)


def instantiate(config: dict) -> nn.Module:
    """As the WebUI does: the text encoders' weights come from the checkpoint, so none are looked for."""
    import sgm
    from ldm.modules.encoders import modules
    from ldm.util import instantiate_from_config

    with (
        stubs(),
        mock.patch.object(modules.CLIPTextModel, "from_pretrained", text_model),
        torch.random.fork_rng(devices=[]),
        contextlib.redirect_stdout(None),
    ):
        if "cond_stage_config" in config["params"]:
            config["params"]["cond_stage_config"]["params"]["device"] = "cpu"
        return instantiate_from_config(sgm.here(config))
