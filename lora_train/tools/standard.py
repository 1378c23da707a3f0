"""Layers of SD 1.x, SD 2.x and SDXL with their shapes, and how a LoRA file fits them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping

import torch

from lora_train.errors import Mistake
from lora_train.names import ARCHS, path_of
from lora_train.tools.opened import Opened, shape_of

Shapes = dict[str, tuple[int, ...]]
Rows = Iterator[tuple[str, tuple[int, ...]]]

WIDTH = 320  # channels at the finest resolution


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What sets an architecture's layers apart in number and width."""

    depths: tuple[int, ...]  # transformer blocks of an attention, at each resolution from the finest; 0: none
    times: tuple[int, ...]  # channels there, in WIDTH
    context: int  # width of captions
    texts: dict[str, tuple[int, int]]  # text encoder -> its layers that captions come through, its width
    vector: int = 0  # numbers that tell the denoiser of text and size as a whole


SIZES = {
    "sd1": Sizes((1, 1, 1, 0), (1, 2, 4, 4), 768, {"te1": (12, 768)}),
    "sd2": Sizes((1, 1, 1, 0), (1, 2, 4, 4), 1024, {"te1": (23, 1024)}),
    "sdxl": Sizes((0, 2, 10), (1, 2, 4), 2048, {"te1": (12, 768), "te2": (32, 1280)}, 2816),
}


@functools.cache
def layers(arch: str) -> Shapes:
    """Key of a layer, "unet.input_blocks.0.0" -> the shape of its weight; norms too, embeddings not."""
    of = SIZES[arch]
    found = {f"unet.{path}": shape for path, shape in _unet(of, linear=arch != "sd1")}
    for part, (count, wide) in of.texts.items():
        found |= {f"{part}.{path}": shape for path, shape in _text(count, wide)}
    return found


def _resnet(at: str, wide: int, out: int, time: int) -> Rows:
    yield f"{at}.in_layers.0", (wide,)
    yield f"{at}.in_layers.2", (out, wide, 3, 3)
    yield f"{at}.emb_layers.1", (out, time)
    yield f"{at}.out_layers.0", (out,)
    yield f"{at}.out_layers.3", (out, out, 3, 3)
    if wide != out:
        yield f"{at}.skip_connection", (out, wide, 1, 1)


def _attention(at: str, wide: int, context: int, depth: int, linear: bool) -> Rows:
    yield f"{at}.norm", (wide,)
    for name in ("proj_in", "proj_out"):
        yield f"{at}.{name}", (wide, wide) if linear else (wide, wide, 1, 1)
    for i in range(depth):
        block = f"{at}.transformer_blocks.{i}"
        for n in (1, 2, 3):
            yield f"{block}.norm{n}", (wide,)
        for name, read in (("attn1", wide), ("attn2", context)):
            yield f"{block}.{name}.to_q", (wide, wide)
            for own in ("to_k", "to_v"):
                yield f"{block}.{name}.{own}", (wide, read)
            yield f"{block}.{name}.to_out.0", (wide, wide)
        yield f"{block}.ff.net.0.proj", (8 * wide, wide)
        yield f"{block}.ff.net.2", (wide, 4 * wide)


