"""Writes .safetensors files one tensor at a time, so that no more of one is in memory than a tensor."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

import torch
from torch import Tensor

from lora_train.errors import Mistake
from lora_train.run.store import whole
from lora_train.weights import DTYPES

Row = tuple[tuple[int, ...], torch.dtype]
RANK = (  # the order of safetensors' own writer, so that equal tensors give equal bytes and hashes
    *("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"),
)
NAMES = {dtype: name for name, dtype in DTYPES.items()}
INFINITE = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80}  # the bits of it, without the sign
PIECE = 1 << 20  # values that are looked at at once
LEGACY = (0x100000, 0x110000)  # the bytes of a file that `sshs_legacy_hash` is of
PENDING = {"sshs_model_hash": "0" * 64, "sshs_legacy_hash": "0" * 8, "modelspec.hash_sha256": "0x" + "0" * 64}


def write(
    path: pathlib.Path,
    rows: Mapping[str, Row],
    tensor: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    *,
    hashed: bool = False,
) -> None:
    """The file appears under its name when it is whole.

    Args:
        rows: name -> shape and dtype of all there will be.
        tensor: makes the one of a name, of just that shape and dtype; asked once for each, in file order.
        hashed: write down what files of adapters are known by, see `PENDING`. `sshs_model_hash` is the sha256
            of all that follows the header, so the WebUI's hash of the file; modelspec's is the same.
            `sshs_legacy_hash` is of 64 kB at 1 MB, which of smaller files is the hash of nothing. None
            changes when other metadata than `ss_*` is edited.

    Raises:
        Unwritable: the folder cannot be written to, or the disk is full; nothing is left then.
    """
    names = sorted(rows, key=lambda name: (RANK.index(NAMES[rows[name][1]]), name))
    texts = {**metadata, **PENDING} if hashed else {**metadata}
    with whole(path) as part, part.open("wb") as file:
        file.write(header(rows, names, texts))
        short = header(rows, names, {k: v for k, v in metadata.items() if k.startswith("ss_")})
        sums = _Sums(short) if hashed else None
        for name in names:
            made = tensor(name)
            if (tuple(made.shape), made.dtype) != rows[name]:
                raise ValueError(f"{name}: {tuple(made.shape)} {made.dtype}, and {rows[name]} was announced")
            _put(file, made, sums)
        if sums is not None:
            file.seek(0)
            file.write(header(rows, names, {**metadata, **sums.texts()}))
        file.flush()
        os.fsync(file.fileno())


def narrowed(value: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """In another precision. Raises Mistake: as `sound`."""
    return sound(value.to(dtype), value, name)


def sound(made: Tensor, value: Tensor, name: str) -> Tensor:
    """What is to be written in place of a value.

    Raises:
        Mistake: it is infinite where that was not: the precision has no number so large.
    """
    if made.dtype in INFINITE and made.numel():
        bits = made.view(torch.int16) & 0x7FFF  # whole numbers are in the same order, and quick
        if int(bits.max()) < INFINITE[made.dtype]:
            return made
    if made.dtype.is_floating_point and made.dtype.itemsize > 1:
        most = torch.finfo(made.dtype).max
        pieces = zip(made.reshape(-1).split(PIECE), value.reshape(-1).split(PIECE), strict=True)
        if any(bool(m.isinf().any()) and bool((m.isinf() & v.isfinite()).any()) for m, v in pieces):
            raise Mistake(
                f"save_precision: {name} gets values beyond {most:g}, for which {NAMES[made.dtype]} has no "
                "number; expected bf16 or float"
            )
    return made


def header(rows: Mapping[str, Row], names: Iterable[str], metadata: Mapping[str, str]) -> bytes:
    """The file's beginning; as long for other texts of the same length. names: in the file's order."""
    found: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for name in names:
        shape, dtype = rows[name]
        size = dtype.itemsize
        for side in shape:
            size *= side
        found[name] = {"dtype": NAMES[dtype], "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _put(file: BinaryIO, tensor: Tensor, sums: _Sums | None) -> None:
    data = memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    file.write(data)
    if sums is not None:
        sums.add(data)


class _Sums:
    """Hashes of a file's tensors as they pass.

    Args:
        short: the header that the file would have with its `ss_*` metadata alone, of which old hashes are.
    """

    def __init__(self, short: bytes):
        self.all, self.legacy, self.at = hashlib.sha256(), hashlib.sha256(), 0
        self._pass(memoryview(short))

    def add(self, data: memoryview) -> None:
        self.all.update(data)
        self._pass(data)

    def _pass(self, data: memoryview) -> None:
        first, last = (min(max(edge - self.at, 0), len(data)) for edge in LEGACY)
        self.legacy.update(data[first:last])
        self.at += len(data)

    def texts(self) -> dict[str, str]:
        found = self.all.hexdigest()
        return {
            "sshs_model_hash": found,
            "sshs_legacy_hash": self.legacy.hexdigest()[:8],
            "modelspec.hash_sha256": f"0x{found}",
        }
