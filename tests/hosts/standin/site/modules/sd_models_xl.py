"""What makes an SDXL model look like one of SD 1.x to the rest of the WebUI."""

import sgm
import torch
from torch import nn

from modules import devices
from modules.shared import opts


def get_learned_conditioning(self, batch):
    """With the picture's size, which comes along with the prompts; an empty negative prompt is nothing."""
    for embedder in self.conditioner.embedders:
        embedder.ucg_rate = 0.0
    size = [getattr(batch, name, None) or 1024 for name in ("height", "width")]

    def told(pair):
        return torch.tensor(pair, device=devices.device, dtype=devices.dtype).repeat(len(batch), 1)

    read = {"txt": batch, "crop_coords_top_left": told([opts.sdxl_crop_top, opts.sdxl_crop_left]),
            "original_size_as_tuple": told(size), "target_size_as_tuple": told(size)}  # fmt: skip
    nothing = getattr(batch, "is_negative_prompt", False) and all(text == "" for text in batch)
    return self.conditioner(read, force_zero_embeddings=["txt"] if nothing else [])


def extend_sdxl(model):
    unet = model.model.diffusion_model
    unet.dtype = next(unet.parameters()).dtype
    model.model.conditioning_key, model.cond_stage_key = "crossattn", "txt"
    model.parameterization = "v" if isinstance(model.denoiser.scaling, sgm.VScaling) else "eps"
    model.alphas_cumprod = model.discretized.to(devices.device)
    model.conditioner.wrapped = nn.Module()


sgm.DiffusionEngine.get_learned_conditioning = get_learned_conditioning
