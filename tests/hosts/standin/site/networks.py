"""The Lora extension: changes weights when a layer is next called, and leaves them so."""

import pathlib
import re

import network
import torch
from modules import shared
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

KINDS = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention)
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


class Module(network.NetworkModule):
    def __init__(self, net, name, weights):
        super().__init__(net, name)
        self.w = weights

    def calc_updown(self, weight):
        up, down = (self.w[f"lora_{way}.weight"].to(weight.device, torch.float32) for way in ("up", "down"))
        change = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        alpha = self.w["alpha"].item() if "alpha" in self.w else len(down)
        return change * (alpha / len(down)) * self.multiplier(), None


class Network:
    def __init__(self, name, on_disk):
        self.name, self.network_on_disk, self.modules, self.bundle_embeddings = name, on_disk, {}, {}
        self.te_multiplier = self.unet_multiplier = 1.0
        self.dyn_dim, self.mtime = None, pathlib.Path(on_disk.filename).stat().st_mtime
        self.keys_failed_to_match, self.mentioned_name = {}, None


RESNET = {"conv1": "in_layers_2", "conv2": "out_layers_3", "norm1": "in_layers_0", "norm2": "out_layers_0",
          "time_emb_proj": "emb_layers_1", "conv_shortcut": "skip_connection"}  # fmt: skip
OPEN_CLIP = {"mlp_fc1": "mlp_c_fc", "mlp_fc2": "mlp_c_proj"}


def _place(m):
    """Where a block of diffusers' stands in the UNet."""
    way, level, kind, j = m[1], int(m[2] or 0), m[3], int(m[4])
    rest = RESNET.get(m[5], m[5]) if kind == "resnets" else m[5]
    if way == "mid":
        return f"diffusion_model_middle_block_{1 if kind == 'attentions' else 2 * j}_{rest}"
    at = f"input_blocks_{1 + 3 * level + j}" if way == "down" else f"output_blocks_{3 * level + j}"
    return f"diffusion_model_{at}_{int(kind == 'attentions')}_{rest}"


def _text(lead, m):
    rest = OPEN_CLIP.get(m[2], m[2].replace("self_attn", "attn"))
    return f"{lead}model_transformer_resblocks_{m[1]}_{rest}"


UNET = (
    (r"lora_unet_conv_in", lambda m: "diffusion_model_input_blocks_0_0"),
    (r"lora_unet_conv_out", lambda m: "diffusion_model_out_2"),
    (r"lora_unet_time_embedding_linear_(\d)", lambda m: f"diffusion_model_time_embed_{2 * int(m[1]) - 2}"),
    (r"lora_unet_(down|mid|up)_block_?s?_?(\d+)?_(attentions|resnets)_(\d+)_(.+)", _place),
    (r"lora_unet_down_blocks_(\d)_downsamplers_0_conv",
     lambda m: f"diffusion_model_input_blocks_{3 + 3 * int(m[1])}_0_op"),
    (r"lora_unet_up_blocks_(\d)_upsamplers_0_conv",
     lambda m: f"diffusion_model_output_blocks_{2 + 3 * int(m[1])}_{2 if int(m[1]) else 1}_conv"),
    (r"lora_unet_(.+)", lambda m: f"diffusion_model_{m[1]}"),
)  # fmt: skip
CLIP = r"_text_model_encoder_layers_(\d+)_(.+)"
HUGGING_FACE = "transformer_text_model_encoder_layers_"


def _layer_name(key):
    """What the WebUI calls the layer of a file's key; Hugging Face's spelling is kept where it is spoken."""
    model = shared.sd_model
    rules = [*UNET]
    if model.is_sdxl:
        rules += [(f"lora_te1{CLIP}", lambda m: f"0_{HUGGING_FACE}{m[1]}_{m[2]}"),
                  (f"lora_te2{CLIP}", lambda m: _text("1_", m))]  # fmt: skip
    elif model.is_sd2:
        rules += [(f"lora_te{CLIP}", lambda m: _text("", m))]
    else:
        rules += [(f"lora_te1?{CLIP}", lambda m: f"{HUGGING_FACE}{m[1]}_{m[2]}")]
    for pattern, name in rules:
        if found := re.fullmatch(pattern, key):
            return name(found)
    return key


