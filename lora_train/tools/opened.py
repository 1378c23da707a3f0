"""Opened: a file of adapters, read layer by layer, and what it does to each layer."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lora_train.adapters.file import OURS, fault, told, told_by
from lora_train.adapters.kept import Kept, parted
from lora_train.adapters.layer import Layer
from lora_train.adapters.spelled import opened
from lora_train.errors import Mistake
from lora_train.names import ARCHS, path_of
from lora_train.tools.base import Base

CONVOLUTION = re.compile(r"(in_layers\.2|out_layers\.3|\.op|\.conv|input_blocks\.0\.0|(?<![\w.])out\.2)$")
POINT = re.compile(r"(skip_connection|proj_in|proj_out)$")
TELLING = ("te2", "input_blocks", "output_blocks")  # words that only SDXL's keys have
DEEP = re.compile(r"lora_te1?_text_model_encoder_layers_(1[2-9]|2\d)_")  # layers that SD 1.x has not
CAPTIONED = "attn2_to_k.lora_down.weight"
WIDE, WIDEST = 1024, 2048  # of SD 2.x' captions, and of SDXL's; 768 of SD 1.x'


@dataclasses.dataclass(frozen=True)
class Change:
    """What a file adds to a layer at strength 1; times m at strength m. float32."""

    shape: tuple[int, ...]  # of the layer's weight
    thin: tuple[Tensor, Tensor] | None = None  # up [out, rank] and down [rank, in * kernel], if any
    whole: Tensor | None = None  # else what is added, shaped as the layer's weight
    bias: Tensor | None = None  # what the layer's bias gains

    def matrix(self) -> Tensor:
        """[out, in * kernel], or [channels] of a norm."""
        if self.thin is not None:
            return self.thin[0] @ self.thin[1]
        return self.whole.flatten(1) if self.whole.ndim > 1 else self.whole

    def fits(self) -> bool:
        """Whether it is of the layer's shape."""
        if self.thin is None:
            return tuple(self.whole.shape) == self.shape
        up, down = self.thin
        sides = up.shape[0], up.shape[1], down.shape[1]
        return sides == (self.shape[0], len(down), math.prod(self.shape[1:]))


@dataclasses.dataclass(frozen=True)
class Held:
    """A layer that a file has something for."""

    part: str
    path: str  # in the house's language, see names.py
    names: dict[str, str]  # a tensor's name within the layer -> its key as kohya's files have it


class Opened:
    """A file of adapters of any family, in any spelling that we read.

    Raises:
        Mistake: it is something else, or damaged; the message says what it is.
    """

    def __init__(self, path: pathlib.Path):
        self.path, self.weights = path, opened(path)
        self.metadata = self.weights.metadata
        self.spelled = self.weights.names  # a key as kohya's files have it -> its key in this one
        if (kind := told(self.spelled)) != OURS:
            known = ", ".join(arch.said for arch in ARCHS.values())
            raise Mistake(f"{path}: expected a LoRA for {known}; this is {kind}")
        self.arch = self._arch()
        self.layers: dict[str, Held] = {}  # key of a layer, "unet.input_blocks.0.0" -> what there is for it
        self.rest: dict[str, str] = {}  # what is for no layer that we know: learned words, and others
        for key, there in self.spelled.items():
            module, _, own = key.partition(".")
            if (place := path_of(module, self.arch)) is None:
                self.rest[key] = there
            else:
                held = self.layers.setdefault(".".join(place), Held(*place, {}))
                if own in held.names:
                    raise Mistake(
                        f"{path}: {held.names[own]} and {key} are for the same layer; the file is damaged"
                    )
                held.names[own] = key

    def _arch(self) -> str:
        """The architecture it was made for: by its keys, and of SD 1.x and 2.x by widths."""
        modules = {key.partition(".")[0] for key in self.spelled}
        known = {arch: sum(path_of(module, arch) is not None for module in modules) for arch in ARCHS}
        words = any(word in key for key in modules for word in TELLING)
        said = self.metadata.get("ss_base_model_version", "")
        told = words and known["sdxl"] == known["sd1"] and not said.startswith("sd_v")
        if known["sdxl"] > known["sd1"] or told or self._captions() == WIDEST:
            return "sdxl"
        deep = any(DEEP.match(module) for module in modules)
        return "sd2" if deep or self._captions() == WIDE or said.startswith("sd_v2") else "sd1"

    def _captions(self) -> int | None:
        """How wide those of the model are, where a LoRA tells."""
        return next((self.weights.shapes[key][1] for key in self.spelled if key.endswith(CAPTIONED)), None)

    @property
    def dtype(self) -> torch.dtype:
        """The one that most of its tensors have."""
        found = [d for name, d in self.weights.dtypes.items() if len(self.weights.shapes[name]) > 1]
        return max(set(found), key=found.count) if found else torch.float32

    def read(self, key: str) -> dict[str, Tensor]:
        """What the file has for a layer, as stored: name within the layer -> tensor.

        Raises:
            Mistake: a tensor is none of a LoRA, or holds NaN or infinity.
        """
        names = {there: own for own, there in self.layers[key].names.items()}
        found = {names[there]: tensor for there, tensor in self.weights.read(names)}
        for own, tensor in found.items():
            if reason := fault(own, tensor):
                raise Mistake(f"{self.path}: {key} {own} {reason}; the file is damaged, or its training was")
        return found

    def needs_base(self, key: str) -> bool:
        """Whether what is added follows from the layer's own weight as well."""
        own = self.layers[key].names
        return "dora_scale" in own or told_by(own).of_weight

    @torch.no_grad()
    def change(self, key: str, base: Base | None = None, device: str = "cpu") -> Change:
        """What the file does to a layer.

        Args:
            base: the checkpoint that it was made for; asked for layers that `needs_base`.

        Raises:
            Mistake: it is needed and not given, or not of this file's shapes.
        """
        own = {name: tensor.to(device) for name, tensor in self.read(key).items()}
        name = f"{self.path}: {key}"
        try:
            made = changed(self._layer(key, own, base, device), own, name)
        except torch.cuda.OutOfMemoryError:
            raise
        except (LookupError, ArithmeticError, TypeError, RuntimeError) as e:  # what torch says of such shapes
            there = ", ".join(f"{n} {'x'.join(map(str, t.shape)) or 1}" for n, t in own.items())
            raise Mistake(f"{name}: tensors that do not fit together ({there}); the file is damaged") from e
        if not made.fits():
            raise Mistake(f"{name}: made for another model, or damaged: it is not for {made.shape}")
        return made

    def _layer(self, key: str, own: Mapping[str, Tensor], base: Base | None, device: str) -> Layer:
        held, weight = self.layers[key], None
        if base is not None and (key in base.weights or self.needs_base(key)):
            if key not in base.weights:
                raise Mistake(f"{self.path}: made for another model: {base.path} has no {key}")
            shape = base.shapes[key]
            weight = base.weight(key).to(device) if self.needs_base(key) else None
        elif self.needs_base(key):
            raise Mistake(
                f"{self.path}: what its {type(told_by(own)).__name__} adds depends on the model's own "
                "weights; name the checkpoint that it was made for as well"
            )
        else:
            shape = shape_of(own, held.path, self.arch, f"{self.path}: {key}")
        return layer(held.part, held.path, self.arch, shape, weight)


