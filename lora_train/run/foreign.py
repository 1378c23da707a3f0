"""Imports: settings out of whatever file a person has, as values of ours and what is to be said of them."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping

from lora_train import configs
from lora_train.compat import Heard, Values, translate
from lora_train.errors import Mistake
from lora_train.job import assembled, declared, subject, written
from lora_train.knobs import general
from lora_train.records import inside, is_record, parsed_json, unpacked
from lora_train.run.inside import told
from lora_train.run.programs import heard
from lora_train.toml import parsed_toml
from lora_train.values import shown

ENDINGS = (".json", ".toml", ".safetensors")
LENGTH = 8  # bytes of a .safetensors that say how long its header is
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")  # on the Hugging Face Hub
WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def imported(name: str, data: bytes) -> tuple[Values, list[str]]:
    """A file's settings, {path: value}; and a sentence for each that has no effect or was not taken.

    Args:
        data: what is in it; of a .safetensors the beginning with its header is enough.

    Raises:
        Mistake: it cannot be read, or nothing of it can be trained here.
    """
    path = pathlib.Path(pathlib.PureWindowsPath(name).name or "file")
    ending = path.suffix.lower()
    if ending == ".json":
        found = _json(data, path)
    elif ending == ".toml":
        found = Heard(configs.config(parsed_toml(data, path), path, declared(), datasets=True))
    elif ending == ".safetensors":
        found = _metadata(data, path)
    else:
        raise Mistake(f"{path}: expected a file of settings, {', '.join(ENDINGS)}")
    values, notes = _taken(found)
    if not values:
        raise Mistake("\n".join([f"{path}: expected settings to train with; none were found", *notes]))
    return values, notes


def _json(data: bytes, path: pathlib.Path) -> Heard:
    found = parsed_json(data, path)
    return Heard(unpacked(found, path)) if is_record(found) else heard(found, path)


def _metadata(data: bytes, path: pathlib.Path) -> Heard:
    """Of a LoRA: our job where it has one, else what sd-scripts wrote down."""
    length = int.from_bytes(data[:LENGTH], "little")
    head = data[LENGTH : LENGTH + length]
    try:
        texts = json.loads(head.decode()).get("__metadata__", {}) if len(head) == length else None
    except (ValueError, RecursionError, AttributeError):
        texts = None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise Mistake(f"{path}: expected a .safetensors file; this one is damaged or not whole")
    if "lora_train_job" in texts:
        return Heard(inside(texts, path))
    if "ss_network_dim" in texts:
        return told(texts)
    raise Mistake(f"{path}: expected a LoRA that says how it was trained; in this one no word is left of it")


# ── words into values ───────────────────────────────────────────────────────────────────────────────────────


def _taken(found: Heard) -> tuple[Values, list[str]]:
    """One by one: what cannot be taken leaves the others as they are."""
    every = declared()
    values: Values = {}
    notes, lost = [*found.notes], [*found.refused]
    for name, value in found.words.items():
        if name in ("v2", "sdxl"):
            notes.append(f"{name}: the model that is loaded says what it is")
        elif name == "dataset_config":
            lost.append(f"dataset_config = {shown(value)}: a file beside; import it as well")
        else:
            try:
                said = translate({name: value}, every)
            except Mistake as e:
                lost += str(e).splitlines()
            else:
                values |= said.values
                notes += said.notes
    places = {s.path for s in every if s.place and s.type is not str}
    own = [path for path in values if general(path) in places and values[path] is not None]
    lost += [line for path in own if (line := _strange(path, values))]
    return _whole(values, lost), [
        *(f"not taken: {line}" for line in dict.fromkeys(lost)),
        *dict.fromkeys(notes),
    ]


def _strange(path: str, values: Values) -> str | None:
    """Takes away a path that cannot be one of this machine's; and says so."""
    text = str(values[path]).strip()
    if path == "model.pretrained_model_name_or_path" and REPOSITORY.fullmatch(text):
        why = "a model of the Hugging Face Hub; load its checkpoint, or choose a file"
    elif text.startswith("/") if os.name == "nt" else WINDOWS.match(text):
        why = "a path of another system; choose one of this machine"
    else:
        return None
    del values[path]
    return f"{path} = {shown(text)}: {why}"


def _whole(values: Mapping[str, object], lost: list[str]) -> Values:
    """Those of which a job can be made, in plain values; what is against the others goes to `lost`."""
    parts, complaints = assembled(values)
    lost += complaints
    wrong = {subject(line) for line in complaints}
    plain = written(*parts) if parts else {}
    return {path: plain.get(path, value) for path, value in values.items() if path not in wrong}