def _unet(of: Sizes, *, linear: bool) -> Rows:
    time, levels = 4 * WIDTH, [*zip(of.times, of.depths, strict=True)]
    yield "time_embed.0", (time, WIDTH)
    yield "time_embed.2", (time, time)
    if of.vector:
        yield "label_emb.0.0", (time, of.vector)
        yield "label_emb.0.2", (time, time)
    yield "input_blocks.0.0", (WIDTH, 4, 3, 3)
    wide, passed = WIDTH, [WIDTH]
    for level, (times, depth) in enumerate(levels):
        for _ in range(2):
            at, out = f"input_blocks.{len(passed)}", times * WIDTH
            yield from _resnet(f"{at}.0", wide, out, time)
            if depth:
                yield from _attention(f"{at}.1", out, of.context, depth, linear)
            wide = out
            passed.append(wide)
        if level < len(levels) - 1:
            yield f"input_blocks.{len(passed)}.0.op", (wide, wide, 3, 3)
            passed.append(wide)
    yield from _resnet("middle_block.0", wide, wide, time)
    yield from _attention("middle_block.1", wide, of.context, max(of.depths[-1], 1), linear)
    yield from _resnet("middle_block.2", wide, wide, time)
    for level, (times, depth) in reversed([*enumerate(levels)]):
        for i in range(3):
            at, out = f"output_blocks.{3 * (len(levels) - 1 - level) + i}", times * WIDTH
            yield from _resnet(f"{at}.0", wide + passed.pop(), out, time)
            if depth:
                yield from _attention(f"{at}.1", out, of.context, depth, linear)
            if level and i == 2:
                yield f"{at}.{2 if depth else 1}.conv", (out, out, 3, 3)
            wide = out
    yield "out.0", (wide,)
    yield "out.2", (4, WIDTH, 3, 3)


def _text(count: int, wide: int) -> Rows:
    for i in range(count):
        at = f"encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{at}.self_attn.{name}", (wide, wide)
        yield f"{at}.mlp.fc1", (4 * wide, wide)
        yield f"{at}.mlp.fc2", (wide, 4 * wide)
        for n in (1, 2):
            yield f"{at}.layer_norm{n}", (wide,)


@dataclasses.dataclass(frozen=True)
class Fit:
    """How a file fits a model."""

    fits: tuple[str, ...] = ()  # modules of the file that are layers of the model, of its shape
    strange: tuple[str, ...] = ()  # that are none of its layers
    unlike: tuple[str, ...] = ()  # that are, with another shape

    @property
    def whole(self) -> bool:
        return not self.strange and not self.unlike

    def facts(self) -> dict[str, object]:
        return {"fits": len(self.fits), "strange": [*self.strange], "unlike": [*self.unlike]}


def fitted(file: Opened, arch: str, shapes: Mapping[str, tuple[int, ...]]) -> Fit:
    """How a file fits layers of these shapes. Where its tensors do not tell a shape, the name has to do."""
    owns: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in file.weights.shapes.items():
        module, _, own = key.partition(".")
        owns.setdefault(module, {})[own] = shape
    found: dict[str, list[str]] = {"fits": [], "strange": [], "unlike": []}
    for module, own in owns.items():
        if module.startswith("bundle_emb"):
            continue
        place = path_of(module, arch)
        there = shapes.get(".".join(place)) if place else None
        if there is None:
            found["strange"].append(module)
        else:
            found["fits" if _like(own, place[1], arch, there) else "unlike"].append(module)
    return Fit(**{name: tuple(modules) for name, modules in found.items()})


def _like(own: Mapping[str, tuple[int, ...]], path: str, arch: str, there: tuple[int, ...]) -> bool:
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in own.items()}
    try:
        shape = shape_of(tensors, path, arch)
        return shape[0] == there[0] and math.prod(shape) == math.prod(there)
    except (Mistake, LookupError, ArithmeticError, TypeError, ValueError):  # of kinds that do not tell
        sides = _sides(own)
        return not sides or bool(sides & {there[0], *there[1:2]})


def _sides(own: Mapping[str, tuple[int, ...]]) -> set[int]:
    """Widths of the layer that tensors of a kind which does not tell its shape have all the same."""
    if "weight" in own:  # IA3's, of inputs or outputs
        return {math.prod(own["weight"])}
    if len(own.get("oft_blocks", ())) in (3, 4):
        *_, count, side, _ = own["oft_blocks"]
        return {count * side}
    if "b2.weight" in own:  # GLoRA's, in two layouts
        return {*own["b2.weight"][:2], *own.get("b1.weight", ())[:2]}
    return set()


def matches(file: Opened) -> dict[str, Fit]:
    """Architecture -> how a file fits the models of it that there are."""
    return {arch: fitted(file, arch, layers(arch)) for arch in ARCHS}
