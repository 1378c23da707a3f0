"""Extract: what a fine-tuned checkpoint adds to another one, as a LoRA file."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lora_train.adapters.chosen import ATTENTION, CONVOLUTION, ENDS, NORMS, TEXT
from lora_train.adapters.fourfold import piece
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.names import ARCHS
from lora_train.tools import fitted
from lora_train.tools.base import Base
from lora_train.tools.filed import VERSIONS, Filed, Form
from lora_train.tools.opened import changed, layer
from lora_train.tools.singular import Singular, lora, of_matrix
from lora_train.tools.tool import Report, Told, Writing, ready, unheard

MODES = ("fixed", "threshold", "ratio", "quantile", "fro", "full")
ALGOS = ("lora", "loha", "lokr")
USUAL = 4  # rank in mode fixed
SIZES = ("label_emb.0.0", "label_emb.0.2")  # SDXL's layers for sizes


@dataclasses.dataclass(frozen=True)
class Extract(Writing):
    """Which layers, and how large."""

    about = (
        "Extract what a fine-tuned checkpoint adds to the one it was made from, as a LoRA; also as LoHa or "
        "LoKr."
    )

    model_org: pathlib.Path | None = knob(
        None, "Checkpoint that the other was made from, a file or a diffusers folder.", group="files",
        aka=("model_org", "base_model"), basic=True, place=True)  # fmt: skip
    model_tuned: pathlib.Path | None = knob(
        None, "Fine-tuned checkpoint.", group="files", aka=("model_tuned", "db_model"), basic=True,
        place=True)  # fmt: skip
    only: str | None = knob(
        None, "Extract the UNet alone, or the text encoders alone.", group="layers", choices=("unet", "te")
    )
    ends: bool = knob(
        False, "Also the first and the last convolution and the layers for time and size.", group="layers"
    )
    norms: bool = knob(False, "Also the UNet's norms, whole (w_norm, b_norm).", group="layers")
    biases: bool = knob(
        False, "Also biases. A layer whose bias differs is kept whole (diff, diff_b), for hosts read a bias "
        "only so; such files are large.", group="layers")  # fmt: skip
    min_diff: float = knob(
        0.0, "Largest difference of any value of the text encoders up to which they count as equal and are "
        "left out. sd-scripts has 0.01, which also leaves out most that was trained.", group="layers",
        low=0)  # fmt: skip
    algo: str = knob(
        "lora", "Family of the adapters. loha and lokr are fitted, which takes longer.", group="size",
        choices=ALGOS)  # fmt: skip
    mode: str = knob(
        "fixed", "How each layer's rank is found. fixed: dim. threshold, ratio, quantile, fro: by its "
        "singular values. full: whole differences.", group="size", choices=MODES)  # fmt: skip
    dim: int | None = knob(
        None, "Rank. In other modes than fixed the largest that there may be. Empty: 4, and in other modes "
        "any.", group="size", low=1, high=4096, aka=("dim", "linear_dim"), basic=True)  # fmt: skip
    conv_dim: int | None = knob(
        None, "Rank in 3x3 convolutions. Setting it adds the resnets, down- and upsamplers; so does the "
        "mode's own number for convolutions.", group="size", low=1, high=4096, basic=True)  # fmt: skip
    linear_threshold: float | None = knob(
        None, "Mode threshold: singular values above it are kept.", group="size", low=0)  # fmt: skip
    conv_threshold: float | None = knob(None, "The same in 3x3 convolutions.", group="size", low=0)
    linear_ratio: float | None = knob(
        None, "Mode ratio: singular values above this times the largest are kept.", group="size", low=0,
        high=1)  # fmt: skip
    conv_ratio: float | None = knob(None, "The same in 3x3 convolutions.", group="size", low=0, high=1)
    linear_quantile: float | None = knob(
        None, "Mode quantile: the largest singular values are kept as long as their sum is below this share "
        "of all.", group="size", low=0, high=1)  # fmt: skip
    conv_quantile: float | None = knob(None, "The same in 3x3 convolutions.", group="size", low=0, high=1)
    linear_fro: float | None = knob(
        None, "Mode fro: the lowest rank that keeps this share of the Frobenius norm.", group="size", low=0,
        high=1)  # fmt: skip
    conv_fro: float | None = knob(None, "The same in 3x3 convolutions.", group="size", low=0, high=1)
    factor: int = knob(-1, "LoKr's factor.", group="size", low=-1, high=512)
    clamp_quantile: float = knob(
        1.0, "Clamp each layer's factors to this quantile of their values. 1: never. sd-scripts has 0.99, "
        "which costs more than a tenth of what is extracted.", group="size", low=0.5, high=1)  # fmt: skip
    seed: int = knob(0, "Of the random starts.", group="size", low=0, high=2**32 - 1)
    device: str = knob(
        "cpu", "Where it is computed.", group="precision", choices=("cpu", "cuda"), place=True)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        for name in ("model_org", "model_tuned"):
            if vars(self)[name] is None:
                yield f"{name}: expected a checkpoint, such as --{name} model.safetensors"
        for mode in MODES[1:-1]:
            own = [f"{kind}_{mode}" for kind in ("linear", "conv")]
            if self.mode == mode and vars(self)[own[0]] is None:
                yield f"{own[0]}: expected beside mode {mode}"
            given = [name for name in own if vars(self)[name] is not None]
            if self.mode != mode and given:
                yield f"{given[0]}: expected not beside mode {self.mode}; set mode = {mode}"
        if self.algo != "lora" and self.mode != "fixed":
            yield f"mode = {self.mode}: expected fixed with algo {self.algo}"
        if self.clamp_quantile < 1 and (self.algo != "lora" or self.mode == "full"):
            yield f"clamp_quantile = {self.clamp_quantile:g}: expected 1; no LoRA is made, to be clamped"

    def run(self, told: Told = unheard) -> Report:
        ready(self.device)
        target = self.free()
        org, tuned = Base(self.model_org), Base(self.model_tuned)
        if org.arch != tuned.arch:
            kinds = ARCHS[org.arch].said, ARCHS[tuned.arch].said
            raise Mistake(f"{tuned.path}: is {kinds[1]}, and {org.path} is {kinds[0]}; expected one kind")
        pair = _Pair(org, tuned, self.device)
        made = Filed(org.arch, self.dtype(_dtype(org)))
        keys = [key for key in org.weights if key in tuned.weights and self._wants(key, org.shapes[key])]
        texts = [key for key in keys if not key.startswith("unet.")]
        equal = bool(texts) and all(pair.largest(key) <= self.min_diff for key in texts)
        keys = [key for key in keys if not (equal and key in texts)]
        errors: dict[str, tuple[float, float]] = {}  # layer -> norms of what is missing, and of all
        for i, key in enumerate(keys):
            if (found := self._layer(pair, key)) is not None:
                form, *errors[key] = found
                made.add(key, form, org.shapes[key])
            told(i + 1, len(keys))
        if not made.forms:
            raise Mistake(
                f"{tuned.path}: has the same weights as {org.path} in all layers that are asked for"
            )
        comment = f"extracted from {tuned.path.name}, made from {org.path.name} ({self.mode})"
        made.write(target, made.texts(target.stem, comment, _origin(org)))
        return _reported(made, errors, target, equal)

    def _wants(self, key: str, shape: tuple[int, ...]) -> bool:
        part, path = key.split(".", 1)
        if self.only is not None and (part == "unet") != (self.only == "unet"):
            return False
        if part != "unet":
            return len(shape) > 1 and TEXT.search(path) is not None
        if len(shape) == 1:
            there = [ATTENTION, *[CONVOLUTION] * self._convolutions]
            return self.norms and any(own.search(path) for beside, own in NORMS if beside in there)
        if ATTENTION.search(path):
            return True
        if CONVOLUTION.search(path):
            return self._convolutions
        return self.ends and (path in SIZES or ENDS.search(path) is not None)

    @property
    def _convolutions(self) -> bool:
        """Whether resnets, down- and upsamplers are asked for; whole differences are of all layers."""
        own = vars(self).get(f"conv_{self.mode}")
        return self.mode == "full" or self.conv_dim is not None or own is not None

    def _layer(self, pair: _Pair, key: str) -> tuple[Form, float, float] | None:
        """A layer's tensors, and norms of what is missing in them and of what there is; None: no change."""
        whole, bias = pair.weight(key), pair.bias(key)
        norm = float(whole.norm())
        if whole.ndim == 1:
            return ({"w_norm": whole, "b_norm": bias}, 0.0, norm) if norm or bias.any() else None
        biased = self.biases and bias is not None and bool(bias.any()) and pair.biased(key)
        if not norm and not biased:
            return None
        if biased or self.mode == "full":
            return {"diff": whole, **({"diff_b": bias} if biased else {})}, 0.0, norm
        wide = max(whole.shape[2:], default=1) > 1
        if self.algo != "lora":
            form = self._fit(whole, wide)
            own = changed(layer(*key.split(".", 1), pair.org.arch, tuple(whole.shape)), form).matrix()
            return form, float((whole.flatten(1) - own).norm()), norm
        return self._lora(whole, wide, norm)

    def _fit(self, whole: Tensor, wide: bool) -> Form:
        rank = (self.conv_dim if wide else None) or self.dim or USUAL
        if self.algo == "lokr":
            return fitted.lokr(whole, rank, self.factor)
        return fitted.loha(whole.flatten(1), rank, self.seed)

    def _lora(self, whole: Tensor, wide: bool, norm: float) -> tuple[Form, float, float]:
        matrix, shape = whole.flatten(1), tuple(whole.shape)
        rank, found = self._rank(matrix, wide)
        if self.clamp_quantile < 1:
            up, down = found.left[:, :rank] * found.values[:rank].to(matrix), found.right[:rank]
            high = quantile(torch.cat([up.flatten(), down.flatten()]), self.clamp_quantile)
            up, down = up.clamp(-high, high), down.clamp(-high, high)
            return lora(up, down, shape), float((matrix - up @ down).norm()), norm
        if rank * sum(matrix.shape) > matrix.numel():
            return {"diff": whole}, 0.0, norm
        return lora(*found.cut(rank), shape), found.missing(rank), norm

    def _rank(self, matrix: Tensor, wide: bool) -> tuple[int, Singular]:
        """How many singular values are kept, and at least those."""
        most = (self.conv_dim if wide else self.dim) or (USUAL if self.mode == "fixed" else min(matrix.shape))
        most = min(most, *matrix.shape)
        if self.mode == "fixed":
            return most, of_matrix(matrix, None if self.clamp_quantile < 1 else most, self.seed)
        value = vars(self)[f"conv_{self.mode}" if wide else f"linear_{self.mode}"]
        if value is None:  # conv_dim alone asks for convolutions
            value = vars(self)[f"linear_{self.mode}"]
        count = 64
        while True:  # until there is a value that is not kept
            all_ = count * 4 > min(matrix.shape) or self.mode == "quantile" or self.clamp_quantile < 1
            found = of_matrix(matrix, None if all_ else count, self.seed)
            rank = kept(found, self.mode, value)
            if all_ or rank < count * 3 // 4 or most <= count:  # the last found are the least exact
                return max(1, min(rank, most)), found
            count *= 4


