"""Reads files of weights, one tensor at a time, and says what a file holds by the names in it."""

from __future__ import annotations

import hashlib
import json
import math
import pathlib
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from lora_train.errors import Mistake

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
PICKLES = (".ckpt", ".pt", ".pth", ".bin")
Shapes = Mapping[str, tuple[int, ...]]


class Weights(Protocol):
    """An open file of named tensors."""

    path: pathlib.Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    metadata: Mapping[str, str]  # what the file says of itself

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Tensors on the CPU, as stored; each is in memory only while the caller holds it. In any order."""
        ...


def open_weights(path: pathlib.Path) -> Weights:
    """Told by its content, not by its name, as far as that goes.

    Raises:
        Mistake: missing, empty, cut short, or not a file of tensors.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(32)
    except OSError as e:
        raise Mistake(f"{path}: cannot be read ({e.strerror})") from e
    if not size:
        raise Mistake(f"{path}: is empty; download or copy it again")
    if path.suffix == ".json" and ".index." in path.name:
        return Sharded(path)
    if start.startswith(b"version https://git"):
        raise Mistake(f"{path}: is a Git LFS pointer, not the file itself; fetch it with git lfs pull")
    if path.suffix.lower() in PICKLES and start[8:9] != b"{":
        return Pickled(path)
    return Safetensors(path, size)


class Safetensors:
    """Seeks and reads into fresh memory: mapping the file would count it into the peak a second time.

    Format: 8 bytes, the header's length; the header, JSON; the tensors. https://github.com/huggingface/safetensors
    """

    def __init__(self, path: pathlib.Path, size: int):
        self.path = path
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 10 or length > 100_000_000 or length < 2:
                raise Mistake(f"{path}: is not a .safetensors file" + _guess(path))
            header = file.read(length)
        try:
            rows = json.loads(header)
            said = rows.pop("__metadata__", None)
            self.metadata = said if isinstance(said, dict) else {}
            self.shapes = {name: tuple(map(int, row["shape"])) for name, row in rows.items()}
            self.rows = {n: (DTYPES[row["dtype"]], *map(int, row["data_offsets"])) for n, row in rows.items()}
            self.dtypes = {name: row[0] for name, row in self.rows.items()}
            ends = [end for _, _, end in self.rows.values()]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            cut = length + 8 > size
            why = "is cut short; download or copy it again" if cut else "is not a .safetensors file"
            raise Mistake(f"{path}: {why}") from e
        self.data = 8 + length
        needed = self.data + max(ends, default=0)
        if needed > size:
            raise Mistake(f"{path}: is cut short, {size:,} of {needed:,} bytes; download or copy it again")
        for name, (dtype, begin, end) in self.rows.items():
            if (
                min(self.shapes[name], default=0) < 0
                or begin < 0
                or math.prod(self.shapes[name]) * dtype.itemsize != end - begin
            ):
                raise Mistake(f"{path}: {name} does not fill its place; the file is damaged")

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        with self.path.open("rb") as file:
            for name in sorted(names, key=lambda name: self.rows[name][1]):
                dtype, begin, end = self.rows[name]
                tensor = torch.empty(self.shapes[name], dtype=dtype)
                if tensor.nbytes:
                    file.seek(self.data + begin)
                    if file.readinto(tensor.reshape(-1).view(torch.uint8).numpy()) != tensor.nbytes:
                        raise Mistake(f"{self.path}: ended inside {name}; was it replaced meanwhile?")
                yield name, tensor


