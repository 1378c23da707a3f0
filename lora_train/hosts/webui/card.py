"""A new LoRA among the WebUI's own: its card, the lists, and what their loader says of it."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from lora_train.run.card import announced

if TYPE_CHECKING:
    from lora_train.job import Job, Output

HEADS = (  # the tensors that start at zero, of which one at least is none in a layer that learned
    "lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b", "weight", "oft_blocks", "a2.weight", "b2.weight",
    "diff", "w_norm",
)  # fmt: skip


def announce(file: pathlib.Path, job: Job, output: Output) -> list[str]:
    """Sentences for the person; none where all is well."""
    from modules import shared

    folder = pathlib.Path(shared.cmd_opts.lora_dir).resolve()
    if folder not in file.resolve().parents:
        return [f"{file.name} is not in the WebUI's folder of LoRAs, {folder}; copy it there to use it."]
    return announced(file, job, output) + loaded(file)


def wrote(files: Sequence[pathlib.Path]) -> list[str]:
    """What tools made is in the lists where it lies in the WebUI's folders; sentences for the person."""
    from modules import sd_models, shared

    folder, said = pathlib.Path(shared.cmd_opts.lora_dir).resolve(), []
    weights = [file for file in files if file.suffix in (".safetensors", ".ckpt")]
    ours = [file for file in weights if folder in file.resolve().parents]
    for file in ours:
        said += loaded(file)
    if len(ours) < len(weights):
        sd_models.list_models()
    return said


def loaded(file: pathlib.Path) -> list[str]:
    """What the Lora extension makes of the file; the next generation reads it anew."""
    networks = sys.modules.get("networks")
    if networks is None:
        return ["The built-in extension Lora is switched off, so the WebUI cannot use LoRAs."]
    networks.list_available_networks()
    stale(file.stem)
    entry = networks.available_networks.get(file.stem)
    if entry is None or pathlib.Path(entry.filename).resolve() != file.resolve():
        return [f"The WebUI has another LoRA called {file.stem}; rename one of them."]
    if _family() is None:
        return []
    try:
        with torch.random.fork_rng(devices=[]):  # it makes layers, which draw numbers
            net = networks.load_network(file.stem, entry)
    except Exception as e:  # noqa: BLE001 (whatever it is, a person would meet it)
        return [f"{file.name}: the WebUI could not load it ({e})."]
    return judged(file, net)


def judged(file: pathlib.Path, net: object) -> list[str]:
    """Keys that found no layer, numbers that are none, layers that do nothing."""
    from lora_train.weights import open_weights

    heads: dict[str, bool] = {}
    broken = []
    weights = open_weights(file)
    for key, tensor in weights.read(weights.shapes):
        layer, _, name = key.partition(".")
        if not tensor.isfinite().all():
            broken.append(layer)
        if name in HEADS:
            heads[layer] = heads.get(layer, False) or bool(tensor.any())
    said = []
    if missing := len(heads) - len(net.modules):
        said.append(f"{file.name}: {missing} of {len(heads)} layers are none of the loaded model's.")
    if broken:
        said.append(
            f"{file.name}: numbers that are not finite in {len(set(broken))} layers, such as {broken[0]}."
        )
    if heads and not any(heads.values()):
        said.append(f"{file.name} changes nothing: every layer of it is zero.")
    return said


def stale(name: str) -> None:
    """A file saved again under its name is read anew, but layers that wear it look at names only."""
    from modules import sd_models

    from lora_train.hosts.webui.neutral import forget_prompts

    forget_prompts()
    networks, model = sys.modules["networks"], sd_models.model_data.sd_model
    networks.networks_in_memory.pop(name, None)
    for module in getattr(model, "network_layer_mapping", {}).values():
        worn = getattr(module, "network_current_names", ())
        if any(name == (row[0] if isinstance(row, tuple) else row) for row in worn):
            module.network_current_names = ("stale",)


def _family() -> str | None:
    from modules import sd_models

    from lora_train.hosts.webui.kinds import family

    model = sd_models.model_data.sd_model
    return None if model is None else family(model)[0]
