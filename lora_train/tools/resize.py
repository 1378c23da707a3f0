"""Resize: a file of any family as LoRA of smaller ranks, which are chosen by what they carry."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lora_train.adapters.thin import ALPHA, DOWN, UP, factors
from lora_train.adapters.word import BUNDLED
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.base import Base
from lora_train.tools.filed import Filed
from lora_train.tools.formed import whole
from lora_train.tools.opened import Change, Opened
from lora_train.tools.recipe import Recipe, recipes, sides
from lora_train.tools.singular import Singular, joined, of_factors, of_matrix
from lora_train.tools.tool import Report, Told, Writing, ready, unheard
from lora_train.values import shown

METHODS = ("sv_ratio", "sv_fro", "sv_cumulative")
USUAL = 4  # rank
NOTHING = 1e-6  # a largest singular value up to which a layer counts as one that nothing was learned in
TIMES = re.compile(r"(.+?)(?::([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))?$")


@dataclasses.dataclass(frozen=True)
class Parts:
    """A layer taken apart."""

    key: str
    shape: tuple[int, ...]
    found: Singular  # of what it adds
    scale: float  # alpha over rank, as it was; 1 where there was none
    old: int  # its rank; 0 where it had none

    @property
    def light(self) -> Parts:
        """Without the vectors of what was no LoRA: of all layers together they are larger than the model."""
        if self.old:
            return self
        none = self.found.left[:, :0].clone(), self.found.right[:0].clone()
        return dataclasses.replace(
            self, found=Singular(none[0], self.found.values, none[1], self.found.square)
        )


@dataclasses.dataclass(frozen=True)
class Resize(Writing):
    """A file of smaller ranks."""

    about = (
        "Lower the ranks of a LoRA, keeping of each layer what is largest. Files of other families become "
        "plain LoRA, through what they add to each layer."
    )
    alone = "model"

    model: str | None = knob(
        None, "File to resize. Several are merged first: a.safetensors:0.7,b.safetensors:0.3.", group="files",
        basic=True, place=True)  # fmt: skip
    base: pathlib.Path | None = knob(
        None, "Checkpoint that it was made for. DoRA, OFT and the like need it, and recipes that compare "
        "with it.", group="files", aka=("base", "checkpoint"), basic=True, place=True)  # fmt: skip
    new_rank: int = knob(USUAL, "Rank of what is written; with dynamic_method the largest.", group="ranks",
                         low=1, high=4096, basic=True)  # fmt: skip
    new_conv_rank: int | None = knob(None, "Rank in convolutions. Empty: new_rank.", group="ranks", low=1,
                                     high=4096, basic=True)  # fmt: skip
    dynamic_method: str | None = knob(
        None, "Choose each layer's rank by its singular values: those above the largest over dynamic_param "
        "(sv_ratio), or so many that dynamic_param of their norm (sv_fro) or of their sum (sv_cumulative) is "
        "kept. One rank more than needed is kept, as sd-scripts does.", group="ranks", choices=METHODS,
        basic=True)  # fmt: skip
    dynamic_param: float | None = knob(
        None, "What dynamic_method goes by; 0.9 keeps nine tenths.", group="ranks", low=0,
        basic=True)  # fmt: skip
    recipe: str | None = knob(
        None, "Choose ranks over all layers by a score, in resize_lora's words: fro_ckpt=1,thr=-3.5 or "
        "spn_lora=1,size=32; several with : between, each of which writes a file.", group="ranks",
        aka=("recipe", "score_recipes", "r"))  # fmt: skip
    device: str = knob(
        "cpu", "Where to compute.", group="files", choices=("cpu", "cuda"), place=True)  # fmt: skip
    verbose: bool = knob(False, "Say each layer's rank and what of it is kept.", group="output")  # fmt: skip

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        return [("model", path) for path, _ in _files(self.model)] if self.model else []

    def check(self) -> Iterable[str]:
        yield from super().check()
        if not self.model:
            yield "model: expected the file to resize, such as --model old.safetensors"
        if self.dynamic_method is None and self.dynamic_param is not None:
            yield "dynamic_param: expected dynamic_method beside it, which says what it is"
        if self.dynamic_method is not None and self.dynamic_param is None:
            yield "dynamic_method: expected dynamic_param beside it, such as --dynamic_param 0.9"
        least = 1.0 if self.dynamic_method == "sv_ratio" else 0.0
        if self.dynamic_method is not None and self.dynamic_param is not None:
            high = math.inf if least else 1.0
            if not least < self.dynamic_param <= high or not self.dynamic_param:
                said = "above 1" if least else "above 0, and 1 at most"
                yield f"dynamic_param = {self.dynamic_param:g}: expected a number {said}"
        if self.recipe is not None:
            yield from self._recipe()

    def _recipe(self) -> Iterable[str]:
        if self.dynamic_method is not None:
            yield "recipe: expected no dynamic_method beside it, for it chooses ranks itself"
        if self.new_rank != USUAL or self.new_conv_rank is not None:
            yield "recipe: expected no new_rank beside it, for it chooses ranks itself"
        try:
            names = [recipe.name for recipe in recipes(self.recipe)]
            if same := [name for name in names if names.count(name) > 1]:
                yield f"recipe = {shown(self.recipe)}: expected others; two would be written as {same[0]}"
            if any(recipe.needs_base for recipe in recipes(self.recipe)) and self.base is None:
                yield "recipe: compares with the checkpoint; expected --base model.safetensors beside it"
        except ValueError as e:
            yield f"recipe = {shown(self.recipe)}: {e}"

    @torch.no_grad()
    def run(self, told: Told = unheard) -> Report:
        ready(self.device)
        given = recipes(self.recipe) if self.recipe else []
        outputs = [self.free(self._named(recipe, len(given))) for recipe in given] or [self.free()]
        source = Source(self.model, Base(self.base) if self.base else None, self.device)
        dtype = self.dtype(source.files[0][0].dtype)
        if not given:
            made = Made(source, dtype)
            for key, part in source.parts(self._most, told):
                made.add(key, part, range(self._rank(part)) if part else None)
            return self._reported([made.written(outputs[0], self._comment(source.old))], told)
        every, scores = [], []
        for key, part in source.parts(lambda shape: None, told):
            learned = part is not None and float(part.found.values[0]) >= NOTHING
            scores.append(
                [recipe.scores(part.found, key, source.base) for recipe in given] if learned else None
            )
            every.append((key, part and part.light))
        reports = []
        for n, (recipe, path) in enumerate(zip(given, outputs, strict=True)):
            made = Made(source, dtype)
            _chosen(recipe, every, [own and own[n] for own in scores], made)
            reports.append(made.written(path, f"resized by {recipe.name}", recipe))
        return self._reported(reports, told)

    def _named(self, recipe: Recipe, count: int) -> pathlib.Path:
        return self.save_to if count < 2 else self.save_to.with_stem(f"{self.save_to.stem}_{recipe.name}")

    def cap(self, shape: tuple[int, ...]) -> int:
        """The largest rank of a layer; sd-scripts counts 1x1 convolutions as convolutions."""
        return (self.new_conv_rank or self.new_rank) if len(shape) == 4 else self.new_rank

    def _most(self, shape: tuple[int, ...]) -> int | None:
        """How many singular values are asked for; None: all."""
        return None if self.dynamic_method == "sv_cumulative" else self.cap(shape)

    def _rank(self, part: Parts) -> int:
        count = int((part.found.values > 0).sum())
        return max(1, min(self._wanted(part), self.cap(part.shape), max(count, 1)))

    def _wanted(self, part: Parts) -> int:
        """As sd-scripts' `networks/resize_lora.py` counts, with all the values that a layer can have."""
        values = part.found.values / abs(part.scale or 1.0)
        if float(values[0]) <= NOTHING:
            return 1
        if self.dynamic_method is None:
            return self.cap(part.shape)
        if self.dynamic_method == "sv_ratio":
            index = int((values > values[0] / self.dynamic_param).sum())
        elif self.dynamic_method == "sv_cumulative":
            share = values.cumsum(0) / values.sum()
            index = int(torch.searchsorted(share, self.dynamic_param)) + 1
        else:
            share = part.found.values.square().cumsum(0) / part.found.square
            index = int(torch.searchsorted(share, self.dynamic_param**2)) + 1
        return max(1, min(index, min(sides(part.found)) - 1)) + 1

    def _comment(self, old: int | str) -> str:
        if self.dynamic_method:
            return f"Dynamic resize with {self.dynamic_method}: {self.dynamic_param} from {old}"
        conv = self.new_conv_rank or self.new_rank
        more = "" if conv == self.new_rank else f" (conv: {conv})"
        return f"dimension is resized from {old} to {self.new_rank}{more}"

    def _reported(self, made: list[Written], told: Told) -> Report:
        lines = [line for one in made for line in one.lines(self.verbose)]
        facts = {"files": [one.facts() for one in made]} if len(made) > 1 else made[0].facts()
        return Report(tuple(lines), facts, tuple(one.path for one in made))


