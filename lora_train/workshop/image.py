"""A picture file read whole, with what it says of itself, and written again without loss beyond what its
kind of file has."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import re

import numpy as np
from PIL import Image, PngImagePlugin

from lora_train.data import pictures, pixels
from lora_train.data.buckets import Size
from lora_train.errors import Mistake

FORMATS = {  # ending -> what Pillow calls it
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".avif": "AVIF",
    ".jxl": "JXL", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
MODES = {  # what a kind of file can hold; another mode becomes the nearest of them
    "PNG": ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"),
    "JPEG": ("RGB", "L", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
    "AVIF": ("RGB", "RGBA"),
    "JXL": ("RGB", "RGBA", "L", "LA"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("P", "L", "RGB", "1"),
}
SIZES = (0xA002, 0xA003)  # the EXIF tags that repeat width and height
DETAILS = 0x8769  # the EXIF tag of the part where they stand
XMP = b"http://ns.adobe.com/xap/1.0/\0"
NUMBERS = ("XML:com.adobe.xmp", "xmp", "Raw profile type exif")  # text that has a place of its own
TURNED = ("XML:com.adobe.xmp", "xmp")  # which may say how a picture is turned, too


@dataclasses.dataclass
class Shot:
    """A picture as it is seen, and what its file has beside the pixels."""

    path: pathlib.Path
    image: Image.Image  # upright, in the mode that the file has
    format: str
    size: Size  # upright
    exif: bytes = b""
    icc: bytes | None = None  # colour profile
    xmp: bytes | None = None
    words: dict[str, str] = dataclasses.field(default_factory=dict)  # of a PNG
    dpi: tuple[float, float] | None = None
    turned: bool = False  # whether the file has it lying, with a note that says how it is to be turned
    frames: int = 1  # of which the first is read
    deep: bool = False  # colours of 16 bits, of which 8 are read
    lossless: bool = True  # whether the file holds each pixel as it was

    @property
    def coloured(self) -> bool:
        """Whether its colours are meant otherwise than a screen's."""
        return bool(self.icc) and not any("sRGB".encode(c) in self.icc for c in ("ascii", "utf-16-be"))

    def silent(self) -> Shot:
        """Without what it says of itself."""
        return dataclasses.replace(self, exif=b"", xmp=None, words={}, dpi=None)


def read(path: pathlib.Path) -> Shot:
    """Raises Mistake: damaged, or no picture."""
    with pictures.opened(path) as image:
        deep, frames = _deep(image), pictures.frames(path)
        image.load()
        turn = pictures.orientation(image)
        seen = image.copy() if turn not in pictures.TURNS else image.transpose(pictures.TURNS[turn])
        seen.info = dict(image.info)
        return dataclasses.replace(_told(path, image, turn), image=seen, frames=frames, deep=deep)


def head(path: pathlib.Path) -> Shot:
    """What a file's head says. The image is as the file has it, and closed.

    Raises:
        Mistake: no picture.
    """
    with pictures.opened(path) as image:
        deep, frames = _deep(image), pictures.frames(path)
        turn = pictures.orientation(image)
        return dataclasses.replace(_told(path, image, turn), frames=frames, deep=deep)


def written(shot: Shot, image: Image.Image, *, ending: str | None = None, quality: int = 95,
            lossless: bool | None = None) -> bytes:  # fmt: skip
    """A file of `image`, which was made of the shot's, with what the shot's file says of itself.

    Args:
        ending: of another kind of file; None: as the shot's.
        quality: of a file with loss, 1 to 100; from 90 on colours have a JPEG's full resolution.
        lossless: None: as the shot's was, where the kind of file has both.

    Raises:
        Mistake: this kind of file cannot be written here.
    """
    kind = shot.format if ending is None else FORMATS[ending]
    Image.init()
    if kind not in Image.SAVE or kind not in FORMATS.values():
        raise Mistake(f"{shot.path}: this Pillow cannot write {kind}; give another format, such as png")
    image, icc = _profiled(image, shot.icc, kind)
    extra: dict[str, object] = {"icc_profile": icc} if icc and kind not in ("BMP", "GIF") else {}
    if shot.exif and kind not in ("BMP", "GIF", "TIFF"):
        extra["exif"] = shot.exif
    if shot.dpi and kind in ("PNG", "JPEG", "TIFF", "BMP"):
        extra["dpi"] = shot.dpi
    sharp = shot.lossless and shot.format == kind if lossless is None else lossless
    extra |= _of_kind(shot, kind, quality, sharp)
    own, image = image.info, _bare(image) if image.mode == "P" else image.copy()
    image.info = (
        {"transparency": own["transparency"]} if "transparency" in own else {}
    )  # Pillow writes all of it
    file = io.BytesIO()
    try:
        image.save(file, kind, **extra)
    except (OSError, ValueError, RuntimeError) as e:
        raise Mistake(f"{shot.path}: cannot be written as {kind} ({e}); give another format") from e
    return file.getvalue()


