"""Traits: what a picture file is beside plain RGB, upright, of 8 bits; as words, which are remembered."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from lora_train.data import pictures, pixels


def traits(image: Image.Image) -> Iterator[str]:
    """Of "turned", "cmyk", "deep", "palette" and "transparent", those that an open picture is."""
    if _turned(image):
        yield "turned"
    if image.mode == "CMYK":
        yield "cmyk"
    if image.mode.startswith(("I", "F")) or _bits(image) > 8:
        yield "deep"
    if image.mode in ("P", "PA"):
        yield "palette"
    if _transparent(image):
        yield "transparent"


def _turned(image: Image.Image) -> bool:
    if image.format == "PNG" and not {"exif", "XML:com.adobe.xmp"} & image.info.keys():
        return False  # without it, Pillow decodes all of a PNG to look behind its pixels
    try:
        return image.getexif().get(pictures.ORIENTATION, 1) in range(2, 9)
    except pictures.BROKEN:
        return False


def _bits(image: Image.Image) -> int:
    """A channel's, in the file: Pillow reads 16 bits of RGB as 8, and only the decoder's name tells."""
    raw = image.tile[0][3] if image.tile else ""
    raw = raw if isinstance(raw, str) else str(raw[0]) if isinstance(raw, tuple) and raw else ""
    return 16 if ";16" in raw else 8


def _transparent(image: Image.Image) -> bool:
    """Not where there is an alpha channel and all of it is solid."""
    if image.mode not in pixels.ALPHA and "transparency" not in image.info:
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] < 255