class Source:
    """Files, added up with a weight each, layer by layer.

    Raises:
        Mistake: one is missing, or they are not for the same model.
    """

    def __init__(self, text: str, base: Base | None, device: str):
        self.base, self.device = base, device
        self.files = [(Opened(path), times) for path, times in _files(text)]
        first = self.files[0][0]
        for file, _ in self.files:
            if file.arch != first.arch:
                raise Mistake(f"model = {file.path}: is for {file.arch}, and {first.path} for {first.arch}")
        self.keys = [*dict.fromkeys(key for file, _ in self.files for key in file.layers)]
        self.old: int | str = first.metadata.get("ss_network_dim", "Dynamic")

    @property
    def alone(self) -> bool:
        return len(self.files) == 1 and self.files[0][1] == 1

    def change(self, key: str) -> Change:
        """Of all files together."""
        found = [
            (file.change(key, self.base if file.needs_base(key) else None, self.device), times)
            for file, times in self.files if key in file.layers
        ]  # fmt: skip
        if len(found) == 1 and found[0][1] == 1:
            return found[0][0]
        shape = found[0][0].shape
        if any(change.shape != shape for change, _ in found):
            raise Mistake(f"model = {self.files[1][0].path}: {key} has another shape than in the first file")
        biases = [change.bias * times for change, times in found if change.bias is not None]
        bias = sum(biases[1:], biases[0]) if biases else None
        if all(change.thin is not None for change, _ in found):
            thin = joined([change.thin for change, _ in found], [times for _, times in found])
            return Change(shape, thin, None, bias)
        whole = sum(change.matrix() * times for change, times in found)
        return Change(shape, None, whole.view(shape), bias)

    def parts(self, most: object, told: Told) -> Iterator[tuple[str, Parts | None]]:
        """Each layer taken apart; None for what has no ranks: norms, and those with a bias of their own."""
        oldest = 0
        for n, key in enumerate(self.keys):
            part = self.part(key, most)
            told(n + 1, len(self.keys))
            if part is not None:
                oldest = max(oldest, part.old)
                self.old = oldest or self.old
            yield key, part

    def part(self, key: str, most: object) -> Parts | None:
        """A layer, as `parts`. most: how many values are asked for of a layer of a shape; None: all."""
        change = self.change(key)
        if len(change.shape) == 1 or change.bias is not None:
            return None
        if change.thin is not None:
            found, old = of_factors(*change.thin), len(change.thin[1])
        else:
            found, old = of_matrix(change.matrix(), most(change.shape)), 0
        return Parts(key, change.shape, found, self._scale(key) if old else 1.0, old)

    def _scale(self, key: str) -> float:
        """Alpha over rank of a plain LoRA that is alone."""
        file = self.files[0][0]
        names = file.layers[key].names if self.alone else {}
        if {UP, DOWN, ALPHA} != names.keys():
            return 1.0
        [(_, alpha)] = file.weights.read([names[ALPHA]])
        return float(alpha) / file.weights.shapes[names[DOWN]][0] or 1.0

    def words(self) -> dict[str, Tensor]:
        """Learned words that come along with the layers."""
        found = {}
        for file, _ in self.files:
            found.update(file.weights.read(key for key in file.rest if key.startswith(f"{BUNDLED}.")))
        return found

    @property
    def lost(self) -> list[str]:
        """What there is in the files for no layer, and is not written."""
        return [k for file, _ in self.files for k in file.rest if not k.startswith(f"{BUNDLED}.")]

    def form(self, key: str) -> tuple[dict[str, Tensor], tuple[int, ...]]:
        """A layer as it is."""
        change = self.change(key)
        if self.alone and not self.files[0][0].needs_base(key):
            return self.files[0][0].read(key), change.shape
        return whole(change), change.shape