def changed(at: Layer, own: Mapping[str, Tensor], name: str = "the file") -> Change:
    """What tensors do to a layer.

    Raises:
        Mistake: they do not fit it.
    """
    mine, kept = parted({n: t.float() if t.is_floating_point() else t for n, t in own.items()})
    try:
        with torch.random.fork_rng(devices=[]):  # adapters draw numbers before they hold what is read
            adapter = told_by(own).hold(at, mine).to(next(iter(own.values())).device)
        before = None
        if kept:
            before = Kept(at)
            before.load(kept, next(iter(kept.values())).device)
    except ValueError as e:
        raise Mistake(f"{name}: made for another model, or damaged: {e}") from e
    thin = adapter.thin()
    if before is not None and thin is not None:
        more = before.thin
        thin = more and (torch.cat([thin[0], more[0]], 1), torch.cat([thin[1], more[1]]))
    if thin is not None:
        return Change(at.shape, (thin[0].detach(), thin[1].detach()), None, adapter.bias())
    whole = adapter.delta() if before is None else adapter.delta() + before.delta()
    return Change(at.shape, None, whole.detach(), adapter.bias())


def layer(part: str, path: str, arch: str, shape: tuple[int, ...], weight: Tensor | None = None) -> Layer:
    """One without a model around it; without a weight it only knows its shape."""
    with torch.device("meta"):
        if len(shape) == 1:
            module: nn.Module = nn.GroupNorm(1, *shape)
        elif len(shape) == 2:
            module = nn.Linear(shape[1], shape[0], bias=False)
        else:
            module = nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
    if weight is not None:
        module.weight = nn.Parameter(weight, requires_grad=False)
    return Layer(part, path, module.requires_grad_(False), arch)


def kernel(path: str, arch: str) -> tuple[int, ...]:
    """Of a layer; () of a linear one."""
    if CONVOLUTION.search(path):
        return (3, 3)
    if path.endswith("skip_connection") or (arch == "sd1" and POINT.search(path)):
        return (1, 1)
    return ()


def shape_of(own: Mapping[str, Tensor], path: str, arch: str, of: str = "the file") -> tuple[int, ...]:
    """Of a layer's weight, from the tensors that a file has for it.

    Args:
        of: the file and the layer, for complaints.

    Raises:
        Mistake: they do not tell.
    """
    for name in ("diff", "w_norm"):
        if name in own:
            return tuple(own[name].shape)
    for mark, sides in SIDES.items():
        if mark in own:
            out, inn, middle = sides(own)
            if middle is not None:
                return (out, inn, *middle.shape[2:])
            side = kernel(path, arch)
            return (out, inn // math.prod(side), *side)
    raise Mistake(f"{of}: what there is for it does not tell its shape; name the checkpoint as well")


Sides = tuple[int, int, "Tensor | None"]  # outputs, inputs times kernel; and what has a kernel of its own


def _lora(own: Mapping[str, Tensor]) -> Sides:
    down = own["lora_down.weight"].flatten(1)
    return len(own["lora_up.weight"]), down.shape[1], own.get("lora_mid.weight")


def _loha(own: Mapping[str, Tensor]) -> Sides:
    middle = own.get("hada_t1")
    out = own["hada_w1_a"].shape[0 if middle is None else 1]
    return out, own["hada_w1_b"].shape[1], middle


def _lokr(own: Mapping[str, Tensor]) -> Sides:
    middle = own.get("lokr_t2")
    (a, c), (b, d) = _matrix(own, "lokr_w1"), _matrix(own, "lokr_w2", turned=middle is not None)
    return a * b, c * d, middle


def _matrix(own: Mapping[str, Tensor], name: str, *, turned: bool = False) -> tuple[int, int]:
    if name in own:
        out, inn = own[name].flatten(1).shape
    else:
        out, inn = own[f"{name}_a"].shape[1 if turned else 0], own[f"{name}_b"].shape[1]
    return out, inn


SIDES = {
    "lora_down.weight": _lora, "hada_w1_b": _loha,
    **dict.fromkeys(("lokr_w1", "lokr_w1_a", "lokr_w2", "lokr_w2_a"), _lokr),
}  # fmt: skip
