"""A run's files: where each one is, and how it is written so that a stopped machine leaves none half."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lora_train.errors import Mistake
from lora_train.records import packed

SCHEMA = 1  # of a state; a reader refuses a newer one


class Unwritable(Mistake):
    """A file that could not be written; what was there before is as it was."""

    def __init__(self, path: pathlib.Path, error: Exception):
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        super().__init__(
            f"{path}: cannot be written ({reason}); check the folder, its rights and the disk's space"
        )


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to; it becomes `path` when the block ends well, and is gone when it does not.

    Raises:
        Unwritable: the folder cannot be written to, or the disk is full.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except (OSError, SafetensorError) as e:  # safetensors has an error of its own for a full disk
        raise Unwritable(path, e) from e
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


class Grown:
    """A file that grows at its end. What cannot be written is held until it can be: a full disk costs
    nothing, if there is room again."""

    def __init__(self, path: pathlib.Path):
        self.path, self.size, self.held = path, 0, b""

    def begin(self, anew: bool) -> None:
        """Behind what is there, or in place of it."""
        with contextlib.suppress(OSError):
            self.size = 0 if anew else self.path.stat().st_size

    @property
    def gone(self) -> bool:
        """Whether someone has removed it; it begins anew then."""
        return self.size > 0 and not self.path.exists()

    def add(self, data: bytes) -> None:
        """What is held and this, behind the last whole piece: half a piece of a full disk is written over.

        Raises:
            OSError: it cannot be written, and is held.
        """
        self.held += data
        if self.gone:
            self.size = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("r+b" if self.size else "wb") as file:
            file.seek(self.size)
            file.truncate()
            file.write(self.held)
        self.size, self.held = self.size + len(self.held), b""


class RunStore:
    """The files of the run `name`: results in `folder`, all else in `beside`, if given."""

    def __init__(self, folder: pathlib.Path, name: str, beside: pathlib.Path | None = None):
        self.folder, self.name, self.beside = folder, name, beside or folder
        self.other: pathlib.Path | None = None

    @property
    def result(self) -> pathlib.Path:
        return self.folder / f"{self.name}.safetensors"

    @property
    def best(self) -> pathlib.Path:
        return self.folder / f"{self.name}-best.safetensors"

    def at_epoch(self, epoch: int) -> pathlib.Path:
        return self.folder / f"{self.name}-{epoch:06d}.safetensors"

    def at_step(self, step: int) -> pathlib.Path:
        return self.folder / f"{self.name}-step{step:08d}.safetensors"

    def state_of(self, file: pathlib.Path) -> pathlib.Path:
        """The state folder that belongs to a saved file."""
        return (file.parent if self.beside == self.folder else self.beside) / f"{file.stem}-state"

    def native_of(self, file: pathlib.Path) -> pathlib.Path:
        """What a network holds whose saved file is made from it, for a WebUI to read."""
        return self.records / f"{file.stem}.native.safetensors"

    def word_of(self, file: pathlib.Path, word: str) -> pathlib.Path:
        """A learned word by itself, as it is in a saved file."""
        return self.records / "embeddings" / f"{word}{file.stem.removeprefix(self.name)}.safetensors"

    @property
    def last(self) -> pathlib.Path:
        """The state that a run which was cut off goes on from."""
        return self.records / "last-state"

    @property
    def records(self) -> pathlib.Path:
        """Folder of the run's job and metrics."""
        return self.beside / f"{self.name}-run"

    @property
    def metrics(self) -> pathlib.Path:
        return self.records / "metrics.jsonl"

    @property
    def samples(self) -> pathlib.Path:
        return self.beside / "sample"

    @property
    def caches(self) -> tuple[pathlib.Path, pathlib.Path]:
        """Folders of latents and of conds."""
        return self.beside / "latents", self.beside / "conds"

    def elsewhere(self) -> pathlib.Path:
        """A new folder among the system's temporary ones, for what cannot be written where it belongs."""
        if self.other is None:
            self.other = pathlib.Path(tempfile.mkdtemp(prefix=f"lora-train-{self.name}-"))
        return self.other

    def writable(self) -> None:
        """Raises:
        Mistake: nothing can be written to the folder.
        """
        for path, folder in (("output_dir", self.folder), ("run_dir", self.beside)):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".{self.name}.part"
                probe.touch()
                probe.unlink()
            except OSError as e:
                raise Mistake(
                    f"output.{path} = {folder}: expected a folder that can be written to ({e.strerror})"
                ) from e

    def write_job(self, values: Mapping[str, object]) -> None:
        with whole(self.records / "job.json") as part:
            # what of a folder's name is no text becomes an escape of JSON's
            part.write_text(packed(values), encoding="utf-8", errors="backslashreplace")

    def cut_metrics(self, step: int) -> None:
        """Forget the lines of steps after `step`: a resumed run writes them again."""
        if self.metrics.exists():
            lines = self.metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            with whole(self.metrics) as part:
                part.write_text("".join(kept), encoding="utf-8")

    def remove(self, file: pathlib.Path) -> None:
        file.unlink(missing_ok=True)
        self.native_of(file).unlink(missing_ok=True)

    def remove_state(self, file: pathlib.Path) -> None:
        shutil.rmtree(self.state_of(file), ignore_errors=True)


