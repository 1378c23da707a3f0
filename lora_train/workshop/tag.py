"""`tag`: captions of tags, by a model that knows a list of them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable, Sequence
from typing import Protocol

from lora_train.host import Host
from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, unheard
from lora_train.workshop import booru, models, wording
from lora_train.workshop.asking import Asking, Speaker
from lora_train.workshop.objects import Objects
from lora_train.workshop.wording import Label, Wording

OBJECTS = "objects"


class Tagger(Speaker, Protocol):
    """Answers with chances."""

    labels: Sequence[Label]
    usual: float  # the threshold that suits it


@dataclasses.dataclass(frozen=True)
class Tag(Wording, Asking):
    """Let a model tag the pictures."""

    tagger: str = knob(
        OBJECTS, "Who tags. objects: what is in a photo, of 1,000 kinds of things, without a download. For "
        "drawings a tagger of WD14's: a name such as wd-eva02-large-tagger-v3 or wd-swinv2-tagger-v3, a "
        "folder with model.onnx and selected_tags.csv, or a file. ML-Danbooru's and DeepDanbooru's as well: "
        f"{', '.join(models.TAGGERS)}.", group="model", aka="repo_id", basic=True)  # fmt: skip
    model_dir: pathlib.Path | None = knob(
        None, "Folder where taggers lie, each in a folder of its name. Empty: taggers beside the "
        "checkpoints, or in the program's cache.", group="model", place=True)  # fmt: skip
    batch_size: int = knob(4, "Pictures at once.", group="model", low=1, high=64)
    device: str = knob(
        "auto", "Where it is computed; auto takes a graphics card if there is one.", group="model",
        choices=("auto", "cpu", "cuda"))  # fmt: skip

    title = "tag"
    nothing = "no tag's chance reaches the threshold"

    def check(self) -> Iterable[str]:
        yield from super().check()
        yield from self.wrong()
        if self.tagger != OBJECTS and not self.path.exists() and not models.source(self.tagger):
            names = ", ".join((OBJECTS, *models.TAGGERS))
            yield f"tagger = {self.tagger}: expected a file, a folder, or one of {names}"

    @property
    def path(self) -> pathlib.Path:
        """What `tagger` is, if it is one."""
        return pathlib.Path(self.tagger).expanduser()

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        return [("tagger", self.path)] if self.tagger != OBJECTS and self.path.exists() else ()

    def within(self, host: Host, told: Told = unheard) -> Report:
        places = [folder.parent / "taggers" for folder in host.folders.models]
        place = next((folder for folder in places if folder.is_dir()), None)
        return (self if self.model_dir or not place else dataclasses.replace(self, model_dir=place)).run(told)

    def speaker(self) -> Tagger:
        if self.tagger == OBJECTS:
            return Objects(self.device, self.batch_size)
        if self.path.exists():
            return booru.Booru(booru.model_in(self.path), self.device, self.batch_size)
        folders = [*([self.model_dir] if self.model_dir else []), models.usual_folder()]
        file = models.found(self.tagger, folders, download=self.download)
        return booru.Booru(file, self.device, self.batch_size)

    def spoken(self, speaker: Tagger, answer: bytes) -> list[str]:
        return self.tags(wording.scored(answer, speaker.labels), speaker.usual)
