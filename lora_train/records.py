"""Jobs and presets as JSON files: {"schema": 1, "values": {path: value}}."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

from lora_train.errors import Mistake
from lora_train.values import shown

SCHEMA = 1  # what is written; a reader refuses a newer one
CONCEPT = "instance_data_dir"  # what each of a list of concepts has


def packed(values: Mapping[str, object]) -> str:
    """Settings as the text of a file."""
    return json.dumps({"schema": SCHEMA, "values": dict(values)}, indent=1, ensure_ascii=False)


def read_json(path: pathlib.Path) -> dict[str, object]:
    """Any JSON file that is an object.

    Raises:
        Mistake: no such file, not UTF-8, or not JSON; with the line.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise Mistake(f"{path}: expected a JSON file ({e.strerror})") from e
    return parsed_json(data, path)


def parsed_json(data: bytes, path: pathlib.Path) -> dict[str, object]:
    """What stands in a file; the Dreambooth extension's list of concepts under the name that its settings
    have for it.

    Raises:
        Mistake: not UTF-8, not JSON, or no object.
    """
    try:
        found = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as e:
        raise Mistake(f"{path}: expected UTF-8 text; save it as UTF-8") from e
    except (ValueError, RecursionError) as e:  # JSONDecodeError, and int's for thousands of digits
        raise Mistake(f"{path}: not JSON: {e}") from e
    if isinstance(found, list) and found and all(isinstance(x, dict) and CONCEPT in x for x in found):
        return {"concepts_list": found}
    if not isinstance(found, dict):
        raise Mistake(f"{path}: expected settings, {{name: value}}; this is {shown(found)}")
    return found


def is_record(found: Mapping[str, object]) -> bool:
    return "schema" in found


def unpacked(found: Mapping[str, object], path: pathlib.Path) -> dict[str, object]:
    """The settings in a job or preset.

    Raises:
        Mistake: it is of a later version, or damaged.
    """
    schema, values = found.get("schema"), found.get("values")
    if type(schema) is not int or schema < 1:
        raise Mistake(
            f"{path}: schema = {shown(schema)}: expected a whole number from 1; the file is damaged"
        )
    if schema > SCHEMA:
        raise Mistake(
            f"{path}: schema = {schema}: written by a newer version, this one reads up to {SCHEMA}; update "
            "lora-train"
        )
    if not isinstance(values, dict):
        raise Mistake(f"{path}: values: expected {{setting: value}}; the file is damaged")
    return values


def inside(texts: Mapping[str, str], path: pathlib.Path) -> dict[str, object]:
    """The job in a saved file's metadata.

    Raises:
        Mistake: there is none, or it is damaged.
    """
    if "lora_train_job" not in texts:
        raise Mistake(f"from = {path}: expected a file that lora-train wrote; no job is in this one")
    try:
        job = json.loads(texts["lora_train_job"])
    except (ValueError, RecursionError):
        job = None
    if not isinstance(job, dict):
        raise Mistake(f"from = {path}: expected a job of settings in its metadata; it is damaged")
    schema = texts.get("lora_train_schema", "1")
    return unpacked({"schema": int(schema) if schema.isdecimal() else schema, "values": job}, path)
