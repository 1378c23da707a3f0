"""What a run would see of one picture: its bucket and crop, and its caption as the model reads it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping

from PIL import Image

from lora_train.data import pictures
from lora_train.data.folder import Dataset, Subset
from lora_train.data.held import steady
from lora_train.errors import Mistake
from lora_train.knobs import build, settings
from lora_train.run.trigger import Counter
from lora_train.workshop.opened import Entry, Opened

DATA = "data."
LIMIT = "model.max_token_length"


class Eye:
    """What settings of a training make of pictures.

    Args:
        values: {path: value}, of which those of data count; what cannot be read is left at its default,
            for the form says so.
    """

    def __init__(self, values: Mapping[str, object]):
        self.dataset = _read(Dataset, values)
        self.rules = _read(Subset, values)
        limit = values.get(LIMIT)
        self.limit = limit if isinstance(limit, int) and limit > 0 else 75

    def seen(self, opened: Opened, entry: Entry) -> dict[str, object]:
        """Plain values, as the page has them."""
        return {**self._caption(opened, entry), **self._fit(opened, entry), **_file(opened, entry)}

    def bucket(self, size: tuple[int, int] | None) -> tuple[int, int] | None:
        """Width and height at which a picture is trained on; None: it is not, or cannot be."""
        with contextlib.suppress(Mistake):
            return size and self.dataset.fit(size).bucket
        return None

    def _caption(self, opened: Opened, entry: Entry) -> dict[str, object]:
        """`read` is what reaches the text encoder with all its tags, `lost` what is behind the limit."""
        try:
            own, error = opened.text(entry), None
        except Mistake as e:
            own, error = "", str(e)
        line = own if self.rules.enable_wildcard else own.split("\n")[0].strip()
        text = steady(self.rules).apply(self.rules.told(line), random.Random(0))
        read, lost = Counter().cut(text, self.limit)
        return {
            "text": own, "encoding": entry.encoding, "caption_error": error, "read": read, "lost": lost,
            "tokens": Counter().count(text), "limit": self.limit,
            "tags": [tag for part in own.split(self.rules.caption_separator) if (tag := part.strip())],
        }  # fmt: skip

    def _fit(self, opened: Opened, entry: Entry) -> dict[str, object]:
        """`crop` is in pixels of the picture: left, top, width, height."""
        size = opened.size(entry)
        try:
            fit = size and self.dataset.fit(size)
        except Mistake as e:
            return {"fit": None, "fit_error": str(e)}
        if not fit:
            return {"fit": None, "fit_error": None}
        left, top = fit.cut()
        across, down = (s / r for s, r in zip(size, fit.resized, strict=True))
        crop = [left * across, top * down, fit.bucket[0] * across, fit.bucket[1] * down]
        scale = max(r / s for s, r in zip(size, fit.resized, strict=True))
        found = {"bucket": fit.bucket, "resized": fit.resized, "crop": crop, "scale": round(scale, 3)}
        return {"fit": found, "fit_error": None}


def _read(cls: type, values: Mapping[str, object]) -> Dataset | Subset:
    """The component that these settings make, without what is wrong with them."""
    known = {s.path for s in settings(cls) if "." not in s.path and s.path != "image_dir"}
    given = {p.removeprefix(DATA): v for p, v in values.items() if p.removeprefix(DATA) in known}
    given = {p: v for p, v in given.items() if v not in (None, "")}
    while True:
        try:
            return build(cls, given, tolerant=True)
        except Mistake as e:
            wrong = {line.split(" = ")[0].split(":")[0] for line in str(e).splitlines()}
            if not wrong & given.keys():
                return cls()
            given = {p: v for p, v in given.items() if p not in wrong}


def _file(opened: Opened, entry: Entry) -> dict[str, object]:
    """Format and mode, from its head."""
    try:
        with Image.open(opened.path(entry.name)) as image:
            return {"format": image.format, "mode": image.mode, "file_error": None}
    except pictures.BROKEN as e:
        return {"format": None, "mode": None, "file_error": str(e)}
