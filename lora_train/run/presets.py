"""Presets: the built-in recipes under their names, and those that people keep as files."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Mapping

from lora_train.errors import Mistake
from lora_train.job import declared
from lora_train.knobs import general
from lora_train.records import packed, read_json, unpacked
from lora_train.run.recipes import BUILTIN, FAMILIES, GOALS, Values, preset, reasons
from lora_train.run.store import whole
from lora_train.values import plain, shown

__all__ = ["BUILTIN", "FAMILIES", "GOALS", "Presets", "preset", "reasons"]

LONGEST = 100  # characters of a name


class Presets:
    """The built-in ones, and a folder of those that people keep."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def list(self) -> list[dict[str, object]]:
        rows = [{"name": name, "builtin": True, "text": pace.text} for name, pace in BUILTIN.items()]
        found = sorted(self.folder.glob("*.json"), key=lambda p: p.stem.lower())
        return [*rows, *({"name": p.stem, "builtin": False, "text": ""} for p in found)]

    def read(  # noqa: PLR0913 (as `preset`)
        self,
        name: str,
        goal: str | None = None,
        family: str | None = None,
        megabytes: float | None = None,
        pictures: int | None = None,
        *,
        dtype: str | None = None,
    ) -> Values:
        """Settings of a preset; a built-in one's depend on the rest.

        Raises:
            Mistake: there is none of this name, or it cannot be read.
        """
        if name in BUILTIN:
            return preset(goal or "character", family, megabytes, pictures, name=name, dtype=dtype)
        path = self._path(name)
        if not path.is_file():
            names = [row["name"] for row in self.list()]
            raise Mistake(f"preset = {shown(name)}: no such preset; there are {', '.join(map(str, names))}")
        return dict(unpacked(read_json(path), path))

    def offered(
        self,
        name: str,
        goal: str | None = None,
        family: str | None = None,
        header: Mapping[str, object] | None = None,
        pictures: int | None = None,
    ) -> dict[str, dict]:
        """{"values", "reasons"} for the model that a host's header describes. One that cannot be trained has
        those of the smallest: that it cannot, the host's refusals say."""
        header = header or {}
        family = next((f for f in (family, header.get("family")) if f in FAMILIES), None)
        megabytes = header.get("total_megabytes") if header.get("device") != "cpu" else None
        of = (goal or "character", family, megabytes, pictures)
        dtype = header.get("dtype")
        values = self.read(name, *of, dtype=dtype)
        why = reasons(*of, name=name, dtype=dtype) if name in BUILTIN else {}
        return {"values": values, "reasons": why}

    def write(self, name: str, values: Mapping[str, object]) -> None:
        """Keep settings, without folders and files: a preset is passed on.

        Raises:
            Mistake: not a name for a file, or settings that there are not.
        """
        path = self._path(name)
        own = {setting.path: setting for setting in declared()}
        lost = [path for path in values if general(path) not in own]
        if lost:
            raise Mistake("\n".join(f"{path}: no such setting" for path in lost))
        kept = {p: plain(value) for p, value in values.items() if not own[general(p)].place}
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole(path) as part:
            part.write_text(packed(kept) + "\n", encoding="utf-8")

    def remove(self, name: str) -> None:
        if name in BUILTIN:
            raise Mistake(f"preset = {name}: expected one of your own; this one is built in and stays")
        with contextlib.suppress(FileNotFoundError):
            self._path(name).unlink()

    def _path(self, name: str) -> pathlib.Path:
        """The file of a preset of one's own."""
        if name in BUILTIN:
            raise Mistake(f"preset = {name}: expected another name; this one is built in")
        bad = sorted(c for c in set(name) if c in '<>:"/\\|?*' or not c.isprintable())
        if bad or name.strip(" .") != name or not name or len(name) > LONGEST:
            lost = f"leave out {' '.join(map(shown, bad))}" if bad else f"1 to {LONGEST} letters"
            raise Mistake(f"preset = {shown(name)}: expected a name for a file; {lost}")
        return self.folder / f"{name}.json"