def kept(found: Singular, mode: str, value: float) -> int:
    """How many of the singular values that are known; as many as there are may mean more.

    LyCORIS' rules (`lycoris/utils`, extract_linear), and fro.
    """
    s = found.values
    if mode == "threshold":
        return int((s > value).sum())
    if mode == "ratio":
        return int((s > s[0] * value).sum())
    if mode == "quantile":
        return int((s.cumsum(0) < value * s.sum()).sum())
    short = s.square().cumsum(0) < value**2 * found.square * (1 - 1e-9)
    return min(int(short.sum()) + 1, len(s))


class _Pair:
    """Two checkpoints, layer by layer."""

    def __init__(self, org: Base, tuned: Base, device: str):
        self.org, self.tuned, self.device = org, tuned, device

    def weight(self, key: str) -> Tensor:
        """What a layer's weight gains. Raises Mistake: the checkpoints are of different sizes."""
        if self.org.shapes[key] != self.tuned.shapes[key]:
            there, here = ("x".join(map(str, base.shapes[key])) for base in (self.org, self.tuned))
            raise Mistake(f"{self.tuned.path}: {key} has {here} values, and {there} in {self.org.path}")
        found = self.tuned.weight(key).to(self.device) - self.org.weight(key).to(self.device)
        if not found.isfinite().all():
            raise Mistake(f"{key}: holds NaN or infinity in {self.tuned.path} or {self.org.path}")
        return found

    def bias(self, key: str) -> Tensor | None:
        """What its bias gains."""
        there, here = self.org.bias(key), self.tuned.bias(key)
        return None if there is None or here is None else (here - there).to(self.device)

    def largest(self, key: str) -> float:
        return float(self.weight(key).abs().max())

    def biased(self, key: str) -> bool:
        """Whether hosts change the bias: of OpenCLIP's attention they do only the way out's."""
        at = layer(*key.split(".", 1), self.org.arch, self.org.shapes[key])
        return piece(at) in (None, "out_proj")


