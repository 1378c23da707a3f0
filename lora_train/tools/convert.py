"""Convert: a file of adapters in another spelling, as plain LoRA, in parts, or with strengths worked in."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lora_train.adapters.fourfold import FUSED, PIECE, missing
from lora_train.adapters.lora import DOWN, MID, UP
from lora_train.adapters.spelled import ALPHA
from lora_train.blocks import BlockWeights
from lora_train.errors import Mistake
from lora_train.knobs import knob, settings
from lora_train.tools.bake import baked
from lora_train.tools.base import Base
from lora_train.tools.dialects import DIALECTS
from lora_train.tools.filed import Filed
from lora_train.tools.formed import Form, Formed, as_lora, whole
from lora_train.tools.opened import Change, Opened, layer
from lora_train.tools.respelled import Piece, respelled, written
from lora_train.tools.tool import Report, Told, Writing, ready, unheard
from lora_train.values import shown

FORMS = ("lora", "diff")
SPELLINGS = "; ".join(f"{name} ({dialect.about})" for name, dialect in DIALECTS.items())
PARTS = {"unet": ("unet",), "te": ("te1", "te2"), "te1": ("te1",), "te2": ("te2",)}
KEPT = ("ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha",
        "ss_network_args", "modelspec.architecture")  # fmt: skip
WORKED = ("only", "strength", "te_strength", "unet_strength", "lbw", "strip")  # not beside unit
SIZES = ("ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args")


@dataclasses.dataclass(frozen=True)
class Convert(Writing):
    """What of a file is written, and how."""

    about = (
        "Write a LoRA file in another spelling, as plain LoRA or whole differences, without a part of it, or "
        "with strengths worked in. Files are read in every spelling."
    )
    alone = "model"

    model: pathlib.Path | None = knob(
        None, "File to convert, or a folder of PEFT's.", group="files", basic=True, place=True)  # fmt: skip
    base: pathlib.Path | None = knob(
        None, "Checkpoint that it was made for. What DoRA, OFT, IA3 and GLoRA add depends on it.",
        group="files", aka=("base", "checkpoint"), place=True)  # fmt: skip
    to: tuple[str, ...] = knob(
        (), f"How to spell: {SPELLINGS}. And what to write: lora turns any family into plain LoRA where it "
        "is exactly one, or with rank; diff into whole differences.", group="form",
        choices=(*DIALECTS, *FORMS), basic=True)  # fmt: skip
    rank: int | None = knob(
        None, "With --to lora: the largest rank. What is larger becomes the nearest of it, and the error is "
        "said.", group="form", low=1, high=4096)  # fmt: skip
    unit: int | None = knob(
        None, "Split a DyLoRA: a file for each multiple of so many ranks below its rank.", group="form",
        low=1, high=512)  # fmt: skip
    alphas: str = knob(
        "factors", "Where diffusers' files have no word for alpha: work it into the factors, which every "
        "version reads, or say it in the metadata, which diffusers reads from 0.34 on.", group="form",
        choices=("factors", "metadata"))  # fmt: skip
    only: str | None = knob(
        None, "Keep one part: unet, te (all text encoders), te1 or te2.", group="what", choices=tuple(PARTS),
        basic=True)  # fmt: skip
    strength: float = knob(
        1.0, "Times what is added, worked into the file.", group="what", low=-100, high=100)  # fmt: skip
    te_strength: float = knob(
        1.0, "Times that, in the text encoders.", group="what", low=-100, high=100)  # fmt: skip
    unet_strength: float = knob(1.0, "Times that, in the UNet.", group="what", low=-100, high=100)
    lbw: BlockWeights = knob(
        BlockWeights(), "Block weights worked into the file: a preset's name, or 12, 17, 20 or 26 numbers.",
        group="what")  # fmt: skip
    strip: bool = knob(
        False, "Leave out what the metadata say of the training; what readers need stays.",
        group="what")  # fmt: skip
    device: str = knob(
        "cpu", "Where to compute.", group="files", choices=("cpu", "cuda"), place=True)  # fmt: skip

    @property
    def spelling(self) -> str:
        return next((word for word in self.to if word in DIALECTS), "kohya")

    @property
    def form(self) -> str | None:
        return next((word for word in self.to if word in FORMS), None)

    def check(self) -> Iterable[str]:
        folder = self.spelling == "peft"
        for line in super().check():
            if not (folder and self.save_to is not None):
                yield line
        if folder and self.save_to is not None and self.save_to.suffix == ".safetensors":
            yield f"save_to = {shown(str(self.save_to))}: expected a folder's name, for PEFT has one"
        if not self.model:
            yield "model: expected the file to convert, such as --model old.safetensors"
        for known in (FORMS, tuple(DIALECTS)):
            if sum(word in known for word in self.to) > 1:
                yield f"to = {' '.join(self.to)}: expected one of {', '.join(known)}"
        if self.rank is not None and self.form != "lora":
            yield f"rank = {self.rank}: expected --to lora beside it"
        if self.unit is not None and (self.form or folder):
            yield f"unit = {self.unit}: expected neither lora, diff nor peft in to, for DyLoRA is a LoRA"
        usual = {s.path: s.default for s in settings(type(self))}
        if self.unit is not None and (given := [name for name in WORKED if vars(self)[name] != usual[name]]):
            yield f"{given[0]}: expected not beside unit, which splits a file as it is; give it the parts"

    @torch.no_grad()
    def run(self, told: Told = unheard) -> Report:
        ready(self.device)
        file = Opened(self.model)
        if self.unit is not None:
            return self._split(file, told)
        work = _Work(self, file, Base(self.base) if self.base else None)
        target = self.free()
        pieces = work.pieces(told)
        texts = work.texts()
        inside = self.alphas == "factors"
        found = respelled(pieces, self.spelling, file.arch, in_factors=inside, path=file.path)
        if self.spelling.startswith("kohya"):
            found.tensors.update(work.beside())
        files = written(target, found, texts, self.dtype)
        return Report(tuple(work.lines(found.rounded, files)), work.facts(found.rounded, files), tuple(files))

    def strength_of(self, key: str) -> float:
        part, _, path = key.partition(".")
        by = self.unet_strength if part == "unet" else self.te_strength
        return self.strength * by * self.lbw.strength(part, path)

    def _split(self, file: Opened, told: Told) -> Report:
        """sd-scripts keeps the whole file's alpha; here it is what training multiplied with, see `Dylora`."""
        ranks = {key: _rank(file, key) for key in file.layers}
        paths = {rank: self.save_to.with_stem(f"{self.save_to.stem}-{rank:04d}")
                 for rank in range(self.unit, max(ranks.values()), self.unit)}  # fmt: skip
        if not paths:
            raise Mistake(f"unit = {self.unit}: expected less than the file's rank, {max(ranks.values())}")
        for path in paths.values():
            self.free(path)
        comment = file.metadata.get("ss_training_comment", "")
        for n, (rank, path) in enumerate(paths.items()):
            pieces = [Piece(key, _first(file.read(key), rank)) for key in file.layers]
            said = f"split from DyLoRA, rank {max(ranks.values())} to {rank}; {comment}"
            texts = {**file.metadata, "ss_training_comment": said, "ss_network_dim": str(rank),
                     "ss_network_alpha": "Dynamic"}  # fmt: skip
            inside = self.alphas == "factors"
            found = respelled(pieces, self.spelling, file.arch, in_factors=inside, path=file.path)
            if self.spelling.startswith("kohya"):
                found.tensors.update(file.weights.read(file.rest))
            written(path, found, texts, self.dtype)
            told(n + 1, len(paths))
        lines = tuple(f"{path}: rank {rank}" for rank, path in paths.items())
        return Report(lines, {"files": [str(path) for path in paths.values()]}, tuple(paths.values()))