def assign_network_names_to_compvis_modules(sd_model):
    if sd_model.is_sdxl:
        texts = {
            f"{i}_": e.wrapped for i, e in enumerate(sd_model.conditioner.embedders) if hasattr(e, "wrapped")
        }
    else:
        texts = {"": getattr(sd_model.cond_stage_model, "wrapped", sd_model.cond_stage_model)}
    mapping = {}
    for lead, model in (*texts.items(), ("", sd_model.model)):
        for path, module in model.named_modules():
            module.network_layer_name = lead + path.replace(".", "_")
            mapping[module.network_layer_name] = module
    sd_model.network_layer_mapping = mapping


def load_network(name, network_on_disk):
    net, parts = Network(name, network_on_disk), {}
    for key, tensor in load_file(network_on_disk.filename).items():
        lead, _, rest = key.partition(".")
        parts.setdefault(lead, {})[rest] = tensor
    for lead, weights in parts.items():
        layer, mapping = _layer_name(lead), shared.sd_model.network_layer_mapping
        if layer in mapping or re.sub(r"_[qkv]_proj$", "", layer) in mapping:
            net.modules[layer] = Module(net, layer, weights)
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
        net.mentioned_name = name
        net.te_multiplier = te_multipliers[i] if te_multipliers else 1.0
        net.unet_multiplier = unet_multipliers[i] if unet_multipliers else 1.0
        net.dyn_dim = dyn_dims[i] if dyn_dims else None
        loaded_networks.append(net)


def _tensors(layer):
    """What may be changed: an attention of OpenCLIP holds q, k and v in one, and reads its last layer's
    weights itself."""
    if isinstance(layer, nn.MultiheadAttention):
        return layer.in_proj_weight, layer.out_proj.weight, layer.out_proj.bias
    return layer.weight, layer.bias


def _changes(net, name, layer):
    """{tensor: what is added to it}, of one file."""
    if name in net.modules and hasattr(layer, "weight"):
        return [(layer.weight, net.modules[name].calc_updown(layer.weight)[0])]
    parts = [net.modules.get(f"{name}_{part}_proj") for part in ("q", "k", "v", "out")]
    if not isinstance(layer, nn.MultiheadAttention) or not all(parts):
        return []
    rows = layer.in_proj_weight.chunk(3)
    within = torch.cat([part.calc_updown(row)[0] for part, row in zip(parts, rows, strict=False)])
    out = layer.out_proj.weight
    return [(layer.in_proj_weight, within), (out, parts[3].calc_updown(out)[0])]


def network_apply_weights(self):
    name = getattr(self, "network_layer_name", None)
    if name is None:
        return
    wanted = tuple((x.name, x.te_multiplier, x.unet_multiplier, x.dyn_dim) for x in loaded_networks)
    *weights, bias = _tensors(self)
    backup = getattr(self, "network_weights_backup", None)
    if backup is None and wanted != ():
        if getattr(self, "network_current_names", ()) != ():
            raise RuntimeError(f"{name} - no backup weights found and current weights are not unchanged")
        copies = tuple(weight.to("cpu", copy=True) for weight in weights)
        backup = self.network_weights_backup = copies if len(copies) > 1 else copies[0]
        self.network_bias_backup = None if bias is None else bias.to("cpu", copy=True)
    if getattr(self, "network_current_names", ()) == wanted:
        return
    if backup is not None:
        for weight, kept in zip(weights, backup if isinstance(backup, tuple) else [backup], strict=True):
            weight.copy_(kept)  # not under no_grad: fails on a leaf that asks for a gradient
        if bias is not None:
            bias.copy_(self.network_bias_backup)
    for net in loaded_networks:
        with torch.no_grad():
            for weight, change in _changes(net, name, self):
                weight.copy_((weight.float() + change).to(weight.dtype))
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
