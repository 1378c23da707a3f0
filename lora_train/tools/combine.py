"""Several LoRA files into one: what the result adds to a layer is the sum of what they add, or near it."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from lora_train.adapters.thin import ALPHA, DOWN, UP
from lora_train.blocks import BlockWeights
from lora_train.errors import Mistake
from lora_train.models.whole import Product, Where
from lora_train.tools.base import Base
from lora_train.tools.filed import Form
from lora_train.tools.opened import Change, Opened
from lora_train.tools.singular import Singular, balanced, joined, lora, of_factors, of_matrix
from lora_train.tools.tool import Told, unheard

METHODS = ("concat", "svd", "additive", "ties", "dare", "dare_ties")
BIASES = ("diff_b", "b_norm")  # names of what changes a layer's bias


@dataclasses.dataclass(frozen=True)
class Share:
    """A file, and how strong it is in the result."""

    file: Opened
    te: float = 1.0
    unet: float = 1.0
    blocks: BlockWeights = BlockWeights()  # noqa: RUF009 (it is frozen)

    def strength(self, key: str) -> float:
        """Of a layer."""
        held = self.file.layers[key]
        return (self.unet if held.part == "unet" else self.te) * self.blocks.strength(held.part, held.path)


Weighed = list[tuple[Change, float]]  # what files add to a layer, and how strong each is


class Sums(Mapping[Where, Tensor | Product]):
    """What files add to a checkpoint's weights and biases, each made when it is asked for. All are changes of
    the weight as it was: what one adds does not depend on the others."""

    def __init__(self, shares: Sequence[Share], base: Base, device: str, told: Told = unheard):
        self.shares, self.base, self.device, self.told, self.done = shares, base, device, told, 0
        self.places: dict[Where, str] = {}  # in the order of the files
        for share in shares:
            for key, held in share.file.layers.items():
                if key in base.weights and share.strength(key):
                    self.places[held.part, held.path, "weight"] = key
                    if any(name in held.names for name in BIASES):
                        self.places[held.part, held.path, "bias"] = key
        self.last: tuple[str, Weighed] | None = None  # for its bias

    def __getitem__(self, where: Where) -> Tensor | Product:
        key = self.places[where]
        if self.last is None or self.last[0] != key:
            self.last = key, changes(self.shares, key, self.base, self.device)
        parts = self.last[1]
        self.done += 1
        self.told(self.done, len(self.places))
        if where[2] == "bias":
            return biased(parts)
        if all(change.thin is not None for change, _ in parts):
            return Product(*joined([change.thin for change, _ in parts], [by for _, by in parts]))
        return summed(parts)

    def __iter__(self) -> Iterator[Where]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def changes(shares: Sequence[Share], key: str, base: Base | None, device: str) -> Weighed:
    """Raises Mistake: files are of other sizes than each other, or than the checkpoint."""
    found: Weighed = []
    for share in shares:
        if key in share.file.layers and (by := share.strength(key)):
            found.append((share.file.change(key, base, device), by))
            if found[-1][0].shape != found[0][0].shape:
                sizes = " and ".join("x".join(map(str, change.shape)) for change, _ in (found[0], found[-1]))
                raise Mistake(f"{share.file.path}: {key} is of another model than in the first file, {sizes}")
    return found


def summed(parts: Weighed) -> Tensor:
    """What a layer's weight gains. Thin ones are multiplied at once, so that their sum costs one matrix."""
    shape = parts[0][0].shape
    thin = [(change.thin, by) for change, by in parts if change.thin is not None]
    weight: Tensor | None = None
    if thin:
        up, down = joined(*zip(*thin, strict=True))
        weight = (up @ down).view(shape)
    for change, by in parts:
        if change.thin is None:
            weight = change.whole.float() * by if weight is None else weight.add_(change.whole, alpha=by)
    return weight


def biased(parts: Weighed) -> Tensor | None:
    """What a layer's bias gains."""
    found = [change.bias * by for change, by in parts if change.bias is not None]
    return sum(found[1:], found[0]) if found else None


@dataclasses.dataclass(frozen=True)
class How:
    """How changes become one."""

    method: str
    rank: int | None = None  # of the result; None: as large as it has to be
    density: float = 0.5  # share of what a change keeps, of TIES and DARE
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Made:
    """What a layer of the result has."""

    form: Form
    shape: tuple[int, ...]
    lost: float = 0.0  # Frobenius norms: of what a smaller rank leaves out
    norm: float = 0.0  # and of all
    unbiased: bool = False  # whether a bias was left out


