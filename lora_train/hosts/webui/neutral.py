"""What the WebUI may have left on the loaded model: taken off for a run, and put back as it was."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import torch
from torch import nn

PATCHED = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)  # by the Lora extension


@contextlib.contextmanager
def neutral(model: nn.Module, options: dict[str, object]) -> Iterator[None]:
    """The bare, frozen model inside `with`.

    LoRAs of the last prompt stay merged after a generation, tiling stays in the convolutions, hypertile in
    the attention, hypernetworks in a list (seen on v1.10.1). All parameters of the UNet ask for gradients.

    Args:
        options: settings of the WebUI for the length of the run; given back without their onchange.
    """
    with contextlib.ExitStack() as back:
        back.enter_context(set_options(options))
        back.enter_context(_hypernetworks())
        back.enter_context(_hypertile(model))
        back.enter_context(_padding(model))
        without_loras(model)
        back.enter_context(_frozen(model))
        yield


@contextlib.contextmanager
def set_options(values: dict[str, object]) -> Iterator[None]:
    """Settings of the WebUI inside `with`, without what it does when they change."""
    from modules import shared

    gone = object()
    before = {name: shared.opts.data.get(name, gone) for name in values}
    shared.opts.data.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is gone:
                shared.opts.data.pop(name, None)
            else:
                shared.opts.data[name] = value


@contextlib.contextmanager
def _hypernetworks() -> Iterator[None]:
    from modules import shared

    before = list(shared.loaded_hypernetworks)
    shared.loaded_hypernetworks.clear()
    try:
        yield
    finally:
        shared.loaded_hypernetworks[:] = before


@contextlib.contextmanager
def _hypertile(model: nn.Module) -> Iterator[None]:
    marks = [vars(m).get("__webui_hypertile_params") for m in model.modules()]
    on = [mark for mark in marks if mark is not None and mark.enabled]
    for mark in on:
        mark.enabled = False
    try:
        yield
    finally:
        for mark in on:
            mark.enabled = True


@contextlib.contextmanager
def _padding(model: nn.Module) -> Iterator[None]:
    """Tiling makes convolutions circular until the next generation."""
    round_ones = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.padding_mode == "circular"]
    for module in round_ones:
        module.padding_mode = "zeros"
    try:
        yield
    finally:
        for module in round_ones:
            module.padding_mode = "circular"


@torch.no_grad()
def without_loras(model: nn.Module) -> None:
    """Weights as the checkpoint has them, through the Lora extension's own backups."""
    networks = sys.modules.get("networks")
    if networks is None or not hasattr(model, "network_layer_mapping"):
        return
    networks.load_networks([])
    for module in model.network_layer_mapping.values():
        if isinstance(module, PATCHED):
            networks.network_apply_weights(module)


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    asked = [p for p in model.parameters() if p.requires_grad]
    modes = [(m, m.training) for m in model.modules() if m.training]
    model.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
        for module, mode in modes:
            module.training = mode
