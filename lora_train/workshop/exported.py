"""Export: captions and folders in one file, as other trainers read them."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping

from lora_train.data import pictures
from lora_train.data.buckets import Resolution
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.tools.tool import Report, Told, unheard
from lora_train.values import shown
from lora_train.workshop.filter import said
from lora_train.workshop.opened import Entry, Opened
from lora_train.workshop.repeats import NAMED
from lora_train.workshop.work import Look

ENDINGS = {"metadata": ".json", "jsonl": ".jsonl", "toml": ".toml", "onetrainer": ".json",
           "dreambooth": ".json"}  # fmt: skip
FOLDERS = ("toml", "onetrainer", "dreambooth")  # say folders, and not what stands in captions
ONETRAINER = {  # keys that its concepts need beside name and path
    "enabled": True, "type": "STANDARD", "include_subdirectories": False, "image_variations": 1,
    "text_variations": 1, "balancing_strategy": "REPEATS", "loss_weight": 1.0, "seed": 0,
    "text": {"prompt_source": "sample", "prompt_path": ""},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Export(Look):
    """Write captions or folders into a file that other trainers read."""

    save_to: pathlib.Path | None = knob(
        None, "File that is written.", group="output", basic=True, place=True)  # fmt: skip
    format: str = knob(
        "metadata",
        "metadata: sd-scripts' JSON of captions, for metadata_file or in_json. jsonl: file_name and "
        "text, a line for each picture, as Hugging Face's data sets have it. toml: sd-scripts' "
        "dataset_config. onetrainer, dreambooth: lists of concepts.",
        group="output",
        basic=True,
        choices=tuple(ENDINGS),
    )
    full_path: bool = knob(
        False, "In metadata, pictures by their whole paths and not by their names.", group="output"
    )
    into: str = knob(
        "caption", "In metadata, what captions are written as.", group="output",
        choices=("caption", "tags"))  # fmt: skip
    resolution: Resolution = knob(
        Resolution(512, 512), "In toml, the size to train at.", group="output", unit="pixels")  # fmt: skip
    batch_size: int = knob(
        1, "In toml, pictures in one batch.", group="output", low=1, high=4096)  # fmt: skip
    enable_bucket: bool = knob(
        True, "In toml, give each picture a size near its own shape.", group="output")  # fmt: skip
    overwrite: bool = knob(
        False, "Replace the file to write to, where there is one.", group="output")  # fmt: skip

    about = """Write one file for other trainers: captions (metadata, jsonl), or the folder and the numbered
        folders in it with their repeats (toml, onetrainer, dreambooth)."""

    def check(self) -> Iterable[str]:
        yield from super().check()
        ending = ENDINGS[self.format]
        if self.save_to is None:
            yield f"save_to: expected the file to write, such as --save_to captions{ending}"
        elif self.save_to.suffix.lower() != ending:
            yield f"save_to = {self.save_to}: expected a name that ends with {ending}, as of {self.format}"
        if self.format in FOLDERS and (self.only or self.names):
            yield f"only: expected none beside format = {self.format}, which names folders and not pictures"
        metadata = [name for name in ("full_path", "into") if vars(self)[name] != _default(name)]
        if self.format != "metadata" and metadata:
            yield f"{metadata[0]}: expected only with format = metadata"
        toml = [
            name
            for name in ("batch_size", "resolution", "enable_bucket")
            if vars(self)[name] != _default(name)
        ]
        if self.format != "toml" and toml:
            yield f"{toml[0]}: expected only with format = toml"

    def run(self, told: Told = unheard) -> Report:
        opened = self.opened()
        if self.save_to.exists() and not self.overwrite:
            raise Mistake(f"save_to = {self.save_to}: is there already; take another name, or set overwrite")
        make: Mapping[str, Callable[[Opened], tuple[str, int, str]]] = {
            "metadata": self._metadata, "jsonl": self._lines, "toml": self._toml,
            "onetrainer": self._onetrainer, "dreambooth": self._dreambooth,
        }  # fmt: skip
        text, count, of = make[self.format](opened)
        part = self.save_to.with_name(f"{self.save_to.name}.part")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(self.save_to)
        except UnicodeEncodeError as e:
            part.unlink(missing_ok=True)
            raise Mistake(f"{opened.folder}: a name in it is no text; rename that file: "
                          f"{shown(e.object[max(e.start - 20, 0) : e.end])}") from e  # fmt: skip
        except OSError as e:
            part.unlink(missing_ok=True)
            raise Mistake(f"save_to = {self.save_to}: cannot be written: {e.strerror or e}") from e
        return Report((f"{self.save_to}: {count} {of}",), {"count": count}, (self.save_to,))

    # ── captions ──

    def _captioned(self, opened: Opened) -> list[tuple[Entry, str]]:
        """Raises Mistake: there are none."""
        found = [(entry, text) for entry in self.chosen(opened) if (text := said(opened, entry))]
        if not found:
            raise Mistake(f"{opened.folder}: no captions to write among the chosen pictures")
        return found

    def _metadata(self, opened: Opened) -> tuple[str, int, str]:
        """As sd-scripts' merge_captions_to_metadata: names without ending, or whole paths."""
        captioned = self._captioned(opened)
        stems = collections.Counter(_stem(entry.name) for entry, _ in captioned)
        double = sorted(stem for stem, count in stems.items() if count > 1)
        if double and not self.full_path:
            raise Mistake(
                f"{double[0]}: is the name of several pictures but for the ending, and so are "
                f"{len(double) - 1} more; set full_path, or rename them"
            )
        found = {
            (str(opened.path(entry.name)) if self.full_path else _stem(entry.name)): {self.into: text}
            for entry, text in captioned
        }  # fmt: skip
        return _json(found), len(found), "captions"

    def _lines(self, opened: Opened) -> tuple[str, int, str]:
        captioned = self._captioned(opened)
        rows = [json.dumps({"file_name": e.name, "text": text}, ensure_ascii=False) for e, text in captioned]
        return "".join(f"{row}\n" for row in rows), len(rows), "captions"

    # ── folders ──

    def _toml(self, opened: Opened) -> tuple[str, int, str]:
        resolution = self.resolution
        size = [resolution.width, resolution.height]
        head = [
            "[general]", f"caption_extension = {_text(opened.extension)}",
            f"enable_bucket = {shown(self.enable_bucket)}", "", "[[datasets]]",
            f"resolution = {size if size[0] != size[1] else size[0]}", f"batch_size = {self.batch_size}",
        ]  # fmt: skip
        folders = concepts(opened.folder)
        for path, repeats, name in folders:
            head += [
                "",
                "[[datasets.subsets]]",
                f"image_dir = {_text(str(path))}",
                f"num_repeats = {repeats}",
            ]
            head += [f"class_tokens = {_text(name)}"] * bool(name)
        return "\n".join(head) + "\n", len(folders), "folders"

    def _onetrainer(self, opened: Opened) -> tuple[str, int, str]:
        folders = concepts(opened.folder)
        found = [
            {"name": name or path.name, "path": str(path), "balancing": float(repeats), **ONETRAINER}
            for path, repeats, name in folders
        ]  # fmt: skip
        return _json(found), len(found), "concepts"

    def _dreambooth(self, opened: Opened) -> tuple[str, int, str]:
        """Without repeats, which that list has not."""
        folders = concepts(opened.folder)
        found = [{"instance_data_dir": str(path), "instance_prompt": "[filewords]"} for path, *_ in folders]
        return _json(found), len(found), "concepts"


def concepts(folder: pathlib.Path) -> list[tuple[pathlib.Path, int, str]]:
    """(folder, repeats, name for pictures without captions): the numbered folders in it that hold pictures,
    or itself.

    Raises:
        Mistake: neither has any.
    """
    found = []
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        named = NAMED.fullmatch(path.name)
        if named and _holds(path):
            found.append((path, int(named[1]), named[2] or ""))
    if found:
        return found
    if not _holds(folder):
        raise Mistake(f"{folder}: no pictures in it, and no folder such as 10_name with pictures")
    return [(folder, 1, "")]


def _holds(folder: pathlib.Path) -> bool:
    with os.scandir(folder) as entries:
        return any(_ending(e.name) in pictures.ENDINGS and not e.name.startswith(".") for e in entries)


def _default(name: str) -> object:
    return Export.__dataclass_fields__[name].default


def _text(text: str) -> str:
    """As TOML has it; its basic strings are JSON's, but for one letter."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _json(found: object) -> str:
    return json.dumps(found, ensure_ascii=False, indent=2) + "\n"


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 (of 100,000 names)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122
