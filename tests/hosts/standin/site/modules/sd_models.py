"""Checkpoints: finding, loading and switching them."""

import collections
import pathlib
import threading

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from modules import (
    devices,
    hashes,
    lowvram,
    paths,
    script_callbacks,
    sd_hijack,
    sd_models_xl,
    sd_unet,
    shared,
)
from tests.hosts.standin import encoder

checkpoints_list, checkpoint_aliases, checkpoints_loaded = {}, {}, collections.OrderedDict()
loads = []  # what was loaded, for tests
model_path = ""


class CheckpointInfo:
    def __init__(self, filename):
        path = pathlib.Path(filename)
        self.filename, self.name, self.name_for_extra = str(path), path.name, path.stem
        self.model_name, self.metadata, self.ids = path.stem, {}, [path.stem, path.name]
        self.sha256 = hashes.sha256(path)
        self.hash, self.shorthash = self.sha256[:8], self.sha256[:10]
        self.title, self.short_title = f"{path.name} [{self.shorthash}]", f"{path.stem} [{self.shorthash}]"

    def register(self):
        checkpoints_list[self.title] = self
        checkpoint_aliases.update(
            dict.fromkeys((self.title, self.name, self.name_for_extra, self.hash), self)
        )

    def calculate_shorthash(self):
        return self.shorthash


class SdModelData:
    def __init__(self):
        self.sd_model, self.loaded_sd_models, self.was_loaded_at_least_once = None, [], False
        self.lock = threading.Lock()

    def get_sd_model(self):
        if self.sd_model is None and not self.was_loaded_at_least_once:
            load_model()
        return self.sd_model

    def set_sd_model(self, v, already_loaded=False):
        self.sd_model = v
        self.loaded_sd_models = [x for x in self.loaded_sd_models if x is not v]
        if v is not None:
            self.loaded_sd_models.insert(0, v)


model_data = SdModelData()


def list_models():
    checkpoints_list.clear()
    checkpoint_aliases.clear()
    for path in sorted(pathlib.Path(paths.models_path, "Stable-diffusion").glob("*.safetensors")):
        CheckpointInfo(path).register()


def get_closet_checkpoint_match(text):
    found = [x for x in checkpoints_list.values() if text and text in x.title]
    return checkpoint_aliases.get(text) or (sorted(found, key=lambda x: len(x.title))[0] if found else None)


def select_checkpoint():
    chosen = checkpoint_aliases.get(shared.opts.sd_model_checkpoint)
    if chosen is None and not checkpoints_list:
        raise FileNotFoundError("No checkpoints found.")
    return chosen or next(iter(checkpoints_list.values()))


def read_state_dict(filename, print_global_state=False, map_location=None):
    return load_file(filename)


def read_metadata_from_safetensors(filename):
    with safe_open(filename, "pt") as file:
        return file.metadata() or {}


def check_fp8(model):
    return shared.opts.fp8_storage == "Enable"


def load_model(checkpoint_info=None, already_loaded_state_dict=None):
    info = checkpoint_info or select_checkpoint()
    if model_data.sd_model is not None:
        send_model_to_trash(model_data.sd_model)
        model_data.sd_model = None
    config = pathlib.Path(info.filename).with_suffix(".yaml")
    model = encoder.instantiate(yaml.safe_load(config.read_text(encoding="utf-8"))["model"])
    model.used_config = str(config)
    load_model_weights(model, info, already_loaded_state_dict)
    send_model_to_device(model)
    sd_hijack.model_hijack.hijack(model)
    model.eval()
    model_data.set_sd_model(model)
    model_data.was_loaded_at_least_once = True
    script_callbacks.model_loaded_callback(model)
    with devices.autocast(), torch.no_grad():
        model.cond_stage_model_empty_prompt = model.get_learned_conditioning([""])
    return model


def set_model_type(model):
    for flag in ("is_sd1", "is_sd2", "is_sdxl", "is_ssd", "is_sd3"):
        setattr(model, flag, False)
    if hasattr(model, "conditioner"):
        model.is_sdxl = True
        sd_models_xl.extend_sdxl(model)
    elif hasattr(model.cond_stage_model, "model"):
        model.is_sd2 = True
    else:
        model.is_sd1 = True
    model.latent_channels = 4


def load_model_weights(model, checkpoint_info, state_dict=None, timer=None):
    loads.append(checkpoint_info.name)
    shared.opts.data["sd_model_checkpoint"] = checkpoint_info.title
    set_model_type(model)
    model.load_state_dict(state_dict or read_state_dict(checkpoint_info.filename), strict=False)
    alphas, model.alphas_cumprod = model.alphas_cumprod, None
    model.to(devices.dtype_unet)
    model.alphas_cumprod = model.alphas_cumprod_original = alphas.float()
    devices.fp8 = check_fp8(model)
    if devices.fp8:
        vae, model.first_stage_model = model.first_stage_model, None
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.to(torch.float8_e4m3fn)
        model.first_stage_model = vae
    model.first_stage_model.to(devices.dtype_vae)
    model.sd_model_hash, model.sd_model_checkpoint = checkpoint_info.shorthash, checkpoint_info.filename
    model.sd_checkpoint_info = checkpoint_info
    shared.opts.data["sd_checkpoint_hash"] = checkpoint_info.sha256


def reload_model_weights(sd_model=None, info=None, forced_reload=False):
    """Into the same object, where the two have the same config; else the old one goes to `meta`."""
    wanted, model = info or select_checkpoint(), sd_model or model_data.sd_model
    forced_reload = forced_reload or (model is not None and check_fp8(model) != devices.fp8)
    if model is not None and model.sd_model_checkpoint == wanted.filename and not forced_reload:
        return model
    if model is None or model.used_config != str(pathlib.Path(wanted.filename).with_suffix(".yaml")):
        if model is not None:
            sd_unet.apply_unet("None")
            sd_hijack.model_hijack.undo_hijack(model)
            model_data.loaded_sd_models = [x for x in model_data.loaded_sd_models if x is not model]
        load_model(wanted)
        return model_data.sd_model
    sd_unet.apply_unet("None")
    sd_hijack.model_hijack.undo_hijack(model)
    try:
        load_model_weights(model, wanted)
    finally:
        sd_hijack.model_hijack.hijack(model)
        script_callbacks.model_loaded_callback(model)
    model_data.set_sd_model(model)
    return model


def unload_model_weights(sd_model=None, info=None):
    send_model_to_cpu(sd_model or shared.sd_model)
    return sd_model


def send_model_to_cpu(m):
    if m is not None:
        lowvram.send_everything_to_cpu() if m.lowvram else m.to(devices.cpu)


def send_model_to_device(m):
    lowvram.apply(m)
    if not m.lowvram:
        m.to(shared.device)


def send_model_to_trash(m):
    m.to(device="meta")


def apply_token_merging(sd_model, token_merging_ratio):
    if getattr(sd_model, "applied_token_merged_ratio", 0) != token_merging_ratio:
        sd_model.applied_token_merged_ratio = token_merging_ratio


def apply_alpha_schedule_override(sd_model, p=None):
    """Left rewritten after a generation."""
    sd_model.alphas_cumprod = sd_model.alphas_cumprod_original.to(shared.device)
    if shared.opts.sd_noise_schedule == "Zero Terminal SNR":
        root = sd_model.alphas_cumprod.sqrt()
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        sd_model.alphas_cumprod = root.square().clamp(min=4.8973451890853435e-08)
