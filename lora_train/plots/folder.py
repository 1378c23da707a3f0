"""Folder of a sheet: each picture under a name that stands for all it depends on, and what is noted of it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from PIL import Image, PngImagePlugin

from lora_train.run.store import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = 1  # of sheet.json
CELLS, RUNS = "cells", "runs"


class Folder:
    """What is here is whole: a killed process leaves nothing half under its name."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    @property
    def record(self) -> pathlib.Path:
        return self.path / "sheet.json"

    def picture(self, key: str) -> pathlib.Path:
        return self.path / CELLS / f"{key}.png"

    def known(self, key: str) -> dict[str, object] | None:
        """What was noted of a picture that is done."""
        if not self.picture(key).is_file():
            return None
        return _read(self.picture(key).with_suffix(".json"))

    def keep(self, key: str, image: Image.Image, told: Mapping[str, object]) -> None:
        """A picture with its infotext; the note comes last, for it says that the picture is done."""
        texts = PngImagePlugin.PngInfo()
        texts.add_itxt("parameters", str(told["infotext"]))
        path = self.picture(key)
        with whole(path) as part:
            image.convert("RGB").save(part, "PNG", pnginfo=texts)
        self.note(path.with_suffix(".json"), told)

    def opened(self, key: str) -> Image.Image:
        with Image.open(self.picture(key)) as image:
            return image.convert("RGB")

    def losses(self, key: str) -> list[float] | None:
        found = _read(self.path / CELLS / f"{key}.loss.json")
        return None if found is None else found["losses"]

    def keep_losses(self, key: str, losses: Sequence[float]) -> None:
        self.note(self.path / CELLS / f"{key}.loss.json", {"losses": [*losses]})

    def note(self, path: pathlib.Path, told: Mapping[str, object]) -> None:
        with whole(path) as part:
            text = json.dumps({"schema": SCHEMA, **told}, indent=1, ensure_ascii=False)
            part.write_text(f"{text}\n", encoding="utf-8", errors="backslashreplace")  # names of files


def _read(path: pathlib.Path) -> dict | None:
    """None where there is none, or one of a later version."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and found.get("schema") == SCHEMA:
            return found
    return None


def key(*words: object) -> str:
    """A short name for all that something depends on."""
    return hashlib.sha256(json.dumps(words, sort_keys=True, default=str).encode()).hexdigest()[:20]
