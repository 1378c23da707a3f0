"""TOML files, and what their errors mean."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

from lora_train.errors import Mistake

SLASH = "; in double quotes a backslash begins an escape, so write C:/folder or 'C:\\folder'"


def read_toml(path: pathlib.Path) -> dict[str, object]:
    """Raises:
    Mistake: no such file, not UTF-8, or not TOML; with the line.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise Mistake(f"{path}: expected a TOML file ({e.strerror})") from e
    return parsed_toml(data, path)


def parsed_toml(data: bytes, path: pathlib.Path) -> dict[str, object]:
    """What stands in a file.

    Raises:
        Mistake: not UTF-8, or not TOML; with the line.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as e:
            raise Mistake(
                f"{path}: reading TOML on Python 3.10 needs the package tomli; pip install tomli"
            ) from e
    try:
        tables = tomllib.loads(data.decode("utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as e:
        raise Mistake(f"{path}: expected UTF-8 text; save it as UTF-8") from e
    except (ValueError, RecursionError) as e:  # TOMLDecodeError, and int's for thousands of digits
        hint = SLASH if "\\" in str(e) or "hex" in str(e) or "escape" in str(e) else ""
        reason = str(e).replace("Invalid", "unreadable")
        raise Mistake(f"{path}: not TOML: {reason}{hint}") from e
    torn = [f"{path}: {n} = {text!r}{SLASH}" for n, text in _texts(tables, "") if set(text) & set("\t\b\f\r")]
    if torn:  # the `\t` of "C:\train" was read as a tab
        raise Mistake("\n".join(torn))
    return tables


def _texts(value: object, name: str) -> Iterator[tuple[str, str]]:
    """Each text in tables and lists, and what it stands under."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, name)
    elif isinstance(value, str):
        yield name, value