class _Work:
    """One file on its way."""

    def __init__(self, how: Convert, file: Opened, base: Base | None):
        self.how, self.file, self.base = how, file, base
        parts = PARTS.get(how.only, ("unet", "te1", "te2"))
        self.times = {key: how.strength_of(key) for key, held in file.layers.items() if held.part in parts}
        self.kept = [key for key, times in self.times.items() if times]
        if not self.kept:
            raise Mistake(
                f"model = {file.path}: nothing of it would be left; expected another only, lbw or strength"
            )
        self.missing = self.norm = 0.0  # squares
        self.whole: list[str] = []  # layers that --to lora could not make one of
        self.filed = Filed(file.arch, torch.float32)  # forms that are new, for what metadata say of them

    def pieces(self, told: Told) -> list[Piece]:
        found = []
        for n, key in enumerate(self.kept):
            found.append(Piece(key, self._form(key, self.times[key]), self.file))
            told(n + 1, len(self.kept))
        return found

    def _change(self, key: str) -> Change:
        base = self.base if self.file.needs_base(key) else None
        return self.file.change(key, base, self.how.device)

    def _form(self, key: str, times: float) -> Form | None:
        """None: as it is in the file."""
        how = self.how
        if how.form is None and times == 1:
            return None
        own = self.file.read(key)
        made = None if how.form == "diff" or (how.form and not _lora(own)) else baked(own, times)
        if how.form is None and made is not None:
            return made
        if how.form and made is not None and (how.rank is None or len(own[DOWN]) <= how.rank):
            return made
        change = _scaled(self._change(key), times)
        formed = Formed(whole(change)) if how.form == "diff" else as_lora(change, own, how.rank)
        self.missing, self.norm = self.missing + formed.missing**2, self.norm + formed.norm**2
        if "diff" in formed.form:
            self.whole.append(key)
        if how.form:
            self.filed.forms[key] = formed.form
            self.filed.shapes[key] = change.shape
        return formed.form

    def beside(self) -> dict[str, Tensor]:
        """What kohya's files have that is for no layer; and where a strength of 0 took out some parts of an
        OpenCLIP attention, parts that add nothing: the WebUI reads all four or none."""
        names = [name for name in self.file.rest if not self.how.only]
        found = dict(self.file.weights.read(names))
        if all(self.times.values()):
            return found
        fused = [k for k in self.kept if k.startswith(f"{FUSED.get(self.file.arch)}.") and PIECE.search(k)]
        layers = {key: layer(*key.split(".", 1), self.file.arch, self._change(key).shape) for key in fused}
        return {**found, **missing(layers)}

    def texts(self) -> dict[str, str]:
        """Metadata."""
        origin, how = self.file.metadata, self.how
        new: dict[str, str] = {}
        if self.filed.forms:
            made = self.filed.texts(how.save_to.stem, "", origin)
            new = {name: made[name] for name in SIZES if name in made}
            origin = {name: text for name, text in origin.items() if name not in SIZES}
        if any(times != 1 for times in self.times.values()):
            told = [f"strength {how.strength:g}, te {how.te_strength:g}, unet {how.unet_strength:g}"]
            told += [f"lbw {how.lbw}"] * (how.lbw != BlockWeights())
            new["ss_training_comment"] = (
                f"{', '.join(told)} worked in; {origin.get('ss_training_comment', '')}"
            )
            new["ss_network_alpha"] = "Dynamic"
        found = {**origin, **new}
        return {name: text for name, text in found.items() if name in KEPT} if how.strip else found

    @property
    def error(self) -> float:
        """Share of the Frobenius norm that is missing in the layers that were cut."""
        return math.sqrt(self.missing / self.norm) if self.norm else 0.0

    def lines(self, rounded: float, files: list[pathlib.Path]) -> Iterator[str]:
        where = self.how.save_to if len(files) > 1 else files[0]
        dropped = len(self.file.layers) - len(self.kept)
        more = f", {dropped} left out" if dropped else ""
        yield f"{where}: {len(self.kept)} layers as {self.how.spelling} spells them{more}"
        if self.how.form == "lora":
            yield f"error of what was cut to rank {self.how.rank}: {self.error:.3%}" if self.norm else "exact"
        if self.how.form == "lora" and self.whole:
            yield f"{len(self.whole)} layers are of no low rank, or change a bias, and stay whole"
        if rounded:
            yield f"alpha was worked into the factors, with a rounding of at most {rounded:.1g} of a number"
        if self.file.rest and not self.how.spelling.startswith("kohya"):
            first = next(iter(self.file.rest))
            yield f"{len(self.file.rest)} tensors are for no layer, and left out ({first}, …)"

    def facts(self, rounded: float, files: list[pathlib.Path]) -> dict[str, object]:
        return {
            "files": [str(path) for path in files], "layers": len(self.kept), "spelling": self.how.spelling,
            "error": self.error, "whole": self.whole, "rounded": rounded,
            "left_out": [key for key in self.file.layers if key not in self.kept],
        }  # fmt: skip


def _scaled(change: Change, times: float) -> Change:
    thin = change.thin and (change.thin[0] * times, change.thin[1])
    return Change(
        change.shape, thin, None if change.whole is None else change.whole * times,
        None if change.bias is None else change.bias * times,
    )  # fmt: skip


def _lora(own: Mapping[str, Tensor]) -> bool:
    """Whether it is plain."""
    return own.keys() <= {DOWN, UP, ALPHA}


def _rank(file: Opened, key: str) -> int:
    """Raises Mistake: no plain LoRA."""
    names = file.layers[key].names
    if DOWN not in names or MID in names:
        raise Mistake(f"model = {file.path}: {key} is no LoRA; expected a DyLoRA to split")
    return file.weights.shapes[names[DOWN]][0]


def _first(own: Mapping[str, Tensor], rank: int) -> Form:
    """The first ranks of a DyLoRA."""
    whole_rank = len(own[DOWN])
    if rank >= whole_rank:
        return {**own}
    alpha = float(own[ALPHA]) if ALPHA in own else float(whole_rank)
    made = {**own, DOWN: own[DOWN][:rank], UP: own[UP][:, :rank]}
    return {**made, ALPHA: torch.tensor(alpha / whole_rank * math.sqrt(whole_rank * rank))}
