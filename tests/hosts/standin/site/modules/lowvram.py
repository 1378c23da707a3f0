"""Parts of a model take turns on the card. There is none here, so who would be on it is written down."""

import torch

from modules import devices, shared

module_in_gpu, cpu = None, torch.device("cpu")
turns = []  # names of the modules that came onto the card


def send_everything_to_cpu():
    global module_in_gpu
    if module_in_gpu is not None:
        module_in_gpu.to(cpu)
    module_in_gpu = None


def is_needed(sd_model):
    flags = shared.cmd_opts
    return flags.lowvram or flags.medvram or flags.medvram_sdxl and hasattr(sd_model, "conditioner")


def is_enabled(sd_model):
    return sd_model.lowvram


def apply(sd_model):
    shared.parallel_processing_allowed = not is_needed(sd_model)
    if is_needed(sd_model):
        setup_for_low_vram(sd_model, not shared.cmd_opts.lowvram)
    else:
        sd_model.lowvram = False


def _texts(sd_model):
    """What of the text encoders brings itself onto the card, and what comes instead of it."""
    if hasattr(sd_model, "conditioner"):
        return [(sd_model.conditioner, None)]
    text = sd_model.cond_stage_model
    if hasattr(text, "model"):
        return [(text.model, text), (text.model.token_embedding, text)]
    return [(text.transformer, text)]


def setup_for_low_vram(sd_model, use_medvram):
    if getattr(sd_model, "lowvram", False):
        return
    sd_model.lowvram = True
    vae, parents = sd_model.first_stage_model, {}

    def onto_card(module, _=None):
        global module_in_gpu
        module = parents.get(module, module)
        if module_in_gpu is module:
            return
        send_everything_to_cpu()
        module.to(devices.device)
        turns.append(type(module).__name__)
        module_in_gpu = module

    def wrapped(plain):
        def first(x):
            onto_card(vae)
            return plain(x)

        return first

    for module, parent in _texts(sd_model):
        module.register_forward_pre_hook(onto_card)
        if parent is not None:
            parents[module] = parent
    vae.register_forward_pre_hook(onto_card)
    vae.encode, vae.decode = wrapped(vae.encode), wrapped(vae.decode)
    if use_medvram:
        sd_model.model.register_forward_pre_hook(onto_card)
        return
    unet = sd_model.model.diffusion_model
    unet.time_embed.register_forward_pre_hook(onto_card)
    for block in (*unet.input_blocks, unet.middle_block, *unet.output_blocks):
        block.register_forward_pre_hook(onto_card)
