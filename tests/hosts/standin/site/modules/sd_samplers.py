"""Samplers: Euler and Euler a in sigmas, as k-diffusion has them; others are Euler here."""

import types

import torch

from modules import devices, script_callbacks, shared

NAMES = ("DPM++ 2M", "Euler a", "Euler", "LMS", "Heun", "DPM2", "DPM2 a", "DPM++ 2S a", "DDIM", "PLMS")
visible_samplers = lambda: [*NAMES]  # noqa: E731


class Guided:
    """The noise a model finds, with and without the prompt, in steps of sigma."""

    def __init__(self, p):
        self.p, self.model = p, p.sd_model
        alphas = self.model.alphas_cumprod.float()
        self.sigmas = ((1 - alphas) / alphas).sqrt()

    def course(self, steps):
        """Times and their sigmas, in the middle of two by their logarithms."""
        at = torch.linspace(len(self.sigmas) - 1, 0, steps)
        low, part = at.floor().long(), at.frac()
        logs, high = self.sigmas.log(), (low + 1).clamp(max=len(self.sigmas) - 1)
        return at, torch.cat([(logs[low] * (1 - part) + logs[high] * part).exp(), torch.zeros(1)])

    def derivative(self, x, t, sigma):
        """Prompts of different lengths go through the model one after the other."""
        scale = (sigma**2 + 1).sqrt()
        given, conds = (x / scale).to(devices.dtype_unet), (self.p.uc, self.p.c)
        shapes = [_shape(cond) for cond in conds]
        if shapes[0] == shapes[1]:
            both = torch.cat([given, given])
            found = self.model.apply_model(both, t.repeat(len(both)), _joined(conds))
        else:
            times = t.repeat(len(given))
            found = torch.cat([self.model.apply_model(given, times, cond) for cond in conds])
        if self.model.parameterization == "v":  # the noise is what is left of x without the picture in it
            found = found.float() / scale + x.repeat(2, 1, 1, 1) * sigma / scale**2
        without, prompted = found.float().chunk(2)
        return without + self.p.cfg_scale * (prompted - without)


def _shape(cond):
    return cond["crossattn"].shape if isinstance(cond, dict) else cond.shape


def _joined(conds):
    if isinstance(conds[0], dict):
        return {key: torch.cat([cond[key] for cond in conds]) for key in conds[0]}
    return torch.cat(conds)


def sample(p, x):
    guided, state = Guided(p), shared.state
    times, sigmas = guided.course(p.steps)
    state.sampling_steps, state.sampling_step, x = p.steps, 0, x * sigmas[0]
    for i in range(p.steps):
        if state.interrupted or state.skipped:
            break
        last, following = sigmas[i], sigmas[i + 1]
        script_callbacks.cfg_denoiser_callback(types.SimpleNamespace(sampling_step=state.sampling_step))
        d, up = guided.derivative(x, times[i], last), torch.zeros(())
        if p.sampler_name.endswith(" a"):
            up = torch.minimum(following, (following**2 * (last**2 - following**2) / last**2).sqrt())
        x = x + d * ((following**2 - up**2).sqrt() - last)
        if up > 0:
            x = x + torch.randn(x.shape) * up
        state.sampling_step, state.current_latent = i, x  # it is one behind when the next begins
    return x
