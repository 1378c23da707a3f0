"""Import: captions out of files of other programs, into caption files beside the pictures."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from lora_train.data import captions, scan
from lora_train.data.folder import Subset
from lora_train.errors import Mistake
from lora_train.knobs import knob
from lora_train.toml import read_toml
from lora_train.tools.tool import Told
from lora_train.values import shown
from lora_train.workshop import words
from lora_train.workshop.journal import Draft
from lora_train.workshop.opened import Entry, Opened, endless
from lora_train.workshop.work import Touched, Work

ENDINGS = (".json", ".jsonl", ".toml")
NAMES, TEXTS = ("file_name", "image", "file", "path"), ("text", "caption", "prompt", "tags")
Says = Callable[[Opened, Entry], str | None]  # the caption that a file has for a picture; None: none


@dataclasses.dataclass(frozen=True)
class Import(Work):
    """Take captions out of a file of another program into caption files."""

    source: pathlib.Path | None = knob(
        None, "File with captions: sd-scripts' JSON of captions; .jsonl with file_name and text; a "
        "dataset_config .toml, whose metadata_file, captions of other endings and class_tokens count; a list "
        "of concepts of OneTrainer or Dreambooth.", group="import", basic=True, place=True)  # fmt: skip
    existing: str = knob(
        "keep", "Pictures that have a caption: keep it, replace it, or append the tags that it lacks.",
        group="import", basic=True, choices=("keep", "replace", "append"))  # fmt: skip
    separator: str = knob(",", "What stands between tags.", group="import")

    title: ClassVar[str] = "import"
    many: ClassVar[str] = "captions"

    about = """Take captions out of one file into caption files beside the pictures, whose names are found
        with or without ending and whatever folder stands before them."""

    def check(self) -> Iterable[str]:
        yield from super().check()
        if self.source is None or self.source.suffix.lower() not in ENDINGS:
            yield f"source = {self.source}: expected a file of captions, {', '.join(ENDINGS)}"
        if not self.separator.strip():
            yield "separator: expected something between tags, such as a comma"

    def named(self) -> Iterable[tuple[str, pathlib.Path]]:
        """Files that the source names."""
        if self.source is None or self.folder is None:
            return []
        with contextlib.suppress(Mistake):
            return [("source", path) for path in _Source(self).files()]
        return []

    def edit(self, opened: Opened, chosen: Sequence[Entry], draft: Draft, told: Told) -> Iterator[Touched]:
        says, seen, found = _Source(self).says(opened), set(), False
        for i, entry in enumerate(chosen):
            told(i, len(chosen))
            path, text = opened.caption_of(entry), says(opened, entry)
            found |= text is not None
            if not text or path in seen:
                continue
            seen.add(path)
            before = opened.text(entry) if self.existing != "replace" else _held(opened, entry)
            after = self._after(before, text)
            if after != before:
                draft.put(path, self._written(entry, after))
                yield Touched(entry.name, "", before, after)
        if chosen and not found:
            raise Mistake(f"source = {self.source}: has no caption for any of these {len(chosen)} pictures; "
                          "names in it are those of other pictures, or of another folder")  # fmt: skip
        told(len(chosen), len(chosen))

    def _written(self, entry: Entry, text: str) -> bytes:
        try:
            return text.encode()
        except UnicodeEncodeError as e:
            raise Mistake(
                f"source = {self.source}: the caption of {entry.name} is no text in any encoding ({e.reason})"
            ) from e

    def _after(self, before: str, text: str) -> str:
        if not before or self.existing == "replace":
            return text
        if self.existing == "keep":
            return before
        tags = words.tags(text, self.separator)
        return "\n".join(words.put(line, tags, self.separator) for line in before.splitlines())


class _Source:
    """What stands in the file."""

    def __init__(self, work: Import):
        self.path, self.folder, self.separator = work.source, work.folder, work.separator
        self.kind = work.source.suffix.lower()

    def files(self) -> list[pathlib.Path]:
        """Others that it names, and that are read."""
        own = self._own(self._json() if self.kind == ".json" else read_toml(self.path)
                        if self.kind == ".toml" else [])  # fmt: skip
        return [
            self._found(one[name])
            for one in own
            for name in ("metadata_file", "prompt_path")
            if one.get(name)
        ]

    def says(self, opened: Opened) -> Says:
        """Raises Mistake: it cannot be read, or says nothing of this folder."""
        if self.kind == ".jsonl":
            return _by_name(opened, dict(self._rows()))
        if self.kind == ".toml":
            return self._each([self._subset(opened, s) for s in self._own(read_toml(self.path))])
        found = self._json()
        if isinstance(found, dict) and not isinstance(
            found.get("concepts_list", found.get("concepts")), list
        ):
            return _by_name(opened, self._metadata(self.path))
        rows = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        if rows and not any(set(one) & {"instance_data_dir", "path", "image_dir"} for one in rows):
            return _by_name(opened, dict(self._named(rows)))
        return self._each([self._concept(one) for one in self._own(found)])

    def _each(self, every: Sequence[Says]) -> Says:
        """Raises Mistake: there are none."""
        if not every:
            raise Mistake(f"source = {self.path}: names no folder that is {self.folder}")

        def says(opened: Opened, entry: Entry) -> str | None:
            return next((text for one in every if (text := one(opened, entry)) is not None), None)

        return says

    def _own(self, found: object) -> list[Mapping[str, object]]:
        """Its entries about this folder: subsets of a dataset_config, or concepts."""
        if isinstance(found, dict):
            general, rows = _table(found.get("general")), found.get("concepts_list", found.get("concepts"))
            if rows is None:
                datasets = [_table(one) for one in _list(found.get("datasets"))]
                rows = [{**general, **d, **_table(s)} for d in datasets for s in _list(d.get("subsets"))]
        else:
            rows = found
        own = []
        for one in map(_table, _list(rows)):
            named = one.get("image_dir") or one.get("instance_data_dir") or one.get("path")
            named = named or (one.get("metadata_file") and str(self.folder))  # it names the pictures itself
            if isinstance(named, str) and _same(self._found(named), self.folder):
                own.append(one)
        return own

    def _subset(self, opened: Opened, one: Mapping[str, object]) -> Says:
        """Of a dataset_config."""
        if isinstance(one.get("metadata_file"), str):
            return _by_name(opened, self._metadata(self._found(one["metadata_file"])))
        ending, tokens = one.get("caption_extension"), one.get("class_tokens")
        if isinstance(ending, str) and endless(ending):
            raise Mistake(f"source = {self.path}: caption_extension = {shown(ending)}: expected an ending")

        def says(opened: Opened, entry: Entry) -> str | None:
            if isinstance(ending, str) and ending != opened.extension:
                path = opened.path(_stem(entry.name) + (ending if ending.startswith(".") else f".{ending}"))
                if path.is_file():
                    return captions.whole(path)[0]
            return tokens if isinstance(tokens, str) else None

        return says

    def _concept(self, one: Mapping[str, object]) -> Says:
        """Of OneTrainer or Dreambooth."""
        text = _table(one.get("text"))
        kind, prompt = text.get("prompt_source"), one.get("instance_prompt")
        if kind == "filename":
            return lambda opened, entry: _stem(entry.name).rpartition("/")[2]
        if kind == "concept" and isinstance(text.get("prompt_path"), str):
            lines = "\n".join(captions.read(self._found(text["prompt_path"]), "auto"))
            return lambda opened, entry: lines
        if isinstance(prompt, str) and prompt.strip() and "[" not in prompt:
            return lambda opened, entry: prompt.strip()
        return lambda opened, entry: None

    def _metadata(self, path: pathlib.Path) -> dict[str, str]:
        rules = Subset(enable_wildcard=True, caption_separator=self.separator)
        return {name: "\n".join(lines) for name, lines in scan.said(path, rules).items()}

    def _rows(self) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(self._text().splitlines(), 1):
            if line.strip():
                try:
                    yield from self._named([json.loads(line)])
                except (ValueError, RecursionError) as e:
                    raise Mistake(f"source = {self.path}: line {number}: not JSON: {e}") from e

    def _named(self, rows: Iterable[object]) -> Iterator[tuple[str, str]]:
        """(name, caption) of rows that say each under a usual key."""
        for row in map(_table, rows):
            name = next((row[key] for key in NAMES if isinstance(row.get(key), str)), None)
            text = next((row[key] for key in TEXTS if row.get(key) is not None), None)
            if isinstance(text, list):
                text = words.joined(map(str, text), self.separator)
            if name is None or not isinstance(text, str):
                raise Mistake(f"source = {self.path}: expected rows with file_name and text")
            yield name, text.strip()

    def _json(self) -> object:
        try:
            return json.loads(self._text())
        except (ValueError, RecursionError) as e:
            raise Mistake(f"source = {self.path}: not JSON: {e}") from e

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeError) as e:
            raise Mistake(f"source = {self.path}: expected a file of captions in UTF-8 ({e})") from e

    def _found(self, name: object) -> pathlib.Path:
        """A path that it names, which may be told from where it lies."""
        path = pathlib.Path(str(name))
        beside = self.path.parent / path
        return beside if not path.is_absolute() and beside.exists() else path


def _by_name(opened: Opened, said: Mapping[str, str]) -> Says:
    """Names are tried whole, below the folder, and alone where one picture is called so."""
    every: dict[str, str] = {}
    for key, text in said.items():
        name = key.replace("\\", "/")
        with contextlib.suppress(ValueError):
            name = pathlib.PurePosixPath(name).relative_to(opened.folder.as_posix()).as_posix()
        every[composed(name)] = text
    bare: dict[str, list[str]] = {}  # without folders, which may have been others then
    for name in every:
        bare.setdefault(name.rpartition("/")[2], []).append(name)
    stems = collections.Counter(_stem(composed(name)).rpartition("/")[2] for name in opened.entries)

    def says(opened: Opened, entry: Entry) -> str | None:
        whole = composed(entry.name)
        for name in (whole, _stem(whole)):
            if name in every:
                return every[name]
        file = whole.rpartition("/")[2]
        for name in (file, _stem(file)) if stems[_stem(file)] == 1 else ():
            if len(bare.get(name, ())) == 1:
                return every[bare[name][0]]
        return None

    return says


composed = functools.partial(unicodedata.normalize, "NFC")  # macOS writes e and ´ where others write é


def _held(opened: Opened, entry: Entry) -> str:
    """Its caption; "" where that cannot be read, for it is to be replaced."""
    with contextlib.suppress(Mistake):
        return opened.text(entry)
    return ""


def _same(one: pathlib.Path, other: pathlib.Path) -> bool:
    with contextlib.suppress(ValueError):  # a path with a NUL in it
        return os.path.realpath(one) == os.path.realpath(other)
    return False


def _table(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 (of 100,000 names)
