"""Base: saved LoRAs that are on the model under what is trained, as if they were part of it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.adapters.file import load, network_of
from lora_train.adapters.network import Network

if TYPE_CHECKING:
    from lora_train.adapters.layer import Layer
    from lora_train.host import Model


@dataclasses.dataclass(frozen=True)
class Base:
    """By hooks: the model's weights stay what they are, and `Network.off` of what is trained leaves these
    on. (sd-scripts merges them into the model, which is the same but for rounding.)"""

    networks: tuple[Network, ...] = ()
    said: tuple[dict[str, object], ...] = ()  # name, sha256 and multiplier of each

    @classmethod
    def of(cls, model: Model, layers: Sequence[Layer]) -> Base:
        """Raises Mistake: a file is no LoRA of this model."""
        networks, said = [], []
        for path, multiplier in model.beneath():
            tensors, _ = load(path)
            with torch.random.fork_rng(devices=[]):  # adapters draw numbers before they hold what is read
                network = network_of(tensors, layers, name=f"model.base_weights = {path}")
            network.requires_grad_(False).eval()
            network.strength = multiplier
            networks.append(network)
            said.append({"name": path.name, "hash": digest(path), "multiplier": multiplier})
        return cls(tuple(networks), tuple(said))

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        with contextlib.ExitStack() as on:
            for network in self.networks:
                on.enter_context(network.attached())
            yield

    def record(self) -> dict[str, str]:
        """For a saved file's metadata; its folders are nobody's business."""
        return {"lora_train_base_weights": json.dumps(self.said)} if self.said else {}


def digest(path: pathlib.Path) -> str:
    """Of what is in a file, or in the files of a folder."""
    found = hashlib.sha256()
    for one in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if one.is_file():
            with one.open("rb") as file:
                while part := file.read(2**22):
                    found.update(part)
    return found.hexdigest()
