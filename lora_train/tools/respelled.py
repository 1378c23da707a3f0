"""Respelled: layers under another program's keys, and the files that it wants them in."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from lora_train.adapters.lora import DOWN, UP
from lora_train.adapters.spelled import ALPHA, CONFIG, FOLDED, MAGNITUDES, TOLD
from lora_train.errors import Mistake
from lora_train.models.written import Row, narrowed, write
from lora_train.run.store import Unwritable
from lora_train.tools.dialects import DIALECTS, ENCODERS, Place, dotted, most, settings, told
from lora_train.tools.opened import Opened

FILE = "adapter_model.safetensors"
Form = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Piece:
    """A layer to be written."""

    key: str
    form: Form | None  # its tensors; None: as the file has them, read when they are written
    file: Opened | None = None

    def names(self) -> dict[str, Row]:
        """Its tensors' shapes and precisions."""
        if self.form is not None:
            return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in self.form.items()}
        weights, own = self.file.weights, self.file.layers[self.key].names
        return {name: (weights.shapes[key], weights.dtypes[key]) for name, key in own.items()}

    def read(self) -> Form:
        return self.file.read(self.key) if self.form is None else self.form


Maker = Callable[[], Tensor]


@dataclasses.dataclass
class Respelled:
    """What a file will hold."""

    tensors: dict[str, Tensor | tuple[Row, Maker]] = dataclasses.field(default_factory=dict)
    texts: dict[str, str] = dataclasses.field(default_factory=dict)  # that this spelling adds to the metadata
    configs: dict[str, dict[str, object]] = dataclasses.field(default_factory=dict)  # of PEFT's folders
    rounded: float = 0.0  # the largest share of a number that is lost where alpha is worked in


def respelled(
    pieces: Iterable[Piece], spelling: str, arch: str, *, in_factors: bool, path: pathlib.Path
) -> Respelled:
    """Layers under the keys of a spelling.

    Args:
        in_factors: where there is no word for alpha, work it in; see `Convert.alphas`.
        path: of the file that they are from, for complaints.

    Raises:
        Mistake: a layer that the spelling has no words for.
    """
    dialect, found = DIALECTS[spelling], Respelled()
    alphas: dict[str, float] = {}
    ranks: dict[str, int] = {}
    dora = False
    for piece in pieces:
        part, _, at = piece.key.partition(".")
        place = part, at, arch
        names = piece.names()
        if dialect.tensors is None:
            for name, row in names.items():
                found.tensors[dialect.key(place, name)] = _one(piece, name, row)
            continue
        form = piece.read()
        _fits(place, form, spelling, path)
        own = f"{ENCODERS[part]}.{dotted(place)}"
        alphas[own], ranks[own] = _alpha(form), len(form[DOWN])
        dora = dora or MAGNITUDES in form
        if in_factors and spelling != "peft":
            up, lost = folded(form[UP], alphas[own] / ranks[own])
            form, found.rounded = {**form, UP: up}, max(found.rounded, lost)
        for name, tensor in form.items():
            if name != ALPHA:
                made = _magnitudes(tensor) if name == MAGNITUDES else tensor
                found.tensors[dialect.key(place, name)] = made
    if dialect.tensors is not None:
        _say(found, spelling, ranks, alphas, dora=dora, in_factors=in_factors)
    return found


def _one(piece: Piece, name: str, row: Row) -> Tensor | tuple[Row, Maker]:
    if piece.form is not None:
        return piece.form[name]
    return row, lambda: piece.read()[name]


def _fits(place: Place, form: Mapping[str, Tensor], spelling: str, path: pathlib.Path) -> None:
    """Raises Mistake: there are no words for it."""
    known = DIALECTS[spelling].tensors
    lacking = [name for name in form if name not in known] or [n for n in (DOWN, UP) if n not in form]
    key = f"{place[0]}.{place[1]}"
    if not lacking and MAGNITUDES in form and len(form[MAGNITUDES]) == 1 != len(form[UP]):
        lacking = ["magnitudes of its inputs, which PEFT knows of outputs alone"]
    if lacking:
        raise Mistake(
            f"to = {spelling}: {path}: {key} has {lacking[0]}, and {spelling} holds plain LoRA; turn it into "
            f"that as well: --to lora {spelling}"
        )
    if spelling == "processors" and place[0] == "unet" and ".attn" not in place[1]:
        raise Mistake(
            f"to = processors: {path}: {key} is no attention's, of which alone those files tell; expected "
            "--to diffusers"
        )
    if spelling == "processors" and place[0] == "te2":
        raise Mistake(
            f"to = processors: {path}: {key}: such files have one text encoder; expected --to diffusers"
        )


