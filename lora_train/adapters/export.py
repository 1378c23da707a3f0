"""Export: a network whose own tensors no WebUI reads, as tensors that every one does."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train.adapters.family import Adapter
from lora_train.adapters.kept import Kept
from lora_train.adapters.network import Network
from lora_train.adapters.principal import narrowed, principal
from lora_train.adapters.thin import ALPHA, DOWN, UP, factors
from lora_train.names import file_key

DIFF = "diff"
Tensors = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Readable:
    """What the stock WebUI reads."""

    tensors: Tensors  # under the keys of a file
    forms: tuple[Mapping[str, Tensor], ...]  # of each layer
    off: tuple[float, float]  # squares of what is missing, and of what there is
    worst: tuple[float, str]  # share of a layer that is missing, and which

    def texts(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """The metadata of a file of them, made from that of the network's own."""
        sizes = {(len(form[DOWN]), float(form[ALPHA])) if DOWN in form else None for form in self.forms}
        dim, alpha = next(iter(sizes)) if len(sizes) == 1 and None not in sizes else ("Dynamic", "Dynamic")
        whole = any(DIFF in form for form in self.forms)
        plain = all(form.keys() <= {DOWN, UP, ALPHA} for form in self.forms)
        made: dict[str, object] = {
            "from": metadata.get("ss_network_module"),
            "arguments": metadata.get("ss_network_args"),
            "error": 0.0,
        }
        if self.off[0]:
            made.update(error=_digits(math.sqrt(self.off[0] / self.off[1])), largest=_digits(self.worst[0]))
            made["largest_in"] = self.worst[1]
        found = {
            **metadata,
            "ss_network_module": "networks.lora" if plain else "lycoris.kohya",
            "ss_network_dim": str(dim),
            "ss_network_alpha": str(alpha),
            "lora_train_export": json.dumps({k: v for k, v in made.items() if v is not None}),
        }
        found.pop("ss_network_args", None)
        if not plain:
            found["ss_network_args"] = json.dumps({"algo": "full" if whole else "locon"})
        return found


def made_from(texts: Mapping[str, str]) -> str | None:
    """The network_module of what a file of such tensors was made from; None of any other file."""
    try:
        found = json.loads(texts.get("lora_train_export", "{}"))
    except ValueError:
        return None
    return found.get("from") if isinstance(found, dict) else None


@torch.no_grad()
def readable(network: Network, rank: int | None = None) -> Readable | None:
    """The network as plain LoRA where what it adds is of low rank, else as whole differences.

    Args:
        rank: of a LoRA that is to be as near as it can where an exact one is of a larger rank.

    Returns:
        None where the network's own tensors are read by every WebUI.
    """
    tensors: Tensors = {}
    forms: list[Tensors] = []
    lost = there = 0.0
    worst, changed = (0.0, ""), False
    for key, layer in network.layers.items():
        adapter = network.adapters[key]
        before = network.before(key)
        cut = None if rank is None or before is not None else adapter.cut(rank)
        exact = None if cut is not None else adapter.plain() if before is None else _all(adapter, before)
        changed |= (exact or cut) is not None
        if exact is None:
            form = cut or adapter.tensors()
        elif rank is None:
            form = _smaller(exact, layer.shape)
        else:
            form, missing, norm = _near(exact, layer.shape, rank)
            lost, there = lost + missing**2, there + norm**2
            worst = max(worst, (missing / norm if norm else 0.0, key))
        forms.append(form)
        own = file_key(layer.part, layer.path, layer.arch)
        tensors.update({f"{own}.{name}": tensor for name, tensor in form.items()})
    return Readable(tensors, tuple(forms), (lost, there), worst) if changed else None


def _all(adapter: Adapter, before: Kept) -> Tensors:
    """What an adapter adds, and those that were there before it."""
    mine, theirs = adapter.thin(), before.thin
    if mine is None or theirs is None:
        return {DIFF: (adapter.delta() + before.delta()).detach()}
    up, down = torch.cat([theirs[0], mine[0]], 1), torch.cat([theirs[1], mine[1]])
    return factors(up, down, adapter.layer.shape, len(down))


def _product(form: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A LoRA's factors, with its scale in the first."""
    scale = float(form[ALPHA]) / len(form[DOWN])
    return scale * form[UP].flatten(1).float(), form[DOWN].flatten(1).float()


def _smaller(form: Tensors, shape: tuple[int, ...]) -> Tensors:
    """A LoRA that is larger than what it makes, as that."""
    if DOWN not in form or form[DOWN].numel() + form[UP].numel() <= math.prod(shape):
        return form
    up, down = _product(form)
    return {**{k: v for k, v in form.items() if k not in (DOWN, UP, ALPHA)}, DIFF: (up @ down).view(shape)}


def _near(form: Tensors, shape: tuple[int, ...], rank: int) -> tuple[Tensors, float, float]:
    """A LoRA of at most a rank; the norm of what is missing in it, and of what was there."""
    if DOWN in form:
        up, down = _product(form)
        norm = _norm(up, down)
        if len(down) <= rank:
            return form, 0.0, norm
        less = narrowed(up, down, rank)
    elif DIFF in form:
        whole = form[DIFF].flatten(1).float()
        norm, rank = float(whole.norm()), min(rank, *whole.shape)
        less = principal(whole, rank)
    else:
        return form, 0.0, 0.0
    # what is nearest is at a right angle to what is missing
    missing = math.sqrt(max(norm**2 - _norm(*less) ** 2, 0.0))
    rest = {k: v for k, v in form.items() if k not in (DOWN, UP, ALPHA, DIFF)}
    return {**rest, **factors(*less, shape, len(less[1]))}, missing, norm


def _norm(up: Tensor, down: Tensor) -> float:
    """Of their product, which is never made."""
    return float(((up.t() @ up) * (down @ down.t())).sum().clamp(min=0).sqrt())


def _digits(value: float) -> float:
    return float(f"{value:.3g}")