def _dtype(base: Base) -> torch.dtype:
    """What most of the UNet's tensors have."""
    every = [*base.found.parts["unet"].weights.dtypes.values()]
    most = max(set(every), key=every.count)
    return most if most in (torch.float16, torch.bfloat16) else torch.float32


def _origin(base: Base) -> dict[str, str]:
    facts = base.found.facts
    version = VERSIONS[base.arch][0] + ("_v" if facts.prediction == "v" and base.arch != "sdxl" else "")
    found = {"ss_base_model_version": version}
    return {**found, "modelspec.prediction_type": facts.prediction} if facts.prediction else found


def _kind(key: str, shape: tuple[int, ...]) -> str:
    part = key.partition(".")[0]
    if part != "unet" or len(shape) == 1:
        return part if part != "unet" else "unet norms"
    return "unet 3x3" if max(shape[2:], default=1) > 1 else "unet"


def _reported(
    made: Filed, errors: Mapping[str, Iterable[float]], target: pathlib.Path, equal: bool
) -> Report:
    ranks, kinds = made.ranks(), {}
    for key in made.forms:
        kinds.setdefault(_kind(key, made.shapes[key]), []).append(key)
    lines = ["the text encoders are equal, and left out"] * equal
    rows = {}
    for kind, keys in kinds.items():
        own = sorted(ranks[key] for key in keys if key in ranks)
        rows[kind] = {"layers": len(keys), "ranks": own, "error": _share(errors, keys)}
        span = (
            f", rank {own[0]} to {own[-1]}" if own and own[0] < own[-1] else f", rank {own[0]}" if own else ""
        )
        lines.append(f"{kind}: {len(keys)} layers{span}, {rows[kind]['error']:.2%} missing")
    total = _share(errors, made.forms)
    lines.append(
        f"{target}: {len(made.forms)} layers; {total:.2%} of their difference missing (Frobenius norm)"
    )
    facts = {
        "layers": len(made.forms), "kinds": rows, "error": total, "text_encoders_equal": equal,
        "ranks": ranks, "saved": str(target),
    }  # fmt: skip
    return Report(tuple(lines), facts, (target,))


def _share(errors: Mapping[str, Iterable[float]], keys: Iterable[str]) -> float:
    lost, norm = (
        math.sqrt(sum(e * e for e in each)) for each in zip(*(errors[k] for k in keys), strict=True)
    )
    return lost / norm if norm else 0.0


def quantile(values: Tensor, share: float) -> Tensor:
    """torch's, which takes no more than 16 million values: []. values: [n]."""
    order, at = values.sort().values, share * (len(values) - 1)
    low = int(at)
    return torch.lerp(order[low], order[min(low + 1, len(order) - 1)], at - low)
