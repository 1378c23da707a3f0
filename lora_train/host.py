"""What training asks of the place it runs in: a model to borrow, and where things are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lora_train.knobs import knob

if TYPE_CHECKING:
    from PIL import Image

    from lora_train.adapters.layer import Layer
    from lora_train.noise import Schedule
    from lora_train.prompts import Prompt


Stepped = Callable[[int], object]
HALF = "interrupted"  # in the info of a picture that a person broke off, so that it is half drawn


@dataclasses.dataclass(frozen=True)
class Model:
    """Which checkpoint, and how its text encoder and prediction are read."""

    pretrained_model_name_or_path: pathlib.Path | None = knob(
        None, "Checkpoint to train on: a .safetensors or .ckpt file, or a diffusers folder.",
        group="model", place=True, basic=True)  # fmt: skip
    vae: pathlib.Path | None = knob(
        None, "Autoencoder to use in place of the checkpoint's own.", group="model", place=True)  # fmt: skip
    base_weights: tuple[pathlib.Path, ...] | None = knob(
        None, "Saved LoRAs that are on the model all the time, in training and samples, as if it had been "
        "made with them; what is trained is used together with them. To go on from one, see "
        "network.weights.", group="model", place=True)  # fmt: skip
    base_weights_multiplier: tuple[float, ...] | None = knob(
        None, "Strength of each of base_weights. What is missing is 1.", group="model", low=-10, high=10
    )
    v_parameterization: bool | None = knob(
        None, "Whether the checkpoint predicts v rather than noise. Empty: as the .yaml beside it or the "
        "file itself says; else SD 2.x is tried, and others predict noise.", group="model")  # fmt: skip
    zero_terminal_snr: bool | None = knob(
        None, "Whether noise is all there is at the last timestep, which frees very dark and bright "
        "pictures, with models that predict v. Empty: as the file's entry ztsnr or its scheduler says. For "
        "pictures in a WebUI set its noise schedule.", group="model")  # fmt: skip
    clip_skip: int | None = knob(
        None, "Take the text encoder's n-th layer from the end, as the WebUI's setting of that name. Empty "
        "or 1: the last. SD 1.x only, for others have a layer that is always taken.", group="model", low=1,
        high=12)  # fmt: skip
    max_token_length: int = knob(
        75, "Tokens of a caption that are read; more than 75 go through the text encoder in chunks.",
        group="model", choices=(75, 150, 225))  # fmt: skip
    quantized_base: str | None = knob(
        None, "Keep the frozen UNet's matrices in fewer bits than mixed_precision: fp8 in half of bf16's "
        "memory, int8 in the same and closer, nf4 (QLoRA) in a quarter. Not in the WebUI, whose own settings "
        "say it; int8 and nf4 need the package bitsandbytes.", group="memory",
        choices=("fp8", "int8", "nf4"))  # fmt: skip
    quantized_text_encoder: bool = knob(
        False, "Keep the text encoders' matrices as quantized_base says, too.", group="memory"
    )
    no_half_vae: bool = knob(
        False, "Run the autoencoder in float32, where mixed_precision has the rest in half precision; by "
        "itself that is done only where it overflows in float16.", group="memory")  # fmt: skip
    weighted_captions: bool = knob(
        False, "Read (tag:1.2), (tag), [tag] and BREAK in captions as the WebUI does in prompts; brackets "
        "that belong to a tag are then written \\( and \\). Where tags are shuffled, no comma may stand "
        "between brackets.", group="model")  # fmt: skip

    def check(self) -> list[str]:
        files, strengths = len(self.base_weights or ()), len(self.base_weights_multiplier or ())
        said = []
        if self.quantized_text_encoder and self.quantized_base is None:
            said.append("quantized_text_encoder = True: expected quantized_base beside it, which says how")
        if strengths > files:
            said.append(f"base_weights_multiplier: expected no more than base_weights has files, {files}")
        return said

    def beneath(self) -> list[tuple[pathlib.Path, float]]:
        """What base_weights has, with its strength."""
        files, strengths = self.base_weights or (), self.base_weights_multiplier or ()
        return [*zip(files, (*strengths, *[1.0] * len(files)), strict=False)]


@dataclasses.dataclass(frozen=True)
class Cond:
    """What the text encoders make of captions, and what else SDXL is told of a picture."""

    context: Tensor  # [B, S, D]
    vector: Tensor | None = None  # [B, V], of the whole caption; None but for SDXL
    # [B, 6] float32: height and width of the picture, top and left of what is shown of it once it is resized,
    # height and width of that (SDXL, arXiv:2307.01952, 2.2). None: it is shown whole and in its size.
    sizes: Tensor | None = None
    # [B, 5, h, w], of a model made for inpainting: 1 where it paints, and the picture's latents with grey
    # there. None: it paints all of it.
    inpaint: Tensor | None = None

    def to(self, like: Tensor) -> Cond:
        sizes = None if self.sizes is None else self.sizes.to(like.device)  # which half precision would round
        context, vector, inpaint = (
            None if value is None else value.to(like) for value in (self.context, self.vector, self.inpaint)
        )
        return Cond(context, vector, sizes, inpaint)

    def around(self, inpaint: Tensor | None) -> Cond:
        """The same of what is painted into pictures, [B, 5, h, w]; None: of whole ones."""
        return self if inpaint is None else dataclasses.replace(self, inpaint=inpaint)

    def of(self, sizes: Tensor) -> Cond:
        """The same of pictures of these sizes, [B, 6], where the model is told of them."""
        return self if self.vector is None else dataclasses.replace(self, sizes=sizes)

    def part(self, which: slice) -> Cond:
        """Of these samples."""
        values = (self.context, self.vector, self.sizes, self.inpaint)
        return Cond(*(None if value is None else value[which] for value in values))

    @staticmethod
    def stack(conds: Sequence[Cond]) -> Cond:
        vectors = [c.vector for c in conds if c.vector is not None]
        return Cond(torch.cat([c.context for c in conds]), torch.cat(vectors) if vectors else None)


def widened(x_t: Tensor, cond: Cond, grey: Callable[[int, int], Tensor]) -> Tensor:
    """What a model made for inpainting is given, [B, 9, h, w].

    Args:
        grey: height and width of latents -> those of a grey picture, [1, 4, h, w].
    """
    beside = cond.inpaint
    if beside is None:
        empty = grey(*x_t.shape[-2:])
        beside = torch.cat([torch.ones_like(empty[:, :1]), empty], 1).expand(len(x_t), -1, -1, -1)
    return torch.cat([x_t, beside.to(x_t)], 1)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a lent model came from, as saved files record it."""

    name: str  # the checkpoint's file name
    old_hash: str | None  # 8 hex digits, see `adapters.file`
    new_hash: str | None  # sha256 of the file
    vae_name: str | None = None
    vae_old_hash: str | None = None
    vae_new_hash: str | None = None
    arch: str = "sd1"  # one of names.ARCHS
    prediction: str = "epsilon"
    last_is_noise: bool = False  # no signal is left at the last step


