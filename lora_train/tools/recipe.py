"""Recipes: which ranks of a file are worth keeping, over all of its layers, in resize_lora's words.

A rank's score is log10 of its singular value, less the weighted mean of log10 of what it is compared with.
https://github.com/elias-gaeros/resize_lora
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lora_train.errors import Mistake
from lora_train.tools.base import Base
from lora_train.tools.singular import Singular, of_matrix
from lora_train.values import shown

MEBIBYTE = 1 << 20
USUAL = "fro_ckpt=1,thr=-3.5"
Reference = Callable[[Singular, "Tensor | None"], "Tensor | float"]


def _subspace(found: Singular, weight: Tensor) -> Tensor:
    """What the model's own weight does along each rank's two vectors."""
    along = ((found.right.to(weight) @ weight.t()) * found.left.t().to(weight)).sum(1)
    return along.abs().double().cpu().clamp(min=1e-30)


REFERENCES: dict[str, Reference] = {  # weight: [out, in * kernel] of the model's layer, or None
    "spn_ckpt": lambda found, weight: float(of_matrix(weight, 1).values[0]),
    "fro_ckpt": lambda found, weight: float(weight.norm()),
    "subspace": _subspace,
    "spn_lora": lambda found, weight: float(found.values[0]),
    "fro_lora": lambda found, weight: math.sqrt(found.square),
    "params": lambda found, weight: float(sum(sides(found))),
}
ON_MODEL = ("spn_ckpt", "fro_ckpt", "subspace")


def sides(found: Singular) -> tuple[int, int]:
    """Outputs, and inputs times kernel."""
    return found.left.shape[0], found.right.shape[1]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What ranks are compared with, and where the line is drawn: at a score, or at a size of the file."""

    weights: Mapping[str, float]  # of REFERENCES, 1 in sum
    threshold: float | None = None  # keep ranks of at least this score
    size: float | None = None  # of all that is kept, MiB
    rescale: float = 1.0  # times what is kept

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """E.g. "fro_ckpt=0.8,params=0.2,size=50"; a name alone weighs 1.

        Raises:
            ValueError: it is not written so.
        """
        weights: dict[str, float] = {}
        own: dict[str, float] = {}
        for word in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = word.partition("=")
            known = weights if name in REFERENCES else own
            if name not in REFERENCES and name not in ("thr", "size", "rescale"):
                raise ValueError(
                    f"{shown(word)}: expected one of {', '.join(REFERENCES)}, thr, size, rescale"
                )
            if name in known:
                raise ValueError(f"{shown(name)} stands twice; expected it once")
            try:
                known[name] = float(value) if equals or known is own else 1.0
            except ValueError:
                raise ValueError(f"{shown(word)}: expected a number, such as {name}=1") from None
            if not math.isfinite(known[name]):
                raise ValueError(f"{shown(word)}: expected a finite number")
        total = sum(weights.values())
        if not total:
            raise ValueError(f"expected something to compare with, one of {', '.join(REFERENCES)}")
        if ("thr" in own) == ("size" in own):
            raise ValueError("expected one of thr=SCORE and size=MIB, such as thr=-3.5 or size=32")
        if own.get("size", 1.0) <= 0 or not own.get("rescale", 1.0):
            raise ValueError("expected a size above 0, and a rescale other than 0")
        shares = {name: value / total for name, value in weights.items() if value}
        return cls(shares, own.get("thr"), own.get("size"), own.get("rescale", 1.0))

    @property
    def needs_base(self) -> bool:
        return any(name in self.weights for name in ON_MODEL)

    @property
    def name(self) -> str:
        """For a file, as resize_lora names its."""
        words = [f"{name.replace('_', '')}{number(value)}" for name, value in sorted(self.weights.items())]
        words += [f"scale{number(self.rescale)}"] * (self.rescale != 1)
        words += [f"size{number(self.size)}"] if self.size is not None else []
        return "_".join([*words, *([f"th{number(self.threshold)}"] if self.threshold is not None else [])])

    def scores(self, found: Singular, key: str, base: Base | None) -> Tensor:
        """[count], from the largest singular value on; of a model's own comparison, not in order.

        Raises:
            Mistake: the checkpoint has no such layer.
        """
        made = found.values.clamp(min=1e-30).log10() + math.log10(abs(self.rescale))
        weight = None
        if self.needs_base:
            if base is None or key not in base.weights:
                raise Mistake(
                    f"base = {base and base.path}: has no {key}; name the checkpoint it was made for"
                )
            weight = base.weight(key).to(found.left).flatten(1)
            if tuple(weight.shape) != sides(found):
                raise Mistake(
                    f"base = {base.path}: {key} has another shape; name the checkpoint it was made for"
                )
        for name, share in self.weights.items():
            there = REFERENCES[name](found, weight)
            there = there.log10() if isinstance(there, Tensor) else math.log10(max(there, 1e-30))
            made = made - share * there
        return made

    def line(self, scores: Sequence[Tensor], costs: Sequence[int]) -> float:
        """The least score that is kept.

        Args:
            scores: of each layer's ranks.
            costs: bytes of one rank of each layer.
        """
        if self.threshold is not None:
            return self.threshold
        every = torch.cat([*scores])
        bytes_ = torch.cat(
            [torch.full((len(s),), c, dtype=torch.float64) for s, c in zip(scores, costs, strict=True)]
        )
        order = every.argsort(descending=True, stable=True)
        fits = int((bytes_[order].cumsum(0) <= self.size * MEBIBYTE).sum())
        if fits == len(every):
            return -math.inf
        return float(every[order[fits - 1]]) if fits else math.inf


def number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def recipes(text: str) -> list[Recipe]:
    """Several with : between.

    Raises:
        ValueError: one of them is none.
    """
    return [Recipe.parse(part) for part in text.split(":")]
