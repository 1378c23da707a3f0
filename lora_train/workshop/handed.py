"""A mask that was painted: handed in as data, or as a file."""

from __future__ import annotations

import base64
import binascii
import io
import pathlib

from PIL import Image

from lora_train.data import pictures, pixels
from lora_train.data.buckets import Size
from lora_train.errors import Mistake
from lora_train.workshop.image import scaled

LEAD = "data:image/png;base64,"
NEAR = 0.01  # how far a painting's shape may be from its picture's: a page rounds to whole pixels


def painted(text: str) -> Image.Image:
    """How much each place is painted, "L": as far as it is white, and not transparent.

    Args:
        text: a data address of a PNG, as pages make it, or a file's path.

    Raises:
        Mistake: neither.
    """
    if not text.startswith("data:"):
        return pixels.rgb(pictures.upright(pathlib.Path(text), (0, 0, 0)), (0, 0, 0)).convert("L")
    if not text.startswith(LEAD):
        raise Mistake(f"painted = {text[:40]}…: expected a PNG, as {LEAD}…")
    try:
        with Image.open(
            io.BytesIO(base64.b64decode(text[len(LEAD) :], validate=True)), formats=("PNG",)
        ) as image:
            return pixels.rgb(image, (0, 0, 0)).convert("L")
    except (binascii.Error, *pictures.BROKEN) as e:
        raise Mistake(f"painted: expected a PNG that can be read ({e})") from e


def fitted(mask: Image.Image, size: Size) -> Image.Image:
    """At the size of its picture, of which it may be a smaller drawing.

    Raises:
        Mistake: it has another shape.
    """
    (width, height), (wide, high) = mask.size, size
    if abs(width * high / (height * wide) - 1) > NEAR and abs(width - wide * height / high) > 1:
        raise Mistake(f"the painting has {width}x{height} pixels, and the picture {wide}x{high}")
    return scaled(mask, size, soft=True)
