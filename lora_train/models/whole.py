"""A checkpoint with something added to its layers, written as another one of the same names."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
import shutil
import tempfile
from collections.abc import Mapping

import torch
from torch import Tensor

from lora_train import names
from lora_train.errors import Mistake
from lora_train.models.files import FOLDERS, Found, Part, Source, find
from lora_train.models.written import sound, write
from lora_train.run.store import Unwritable, whole
from lora_train.weights import Weights

log = logging.getLogger(__name__)

BLOCK = 1 << 20  # values that are worked on at once, which stay near the processor


@dataclasses.dataclass(frozen=True)
class Product:
    """A change that is never made whole: up [out, rank] times down [rank, in * kernel]."""

    up: Tensor
    down: Tensor

    def add(self, block: Tensor, rows: slice) -> None:
        """Of some of its rows. block: contiguous."""
        flat = block.flatten(1)
        if flat.dtype == self.up.dtype and flat.device == self.up.device:
            flat.addmm_(self.up[rows], self.down)
        else:
            flat.add_((self.up[rows] @ self.down).to(flat))


# (part, path of a layer, "weight" or "bias") -> what is added to it; may make it when it is asked for, once
Changes = Mapping[tuple[str, str, str], "Tensor | Product"]
Where = tuple[str, str, str]
Added = Mapping[str, list[tuple[Source, Where]]]  # a tensor's key in a file -> what comes to it, and where

SINGLE = "output.save_checkpoint = true: expected a checkpoint of one file, and {} is a folder; leave it out"
HASH = "modelspec.hash_sha256"  # of the tensors before
VERSION = re.compile(r'(\bversion"?: *"?)([^\s",{}]+)')  # of a text encoder, in a .yaml
WEIGHTS = re.compile(
    r"\.(safetensors|bin|ckpt|pt|pth|msgpack|h5|onnx|onnx_data|part)(\.index(\.\w+)?\.json)?$"
)


def rewrite(
    source: pathlib.Path, changes: Changes, file: pathlib.Path, dtype: torch.dtype | None = None,
    *, within: torch.dtype = torch.float32,
) -> list[Where]:  # fmt: skip
    """Names, shapes and metadata are the source's, and so is a .yaml beside it.

    Args:
        dtype: of the tensors that are numbers with a point; None: each keeps its own.
        within: what is added is added in this.

    Returns:
        What the source has no place for.

    Raises:
        Mistake: the source is a folder.
        Unwritable: the disk is full.
    """
    if source.is_dir():
        raise Mistake(SINGLE.format(source))
    found = find(source)
    added, left = _placed(found, changes)
    weights = found.parts["unet"].weights
    _stream(weights, added.get(weights.path, {}), changes, file, (dtype, within))
    if (settings := source.with_suffix(".yaml")).is_file():  # by which a WebUI knows the prediction
        text = settings.read_text(encoding="utf-8")
        if file.parent.resolve() != source.parent.resolve():
            text = VERSION.sub(lambda m: m[1] + _folder(source.parent, m[2]), text)
        with whole(file.with_suffix(".yaml")) as part:
            part.write_text(text, encoding="utf-8")
    return left


def _folder(beside: pathlib.Path, version: str) -> str:
    """A text encoder's settings from elsewhere, where they are a folder beside the checkpoint's."""
    own = beside / version
    return own.resolve().as_posix() if (own / "config.json").is_file() else version


def rewrite_folder(
    source: pathlib.Path, changes: Changes, folder: pathlib.Path, dtype: torch.dtype | None = None,
    *, within: torch.dtype = torch.float32,
) -> list[Where]:  # fmt: skip
    """A diffusers folder as another one; its denoiser and text encoders are one .safetensors each there. The
    folder appears under its name when it is whole; one that is there is replaced.

    Args, returns and raises: as `rewrite`.
    """
    found = find(source)
    added, left = _placed(found, changes)
    made = folder.with_name(folder.name + ".part")
    shutil.rmtree(made, ignore_errors=True)
    try:
        for part, there in found.parts.items():
            if part != "vae":
                name, stem = FOLDERS[part]
                file, weights = made / name / f"{stem}.safetensors", there.weights
                _stream(weights, added.get(weights.path, {}), changes, file, (dtype, within))
        _copy(source, made, {FOLDERS[part][0] for part in found.parts if part != "vae"})
        put(made, folder)
    except OSError as e:
        raise Unwritable(folder, e) from e
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return left


def put(made: pathlib.Path, folder: pathlib.Path) -> None:
    """A folder in another one's place; that stays where it is if this fails.

    Raises:
        OSError: one of them cannot be moved.
    """
    if not folder.exists():
        made.replace(folder)
        return
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        folder.replace(aside / "before")
        try:
            made.replace(folder)
        except OSError:
            (aside / "before").replace(folder)
            raise
    except OSError:
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _copy(source: pathlib.Path, folder: pathlib.Path, written: set[str]) -> None:
    """All but weights that are written anew, and files of weights that lie beside the folders."""
    for file in sorted(p for p in source.rglob("*") if p.is_file()):
        inside = file.relative_to(source)
        if any(word.startswith(".") for word in inside.parts):
            continue
        anew = inside.parts[0] in written or len(inside.parts) == 1
        if not (anew and WEIGHTS.search(file.name)):
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / inside)


def _placed(found: Found, changes: Changes) -> tuple[dict[pathlib.Path, Added], list[Where]]:
    """By the file and key of what they change; and those that there is nothing for."""
    added: dict[pathlib.Path, dict[str, list[tuple[Source, Where]]]] = {}
    left = dict.fromkeys(changes)
    for part, there in found.parts.items():
        if part != "vae":
            for where, at in places(part, there, found.facts.arch):
                if where in left:
                    del left[where]
                    added.setdefault(there.weights.path, {}).setdefault(at.key, []).append((at, where))
    if left:
        part, path, _ = next(iter(left))
        log.warning("%s has no place for %d of the changes, first %s.%s", found.path, len(left), part, path)
    return added, [*left]


def _stream(
    weights: Weights, added: Added, changes: Changes, file: pathlib.Path,
    dtypes: tuple[torch.dtype | None, torch.dtype],
) -> None:  # fmt: skip
    """dtypes: of what is written, and in which what is added is added."""
    dtype, within = dtypes
    metadata = {name: text for name, text in weights.metadata.items() if name != HASH}
    rows = {key: (shape, _dtype(weights.dtypes[key], dtype)) for key, shape in weights.shapes.items()}

    def changed(key: str) -> Tensor:
        [(_, value)] = weights.read([key])
        more = [(at, changes[where]) for at, where in added.get(key, ())]
        return sound(_changed(value, more, rows[key][1], within), value, key)

    write(file, rows, changed, {"format": "pt", **metadata})


def places(part: str, there: Part, arch: str) -> list[tuple[tuple[str, str, str], Source]]:
    """By a layer's path, as `Layer` has it, where its tensors are."""
    found = []
    for name, at in there.keys.items():
        path, _, tensor = name.rpartition(".")
        if tensor in ("weight", "bias"):
            where = names.unet_to_ldm(path, arch) if part == "unet" else names.text_path(path)
            found.append(((part, where, tensor), at))
    return found


def _dtype(there: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """Whole numbers stay what they are."""
    return wanted if wanted is not None and there.is_floating_point else there


def _changed(
    value: Tensor, more: list[tuple[Source, Tensor | Product]], dtype: torch.dtype, within: torch.dtype
) -> Tensor:
    """Block by block: neither what is added nor the sum is there as a whole."""
    alone = len(more) == 1 and more[0][0].third is None
    made = torch.empty_like(value, dtype=dtype) if alone else value.to(dtype, copy=bool(more))
    for at, change in more:
        there, here = at.of(value), at.of(made)
        if isinstance(change, Tensor):
            change = change.reshape(there.shape)
        step = max(1, BLOCK // there[0].numel())
        for i in range(0, len(there), step):
            rows = slice(i, i + step)
            block = there[rows].to(within, copy=True, memory_format=torch.contiguous_format)
            if isinstance(change, Product):
                change.add(block, rows)
            else:
                block.add_(change[rows].to(block))
            here[rows].copy_(block)
    return made