def _files(text: str) -> list[tuple[pathlib.Path, float]]:
    """Raises Mistake: a part is no name with a number behind it."""
    if pathlib.Path(text).exists():
        return [(pathlib.Path(text), 1.0)]
    found = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        match = TIMES.match(word)
        found.append((pathlib.Path(match[1]), float(match[2] or 1)))
    if not found:
        raise Mistake(f"model = {shown(text)}: expected files, such as a.safetensors:0.7,b.safetensors:0.3")
    return found


class Made:
    """A file of smaller ranks as it grows, and what was lost."""

    def __init__(self, source: Source, dtype: torch.dtype):
        self.source, self.filed = source, Filed(source.files[0][0].arch, dtype)
        self.layers: dict[str, dict[str, object]] = {}
        self.kept = self.there = 0.0  # squares of norms

    def add(self, key: str, part: Parts | None, ranks: Iterable[int] | None, times: float = 1.0) -> None:
        """ranks: those of its singular values to keep."""
        if part is None:
            form, shape = self.source.form(key)
            self.filed.add(key, form, shape)
            return
        taken = [*ranks]
        values = part.found.values
        kept, there = float(values[taken].square().sum()), part.found.square
        self.kept, self.there = self.kept + kept, self.there + there
        said = {
            "rank": len(taken),
            "from": part.old or None,
            "kept": math.sqrt(min(kept / there, 1.0)) if there else 1.0,
        }
        self.layers[key] = said
        if taken:
            if not part.found.left.shape[1]:  # its vectors were not held
                part = self.source.part(key, lambda shape: None)
            root = (values[taken] * abs(times / part.scale)).sqrt().to(part.found.left)
            sign = math.copysign(1.0, times * part.scale)
            up, down = part.found.left[:, taken] * root * sign, root[:, None] * part.found.right[taken]
            form = factors(up, down, part.shape, part.scale * len(taken))
            said["alpha"] = float(form[ALPHA])
            self.filed.add(key, form, part.shape)

    def written(self, path: pathlib.Path, comment: str, recipe: Recipe | None = None) -> Written:
        """Raises Mistake: nothing is left."""
        if not self.filed.forms:
            raise Mistake(f"{path}: nothing would be left; expected a lower thr, or a larger size")
        origin = self.source.files[0][0].metadata
        merged = [] if self.source.alone else [file.path.stem for file, _ in self.source.files]
        made = self.filed.texts(
            path.stem, f"{comment}; {origin.get('ss_training_comment', '')}", origin, merged
        )
        new = (
            "ss_network_dim",
            "ss_network_alpha",
            "ss_training_comment",
            "ss_network_module",
            "ss_network_args",
        )
        texts = {**made, **{k: v for k, v in origin.items() if self.source.alone and k not in new}}
        if recipe is not None:
            texts["resize_params"] = json.dumps(dataclasses.asdict(recipe))
        self.filed.more = self.source.words()
        self.filed.write(path, texts)
        share = math.sqrt(min(self.kept / self.there, 1.0)) if self.there else 1.0
        return Written(path, self.layers, len(self.filed.forms), share, self.source.lost)