class Lent(Protocol):
    """A frozen model, for the length of a run."""

    schedule: Schedule
    device: torch.device
    origin: Origin
    vae_id: str  # changes with the autoencoder's weights; part of every cached latent's key
    inpaints: bool  # whether it is made for inpainting, and reads `Cond.inpaint`

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """x_t: [B, 4, h, w]; t: [B] long -> what the model predicts, shaped like x_t."""
        ...

    def encode(self, captions: Sequence[str], *, weighted: bool | None = None) -> Cond:
        """With gradient where adapters on the text encoders train and gradients are on; without `sizes`.

        Args:
            weighted: whether (x:1.2) and the like is emphasis; None: as `Model.weighted_captions` says.
        """
        ...

    def tokens(self, caption: str) -> int:
        """How many tokens a caption has, start and end not counted."""
        ...

    def cut(self, caption: str) -> tuple[str, str]:
        """(what of a caption is read, what is over the limit)."""
        ...

    def vectors(self, text: str) -> dict[str, Tensor]:
        """What the text encoders' tables have for a text's tokens: {part: [T, D]}, float32."""
        ...

    def spoken(
        self, word: str, vectors: Callable[[], Mapping[str, Tensor]] | None
    ) -> contextlib.AbstractContextManager[None]:
        """Inside `with`, text encoders read these vectors, {part: [n, D]}, in place of the tokens of `word`,
        wherever it stands in captions and prompts; the tables are as they were.

        Args:
            vectors: asked whenever a text is read, so that gradients come back to what they are made of;
                None: the word is read by its tokens after all.
        """
        ...

    def encode_images(self, pixels: Tensor, draws: Sequence[torch.Generator] | None = None) -> Tensor:
        """pixels: [B, 3, H, W] in -1..1 -> scaled latents [B, 4, H/8, W/8]; without `draws` the mean."""
        ...

    def sample(self, prompt: Prompt, stepped: Stepped | None = None) -> Image.Image:
        """stepped: called before each call of the denoiser, with the step as `Named.acts` counts them.

        What a person breaks off has HALF in its info.
        """
        ...

    def layers(self) -> list[Layer]: ...

    def checkpoint_blocks(self) -> list[nn.Module]:
        """The blocks whose activations may be computed again in the backward pass."""
        ...

    def rewrite(
        self, changes: Mapping[tuple[str, str, str], Tensor], file: pathlib.Path, dtype: torch.dtype
    ) -> None:
        """The model's file with something added to layers, written as another; a list of models then has it.

        Args:
            changes: (part, path, "weight" or "bias") -> what is added, [out, in, …] or [out], at strength 1.
        """
        ...

    def denoisers(self) -> list[nn.Module]:
        """What `denoise` calls, for torch.compile."""
        ...

    def park(self, part: str) -> None:
        """Move `vae` or `text`, all text encoders, out of the device's memory until it is used again."""
        ...

    def given_back(
        self, waiting: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager[None]:
        """A pause: inside `with` the host has its model to itself. Nothing of ours is on it then; afterwards
        `layers()` may be others, if the model had to be loaded again.

        Args:
            waiting: as for `Host.borrow`, on the way back; where it raises, the host keeps its model.
        """
        ...


class Sketch(Protocol):
    """A model of which all is known but its numbers: its tensors are on the device "meta"."""

    dtype: torch.dtype

    def denoise(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor: ...

    def encode(self, captions: Sequence[str]) -> Cond: ...

    def layers(self) -> list[Layer]: ...

    def checkpoint_blocks(self) -> list[nn.Module]: ...

    def weights(self, parts: Collection[str]) -> list[Tensor]:
        """All that these parts consist of."""
        ...


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where things of this host are kept."""

    loras: pathlib.Path  # results go here by default
    desk: pathlib.Path  # queue, presets, runs' journals
    models: tuple[pathlib.Path, ...] = ()  # where checkpoints lie
    pictures: tuple[pathlib.Path, ...] = ()  # a remote person may read only below these; () = anywhere
    classes: pathlib.Path | None = None  # pictures of the class, a folder a run; None: with the run's records


class Host(Protocol):
    """The place we run in."""

    folders: Folders

    def borrow(
        self, model: Model, *, device: str, precision: str, waiting: Callable[[], None] = lambda: None
    ) -> contextlib.AbstractContextManager[Lent]:
        """Lend the model for `with`; whatever was changed is given back on leaving, also after an error.

        Args:
            device: "auto", "cpu" or "cuda".
            precision: "no", "bf16" or "fp16": what the frozen weights and the arithmetic are in.
            waiting: called before the model is touched, and about twice a second while another has it; may
                raise to give up.

        Raises:
            Mistake: no such file, or not a model this host can train.
        """
        ...

    def sketch(self, model: Model, *, precision: str) -> contextlib.AbstractContextManager[Sketch] | None:
        """The model without its weights, to see what it will need; None where the host cannot."""
        ...

    def header(self) -> dict[str, object]:
        """What is known of the model without loading anything."""
        ...

    def refusals(self, job: object, output: object, place: object) -> list[str]:
        """What cannot work in this host as it stands; nothing is touched."""
        ...

    def announce(self, file: pathlib.Path, job: object, output: object) -> list[str]:
        """After a file was written: what the host does with it, and what its own loader says of it."""
        ...

    def interrogator(self, name: str, *, download: bool) -> Callable[[Image.Image], str]:
        """What says in words what is in a picture, upright and in RGB.

        Args:
            name: "clip" or "deepdanbooru".
            download: it may be fetched from the internet.

        Raises:
            Mistake: this host has none, or it would have to be fetched.
        """
        ...

    def upscaler(self, name: str, *, download: bool) -> Callable[[Image.Image, float], Image.Image]:
        """What enlarges an RGB picture by a factor, or about it.

        Args:
            name: as this host has it.
            download: it may be fetched from the internet.

        Raises:
            Mistake: this host has none of the name, or it would have to be fetched.
        """
        ...

    def inpainter(self, prompt: Prompt, strength: float) -> Callable[[Image.Image, Image.Image], Image.Image]:
        """What fills a hole in an RGB picture, given with it as white on black, with what a prompt says.

        Args:
            strength: 0 to 1, how far it goes from what is around the hole.

        Raises:
            Mistake: this host has none.
        """
        ...

    def wrote(self, files: Sequence[pathlib.Path]) -> list[str]:
        """After a tool wrote files, of whatever kind: into the host's lists; sentences for the person."""
        ...
