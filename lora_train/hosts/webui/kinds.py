"""What kind of model is loaded, and what of that a trainer has to know."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Collection

from torch import Tensor, nn

from lora_train.errors import Mistake
from lora_train.host import Model
from lora_train.hosts.webui.texts import Texts
from lora_train.names import ARCHS
from lora_train.noise import Schedule
from lora_train.weights import open_weights

WORDS = ("v_pred", "ztsnr")  # empty tensors by which some files say what they are; the WebUI reads neither


def schedule(loaded: nn.Module, ending_in_noise: bool | None = None) -> Schedule:
    """The checkpoint's own; generations leave another in `alphas_cumprod`.

    Args:
        ending_in_noise: as `Model.zero_terminal_snr`; None: as the file says, where the model predicts v.
    """
    prediction = "v" if loaded.parameterization == "v" else "epsilon"
    if ending_in_noise is None:
        ending_in_noise = prediction == "v" and "ztsnr" in words(loaded)
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


def unlike(model: Model, loaded: nn.Module) -> list[str]:
    """What of a job's settings the loaded model is not as."""
    said, skip, asked = [], model.clip_skip or 1, model.v_parameterization
    arch, kind = family(loaded)
    if arch == "sd1":
        depth = len(loaded.cond_stage_model.wrapped.transformer.text_model.encoder.layers)
        if skip > depth:
            said.append(f"model.clip_skip = {skip}: the text encoder has {depth} layers")
    elif model.clip_skip is not None:
        said.append(
            f"model.clip_skip = {skip}: {kind} was made with the last but one layer, and the WebUI always "
            "takes it; leave it empty"
        )
    own = schedule(loaded).prediction == "v"
    if asked is not None and asked != own:
        said.append(
            f"model.v_parameterization = {str(asked).lower()}: the loaded model predicts "
            f"{'v' if own else 'noise'}, as its .yaml says; leave it empty"
        )
    elif asked is None and not own and "v_pred" in words(loaded):
        said.append(
            "model.v_parameterization: by its entry v_pred the loaded model predicts v, and the WebUI takes "
            "it for one that predicts noise; put a .yaml of its name beside it that says v, and load it again"
        )
    return said


def words(loaded: nn.Module) -> Collection[str]:
    """Those of WORDS that the checkpoint's file has."""
    file = pathlib.Path(loaded.sd_checkpoint_info.filename)
    try:
        return _words(file, file.stat().st_mtime_ns) if file.suffix.lower() == ".safetensors" else ()
    except (OSError, Mistake):
        return ()


@functools.lru_cache(maxsize=8)  # the page asks every few seconds
def _words(file: pathlib.Path, changed: int) -> Collection[str]:
    return tuple(word for word in WORDS if word in open_weights(file).shapes)


def posterior(vae: nn.Module, pixels: Tensor) -> object:
    """What latents are drawn from. SDXL's autoencoder hides it behind a draw of its own."""
    plain = next((kind for kind in type(vae).__mro__ if kind.__name__ == "AutoencoderKL"), type(vae))
    if plain.encode is type(vae).encode:
        return vae.encode(pixels)
    for hook in [*vae._forward_pre_hooks.values()]:  # --medvram's, which brings it
        hook(vae, ())
    return plain.encode(vae, pixels)