@dataclasses.dataclass(frozen=True)
class Written:
    """What to say of a file."""

    path: pathlib.Path
    layers: Mapping[str, Mapping[str, object]]
    count: int
    kept: float  # share of the Frobenius norm, over all layers
    lost: list[str]  # tensors for no layer

    def lines(self, verbose: bool) -> Iterator[str]:
        ranks = [said["rank"] for said in self.layers.values()]
        if verbose:
            for key, said in self.layers.items():
                yield f"{key:75} rank {said['rank']:4}, {said['kept']:.1%} of its norm kept"
        spread = (
            f"ranks {min(ranks)} to {max(ranks)}, {sum(ranks) / len(ranks):.1f} on average" if ranks else ""
        )
        error = math.sqrt(max(1 - self.kept**2, 0.0))
        yield f"{self.path}: {self.count} layers, {spread}"
        yield f"{self.kept:.2%} of the norm kept, error {error:.2%}"
        if self.lost:
            yield f"{len(self.lost)} tensors are for no layer, and left out ({self.lost[0]}, …)"

    def facts(self) -> dict[str, object]:
        return {"file": str(self.path), "kept": self.kept, "layers": self.layers, "lost": self.lost}


def _chosen(
    recipe: Recipe, every: list[tuple[str, Parts | None]], scores: list[Tensor | None], made: Made
) -> None:
    """Add to a file what a recipe keeps; as in resize_lora nothing of layers in which nothing was learned,
    which have no scores."""
    kept = {key: own for (key, _), own in zip(every, scores, strict=True) if own is not None}
    costs = [made.filed.dtype.itemsize * sum(sides(part.found)) for key, part in every if key in kept]
    line = recipe.line([*kept.values()], costs) if kept else 0.0
    for key, part in every:
        if part is None:
            made.add(key, None, None)
        elif key in kept:
            made.add(key, part, (kept[key] >= line).nonzero().flatten().tolist(), recipe.rescale)
