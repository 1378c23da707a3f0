"""Between pictures and latents."""

import torch

from modules import devices, shared


def images_tensor_to_samples(image, approximation=None, model=None):
    model = model or shared.sd_model
    model.first_stage_model.to(devices.dtype_vae)
    pixels = image.to(shared.device, devices.dtype_vae) * 2 - 1
    one_by_one = [model.get_first_stage_encoding(model.encode_first_stage(x[None])) for x in pixels]
    return torch.cat(one_by_one)


def decode_first_stage(model, x):
    return model.decode_first_stage(x.to(devices.dtype_vae))