@dataclasses.dataclass(frozen=True)
class State:
    """What a state folder holds: tensors by name, and plain values."""

    tensors: dict[str, torch.Tensor]
    plain: dict[str, object]

    def refusal(self, name: str, digest: str | None) -> str | None:
        """Why a run on this model does not go on from here, if it is known to be another one.

        Args:
            digest: sha256 of the model's file.
        """
        before = self.plain.get("model") or {}
        if not before.get("hash") or not digest or before["hash"] == digest:
            return None
        return (
            f"expected the model of the state, {before['name']} ({before['hash'][:10]}), and this is {name} "
            f"({digest[:10]}); train on the first, or start anew with network_weights"
        )

    def write(self, folder: pathlib.Path) -> None:
        """One file, tensors and plain values together, so that replacing it replaces all or nothing."""
        text = json.dumps({"schema": SCHEMA, **self.plain})
        with whole(folder / "state.safetensors") as part:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}, part, {"state": text}
            )
            with part.open("rb+") as f:
                os.fsync(f.fileno())

    @classmethod
    def read(cls, folder: pathlib.Path) -> State:
        """Raises:
        Mistake: not a state of ours, or one of a later version.
        """
        file = folder / "state.safetensors"
        if not file.is_file():
            raise Mistake(
                f"place.resume = {folder}: expected a state folder, one named …-state with a "
                "state.safetensors in it"
            )
        try:
            with safe_open(file, "pt") as f:
                plain = json.loads((f.metadata() or {})["state"])
                tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, KeyError, ValueError, OSError, RecursionError) as e:
            why = e.strerror if isinstance(e, OSError) and e.strerror else "damaged, or of something else"
            raise Mistake(
                f"place.resume = {folder}: expected a state that lora-train saved; this one cannot be read "
                f"({why})"
            ) from e
        schema = plain.get("schema") if isinstance(plain, dict) else None
        if isinstance(schema, int) and schema > SCHEMA:
            raise Mistake(
                f"place.resume = {folder}: saved by a newer version; update lora-train to go on from it"
            )
        if lost := _damage(plain, tensors):
            raise Mistake(
                f"place.resume = {folder}: expected a state that lora-train saved; this one is damaged "
                f"({lost}); take an earlier one"
            )
        return cls(tensors, plain)


PLAIN = {
    "schema": int, "progress": dict, "samples_per_epoch": int, "job": dict, "values": dict, "optimizer": dict
}  # fmt: skip


def _damage(plain: object, tensors: Mapping[str, torch.Tensor]) -> str:
    """What of a state is not as it was written; "" where all is."""
    if not isinstance(plain, dict):
        return "no settings"
    for name, kind in PLAIN.items():
        if not isinstance(plain.get(name), kind):
            return name
    step = plain["progress"].get("step")
    if not isinstance(step, int) or step < 0:
        return "progress"
    spoiled = [name for name, value in tensors.items() if not value.isfinite().all()]
    return f"{spoiled[0]} is not finite" if spoiled else ""


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """An optimizer's state_dict as tensors by name, and the rest as plain values; see `restore_optimizer`."""
    kept = optimizer.state_dict()
    tensors, plain, groups = {}, {}, []
    for i, group in enumerate(kept["param_groups"]):
        found = {name for name, value in group.items() if isinstance(value, torch.Tensor)}
        # copies, for groups may share one, and a file has none that do
        tensors.update({f"optimizer.group.{i}.{name}": group[name].clone() for name in found})
        groups.append({name: value for name, value in group.items() if name not in found})
    for i, values in kept["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{i}.{name}"] = value
            else:
                plain[f"{i}.{name}"] = value
    return tensors, {"values": plain, "groups": groups}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, object]
) -> None:
    state: dict[int, dict[str, object]] = {}
    groups = [
        {name: _as(fresh.get(name), value) for name, value in group.items()}
        for fresh, group in zip(optimizer.param_groups, plain["groups"], strict=True)
    ]
    for name, value in tensors.items():  # copied: where one is not aligned, sums differ by a rounding
        if name.startswith("optimizer.group."):
            _, _, i, rest = name.split(".", 3)
            groups[int(i)][rest] = value.clone()
        elif name.startswith("optimizer."):
            _, i, rest = name.split(".", 2)
            state.setdefault(int(i), {})[rest] = value.clone()
    for name, value in plain["values"].items():
        i, rest = name.split(".", 1)
        state.setdefault(int(i), {})[rest] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    _checked(optimizer, state)


def _as(fresh: object, value: object) -> object:
    """A value from JSON, which has no tuples."""
    if isinstance(fresh, tuple | list) and isinstance(value, list):
        kinds = fresh if len(fresh) == len(value) else (None,) * len(value)
        return type(fresh)(_as(kind, part) for kind, part in zip(kinds, value, strict=True))
    return value


def _checked(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, object]]) -> None:
    """Values in the type they were saved in, which torch has changed to that of the weights.

    Raises:
        ValueError: they are of other weights.
    """
    every = [p for group in optimizer.param_groups for p in group["params"]]
    first: dict[torch.Size, set[str]] = {}  # what weights of a shape have
    for i, weights in enumerate(every):
        kept, saved = optimizer.state.get(weights, {}), state.get(i, {})
        for name, value in kept.items():
            if not isinstance(value, torch.Tensor) or not isinstance(saved.get(name), torch.Tensor):
                continue
            if value.dtype != saved[name].dtype:
                kept[name] = value = saved[name].to(value.device, copy=True)
            sides = zip(value.shape, weights.shape, strict=False)
            if value.ndim == weights.ndim > 1 and any(side not in (1, own) for side, own in sides):
                raise ValueError("the optimizer's values are not those of the adapters")
        if kept and set(kept) != first.setdefault(weights.shape, set(kept)):
            raise ValueError("the optimizer's values are not those of the adapters")
