"""A fine-tuned checkpoint as its difference to the one it was made from: to the bit, or at a rank."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.models.written import Row, write
from lora_train.run.store import whole
from lora_train.tools.extract import Extract
from lora_train.tools.merge import Merge
from lora_train.tools.metadata import opened, relabel, texts_of
from lora_train.tools.packed import pack, unpack
from lora_train.tools.tool import Report, Told, Tool, unheard
from lora_train.values import shown
from lora_train.weights import DTYPES, Safetensors, Weights, hashes, open_weights

KIND, VERSION = "lora_train_difference", "1"
BASE_NAME, BASE_HASH, HASH = "lora_train_base", "lora_train_base_hash", "lora_train_hash"
HEAD, LEAD = "header", "tensor/"  # names in the file
LARGEST = 100_000_000  # bytes of a header, as safetensors has it


@dataclasses.dataclass(frozen=True)
class Kept(Tool):
    """What both tools have: the checkpoint it is a difference to, and a file to write."""

    model_org: pathlib.Path | None = knob(
        None, "Checkpoint that the other was made from.", group="files", basic=True, place=True)  # fmt: skip
    save_to: pathlib.Path | None = knob(
        None, "File that is written; .safetensors.", group="output", basic=True, place=True)  # fmt: skip
    overwrite: bool = knob(
        False, "Replace the file to write to, where there is one.", group="output")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.model_org is None:
            yield "model_org: expected the checkpoint that the other was made from"
        if self.save_to is None or self.save_to.suffix != ".safetensors":
            yield f"save_to = {shown(str(self.save_to or ''))}: expected a name that ends with .safetensors"

    def free(self) -> None:
        """Raises Mistake: the file is there, or the base is a folder."""
        if self.save_to.exists() and not self.overwrite:
            raise Mistake(f"save_to = {self.save_to}: is there already; take another name, or set overwrite")
        if self.model_org.is_dir():
            raise Mistake(
                f"model_org = {self.model_org}: expected a checkpoint of one file, by whose hash it is known "
                "again; convert-model makes one of a folder"
            )


@dataclasses.dataclass(frozen=True)
class Dehydrate(Kept):
    """Without a rank nothing is lost; with one it is an extracted LoRA that knows its base."""

    about = (
        "Store a fine-tuned checkpoint as its difference to the one it was made from. Without rank nothing\n"
        "is lost: rehydrate gives the very file back. With rank it is a LoRA, as extract makes it."
    )

    model_tuned: pathlib.Path | None = knob(
        None, "The fine-tuned checkpoint.", group="files", basic=True, place=True)  # fmt: skip
    rank: int | None = knob(
        None, "Keep the difference of each layer at this rank, as a LoRA. Empty: to the bit.", group="size",
        low=1, high=4096)  # fmt: skip
    conv_rank: int | None = knob(
        None, "Rank in 3x3 convolutions. Empty: as rank.", group="size", low=1, high=4096)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.model_tuned is None:
            yield "model_tuned: expected the fine-tuned checkpoint"
        if self.conv_rank is not None and self.rank is None:
            yield f"conv_rank = {self.conv_rank}: expected rank beside it"

    def run(self, told: Told = unheard) -> Report:
        self.free()
        return self._exact(told) if self.rank is None else self._thin(told)

    def _thin(self, told: Told) -> Report:
        size = {"dim": self.rank, "conv_dim": self.conv_rank or self.rank}
        report = Extract(
            model_org=self.model_org, model_tuned=self.model_tuned, save_to=self.save_to,
            overwrite=self.overwrite, **size).run(told)  # fmt: skip
        texts = texts_of(opened(self.save_to))
        relabel(self.save_to, {**texts, **_based(self.model_org)}, self.save_to)
        return report

    def _exact(self, told: Told) -> Report:
        tuned, base = opened(self.model_tuned), open_weights(self.model_org)
        _contiguous(tuned)
        spool = self.save_to.with_name(self.save_to.name + ".spool")
        self.save_to.parent.mkdir(parents=True, exist_ok=True)
        places, equal = {}, 0
        try:
            with spool.open("wb") as stream:
                for number, (name, data) in enumerate(_packed(tuned, base)):
                    equal += not data
                    if data:
                        places[name] = stream.tell(), len(data)
                        stream.write(data)
                    told(number + 1, len(tuned.shapes) + 1)
            texts = {KIND: VERSION, **_based(self.model_org), HASH: hashes(self.model_tuned)[1],
                     "lora_train_equal": str(equal)}  # fmt: skip
            rows = {name: ((size,), torch.uint8) for name, (_, size) in places.items()}
            with spool.open("rb") as stream:

                def tensor(name: str) -> Tensor:
                    at, size = places[name]
                    stream.seek(at)
                    return torch.frombuffer(bytearray(stream.read(size)), dtype=torch.uint8)

                write(self.save_to, rows, tensor, texts)
        finally:
            spool.unlink(missing_ok=True)
        before, after = (path.stat().st_size for path in (self.model_tuned, self.save_to))
        facts = {"tensors": len(tuned.shapes), "equal": equal, "bytes": after, "of": before}
        line = (
            f"{equal} of {len(tuned.shapes)} tensors are the base's; {after:,} bytes in place of {before:,}"
        )
        return Report((f"Saved {self.save_to}: {line}",), facts, (self.save_to,))


@dataclasses.dataclass(frozen=True)
class Rehydrate(Kept):
    """The way back."""

    about = (
        "Give back the checkpoint that dehydrate stored: the very file, or, of a difference at a rank, the\n"
        "base with it merged in. The base has to be the very one."
    )

    difference: pathlib.Path | None = knob(
        None, "File that dehydrate made.", group="files", basic=True, place=True)  # fmt: skip

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.difference is None:
            yield "difference: expected the file that dehydrate made"

    def run(self, told: Told = unheard) -> Report:
        self.free()
        file = opened(self.difference)
        texts = texts_of(file)
        if BASE_HASH not in texts:
            raise Mistake(f"{self.difference}: expected a file that dehydrate made")
        if texts.get(KIND, VERSION) != VERSION:
            raise Mistake(f"{self.difference}: made by a newer version; update lora-train to read it")
        if not self.model_org.is_file():
            raise Mistake(f"model_org = {self.model_org}: no such file")
        found = hashes(self.model_org)[1]
        if found != texts[BASE_HASH]:
            name = f"{texts.get(BASE_NAME)} ({texts[BASE_HASH][:10]})"
            raise Mistake(
                f"model_org = {self.model_org}: expected {name}, to which the difference is; this is another "
                f"file ({found[:10]})"
            )
        if KIND in texts and HASH not in texts:
            raise Mistake(f"{self.difference}: is damaged")
        if KIND not in texts:
            return Merge(
                sd_model=self.model_org, models=(self.difference,), ratios=(1.0,), save_to=self.save_to,
                overwrite=self.overwrite).run(told)  # fmt: skip
        self._written(file, texts[HASH], told)
        facts = {"hash": texts[HASH], "bytes": self.save_to.stat().st_size}
        line = f"Saved {self.save_to}: the file that was dehydrated, to the bit"
        return Report((line,), facts, (self.save_to,))

    def _written(self, file: Safetensors, wanted: str, told: Told) -> None:
        base, damaged = open_weights(self.model_org), Mistake(f"{self.difference}: is damaged")
        if HEAD not in file.shapes:
            raise damaged
        try:
            head = unpack(_bytes(file, HEAD), None, LARGEST).numpy().tobytes()
            rows = {name: row for name, row in json.loads(head[8:]).items() if name != "__metadata__"}
            order = sorted(rows, key=lambda name: rows[name]["data_offsets"][0])
            every = {
                name: (tuple(map(int, rows[name]["shape"])), DTYPES[rows[name]["dtype"]]) for name in order
            }
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise damaged from e
        whole_hash = hashlib.sha256()
        with whole(self.save_to) as part, part.open("wb") as stream:
            for number, piece in enumerate(_pieces(head, every, file, base, damaged)):
                stream.write(piece)
                whole_hash.update(piece)
                told(min(number, len(order)), len(order))
            if whole_hash.hexdigest() != wanted:
                raise damaged
            stream.flush()
            os.fsync(stream.fileno())


def _pieces(
    head: bytes, rows: Mapping[str, Row], file: Safetensors, base: Weights, damaged: Mistake
) -> Iterator[memoryview | bytes]:
    """The bytes of the checkpoint, tensor by tensor. rows: in its order."""
    yield head
    for name, (shape, dtype) in rows.items():
        before = _of_base(base, name, dtype, shape)
        if LEAD + name in file.shapes:
            try:
                made = unpack(_bytes(file, LEAD + name), before, math.prod(shape))
            except ValueError as e:
                raise damaged from e
        elif before is None:
            raise damaged
        else:
            made = before
        yield memoryview(made.reshape(-1).view(torch.uint8).numpy())


def _packed(tuned: Safetensors, base: Weights) -> Iterator[tuple[str, bytes]]:
    """(name, what is stored for it, nothing where it is the base's), the header first."""
    with tuned.path.open("rb") as stream:
        head = torch.frombuffer(bytearray(stream.read(tuned.data)), dtype=torch.uint8)
    yield HEAD, pack(head, None)
    for name in tuned.shapes:
        [(_, value)] = tuned.read([name])
        before = _of_base(base, name, value.dtype, tuple(value.shape))
        yield LEAD + name, b"" if before is not None and _same(value, before) else pack(value, before)


def _of_base(base: Weights, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor | None:
    """The base's tensor in the other's precision; None where it has none of that shape."""
    if base.shapes.get(name) != shape:
        return None
    [(_, value)] = base.read([name])
    if value.dtype != dtype and not (value.dtype.is_floating_point and dtype.is_floating_point):
        return None
    return value.to(dtype).contiguous()


def _same(one: Tensor, other: Tensor) -> bool:
    """To the bit: zero is not minus zero, and NaN is itself."""
    return torch.equal(*(t.reshape(-1).view(torch.uint8) for t in (one, other)))


def _bytes(file: Safetensors, name: str) -> bytes:
    [(_, value)] = file.read([name])
    return value.numpy().tobytes()


def _based(base: pathlib.Path) -> dict[str, str]:
    return {BASE_NAME: base.name, BASE_HASH: hashes(base)[1]}


def _contiguous(file: Safetensors) -> None:
    """Raises Mistake: there are bytes between tensors or behind them, which would be lost."""
    at = 0
    for _, begin, end in sorted(file.rows.values(), key=lambda row: row[1:]):
        if begin != at:
            break
        at = end
    if file.data + at != file.path.stat().st_size:
        raise Mistake(
            f"{file.path}: has bytes that belong to no tensor; save it anew with another tool first"
        )
