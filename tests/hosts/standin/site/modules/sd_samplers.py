"""Samplers: Euler and Euler a in sigmas, as k-diffusion has them; others are Euler here."""

import torch

from modules import devices, shared

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
        x, conds = (x / (sigma**2 + 1).sqrt()).to(devices.dtype_unet), (self.p.uc, self.p.c)
        if conds[0].shape == conds[1].shape:
            found = self.model.apply_model(torch.cat([x, x]), t.repeat(2 * len(x)), torch.cat(conds))
        else:
            found = torch.cat([self.model.apply_model(x, t.repeat(len(x)), cond) for cond in conds])
        without, given = found.float().chunk(2)
        return without + self.p.cfg_scale * (given - without)


def sample(p, x):
    guided, state = Guided(p), shared.state
    times, sigmas = guided.course(p.steps)
    state.sampling_steps, x = p.steps, x * sigmas[0]
    for i in range(p.steps):
        if state.interrupted or state.skipped:
            break
        last, following = sigmas[i], sigmas[i + 1]
        d, up = guided.derivative(x, times[i], last), torch.zeros(())
        if p.sampler_name.endswith(" a"):
            up = torch.minimum(following, (following**2 * (last**2 - following**2) / last**2).sqrt())
        x = x + d * ((following**2 - up**2).sqrt() - last)
        if up > 0:
            x = x + torch.randn(x.shape) * up
        state.sampling_step, state.current_latent = i + 1, x
    return x
