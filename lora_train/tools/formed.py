"""Formed: a layer's tensors of any family as a plain LoRA, or as the whole difference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train.adapters import kept
from lora_train.adapters.lora import MID, UP
from lora_train.adapters.spelled import MAGNITUDES
from lora_train.tools.opened import Change
from lora_train.tools.singular import balanced, lora, of_factors, of_matrix

Form = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Formed:
    """Tensors, and what they lack."""

    form: Form
    missing: float = 0.0  # Frobenius norm of what is not in them
    norm: float = 0.0  # of what there was


def whole(change: Change) -> Form:
    """What is added, as the WebUI reads it where it is no product."""
    if len(change.shape) == 1:
        bias = torch.zeros_like(change.whole) if change.bias is None else change.bias
        return {"w_norm": change.whole, "b_norm": bias}
    found = {"diff": change.matrix().view(change.shape)}
    return found if change.bias is None else {**found, "diff_b": change.bias}


@torch.no_grad()
def as_lora(change: Change, own: Mapping[str, Tensor], rank: int | None = None) -> Formed:
    """A LoRA, exact where what is added is of a rank at which a LoRA is smaller; else, without `rank`, whole.
    Norms, and what changes a bias too, stay whole: no LoRA has them.

    Args:
        own: the layer's tensors in its own family.
        rank: the largest; the nearest of it is taken where an exact one is larger.
    """
    if len(change.shape) == 1 or change.bias is not None:
        return Formed(whole(change))
    out, inn = change.shape[0], math.prod(change.shape[1:])
    most, limit = out * inn / (out + inn), rank or math.inf
    if change.thin is not None:
        up, down = change.thin
        if len(down) <= limit and (len(down) <= most or rank):
            return Formed(lora(*balanced(up, down), change.shape))
        found = of_factors(up, down) if rank else None
    else:
        exact = bound(own)
        if exact is not None and exact <= min(most, limit):
            return Formed(lora(*of_matrix(change.matrix(), exact).cut(exact), change.shape))
        found = of_matrix(change.matrix(), min(rank, out, inn)) if rank else None
    if found is None:
        return Formed(whole(change))
    made = lora(*found.cut(rank), change.shape)
    return Formed(made, found.missing(rank), math.sqrt(found.square))


def bound(own: Mapping[str, Tensor]) -> int | None:
    """A rank that what is added cannot exceed, by the shapes of its factors; None where they set none."""
    if MAGNITUDES in own or any(name in own for name in (kept.UP, kept.WHOLE)):
        return None
    if MID in own:
        return own[UP].shape[1]
    if "hada_w1_b" in own and "hada_t1" not in own:
        return len(own["hada_w1_b"]) * len(own["hada_w2_b"])
    if {"lokr_w1_b", "lokr_w2_b"} <= own.keys() and "lokr_t2" not in own:
        return len(own["lokr_w1_b"]) * len(own["lokr_w2_b"])
    return None
