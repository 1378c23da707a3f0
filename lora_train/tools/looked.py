"""What a file of adapters holds, layer by layer: form, rank, norm, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lora_train.adapters.file import fault
from lora_train.blocks import region
from lora_train.errors import Mistake
from lora_train.plots.grid import FONT, INK, PAPER
from lora_train.tools.base import Base
from lora_train.tools.opened import Change, Opened
from lora_train.tools.programs import forms
from lora_train.tools.tool import Told, unheard

RANKS = {  # a tensor -> its axis that is the rank
    "lora_down.weight": 0, "hada_w1_b": 0, "lokr_w2_b": 0, "lokr_w1_b": 0, "a1.weight": 0, "vera_d": 0,
    "tied_u": 0,
}  # fmt: skip
HEADS = (  # tensors that start at zero, by which a layer has not learned
    "lora_up.weight", "hada_w2_a", "lokr_w2", "lokr_w2_b", "weight", "oft_blocks", "diff", "w_norm",
)  # fmt: skip
BAR, ROW, MARGIN, SIZE = 360, 22, 12, 13  # pixels
COLOUR = (33, 102, 172)


@dataclasses.dataclass(frozen=True)
class Look:
    """A layer."""

    key: str
    block: str
    form: str
    rank: int | None
    alpha: float | None
    shape: tuple[int, ...] | None  # of the weight, where the file or a checkpoint tells
    norm: float | None  # Frobenius norm of what is added at strength 1, where it can be told
    share: float | None = None  # of the norm of the checkpoint's weight
    fault: str = ""  # what no layer should have
    zero: bool = False  # nothing is added

    def facts(self) -> dict[str, object]:
        return dataclasses.asdict(self)


@torch.no_grad()
def looked(file: Opened, base: Base | None = None, device: str = "cpu", told: Told = unheard) -> list[Look]:
    """Every layer, in the file's order. What is damaged is told, and nothing is raised for it."""
    named = forms(file)
    found = []
    for number, key in enumerate(file.layers):
        found.append(_look(file, key, str(named[key]), base, device))
        told(number + 1, len(file.layers))
    return found


def _look(file: Opened, key: str, form: str, base: Base | None, device: str) -> Look:
    held = file.layers[key]
    own = dict(zip(held.names, _stored(file, held.names), strict=True))
    alpha = own.get("alpha")
    there = Look(
        key, region(held.part, held.path, file.arch), form, _rank(own),
        float(alpha) if alpha is not None and alpha.numel() == 1 else None, None, None)  # fmt: skip
    wrong = next((f"{name} {reason}" for name, tensor in own.items() if (reason := fault(name, tensor))), "")
    if wrong:
        return dataclasses.replace(there, fault=wrong)
    heads = [tensor for name, tensor in own.items() if name in HEADS]
    still = bool(heads) and not any(bool(tensor.any()) for tensor in heads) and "dora_scale" not in own
    if file.needs_base(key) and base is None:
        return dataclasses.replace(there, zero=still)
    try:
        change = file.change(key, base, device)
    except Mistake as e:
        return dataclasses.replace(there, fault=str(e).removeprefix(f"{file.path}: "), zero=still)
    norm, share = _norm(change), None
    if not math.isfinite(norm):
        return dataclasses.replace(there, shape=change.shape, fault="adds more than numbers can hold")
    if base is not None and key in base.weights:
        length = float(base.weight(key).norm())
        share = norm / length if length else None
    return dataclasses.replace(there, shape=change.shape, norm=norm, share=share, zero=norm == 0)


def _stored(file: Opened, names: Mapping[str, str]) -> list[Tensor]:
    """A layer's tensors as they are, also where they are none of an adapter."""
    return [tensor for at in names.values() for _, tensor in file.weights.read([at])]


def _norm(change: Change) -> float:
    if change.thin is None:
        return float(change.matrix().norm())
    up, down = (factor.double() for factor in change.thin)  # of the product, without making it
    return float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0).sqrt())


def _rank(own: Mapping[str, Tensor]) -> int | None:
    return next(
        (own[name].shape[axis] for name, axis in RANKS.items() if name in own and own[name].ndim), None
    )


def by_block(looks: Sequence[Look]) -> dict[str, float]:
    """Block -> norm of all that is added there."""
    found: dict[str, float] = {}
    for look in looks:
        if look.norm is not None:
            found[look.block] = found.get(look.block, 0.0) + look.norm**2
    return {block: found[block] ** 0.5 for block in sorted(found, key=_place)}


def _place(block: str) -> tuple[int, str]:
    """Text encoders first, then down, middle, up, and what is in no block."""
    order = next(
        (i for i, lead in enumerate(("te", "time", "label", "IN", "M", "OUT")) if block.startswith(lead)), 6
    )
    return order, block


def bars(blocks: Mapping[str, float], title: str) -> Image.Image:
    """Norms by block as a picture."""
    font = ImageFont.truetype(str(FONT), SIZE)
    side = int(max(map(font.getlength, blocks), default=0)) + 2 * MARGIN
    width = max(side + BAR + 6 * SIZE, int(font.getlength(title)) + 2 * MARGIN)
    paper = Image.new("RGB", (width, 2 * MARGIN + ROW * (len(blocks) + 1)), PAPER)
    pen = ImageDraw.Draw(paper)
    pen.text((MARGIN, MARGIN), title, INK, font)
    most = max(blocks.values(), default=0.0) or 1.0
    for row, (block, norm) in enumerate(blocks.items(), 1):
        y = MARGIN + row * ROW
        pen.text((side - MARGIN, y + ROW / 2), block, INK, font, anchor="rm")
        end = side + BAR * norm / most
        pen.rectangle((side, y + 3, max(end, side + 1), y + ROW - 3), COLOUR)
        pen.text((end + 6, y + ROW / 2), f"{norm:.3g}", INK, font, anchor="lm")
    return paper
