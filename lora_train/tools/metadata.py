"""What a .safetensors file says of itself: shown, and edited without touching a tensor."""

from __future__ import annotations

import base64
import dataclasses
import fnmatch
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Mapping

from PIL import Image

from lora_train.errors import Mistake
from lora_train.knobs import knob, nearest
from lora_train.run.store import whole
from lora_train.tools.stated import LEGACY_HASH, legacy
from lora_train.tools.tool import Report, Told, Tool, unheard
from lora_train.values import shown
from lora_train.weights import Safetensors, open_weights

COVERS, THUMBNAIL = "ssmd_cover_images", "modelspec.thumbnail"
LONG = 160  # characters of a value that are shown
LARGEST = 2**20  # bytes of a picture that a file carries along


def opened(path: pathlib.Path) -> Safetensors:
    """Raises Mistake: not a whole .safetensors file."""
    found = open_weights(path)
    if not isinstance(found, Safetensors):
        raise Mistake(f"{path}: expected a .safetensors file; others say nothing of themselves")
    return found


def texts_of(file: Safetensors) -> dict[str, str]:
    return {str(name): str(text) for name, text in file.metadata.items()}


def relabel(path: pathlib.Path, texts: Mapping[str, str], to: pathlib.Path) -> None:
    """A copy with other metadata; all behind the header is copied as it is. `to` may be the file itself.

    Raises:
        Unwritable: the folder cannot be written to, or the disk is full.
    """
    with whole(to) as part, path.open("rb") as old, part.open("wb") as new:
        rows = json.loads(old.read(int.from_bytes(old.read(8), "little")))
        rows.pop("__metadata__", None)
        found = {"__metadata__": dict(sorted(texts.items())), **rows} if texts else rows
        header = json.dumps(found, separators=(",", ":"), ensure_ascii=False).encode()
        header += b" " * (-len(header) % 8)
        new.write(len(header).to_bytes(8, "little") + header)
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
        old.close()  # a system that keeps open files from being replaced has it closed by then


def picture(path: pathlib.Path, name: str) -> tuple[str, str]:
    """(its type, its bytes as base64).

    Raises:
        Mistake: no picture, or too large a one.
    """
    try:
        data = path.read_bytes()
        with Image.open(path) as image:
            kind = Image.MIME[image.format]
    except (OSError, ValueError, KeyError, SyntaxError, Image.DecompressionBombError) as e:
        raise Mistake(f"{name} = {path}: expected a picture ({e})") from e
    if len(data) > LARGEST:
        raise Mistake(f"{name} = {path}: expected at most 1 MB, for the file carries it; make it smaller")
    return kind, base64.b64encode(data).decode()


@dataclasses.dataclass(frozen=True)
class Metadata(Tool):
    """Without anything to set or remove, it shows what there is."""

    about = (
        "Show or edit the metadata of a .safetensors file. Its tensors stay as they are, bit for bit, and\n"
        "so do the hashes by which it is known."
    )
    alone = "model"
    light = True

    model: pathlib.Path | None = knob(
        None, "The file.", group="files", basic=True, place=True)  # fmt: skip
    set: tuple[str, ...] = knob(
        (), "Entries to write, key=value, such as ssmd_keywords=cat or modelspec.author=me.",
        group="metadata", basic=True)  # fmt: skip
    remove: tuple[str, ...] = knob(
        (), "Keys to take away; ss_* takes away all that begin so.", group="metadata", basic=True
    )
    cover: tuple[pathlib.Path, ...] = knob(
        (), f"Pictures to put in as {COVERS}, which a WebUI shows.", group="metadata", place=True
    )
    thumbnail: pathlib.Path | None = knob(
        None, f"Picture to put in as {THUMBNAIL}.", group="metadata", place=True)  # fmt: skip
    save_to: pathlib.Path | None = knob(
        None, "File to write. Empty: the file itself, where overwrite is set.", group="output",
        place=True)  # fmt: skip
    overwrite: bool = knob(
        False, "Replace the file to write to, where there is one.", group="output")  # fmt: skip

    @property
    def edits(self) -> bool:
        return bool(self.set or self.remove or self.cover or self.thumbnail)

    def makes(self) -> Iterable[tuple[str, pathlib.Path]]:
        if self.save_to is not None:
            return [("save_to", self.save_to)]
        return [("model", self.model)] if self.edits and self.model else []

    def check(self) -> Iterable[str]:
        if self.model is None:
            yield "model: expected the file, such as: lora-train metadata mine.safetensors"
        for entry in self.set:
            key, equals, value = entry.partition("=")
            if not key.strip() or not equals:
                yield f"set = {shown(entry)}: expected key=value"
            elif complaint := _fault(key, value):
                yield f"set = {shown(entry)}: expected {complaint}"
        if self.edits and self.save_to is None and not self.overwrite:
            yield "save_to: expected the file to write; or set overwrite, to edit the file itself"
        if not self.edits and self.save_to is not None:
            yield "save_to: expected something to set or remove beside it"

    def run(self, told: Told = unheard) -> Report:
        file = opened(self.model)
        before = texts_of(file)
        if not self.edits:
            lines = [f"{name} = {_short(text)}" for name, text in sorted(before.items())]
            return Report(tuple(lines or [f"{self.model} says nothing of itself"]), {"metadata": before})
        to = self.save_to or self.model
        if to.exists() and not self.overwrite:
            raise Mistake(f"save_to = {to}: is there already; take another name, or set overwrite")
        texts = self._edited(before)
        if LEGACY_HASH in texts and _trained(texts) != _trained(before):  # which it is a hash of, too
            texts[LEGACY_HASH] = legacy(file, texts)
        relabel(self.model, texts, to)
        changed = sorted(k for k in {*before, *texts} if before.get(k) != texts.get(k))
        lines = [f"{k} = {_short(texts[k])}" if k in texts else f"{k} removed" for k in changed]
        return Report((*lines, f"Saved {to}"), {"metadata": texts, "changed": changed}, (to,))

    def _edited(self, before: Mapping[str, str]) -> dict[str, str]:
        texts = dict(before)
        for pattern in self.remove:
            gone = [name for name in before if name == pattern or fnmatch.fnmatchcase(name, pattern)]
            if not gone:
                raise Mistake(f"remove = {pattern}: no such entry{nearest(pattern, before)}")
            for name in gone:
                texts.pop(name, None)
        for entry in self.set:
            key, _, value = entry.partition("=")
            texts[key.strip()] = value
        if self.cover:
            texts[COVERS] = json.dumps([picture(path, "cover")[1] for path in self.cover])
        if self.thumbnail is not None:
            kind, data = picture(self.thumbnail, "thumbnail")
            texts[THUMBNAIL] = f"data:{kind};base64,{data}"
        return texts


def _fault(key: str, value: str) -> str:
    """What is expected of an entry that others read, where it is not so; else ""."""
    if key == "ssmd_rating" and not (value.isdecimal() and int(value) <= 10):
        return "a whole number from 0 to 10 behind it"
    if key == COVERS:
        try:
            fits = all(isinstance(one, str) for one in json.loads(value))
        except (ValueError, TypeError, RecursionError):
            fits = False
        return "" if fits else "a JSON list of pictures as base64; see cover, which makes one"
    return ""


def _trained(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in texts.items() if name.startswith("ss_")}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= LONG else f"{line[:LONG]}… ({len(text):,} characters)"