def held(image: Image.Image, kind: str) -> Image.Image:
    """In a mode that this kind of file can hold. What is transparent is laid on white where it has to be."""
    modes = MODES.get(kind)
    clear = transparent(image)
    if modes is None or (image.mode in modes and not (clear and image.mode not in ("P", "RGBA", "LA"))):
        return image
    if clear and "RGBA" in modes:
        return image.convert("RGBA")
    if image.mode in ("1", "L") and not clear and "L" in modes:
        return image.convert("L")
    if clear and kind == "GIF":
        return image.convert("RGBA")  # of which Pillow makes 256 colours, one of them clear
    return pixels.rgb(image, (255, 255, 255))


def transparent(image: Image.Image) -> bool:
    """Whether it has a say in that; it may be opaque all the same."""
    return "transparency" in image.info or image.mode in pixels.ALPHA


def scaled(image: Image.Image, size: Size, *, soft: bool = False) -> Image.Image:
    """Of another size; colours of a palette become those that they stand for.

    Args:
        soft: without the overshoot of a sharp filter, as masks need it.
    """
    if image.size == size:
        return image
    way = Image.Resampling.BILINEAR if soft else Image.Resampling.LANCZOS
    if image.mode.startswith("I"):
        whole = Image.fromarray(np.asarray(image).astype(np.float32)).resize(size, way)
        return Image.fromarray(np.rint(np.asarray(whole)).clip(0, 65535).astype(np.uint16))
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA" if transparent(image) else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    return image.resize(size, way)


def srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """In RGB or RGBA, in the colours that a screen is taken to have, which training takes all to be in. What
    has no profile, or a damaged one, is taken to be in them."""
    clear = transparent(image)
    opacity = pixels.opacity(image) if clear else None
    seen = image if image.mode in ("RGB", "CMYK", "L") else pixels.rgb(image, None)
    seen = pixels.rgb(seen if icc is None else _meant(seen, icc), None)
    if opacity is not None:
        seen.putalpha(opacity)
    seen.info = {}
    return seen


def _meant(image: Image.Image, icc: bytes) -> Image.Image:
    """As its profile says; as it is, where that is none or of another kind of picture."""
    try:
        from PIL import ImageCms
    except ImportError:  # a Pillow that was built without
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        return ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return image


def _profiled(image: Image.Image, icc: bytes | None, kind: str) -> tuple[Image.Image, bytes | None]:
    """In a mode that this kind of file can hold, and the profile, where it is of such pixels."""
    found = held(image, kind)
    if not icc:
        return found, None
    space = {"CMYK": b"CMYK", "L": b"GRAY", "LA": b"GRAY", "1": b"GRAY", "I": b"GRAY", "I;16": b"GRAY"}
    if icc[16:20] == space.get(found.mode, b"RGB "):
        return found, icc
    return (found, None) if found.mode == image.mode else (held(srgb(image, icc), kind), None)


