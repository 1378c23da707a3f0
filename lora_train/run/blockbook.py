"""Presets of block weights that people keep, in the file that prompts read them from."""

from __future__ import annotations

import pathlib

from lora_train.blocks import BLOCKS, LISTS, PRESETS
from lora_train.errors import Mistake
from lora_train.run.store import whole
from lora_train.spelling import PRESETS_FILE, Book
from lora_train.values import shown


class BlockBook:
    """`lbwpresets.txt` of one folder; whatever else stands in it stays as it is."""

    def __init__(self, folder: pathlib.Path):
        self.file = folder / PRESETS_FILE

    def list(self) -> dict[str, object]:
        """{"blocks": ids, "lists": the blocks that so many values name, "presets": a row each}; `weights` are
        one for each block, None where they are drawn or follow X."""
        book = Book.read([self.file.parent])
        names = {**dict.fromkeys(book.presets), **dict.fromkeys(PRESETS)}
        rows = [
            {"name": name, "text": book.presets[name], "weights": _weights(book, name),
             "builtin": book.presets[name] == PRESETS.get(name)}
            for name in names
        ]  # fmt: skip
        lists = {str(count): [*own] for count, own in LISTS.items()}
        return {"blocks": [*BLOCKS], "lists": lists, "presets": rows, "elements": dict(book.elements)}

    def write(self, name: str, text: str) -> None:
        """Put it in the place of one of its name, or last.

        Raises:
            Mistake: it is none, or the file cannot be written.
        """
        if not name.strip() or set(name) & set(":#,|;<>"):
            raise Mistake(f"name = {shown(name)}: expected a name without any of : # , | ; < >")
        plain = "".join(text.split())
        try:
            Book(presets={}).weights(plain)
        except ValueError:
            raise Mistake(
                f"{name} = {shown(text)}: expected 12, 17, 20 or 26 values with commas between: numbers, R, "
                "U, X, or X with +0.1 or -0.1"
            ) from None
        line = f"{name.strip()}:{plain}"
        lines = self._lines()
        at = [i for i, there in enumerate(lines) if _named(there) == name.strip().upper()]
        lines = [there for i, there in enumerate(lines) if i not in at[1:]]
        if at:
            lines[at[0]] = line
        self._put(lines if at else [*lines, line])

    def remove(self, name: str) -> None:
        """Raises LookupError: the file has none of this name."""
        lines = self._lines()
        left = [line for line in lines if _named(line) != name.strip().upper()]
        if len(left) == len(lines):
            raise LookupError(f"no preset of block weights is called {name} in {self.file}")
        self._put(left)

    def _lines(self) -> list[str]:
        try:
            return self.file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        except OSError:
            return []

    def _put(self, lines: list[str]) -> None:
        with whole(self.file) as part:
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _named(line: str) -> str:
    name, colon, _ = line.partition(":")
    return name.strip().upper() if colon and "#" not in line else ""


def _weights(book: Book, name: str) -> list[float] | None:
    if any(word.strip().upper()[:1] in ("R", "U", "X") for word in book.presets[name].split(",")):
        return None
    try:
        return [*book.weights(name).values]
    except ValueError:
        return None
