"""Tool: what works on files of weights; a component as any other, that declares its settings and acts."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping

import torch

from lora_train.errors import Mistake
from lora_train.host import Host
from lora_train.knobs import knob
from lora_train.values import shown

PRECISIONS = {"float": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
OUTPUTS = ("save_to", "picture")  # settings that say where to write
Told = Callable[[int, int], None]  # how many layers are done, and of how many; may raise to break off


def unheard(done: int, of: int) -> None:
    """For who does not look on."""


def ready(device: str) -> None:
    """Raises Mistake: there is no such device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise Mistake("device = cuda: torch finds no such device here; take cpu")


def replaceable(folder: pathlib.Path, source: pathlib.Path) -> None:
    """Raises Mistake: a model's folder cannot be made there of `source`, for something else would go."""
    if folder.is_file():
        raise Mistake(f"save_to = {folder}: is a file; expected a folder")
    if folder.is_dir() and not (folder / "model_index.json").is_file() and any(folder.iterdir()):
        raise Mistake(f"save_to = {folder}: is a folder of something else, which is not replaced")
    if source.resolve() in folder.resolve().parents:
        raise Mistake(f"save_to = {folder}: expected another place than in the model's own folder")
    if folder.resolve() in source.resolve().parents:
        raise Mistake(f"save_to = {folder}: has the model itself in it; expected another place")


@dataclasses.dataclass(frozen=True)
class Report:
    """What a tool has to say."""

    lines: tuple[str, ...]  # for a person
    facts: Mapping[str, object] = dataclasses.field(default_factory=dict)  # for programs, as JSON has it
    files: tuple[pathlib.Path, ...] = ()  # that it wrote


@dataclasses.dataclass(frozen=True)
class Tool:
    """Settings of a tool, and what it does."""

    about = ""  # a few sentences on it
    alone = ""  # the setting that a word stands for which follows the command, if any
    light = False  # whether it takes so little that it may run beside a training
    hosted = False  # whether it needs a host's model, and so `within`

    @classmethod
    def said(cls) -> str:
        """What it does, in a line."""
        return " ".join((cls.about or cls.__doc__).split())

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        """(setting, path) of files that it reads, beside those of settings that are paths."""
        return ()

    def makes(self) -> Iterable[tuple[str, pathlib.Path]]:
        """(setting, path) of what it writes, or of one of several files in the same folder."""
        own = vars(self)
        return [(name, own[name]) for name in OUTPUTS if own.get(name)]

    def check(self) -> Iterable[str]:
        """Complaints about settings, each "name = value: expected …"; nothing is read for them."""
        return ()

    def run(self, told: Told = unheard) -> Report:
        """Do it.

        Raises:
            Mistake: a file is not what it should be, or something is in the way; nothing is written then.
        """
        raise NotImplementedError

    def within(self, host: Host, told: Told = unheard) -> Report:
        """Do it where a host is, which some need.

        Raises:
            Mistake: as `run`.
        """
        return self.run(told)


@dataclasses.dataclass(frozen=True)
class Writing(Tool):
    """Tools that make a file."""

    save_to: pathlib.Path | None = knob(
        None, "File that is written; .safetensors.", group="output", basic=True, place=True)  # fmt: skip
    save_precision: str | None = knob(
        None, "Precision of what is written. Empty: that of the first file that is read.", group="output",
        choices=tuple(PRECISIONS))  # fmt: skip
    overwrite: bool = knob(
        False, "Replace the file to write to, where there is one.", group="output")  # fmt: skip

    def check(self) -> Iterable[str]:
        if self.save_to is None:
            yield "save_to: expected the file to write, such as --save_to new.safetensors"
        elif self.save_to.suffix != ".safetensors":
            yield f"save_to = {shown(str(self.save_to))}: expected a name that ends with .safetensors"

    def free(self, path: pathlib.Path | None = None) -> pathlib.Path:
        """The file to write to.

        Raises:
            Mistake: there is one, and nobody said that it may go.
        """
        path = path or self.save_to
        if path.exists() and not self.overwrite:
            raise Mistake(f"save_to = {path}: is there already; take another name, or set overwrite")
        return path

    def dtype(self, usual: torch.dtype) -> torch.dtype:
        """Of what is written."""
        return usual if self.save_precision is None else PRECISIONS[self.save_precision]
