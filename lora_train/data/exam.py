"""Exam: all that one look at a picture's pixels tells, so that it is decoded once and then remembered."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from lora_train.data import likeness, measures, pictures, pixels
from lora_train.data.memory import Known
from lora_train.data.traits import traits
from lora_train.errors import Mistake

LARGE = (
    4_000_000  # pixels; of larger JPEG files a reduced picture is decoded, which takes a fraction of the time
)


def examined(known: Known) -> bool:
    """Whether there is nothing to be found out any more."""
    return bool(known.whole) and known.softness is not None


def examine(path: pathlib.Path, known: Known) -> None:
    """Fill in what is known.

    Raises:
        Mistake: cannot be read; what its head says is filled in if that can be.
    """
    known.width, known.height = pictures.size(path)
    known.frames = pictures.frames(path)
    with pictures.opened(path) as image:
        known.quality = measures.quality(image)
        whole = not _reduced(image)
        known.traits = " ".join(traits(image))
        turn = pictures.TURNS.get(pictures.orientation(image))
        seen = pixels.rgb(image if turn is None else image.transpose(turn), (255, 255, 255))
    grey = seen.convert("L")
    known.cells = likeness.cells(seen)
    known.blocks = round(measures.blocks(np.asarray(grey)), 3) if whole else 0.0
    known.softness = round(measures.softness(np.asarray(measures.shrunk(grey))), 3)
    known.whole = True


def _reduced(image: Image.Image) -> bool:
    """Whether a smaller picture will be decoded. All of the file is read for it, so damage is still found."""
    if image.format != "JPEG" or image.width * image.height <= LARGE:
        return False
    times = measures.SIDE / min(image.size)
    image.draft(None, (round(image.width * times), round(image.height * times)))
    return True


def fault(path: pathlib.Path, known: Known) -> tuple[str, str] | None:
    """Examine a picture if need be: "locked", "truncated" or "unreadable", and why; None: it is whole."""
    try:
        if not examined(known):
            examine(path, known)
    except Mistake as e:
        reason = str(e).removeprefix(f"{path}: ").removesuffix("; replace it or take it out of the folder")
        if isinstance(e.__cause__, PermissionError):
            return "locked", reason
        return ("unreadable" if known.width is None else "truncated"), reason
    return None
