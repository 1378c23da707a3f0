"""The Lora extension: changes weights when a layer is next called, and leaves them so."""

import pathlib

import torch
from modules import shared
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from lora_train import names as written

KINDS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
available_networks, available_network_aliases, loaded_networks, networks_in_memory = {}, {}, [], {}
forbidden_network_aliases = {}
_plain = {}


class NetworkOnDisk:
    def __init__(self, name, filename):
        self.name, self.filename, self.hash, self.shorthash = name, filename, "", ""
        with safe_open(filename, "pt") as file:
            self.metadata = file.metadata() or {}
        self.alias = self.metadata.get("ss_output_name", name)

    def read_hash(self):
        pass


class Module:
    def __init__(self, net, weights):
        self.net, self.w = net, weights

    def calc_updown(self, weight):
        up, down = (self.w[f"lora_{way}.weight"].to(weight.device, torch.float32) for way in ("up", "down"))
        change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        alpha = self.w["alpha"].item() if "alpha" in self.w else len(down)
        return change * (alpha / len(down)) * self.net.unet_multiplier, None


class Network:
    def __init__(self, name, on_disk):
        self.name, self.network_on_disk, self.modules, self.bundle_embeddings = name, on_disk, {}, {}
        self.te_multiplier = self.unet_multiplier = 1.0
        self.dyn_dim, self.mtime = None, pathlib.Path(on_disk.filename).stat().st_mtime
        self.keys_failed_to_match = {}


def _layer_name(key):
    try:
        part, path = written.path_of(key)
    except (KeyError, ValueError, TypeError):
        return key
    lead = "diffusion_model" if part == "unet" else "transformer_text_model"
    return f"{lead}_{path}".replace(".", "_")


def assign_network_names_to_compvis_modules(sd_model):
    text = getattr(sd_model.cond_stage_model, "wrapped", sd_model.cond_stage_model)
    mapping = {}
    for model in (text, sd_model.model):
        for path, module in model.named_modules():
            module.network_layer_name = path.replace(".", "_")
            mapping[module.network_layer_name] = module
    sd_model.network_layer_mapping = mapping


def load_network(name, network_on_disk):
    net, parts = Network(name, network_on_disk), {}
    for key, tensor in load_file(network_on_disk.filename).items():
        lead, _, rest = key.partition(".")
        parts.setdefault(lead, {})[rest] = tensor
    for lead, weights in parts.items():
        layer = _layer_name(lead)
        if layer in shared.sd_model.network_layer_mapping:
            net.modules[layer] = Module(net, weights)
        else:
            net.keys_failed_to_match[lead] = layer
    return net


def list_available_networks():
    available_networks.clear()
    available_network_aliases.clear()
    for path in sorted(pathlib.Path(shared.cmd_opts.lora_dir).rglob("*.safetensors")):
        entry = NetworkOnDisk(path.stem, str(path))
        available_networks[path.stem] = entry
        available_network_aliases.update({path.stem: entry, entry.alias: entry})


def load_networks(names, te_multipliers=None, unet_multipliers=None, dyn_dims=None):
    loaded_networks.clear()
    if any(name not in available_network_aliases for name in names):
        list_available_networks()
    for i, name in enumerate(names):
        on_disk = available_network_aliases.get(name)
        if on_disk is None:
            continue
        net = networks_in_memory.get(name)
        if net is None or pathlib.Path(on_disk.filename).stat().st_mtime > net.mtime:
            net = networks_in_memory[name] = load_network(name, on_disk)
        net.te_multiplier = te_multipliers[i] if te_multipliers else 1.0
        net.unet_multiplier = unet_multipliers[i] if unet_multipliers else 1.0
        net.dyn_dim = dyn_dims[i] if dyn_dims else None
        loaded_networks.append(net)


def network_apply_weights(self):
    name = getattr(self, "network_layer_name", None)
    if name is None:
        return
    wanted = tuple((x.name, x.te_multiplier, x.unet_multiplier, x.dyn_dim) for x in loaded_networks)
    backup = getattr(self, "network_weights_backup", None)
    if backup is None and wanted != ():
        if getattr(self, "network_current_names", ()) != ():
            raise RuntimeError(f"{name} - no backup weights found and current weights are not unchanged")
        backup = self.network_weights_backup = self.weight.to("cpu", copy=True)
        self.network_bias_backup = None if self.bias is None else self.bias.to("cpu", copy=True)
    if getattr(self, "network_current_names", ()) == wanted:
        return
    if backup is not None:
        self.weight.copy_(backup)  # not under no_grad: fails on a leaf that asks for a gradient
        if self.bias is not None:
            self.bias.copy_(self.network_bias_backup)
    for net in loaded_networks:
        module = net.modules.get(name)
        if module is not None:
            with torch.no_grad():
                self.weight.copy_(
                    (self.weight.float() + module.calc_updown(self.weight)[0]).to(self.weight.dtype)
                )
    self.network_current_names = wanted


def _applying(plain):
    def forward(self, *args, **kwargs):
        network_apply_weights(self)
        return plain(self, *args, **kwargs)

    return forward


def install():
    for kind in KINDS:
        _plain[kind] = kind.forward
        kind.forward = _applying(kind.forward)


def uninstall():
    for kind, plain in _plain.items():
        kind.forward = plain
    for held in (_plain, available_networks, available_network_aliases, networks_in_memory, loaded_networks):
        held.clear()