def _alpha(form: Mapping[str, Tensor]) -> float:
    return (float(form[ALPHA]) if ALPHA in form else 0.0) or float(len(form[DOWN]))


def _magnitudes(tensor: Tensor) -> Tensor:
    """PEFT's, [out] of a linear layer, [1, out, 1, 1] of a convolution."""
    return tensor.flatten() if tensor.ndim == 2 else tensor.reshape(1, -1, *[1] * (tensor.ndim - 2))


def folded(up: Tensor, scale: float) -> tuple[Tensor, float]:
    """`up` times a scale, in a precision in which it comes back as it was when it is divided, if there is
    one; and the largest share of a number that does not."""
    if scale == 1:
        return up, 0.0
    product = up.float() * scale
    for dtype in dict.fromkeys((up.dtype, torch.float32)):
        made = product.to(dtype)
        off = (made.float() / scale).to(up.dtype).float() - up.float()
        lost = float((off.abs() / up.float().abs().clamp(min=1e-30)).max()) if up.numel() else 0.0
        if not lost:
            break
    return made, lost


def _say(
    found: Respelled, spelling: str, ranks: Mapping[str, int], alphas: Mapping[str, float], *, dora: bool,
    in_factors: bool,
) -> None:  # fmt: skip
    """Alphas, where the spelling has its words for them."""
    parts = {part: {n.removeprefix(f"{part}."): r for n, r in ranks.items() if n.startswith(f"{part}.")}
             for part in ENCODERS.values()}  # fmt: skip
    told_of = {
        part: settings(own, {name: alphas[f"{part}.{name}"] for name in own}, dora=dora)
        for part, own in parts.items() if own
    }  # fmt: skip
    if spelling == "peft":
        found.configs = told_of
    elif not in_factors:
        found.texts[TOLD] = told(told_of)
    elif any(alphas[name] != rank for name, rank in ranks.items()):
        usual = most(alphas.values())
        others = {name: alpha for name, alpha in alphas.items() if alpha != usual}
        found.texts[FOLDED] = json.dumps({"": usual, **others})


def written(
    to: pathlib.Path, found: Respelled, texts: Mapping[str, str], dtype: Callable[[torch.dtype], torch.dtype]
) -> list[pathlib.Path]:
    """Write it: a file, or PEFT's folder with a folder for each part.

    Raises:
        Mistake: nothing can be written there; what was there before is as it was.
    """
    if not found.configs:
        _write(to, found.tensors, {**texts, **found.texts}, dtype)
        return [to]
    part = to.with_name(to.name + ".part")
    files = []
    try:
        for folder, config in found.configs.items():
            own = {k.partition("/")[2]: v for k, v in found.tensors.items() if k.startswith(f"{folder}/")}
            _write(part / folder / FILE, own, texts, dtype)
            (part / folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
            files += [to / folder / FILE, to / folder / CONFIG]
        if not to.exists():
            part.replace(to)
        for file in files if part.exists() else ():
            file.parent.mkdir(parents=True, exist_ok=True)
            (part / file.relative_to(to)).replace(file)
    except OSError as e:
        raise Unwritable(to, e) from e
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return files


def _write(
    path: pathlib.Path, tensors: Mapping[str, Tensor | tuple[Row, Maker]], texts: Mapping[str, str],
    dtype: Callable[[torch.dtype], torch.dtype],
) -> None:  # fmt: skip
    """In the wanted precision, but for single numbers that are none of it, and for what are no fractions."""
    rows: dict[str, Row] = {}
    for key, made in tensors.items():
        shape, there = made[0] if isinstance(made, tuple) else (tuple(made.shape), made.dtype)
        rows[key] = shape, dtype(there) if there.is_floating_point else there
        if isinstance(made, Tensor) and not shape and made.to(rows[key][1]) != made:
            rows[key] = shape, there

    def tensor(key: str) -> Tensor:
        made = tensors[key]
        return narrowed(made[1]() if isinstance(made, tuple) else made, rows[key][1], key)

    write(path, rows, tensor, texts, hashed=True)
