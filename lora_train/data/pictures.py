"""Picture files: their size, and their pixels as a sample needs them."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import pathlib
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional

from lora_train.data import pixels
from lora_train.data.buckets import GRAIN, Fit, Size
from lora_train.data.looks import Look
from lora_train.errors import Mistake

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl", ".gif", ".tif", ".tiff")

PLUGINS = {".avif": ("pillow_avif", "pillow-avif-plugin"), ".jxl": ("pillow_jxl", "pillow-jxl-plugin")}
MOVING = (
    ".gif",
    ".webp",
    ".png",
    ".avif",
    ".jxl",
    ".tif",
    ".tiff",
)  # files that may hold more than one picture

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

_lock = threading.Lock()
_lenient: list[bool] = []  # what Pillow was told before, for as long as pictures are open in any thread

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
    background: tuple[int, int, int] | None = (255, 255, 255)  # see pixels.rgb
    mask: pathlib.Path | None = None  # whose red says how much a place counts; the picture's own: its opacity
    interpolation: str | None = None  # a name in looks.INTERPOLATIONS; None: see pixels.resized


def size(path: pathlib.Path) -> Size:
    """Width and height after turning upright, from the file's head alone.

    Raises:
        Mistake: not a picture that can be read.
    """
    with opened(path) as picture:
        width, height = picture.size
        return (height, width) if orientation(picture) in (5, 6, 7, 8) else (width, height)


def frames(path: pathlib.Path) -> int:
    """Of an animation; 1 of a picture.

    Raises:
        Mistake: not a picture that can be read.
    """
    if path.suffix.lower() not in MOVING:
        return 1
    with opened(path) as picture:
        return getattr(picture, "n_frames", 1)


def verify(path: pathlib.Path) -> None:
    """Decode the whole picture.

    Raises:
        Mistake: damaged or cut off.
    """
    with opened(path) as picture:
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


def upright(path: pathlib.Path, background: tuple[int, int, int] | None = (255, 255, 255)) -> Image.Image:
    """The whole picture as it is seen, in RGB; of an animation the first frame.

    Args:
        background: under what is transparent; None: its colours are shown as if it were not.

    Raises:
        Mistake: damaged or cut off.
    """
    with opened(path) as image:
        turn = TURNS.get(orientation(image))
        return pixels.rgb(image if turn is None else image.transpose(turn), background)


def load(picture: Picture, look: Look = Look()) -> Tensor:  # noqa: B008
    """The bucket's pixels, [3, H, W] float32 in -1..1, as this look has them.

    Raises:
        Mistake: damaged or cut off.
    """
    image = upright(picture.path, picture.background)
    seen = pixels.shown(image, picture.fit, look, picture.interpolation, face(picture.path))
    return torch.from_numpy(np.array(seen, order="C")).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)


def mask(picture: Picture, look: Look = Look()) -> Tensor:  # noqa: B008
    """How much each place of a latent counts, [1, h, w] float32 in 0..1: brought to its bucket as the pixels
    are, then the mean over each latent's area. Without a mask all counts.

    Raises:
        Mistake: damaged or cut off.
    """
    width, height = picture.fit.bucket
    if picture.mask is None:
        return torch.ones(1, height // GRAIN, width // GRAIN)
    own = picture.mask == picture.path
    grey = opaque(picture.path) if own else upright(picture.mask, None).getchannel("R")
    look = dataclasses.replace(look, colour=None)
    image = Image.merge("RGB", (grey, grey, grey))
    seen = pixels.shown(image, picture.fit, look, picture.interpolation, face(picture.path))[..., 0]
    whole = torch.from_numpy(np.array(seen, order="C")).float().div(255)
    return functional.avg_pool2d(whole[None], GRAIN)


def opaque(path: pathlib.Path) -> Image.Image:
    """The opacity of the whole picture as it is seen.

    Raises:
        Mistake: damaged or cut off.
    """
    with opened(path) as image:
        turn = TURNS.get(orientation(image))
        return pixels.opacity(image if turn is None else image.transpose(turn))


def sizes(picture: Picture, look: Look) -> tuple[float, ...]:
    """What SDXL is told of a picture, see `host.Cond.sizes`. Turned ones, and faces cut out, count as cut
    nowhere."""
    (width, height), (bw, bh), (left, top) = picture.size, picture.fit.bucket, picture.fit.cut(look.crop)
    if look.angle or look.face:
        left = top = 0
    elif look.flip:
        left = picture.fit.resized[0] - bw - left
    return tuple(map(float, (height, width, top, left, bh, bw)))


def face(path: pathlib.Path) -> tuple[int, int, int, int] | None:
    """Middle and size of a face, in pixels, where the file's name ends in them: name_x_y_width_height."""
    numbers = path.stem.split("_")[-4:]
    if len(path.stem.split("_")) < 5 or not all(n.isdecimal() for n in numbers):
        return None
    x, y, width, height = map(int, numbers)
    return (x, y, width, height) if width and height else None


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Image.Image]:
    """The picture; each way of its being unreadable is a Mistake.

    A host may have told Pillow to fill what is missing of a picture with grey; here it is told not to.
    """
    plugged(path)
    try:
        with _strict(), Image.open(path) as picture:
            yield picture
    except BROKEN as e:
        raise Mistake(f"{path}: {_reason(path, e)}; replace it or take it out of the folder") from e


@contextlib.contextmanager
def _strict() -> Iterator[None]:
    """The last of several threads puts back what the first has found."""
    with _lock:
        _lenient.append(ImageFile.LOAD_TRUNCATED_IMAGES)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _lock:
            first, *rest = _lenient
            _lenient[:] = [first] * len(rest)
            if not rest:
                ImageFile.LOAD_TRUNCATED_IMAGES = first


def plugged(path: pathlib.Path) -> None:
    """Raises Mistake: Pillow cannot read this kind of file, and no plug-in for it is installed."""
    ending = path.suffix.lower()
    if ending not in PLUGINS or ending in Image.registered_extensions():
        return
    module, package = PLUGINS[ending]
    try:
        importlib.import_module(module)
    except ImportError:
        raise Mistake(
            f"{path}: this Pillow cannot read {ending} files; save it as PNG, or pip install {package}"
        ) from None


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


def orientation(picture: Image.Image) -> int:
    """As EXIF (or XMP) has it; 1 is upright.

    Pillow decodes all of a PNG to look for EXIF data behind its pixels; nothing writes it there, so not here.
    """
    if picture.format == "PNG" and not {"exif", "XML:com.adobe.xmp"} & picture.info.keys():
        return 1
    try:
        return picture.getexif().get(ORIENTATION, 1)
    except BROKEN:  # EXIF data that cannot be read turn nothing
        return 1
