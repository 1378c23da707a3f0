"""A checkpoint's file with something added to its layers, written as another file of the same names."""

from __future__ import annotations

import logging
import pathlib
import shutil
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train import names
from lora_train.errors import Mistake
from lora_train.models.files import Part, Source, find
from lora_train.models.written import write
from lora_train.run.store import whole

log = logging.getLogger(__name__)

# (part, path of a layer, "weight" or "bias") -> what is added to it
Changes = Mapping[tuple[str, str, str], Tensor]

SINGLE = "output.save_checkpoint = true: expected a checkpoint of one file, and {} is a folder; leave it out"
HASH = "modelspec.hash_sha256"  # of the tensors before


def rewrite(source: pathlib.Path, changes: Changes, file: pathlib.Path, dtype: torch.dtype) -> None:
    """Names, shapes and metadata are the source's, and so is a .yaml beside it.

    Args:
        dtype: of the tensors that are numbers with a point.

    Raises:
        Mistake: the source is a folder.
        Unwritable: the disk is full.
    """
    if source.is_dir():
        raise Mistake(SINGLE.format(source))
    found = find(source)
    added: dict[str, list[tuple[Source, Tensor]]] = {}
    left = dict(changes)
    for part, there in found.parts.items():
        if part != "vae":
            for where, at in places(part, there, found.facts.arch):
                if where in left:
                    added.setdefault(at.key, []).append((at, left.pop(where)))
    if left:
        part, path, _ = next(iter(left))
        log.warning("%s has no place for %d of what was learned, first %s.%s", source, len(left), part, path)
    weights = found.parts["unet"].weights
    metadata = {name: text for name, text in weights.metadata.items() if name != HASH}

    def changed(key: str) -> Tensor:
        [(_, value)] = weights.read([key])
        return _changed(value, added.get(key, ()), dtype)

    rows = {key: (shape, _dtype(weights.dtypes[key], dtype)) for key, shape in weights.shapes.items()}
    write(file, rows, changed, {"format": "pt", **metadata})
    if (settings := source.with_suffix(".yaml")).is_file():  # by which a WebUI knows the prediction
        with whole(file.with_suffix(".yaml")) as part:
            shutil.copyfile(settings, part)


def places(part: str, there: Part, arch: str) -> list[tuple[tuple[str, str, str], Source]]:
    """By a layer's path, as `Layer` has it, where its tensors are."""
    found = []
    for name, at in there.keys.items():
        path, _, tensor = name.rpartition(".")
        if tensor in ("weight", "bias"):
            where = names.unet_to_ldm(path, arch) if part == "unet" else names.text_path(path)
            found.append(((part, where, tensor), at))
    return found


def _dtype(there: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """Whole numbers stay what they are."""
    return wanted if there.is_floating_point else there


def _changed(value: Tensor, more: list[tuple[Source, Tensor]], dtype: torch.dtype) -> Tensor:
    if more:
        value = value.float().clone()
    for at, change in more:
        piece = at.of(value)
        piece.add_(change.to(piece).reshape(piece.shape))
    return value.to(_dtype(value.dtype, dtype))
