"""Bake: strengths that are worked into a layer's tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train.adapters.lora import DOWN
from lora_train.adapters.spelled import ALPHA, MAGNITUDES

Form = dict[str, Tensor]
RANKED = (DOWN, "hada_w1_b")  # whose rows are the rank that alpha is taken over
FACTORS: tuple[tuple[str, ...], ...] = (  # what is added is proportional to these, each family's together
    ("lokr_w1",), ("lokr_w1_a",), ("diff", "diff_b"), ("w_norm", "b_norm"), ("weight",),
    ("a2.weight", "b2.weight"),
)  # fmt: skip
KEPT = ("kept_up", "kept_whole")  # of a run that merged its adapters and went on
OTHER = (MAGNITUDES, "scale")  # with which what is added is no multiple of alpha, or of a factor


def baked(own: Mapping[str, Tensor], times: float) -> Form | None:
    """A layer's tensors, which add `times` as much as they did; None where no tensors of their family do.

    Alpha takes it wherever there is one, so that nothing is rounded.
    """
    if times == 1:
        return {**own}
    if any(name in own for name in OTHER):
        return None
    found = _by_alpha(own, times) or _by_factor(own, times)
    return found and {**found, **{name: _times(own[name], times) for name in KEPT if name in own}}


def _by_alpha(own: Mapping[str, Tensor], times: float) -> Form | None:
    for name in RANKED:
        if name in own:
            alpha = own[ALPHA].float() if ALPHA in own and own[ALPHA] else torch.tensor(float(len(own[name])))
            return {**own, ALPHA: alpha * times}
    return None


def _by_factor(own: Mapping[str, Tensor], times: float) -> Form | None:
    for names in FACTORS:
        if names[0] in own:
            return {**own, **{name: _times(own[name], times) for name in names if name in own}}
    return None


def _times(tensor: Tensor, times: float) -> Tensor:
    """In float where the file's own precision has no numbers so large."""
    product = tensor.float() * times
    made = product.to(tensor.dtype)
    return made if bool(made.isfinite().all()) else product
