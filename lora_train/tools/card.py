"""The card beside a LoRA file, with which a WebUI's list of LoRAs shows it: `<stem>.json`, and a picture."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping

from PIL import Image

from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.run.store import whole
from lora_train.tools.tool import Report, Told, Tool, unheard
from lora_train.values import shown
from lora_train.weights import open_weights

VERSIONS = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
EMPTY: dict[str, object] = {  # the WebUI's fields, in its order
    "description": "", "sd version": "Unknown", "activation text": "", "preferred weight": 0.0,
    "negative text": "", "notes": "",
}  # fmt: skip
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")  # that the WebUI shows
LARGEST = 768  # pixels of a side; cards are smaller


def read_card(file: pathlib.Path) -> dict[str, object] | None:
    """What stands beside a LoRA file; {} where nothing does. None: that is no card, and not to be touched."""
    try:
        found = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and (not found or found.keys() & EMPTY.keys()) else None


def write_card(file: pathlib.Path, card: Mapping[str, object]) -> pathlib.Path:
    """Fields that the WebUI has not stay, too.

    Raises:
        Unwritable: the folder cannot be written to, or the disk is full.
    """
    there = file.with_suffix(".json")
    with whole(there) as part:
        part.write_text(json.dumps({**EMPTY, **card}, indent=4, ensure_ascii=False), encoding="utf-8")
    return there


def filled(card: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """A card in which what is empty is taken from elsewhere: what a person wrote stays."""
    return {**card, **{k: v for k, v in more.items() if card.get(k, EMPTY.get(k)) in (None, EMPTY.get(k))}}


def version(texts: Mapping[str, str]) -> str:
    """What the WebUI takes a file's model to be, by its metadata."""
    if texts.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if texts.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if texts else "Unknown"


def told(texts: Mapping[str, str]) -> dict[str, object]:
    """What a file's own metadata has for its card."""
    said = {
        "description": texts.get("ssmd_description") or texts.get("modelspec.description") or "",
        "sd version": version(texts),
        "activation text": texts.get("modelspec.trigger_phrase") or texts.get("ssmd_keywords") or "",
        "notes": texts.get("modelspec.usage_hint") or texts.get("ss_training_comment") or "",
    }
    return {name: text for name, text in said.items() if text not in ("", "None")}


def pictures(file: pathlib.Path) -> list[pathlib.Path]:
    """Those that the WebUI shows for a file; of several it takes any one."""
    stems = [file.with_suffix(end + suffix) for end in ("", ".preview") for suffix in PICTURES]
    return [path for path in stems if path.is_file()]


def put_picture(file: pathlib.Path, source: pathlib.Path) -> pathlib.Path:
    """Beside the file, in place of those that are there; as it is where it is a PNG of no great size, for it
    may say with what settings it was drawn.

    Raises:
        Mistake: it is no picture.
    """
    there = file.with_suffix(".preview.png")
    try:
        with Image.open(source) as image:
            image.load()
            if image.format == "PNG" and max(image.size) <= LARGEST:
                with whole(there) as part:
                    shutil.copyfile(source, part)
            else:
                image.thumbnail((LARGEST, LARGEST))
                plain = image.convert("RGB")
                with whole(there) as part:
                    plain.save(part, "PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise Mistake(f"preview = {source}: expected a picture ({e})") from e
    for other in pictures(file):
        if other != there:
            other.unlink()
    return there


@dataclasses.dataclass(frozen=True)
class Card(Tool):
    """Shows and edits it."""

    about = (
        "Show or edit the card with which a WebUI's list of LoRAs shows a file: <name>.json beside it, and\n"
        "<name>.preview.png. What is not given stays as it is."
    )
    alone = "model"
    light = True

    model: pathlib.Path | None = knob(
        None, "The LoRA file.", group="files", basic=True, place=True)  # fmt: skip
    description: str | None = knob(None, "What it is.", group="card", basic=True)
    sd_version: str | None = knob(
        None, "Which models it is for; the WebUI hides it with others.", group="card",
        choices=(*VERSIONS.values(), "Unknown"))  # fmt: skip
    activation_text: str | None = knob(
        None, "Words that a click on it puts into the prompt.", group="card", basic=True
    )
    preferred_weight: float | None = knob(
        None, "Strength that a click on it gives it. 0: the WebUI's own.", group="card", low=-10, high=10
    )
    negative_text: str | None = knob(
        None, "Words that a click on it puts into the negative prompt.", group="card"
    )
    notes: str | None = knob(None, "Whatever else there is to say.", group="card")
    clear: tuple[str, ...] = knob(
        (), "Fields to empty.", group="card",
        choices=tuple(name.replace(" ", "_") for name in EMPTY))  # fmt: skip
    fill: bool = knob(
        False, "Fill empty fields with what the file's own metadata says.", group="card", basic=True
    )
    preview: pathlib.Path | None = knob(
        None, "Picture to show it with.", group="card", place=True)  # fmt: skip
    overwrite: bool = knob(False, "Replace a picture that is there.", group="output")

    def makes(self) -> Iterable[tuple[str, pathlib.Path]]:
        told = [vars(self)[name.replace(" ", "_")] is not None for name in EMPTY]
        edits = any(told) or self.clear or self.fill or self.preview
        return [("model", self.model.with_suffix(".json"))] if edits and self.model else []

    def check(self) -> Iterable[str]:
        if self.model is None:
            yield "model: expected the LoRA file, such as: lora-train card mine.safetensors"
        for name in self.clear:
            if vars(self)[name] is not None:
                yield f"clear = {name}: expected a field that is not given at the same time"

    def run(self, told: Told = unheard) -> Report:
        texts = open_weights(self.model).metadata
        before = read_card(self.model)
        if before is None:
            raise Mistake(f"{self.model.with_suffix('.json')}: expected a card; this is another file, "
                          "which is not written over; rename it")  # fmt: skip
        if self.preview is not None and not self.overwrite and (taken := pictures(self.model)):
            raise Mistake(f"preview: {taken[0]} is there already; set overwrite to replace it")
        card, files = self._edited(before, {str(k): str(v) for k, v in texts.items()}), []
        if self.preview is not None:
            files.append(put_picture(self.model, self.preview))
        if card != before:
            files.append(write_card(self.model, card))
        shows = {name: card.get(name, empty) for name, empty in EMPTY.items()}
        there = [str(path) for path in pictures(self.model)]
        lines = [f"{name}: {shown(value)}" for name, value in shows.items() if value != ""]
        lines += [f"picture: {there[0]}" if there else "picture: none"]
        lines += [f"Saved {path}" for path in files]
        return Report(tuple(lines), {"card": {**EMPTY, **card}, "pictures": there}, tuple(files))

    def _edited(self, before: Mapping[str, object], texts: Mapping[str, str]) -> dict[str, object]:
        given = {name: vars(self)[name.replace(" ", "_")] for name in EMPTY}
        card = {**before, **{name: value for name, value in given.items() if value is not None}}
        card |= {name: EMPTY[name] for name in EMPTY if name.replace(" ", "_") in self.clear}
        return filled(card, told(texts)) if self.fill else card
