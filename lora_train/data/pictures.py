"""Picture files: their size, and their pixels as a sample needs them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import pathlib
import struct
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from lora_train.data.buckets import Fit, Size
from lora_train.data.looks import Look
from lora_train.errors import Mistake

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, from 5 on the sides are swapped

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

SHOWN = 10  # complaints, before the rest is only counted

# what Pillow's readers raise on damaged files, beside its own
BROKEN = (
    OSError, SyntaxError, ValueError, EOFError, KeyError, IndexError, TypeError, OverflowError, struct.error,
    zlib.error, Image.DecompressionBombError)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture file and how it comes to its bucket."""

    path: pathlib.Path
    name: str  # folder and file, for messages
    size: Size  # upright
    fit: Fit
    background: tuple[int, int, int] = (255, 255, 255)  # under what is transparent
    interpolation: str | None = None


def size(path: pathlib.Path) -> Size:
    """Width and height after turning upright, from the file's head alone.

    Raises:
        Mistake: not a picture that can be read.
    """
    with _opened(path) as picture:
        width, height = picture.size
        return (height, width) if _orientation(picture) in (5, 6, 7, 8) else (width, height)


def frames(path: pathlib.Path) -> int:
    """Of an animation; 1 of a picture."""
    with _opened(path) as picture:
        return getattr(picture, "n_frames", 1)


def verify(path: pathlib.Path) -> None:
    """Decode the whole picture.

    Raises:
        Mistake: damaged or cut off.
    """
    with _opened(path) as picture:
        picture.load()


def digest(path: pathlib.Path) -> str:
    """Of the file's content, whatever its name.

    Raises:
        Mistake: cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as e:
        raise Mistake(f"{path}: cannot be read: {e.strerror or e}") from e


def complain(complaints: Sequence[str]) -> None:
    """Raises Mistake: there are complaints; the first ten are shown and the others counted."""
    if complaints:
        more = len(complaints) - SHOWN
        raise Mistake("\n".join([*complaints[:SHOWN], *([f"... and {more} more"] if more > 0 else [])]))


def load(picture: Picture, look: Look = Look()) -> Tensor:  # noqa: B008
    """The bucket's pixels, [3, H, W] float32 in -1..1: turned upright, transparency on white, resized, cut.

    Raises:
        Mistake: damaged or cut off.
    """
    with _opened(picture.path) as image:
        turn = TURNS.get(_orientation(image))
        image = _rgb(image if turn is None else image.transpose(turn))
    left, top, right, bottom = picture.fit.crop
    pixels = _resized(image, picture.fit.resized)[top:bottom, left:right]
    if look.flip:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Image.Image]:
    """The picture; each way of its being unreadable is a Mistake.

    A host may have told Pillow to fill what is missing of a picture with grey; here it is told not to.
    """
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with Image.open(path) as picture:
            yield picture
    except BROKEN as e:
        raise Mistake(f"{path}: {_reason(path, e)}; replace it or take it out of the folder") from e
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _reason(path: pathlib.Path, e: Exception) -> str:
    if not path.is_file():
        return "no such file"
    if path.stat().st_size == 0:
        return "an empty file"
    if isinstance(e, Image.DecompressionBombError):
        return f"more than {2 * Image.MAX_IMAGE_PIXELS} pixels, too many to be read"
    if isinstance(e, UnidentifiedImageError):
        return "not a picture, or damaged"
    return f"damaged or cut off ({e})"


def _orientation(picture: Image.Image) -> int:
    """As EXIF (or XMP) has it.

    Pillow decodes all of a PNG to look for EXIF data behind its pixels; nothing writes it there, so not here.
    """
    if picture.format == "PNG" and not {"exif", "XML:com.adobe.xmp"} & picture.info.keys():
        return 1
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except BROKEN:  # EXIF data that cannot be read turn nothing
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    """Three channels of 8 bits; what is transparent is laid on white: colours under it are not for seeing."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _resized(image: Image.Image, to: Size) -> np.ndarray:
    """[H, W, 3] uint8. Means over areas to make it smaller, Lanczos to make it larger, as sd-scripts has it.

    Not Pillow's BOX for the areas: it counts a pixel wholly or not at all, and at three quarters of the size
    that is off by up to 90 of 255 on photographs; this is within 1 of OpenCV's INTER_AREA.
    """
    if image.width < to[0] or image.height < to[1]:
        return np.array(image.resize(to, Image.Resampling.LANCZOS))
    rows = _averaged(np.asarray(image), to[1])
    return np.rint(_averaged(rows.swapaxes(0, 1), to[0]).swapaxes(0, 1)).astype(np.uint8)


def _averaged(pixels: np.ndarray, length: int) -> np.ndarray:
    """The first axis brought to `length`, not above its own; a new row is the mean of what it covers."""
    if len(pixels) == length:
        return pixels.astype(np.float32)
    scale = len(pixels) / length
    edges = np.arange(length + 1) * scale
    start = np.floor(edges[:-1]).astype(np.int64)
    total = np.zeros((length, *pixels.shape[1:]), np.float32)
    for row in range(math.ceil(scale) + 1):
        at = start + row
        covered = np.clip(np.minimum(edges[1:], at + 1) - np.maximum(edges[:-1], at), 0, None) / scale
        total += covered.astype(np.float32)[:, None, None] * pixels[np.minimum(at, len(pixels) - 1)]
    return total
