"""Builds diffusers' and transformers' models from what a file holds; widths are read from the tensors."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_train import names
from lora_train.errors import Mistake
from lora_train.hosts.standalone.attention import Processor
from lora_train.hosts.standalone.packed import Packed
from lora_train.models import config
from lora_train.models.config import SIZE
from lora_train.models.facts import Facts
from lora_train.models.files import WORDS, Found, Part, Source


def hollow(found: Found) -> dict[str, nn.Module]:
    """Part -> its model, without weights (on the device "meta").

    Raises:
        Mistake: tensors are missing, or shapes do not fit together.
    """
    makers = {"unet": _unet, "vae": _vae, "te1": _text, "te2": _second}
    made = {}
    for part, there in found.parts.items():
        try:
            with torch.device("meta"):
                made[part] = makers[part](there, found.facts)
        except (KeyError, ValueError, TypeError, ZeroDivisionError) as e:
            raise Mistake(f"{there.weights.path}: an unknown kind of {WORDS[part]} ({e})") from e
        made[part].eval().requires_grad_(False)
        _compare(made[part], there, part)
    _fit(found, made)
    return made


def _fit(found: Found, made: dict[str, nn.Module]) -> None:
    """Raises Mistake: the text encoders do not make what the denoiser reads."""
    texts = [made[part] for part in names.ARCHS[found.facts.arch].texts]
    width, read = sum(text.config.hidden_size for text in texts), made["unet"].config.cross_attention_dim
    told = made["unet"].config.projection_class_embeddings_input_dim
    if told is not None and width == read:
        width, read = texts[-1].config.projection_dim, told - 6 * SIZE
    if width != read:
        raise Mistake(f"{found.path}: the denoiser reads texts {read} wide, and here they are {width}")


def fill(module: nn.Module, part: Part, *, dtype: torch.dtype, device: torch.device) -> None:
    """Read the weights, each converted as it arrives: the peak is a tensor or two above the model's size."""
    packed = {f"{name}.weight": m for name, m in module.named_modules() if isinstance(m, Packed)}
    wanted = {names.text_path(name): name for name in (*module.state_dict(), *packed)}
    there = {name: part.keys[short] for short, name in wanted.items() if short in part.keys}
    takers: dict[str, list[tuple[str, Source]]] = {}  # key in the file -> what is made of it
    for name, source in there.items():
        takers.setdefault(source.key, []).append((name, source))
    nn.Module.to(module, dtype)  # diffusers' own warns of what concerns other models
    module.to_empty(device=device)  # all at once: tensors made between what is read leave gaps
    places = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for key, value in part.weights.read(takers):
            for name, source in takers[key]:  # the autoencoder's 1x1 convolutions are linear here
                if name in packed:
                    packed[name].take(source.of(value))
                else:
                    places[name].copy_(source.of(value).reshape(places[name].shape))
        for name, buffer in module.named_buffers():
            if name not in there and name.endswith("position_ids"):  # CLIP's, which is not in every file
                buffer.copy_(torch.arange(buffer.shape[-1], device=device).expand(buffer.shape))
    module.requires_grad_(False)


def _compare(module: nn.Module, part: Part, word: str) -> None:
    """Raises Mistake: `fill` would not find all it needs."""
    for name, value in module.state_dict().items():
        short = names.text_path(name)
        if short.endswith("position_ids"):
            continue
        if short not in part.keys:
            raise Mistake(f"{part.weights.path}: the {WORDS[word]} has no {short}; is the file whole?")
        shape = part.shape(short)
        if value.numel() != torch.Size(shape).numel() or value.shape[:2] != shape[:2]:
            expected = "x".join(map(str, value.shape))
            raise Mistake(
                f"{part.weights.path}: {part.keys[short].key} is {'x'.join(map(str, shape))}, "
                f"expected {expected}"
            )


def _unet(part: Part, facts: Facts) -> nn.Module:
    unet = UNet2DConditionModel(**config.unet(part, facts))
    unet.set_attn_processor(Processor())
    return unet


def _vae(part: Part, facts: Facts) -> nn.Module:
    return AutoencoderKL(**config.vae(part, facts))


def _text(part: Part, facts: Facts) -> nn.Module:
    return CLIPTextModel(CLIPTextConfig(**config.text(part, facts)))


def _second(part: Part, facts: Facts) -> nn.Module:
    return CLIPTextModelWithProjection(CLIPTextConfig(**config.text(part, facts, second=True)))
