"""A run's end as a whole checkpoint: what was learned, worked into the model's file."""

from __future__ import annotations

import logging
import pathlib
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lora_train.adapters.network import Network
    from lora_train.host import Folders, Host, Lent
    from lora_train.job import Output, Place
    from lora_train.train.learner import Learner

log = logging.getLogger(__name__)


def target(output: Output, folders: Folders) -> pathlib.Path:
    """The file: where the host has its models, if it has such a folder."""
    folder = folders.models[0] if folders.models else output.output_dir
    return folder / f"{output.output_name}-checkpoint.safetensors"


def taken(output: Output, place: Place, host: Host) -> list[str]:
    """What is said of a file that another run has written."""
    if not output.save_checkpoint or place.resume or not target(output, host.folders).exists():
        return []
    return [f"output.save_checkpoint: {target(output, host.folders)} is in place already, and is not "
            "overwritten; choose another output_name"]  # fmt: skip


@torch.no_grad()
def changes(networks: list[Network]) -> dict[tuple[str, str, str], torch.Tensor]:
    """(part, path of a layer, "weight" or "bias") -> what the adapters add to it together, on the CPU."""
    found: dict[tuple[str, str, str], torch.Tensor] = {}
    for network in networks:
        for key, adapter in network.adapters.items():
            layer = network.layers[key]
            for tensor, more in (("weight", network.delta(key)), ("bias", adapter.bias())):
                if more is not None:
                    at, more = (layer.part, layer.path, tensor), (adapter.strength * more).float().cpu()
                    found[at] = found[at] + more if at in found else more
    return found


def worked_in(
    networks: list[Network], lent: Lent, file: pathlib.Path, dtype: torch.dtype, learner: Learner
) -> None:
    """The checkpoint with what a run has learned, and with what else is on it."""
    with learner.shown():
        found = changes(networks)
    lent.rewrite(found, file, dtype)
    log.info("Saved the whole checkpoint: %s", file)