class Pickled:
    """torch.save's file. Only tensors and plain containers are taken: a pickle can run any code."""

    def __init__(self, path: pathlib.Path):
        self.path, self.metadata = path, {}
        try:
            mapped = zipfile.is_zipfile(path)
            found = torch.load(str(path), map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError as e:
            raise Mistake(
                f"{path}: holds more than tensors, or is no file of tensors; a pickle can run code, so it is "
                "not read. Convert it to .safetensors where you trust it"
            ) from e
        except Exception as e:  # noqa: BLE001 - on a damaged file torch stumbles over anything
            raise Mistake(f"{path}: is damaged or cut short; download or copy it again") from e
        found = found.get("state_dict", found) if isinstance(found, dict) else {}
        self.tensors = dict(_flat(found))
        self.shapes = {name: tuple(value.shape) for name, value in self.tensors.items()}
        self.dtypes = {name: value.dtype for name, value in self.tensors.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        for name in names:
            yield name, self.tensors[name]


class Sharded:
    """Tensors in several files of a folder, and a JSON that says which is where, as diffusers writes it."""

    def __init__(self, index: pathlib.Path):
        self.path, self.metadata = index, {}
        try:
            found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            where = {str(name): pathlib.PurePath(file).name for name, file in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise Mistake(f"{index}: expected an index of files of weights ({e})") from e
        self.files = {file: open_weights(index.parent / file) for file in sorted({*where.values()})}
        lost = next((name for name, file in where.items() if name not in self.files[file].shapes), None)
        if lost is not None:
            raise Mistake(f"{index}: {where[lost]} has no {lost}; download or copy the folder again")
        self.where = where
        self.shapes = {name: self.files[file].shapes[name] for name, file in where.items()}
        self.dtypes = {name: self.files[file].dtypes[name] for name, file in where.items()}

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        wanted = [*names]
        for file, weights in self.files.items():
            yield from weights.read(name for name in wanted if self.where[name] == file)


def hashes(path: pathlib.Path) -> tuple[str, str]:
    """What other tools know a checkpoint by: (the WebUI's old hash, 8 hex digits; sha256, 64)."""
    whole = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(0x100000)
        old = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
        file.seek(0)
        while block := file.read(1 << 20):
            whole.update(block)
    return old, whole.hexdigest()


def _flat(tree: dict, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in tree.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")


def _guess(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        return " but a pickle; rename it to .ckpt"
    if start[:1] == b"<":
        return " but a web page, as a download that needed a login leaves behind"
    return ""


def content(shapes: Shapes) -> str:
    """What a file holds, told by its tensors' names: "an SDXL checkpoint", …; "" where it is unknown."""
    first = shapes.get("model.diffusion_model.input_blocks.0.0.weight")
    channels = first[1] if first is not None and len(first) == 4 else 4
    for kind, marks in KINDS.items():
        if any(mark in name for mark in marks for name in shapes):
            return _wide(kind, channels) if kind in BASES else kind
    if first:
        return _wide(BASES[0], channels)
    if any("encoder.down" in name or "decoder.up" in name for name in shapes):
        return "an autoencoder (VAE) alone"
    return ""


def _wide(kind: str, channels: int) -> str:
    """A kind of checkpoint whose denoiser takes so many channels."""
    return {4: kind, 9: kind + PAINTS}.get(channels, WIDE)


PAINTS = " for inpainting"
WIDE = "a checkpoint for editing or with depth, whose denoiser takes more than a latent"
BASES = ("an SD 1.x checkpoint", "an SD 2.x checkpoint", "an SDXL checkpoint")
KINDS = {  # the first whose mark is in any name
    "a LoRA or another adapter": (
        *(".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", ".hada_w1", ".lokr_w", ".oft_"),
        *("lora_unet_", "lora_te"),
    ),
    "a ControlNet": ("control_model.", "input_hint_block", "controlnet_cond_embedding"),
    "an embedding (textual inversion)": ("emb_params", "string_to_param", "<"),
    "SDXL's refiner, not its base model": ("conditioner.embedders.0.model.",),
    "an SD 2.x checkpoint for unCLIP": ("embedder.model.", "noise_augmentor."),
    "an SDXL checkpoint": ("conditioner.embedders.", ".label_emb."),
    "an SD 3 checkpoint": (".joint_blocks.",),
    "a Flux checkpoint": ("double_blocks.",),
    "an SD 2.x checkpoint": ("cond_stage_model.model.",),
    "a diffusers denoiser alone": ("down_blocks.0.attentions.", "down_blocks.1.attentions."),
    "an upscaler": ("body.0.rdb1.", "RRDB", "conv_body.weight"),
}