def _told(path: pathlib.Path, image: Image.Image, turn: int) -> Shot:
    """All but the pixels."""
    kind = image.format or FORMATS[path.suffix.lower()]
    kind = "JPEG" if kind == "MPO" else kind  # what phones write, with a second picture behind the first
    size, turned = image.size[::-1] if turn in (5, 6, 7, 8) else image.size, turn in pictures.TURNS
    return Shot(
        path, image, kind, size, exif=_exif(image), icc=image.info.get("icc_profile"),
        xmp=_xmp(image, turned), words=_words(image), dpi=_dpi(image), turned=turned,
        lossless=_lossless(path, kind),
    )  # fmt: skip


def _deep(image: Image.Image) -> bool:
    """Before it is loaded: Pillow takes the upper 8 of 16 bits of colours."""
    return bool(re.search(r"(RGBA?|LA);16[BLN]", str([tile[3] for tile in image.tile or ()])))


def _of_kind(shot: Shot, kind: str, quality: int, sharp: bool) -> dict[str, object]:
    """What one kind of file alone is told."""
    if kind == "JPEG":
        own = {"quality": quality, "subsampling": 0 if quality >= 90 else 2, "optimize": True}
        return own | ({"extra": _segment(XMP + shot.xmp)} if shot.xmp and len(shot.xmp) < 65000 else {})
    if kind == "WEBP":
        own = {"lossless": sharp, "quality": 90 if sharp else quality, "method": 4, "exact": sharp}
        return own | ({"xmp": shot.xmp} if shot.xmp else {})
    if kind in ("AVIF", "JXL"):
        return {"quality": 100 if sharp else quality}
    if kind == "TIFF":
        return {"compression": "tiff_deflate"}
    if kind == "PNG":
        words = PngImagePlugin.PngInfo()
        for key, text in shot.words.items():
            words.add_itxt(key, text) if not text.isascii() else words.add_text(key, text)
        if shot.xmp:
            words.add_itxt(TURNED[0], shot.xmp.decode("utf-8", "replace"))
        return {"pnginfo": words}
    return {}


def _bare(image: Image.Image) -> Image.Image:
    """With a palette of three channels: one of four, which reading may make, spoils GIFs (Pillow 12)."""
    bare = Image.frombytes("P", image.size, image.tobytes())
    bare.putpalette(image.getpalette("RGB"))
    return bare


def _segment(content: bytes) -> bytes:
    return b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content


def _exif(image: Image.Image) -> bytes:
    """Without what does not hold once the picture is upright, or cut; small pictures in it go as well."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        return b""
    try:
        exif = image.getexif()
        if not len(exif):
            return b""
        exif.pop(pictures.ORIENTATION, None)
        inner = exif.get_ifd(DETAILS)
        for tag in SIZES:
            inner.pop(tag, None)
        if image.format == "TIFF":  # whose own tags are the same: where its pixels lie, and such
            return b""
        return exif.tobytes() if len(exif) else b""
    except (*pictures.BROKEN, AttributeError):  # damaged, and nothing to anybody
        return b""


def _xmp(image: Image.Image, turned: bool) -> bytes | None:
    """None of a picture that was turned: it may repeat how."""
    if turned:
        return None
    found = image.info.get("xmp") or image.info.get(TURNED[0])
    if found is None and image.format == "JPEG":
        found = next(
            (c[len(XMP) :] for name, c in image.applist if name == "APP1" and c.startswith(XMP)), None
        )
    return found.encode() if isinstance(found, str) else found


def _words(image: Image.Image) -> dict[str, str]:
    """Of a PNG, which has them in `text` once it is read, and before the pixels in `info` with the rest."""
    own = image.info if image.format == "PNG" else {}
    return {key: str(text) for key, text in own.items() if isinstance(text, str) and key not in NUMBERS}


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = map(float, image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (x, y) if x > 0 and y > 0 else None


def _lossless(path: pathlib.Path, kind: str) -> bool:
    if kind == "WEBP":  # its pixels stand in a chunk VP8L, or with loss in one VP8
        with path.open("rb") as file:
            head = file.read(16)
            while len(head) >= 16 and head[12:16] not in (b"VP8L", b"VP8 "):
                size = int.from_bytes(file.read(4), "little")
                file.seek(size + size % 2, 1)
                head = head[:12] + file.read(4)
        return head[12:16] == b"VP8L"
    return kind not in ("JPEG", "AVIF", "JXL")