@torch.no_grad()
def combined(parts: Weighed, how: How, key: str) -> Made:
    """key: of the layer; random numbers depend on it. A form without tensors: nothing is added."""
    shape, bias = parts[0][0].shape, biased(parts)
    plain = how.method in ("concat", "svd")
    if plain and bias is None and all(change.thin is not None for change, _ in parts):
        up, down = balanced(*joined([change.thin for change, _ in parts], [by for _, by in parts]))
        if not len(down):
            return Made({}, shape)
        if how.rank is None:
            return Made(_exact(up, down, shape), shape)
        if len(down) <= min(len(up), down.shape[1]) // 2:
            return _narrow(of_factors(up, down), how.rank, shape)
    if plain:
        whole = summed(parts)
    else:
        whole = _mixed([(change.matrix().view(shape), by) for change, by in parts], how, key)
    if len(shape) == 1:
        return Made({"w_norm": whole, "b_norm": torch.zeros_like(whole) if bias is None else bias}, shape)
    if how.rank is None:
        return Made({"diff": whole, **({} if bias is None else {"diff_b": bias})}, shape)
    made = _narrow(of_matrix(whole.flatten(1), how.rank), how.rank, shape)
    return dataclasses.replace(made, unbiased=bias is not None and bool(bias.any()))


def _exact(up: Tensor, down: Tensor, shape: tuple[int, ...]) -> Form:
    """A LoRA, or where it would be larger than the matrix that it makes, that."""
    if up.numel() + down.numel() > math.prod(shape):
        return {"diff": (up @ down).view(shape)}
    return lora(up, down, shape)


def _narrow(found: Singular, rank: int, shape: tuple[int, ...]) -> Made:
    rank = min(rank, len(found.values))
    form = lora(*found.cut(rank), shape)
    return Made(form, shape, found.missing(rank), math.sqrt(found.square))


def _mixed(parts: list[tuple[Tensor, float]], how: How, key: str) -> Tensor:
    """TIES and DARE of changes times their strengths.

    TIES (Yadav et al. 2023, arXiv:2306.01708, section 4): of each change the largest values are kept, each
    value's sign is that of the sum, and the result is the mean of those that have it. DARE (Yu et al. 2023,
    arXiv:2311.03099, equations 2 and 3): values are dropped at random and what stays is scaled up, so that
    the expected sum is the sum; then they are added, or merged as TIES does.
    """
    values = [change * by for change, by in parts]
    if how.method.startswith("dare"):
        values = [_dropped(v, how.density, f"{how.seed} {i} {key}") for i, v in enumerate(values)]
    if how.method == "dare":
        return sum(values[1:], values[0])
    if how.method == "ties":
        values = [_trimmed(v, how.density) for v in values]
    stack = torch.stack(values)
    agree = stack.sign() == stack.sum(0).sign()
    agree &= stack != 0
    return torch.where(agree, stack, 0.0).sum(0) / agree.sum(0).clamp(min=1)


def _trimmed(value: Tensor, density: float) -> Tensor:
    kept = max(1, round(density * value.numel()))
    sizes = value.abs().flatten()
    least = sizes.kthvalue(value.numel() - kept + 1).values
    return torch.where(value.abs() >= least, value, 0.0)


def _dropped(value: Tensor, density: float, words: str) -> Tensor:
    """Drawn on the CPU, so that every device drops the same."""
    rng = torch.Generator().manual_seed(zlib.crc32(words.encode()))
    kept = torch.rand(value.shape, generator=rng) < density
    return torch.where(kept.to(value.device), value / density, 0.0)


def additive(shares: Sequence[Share], key: str) -> Made:
    """As sd-scripts' merge_lora does it: the factors are added, not their products, each times the ratio and
    the root of its alpha over the first file's. What comes out is quadratic in the ratios, with products of
    one file's factors and the other's in it; it is here to make the same files.

    Raises:
        Mistake: a file has other tensors than a LoRA there, or another rank.
    """
    form: Form = {}
    shape: tuple[int, ...] = ()
    for share in shares:
        if key not in share.file.layers:
            continue
        own, where = share.file.read(key), f"{share.file.path}: {key}"
        if not {DOWN, UP} <= own.keys() <= {DOWN, UP, ALPHA}:
            raise Mistake(
                f"{where} is no plain LoRA, whose factors could be added; take method concat or svd"
            )
        alpha = float(own[ALPHA]) if ALPHA in own else float(len(own[DOWN]))
        form.setdefault(ALPHA, torch.tensor(alpha))
        if not alpha * float(form[ALPHA]) > 0:
            raise Mistake(f"{where} has alpha {alpha:g}, and the first file {float(form[ALPHA]):g}, of which "
                          "there is no root; take method concat or svd")  # fmt: skip
        by = math.sqrt(alpha / float(form[ALPHA])) * share.strength(key)
        for name, times in ((DOWN, by), (UP, abs(by))):
            more = own[name].float() * times
            if name in form and form[name].shape != more.shape:
                there, here = len(form[DOWN]), len(own[DOWN])
                raise Mistake(
                    f"{where} has rank {here}, and the file before it {there}; only equal ones can be added. "
                    "Take method concat or svd"
                )
            form[name] = form[name] + more if name in form else more
        down = own[DOWN]
        shape = (len(own[UP]), *down.shape[1:])
    return Made(form, shape)
