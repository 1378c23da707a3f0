"""Devices and dtypes; set by `standin.world`."""

import contextlib

import torch

cpu = device = torch.device("cpu")
dtype = dtype_vae = dtype_unet = dtype_inference = torch.float32
fp8 = unet_needs_upcast = force_fp16 = False
swept = 0  # calls of torch_gc


class NansException(Exception):
    pass


def autocast(disable=False):
    """On a card the WebUI says "cuda" and float16."""
    if disable or torch.float32 in (dtype, dtype_inference):
        return contextlib.nullcontext()
    return torch.autocast("cpu", dtype=torch.bfloat16)


def without_autocast(disable=False):
    return contextlib.nullcontext()


def cond_cast_unet(tensor):
    return tensor.to(dtype_unet) if unet_needs_upcast else tensor


def cond_cast_float(tensor):
    return tensor.float() if unet_needs_upcast else tensor


def test_for_nans(x, where):
    from modules import shared

    if not shared.cmd_opts.disable_nan_check and torch.isnan(x).all():
        raise NansException(f"A tensor with all NaNs was produced in {where}.")


def cuda_no_autocast(device_id=None):
    return False


def torch_gc():
    global swept
    swept += 1
