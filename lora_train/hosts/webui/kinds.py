"""What kind of model is loaded, and what of that a trainer has to know."""

from __future__ import annotations

from torch import Tensor, nn

from lora_train.hosts.webui.texts import Texts
from lora_train.names import ARCHS
from lora_train.noise import Schedule


def schedule(loaded: nn.Module, ending_in_noise: bool | None = None) -> Schedule:
    """The checkpoint's own; generations leave another in `alphas_cumprod`.

    Args:
        ending_in_noise: as `Model.zero_terminal_snr`; the WebUI reads nothing of that from a file.
    """
    prediction = "v" if loaded.parameterization == "v" else "epsilon"
    alphas = getattr(loaded, "alphas_cumprod_original", loaded.alphas_cumprod)
    own = Schedule(alphas.detach().float().cpu(), prediction)
    return own.ending_in_noise() if ending_in_noise and not own.last_is_noise else own


INPAINTING = 9  # channels: the noisy latent, where it is painted anew, and the latent of the rest
FAMILIES = (("is_sd3", "sd3", "Stable Diffusion 3"), ("is_ssd", "ssd", "SSD-1B"), ("is_sdxl", "sdxl", "SDXL"),
            ("is_sd2", "sd2", "Stable Diffusion 2"), ("is_sd1", "sd1", "Stable Diffusion 1"))  # fmt: skip


def family(loaded: nn.Module) -> tuple[str, str]:
    """(short, said)."""
    for flag, short, said in FAMILIES:
        if getattr(loaded, flag, False):
            return short, said
    return "other", "a kind that is not known here"


def untrainable(loaded: nn.Module) -> str | None:
    """Why a model cannot be trained; a sentence."""
    short, said = family(loaded)
    if short not in ARCHS:
        return (
            "Stable Diffusion 1.x, 2.x and SDXL can be trained, and the loaded model is "
            f"{said}; choose another at the top of the page"
        )
    if short == "sdxl" and len(Texts(loaded, short).encoders) != 2:
        return "the loaded model is SDXL's refiner; choose its base model at the top of the page"
    channels = loaded.model.diffusion_model.in_channels
    if channels not in (4, INPAINTING):
        return (
            f"the loaded model takes {channels} channels, as those for edits and with depth do; choose a "
            "plain one at the top of the page"
        )
    return None


def posterior(vae: nn.Module, pixels: Tensor) -> object:
    """What latents are drawn from. SDXL's autoencoder hides it behind a draw of its own."""
    plain = next((kind for kind in type(vae).__mro__ if kind.__name__ == "AutoencoderKL"), type(vae))
    if plain.encode is type(vae).encode:
        return vae.encode(pixels)
    for hook in [*vae._forward_pre_hooks.values()]:  # --medvram's, which brings it
        hook(vae, ())
    return plain.encode(vae, pixels)
