"""Small copies of pictures, for pages that show many."""

from __future__ import annotations

import functools
import io
import pathlib

from lora_train.errors import Mistake

WIDEST, KEPT = 512, 512  # pixels; copies that are held, of some 10 kB


def small(path: pathlib.Path, width: int) -> bytes:
    """A JPEG that is no wider and no higher than so many pixels.

    Raises:
        Mistake: not a picture that can be read.
    """
    return _small(path, path.stat().st_mtime_ns, max(16, min(width, WIDEST)))


@functools.lru_cache(KEPT)
def _small(path: pathlib.Path, changed: int, width: int) -> bytes:
    """changed: when, so that another picture of the same name is read anew."""
    from PIL import Image, ImageOps  # a WebUI's start does not wait for it

    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (width, width))  # a JPEG is read at about that size
            shown = ImageOps.exif_transpose(picture).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise Mistake(f"path = {path}: expected a picture that can be read ({e})") from e
    shown.thumbnail((width, width))
    paper = Image.new("RGB", shown.size, "white")
    paper.paste(shown, mask=shown.getchannel("A"))
    out = io.BytesIO()
    paper.save(out, "JPEG", quality=85)
    return out.getvalue()
