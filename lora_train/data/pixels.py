"""Pixels: any kind of picture as RGB, resized, turned, cut and coloured as a sample needs it."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from lora_train.data.buckets import Fit, Size
from lora_train.data.looks import Colour, Face, Look

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "linear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "cubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}
ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


def rgb(image: Image.Image, background: tuple[int, int, int] | None) -> Image.Image:
    """Three channels of 8 bits; what is transparent is laid on `background`: colours under it are not for
    seeing. None: they are, for its opacity means something else."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut at 255
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":  # floating point has no white of its own: 1, or what is brighter than it
        values = np.nan_to_num(np.asarray(image))
        whitest = max(1.0, float(values.max(initial=0)))
        image = Image.fromarray((values / whitest * 255).clip(0, 255).round().astype(np.uint8))
    if "transparency" in image.info or image.mode in ALPHA:
        image = image.convert("RGBA")
        if background is not None:
            image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image.convert("RGB")


def opacity(image: Image.Image) -> Image.Image:
    """Of 8 bits; white where nothing is said of it."""
    if "transparency" in image.info or image.mode in ALPHA:
        return image.convert("RGBA").getchannel("A")
    return Image.new("L", image.size, 255)


def shown(
    image: Image.Image,
    fit: Fit,
    look: Look,
    interpolation: str | None = None,
    face: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """[H, W, 3] uint8, of the bucket's size.

    Args:
        image: RGB, upright.
        face: middle and size of one in it.
    """
    if look.face is not None and face is not None:
        seen = around(image, fit, look.face, face, interpolation)
    elif look.angle:
        seen = turned(image, fit, look, interpolation)
    else:
        (left, top), (bw, bh) = fit.cut(look.crop), fit.bucket
        seen = resized(image, fit.resized, interpolation)[top : top + bh, left : left + bw]
    if look.colour is not None:
        seen = coloured(seen, look.colour)
    return seen[:, ::-1] if look.flip else seen


def around(
    image: Image.Image, fit: Fit, drawn: Face, face: tuple[int, int, int, int], interpolation: str | None
) -> np.ndarray:
    """A crop around a face, as sd-scripts' `crop_target`: the face's longer side is between 1/high and 1/low
    of the bucket's shorter one, as far as the picture reaches; never enlarged for it beyond its own size."""
    (width, height), (bw, bh), (x, y, *sides) = image.size, fit.bucket, face
    least = max(bw / width, bh / height)
    low, high = (min(1.0, min(bw, bh) / (max(sides) * times)) for times in drawn.range[::-1])
    low = max(least, low)
    scale = low + drawn.scale * (max(low, high) - low)
    whole = max(bw, int(width * scale + 0.5)), max(bh, int(height * scale + 0.5))
    starts = []
    for at, length, side, shift in zip((x, y), whole, (bw, bh), drawn.shift, strict=True):
        middle = int(at * scale + 0.5)
        little = max(sides) * scale / 20 if drawn.range[0] != drawn.range[1] else 0
        room = max(length - middle, middle) if drawn.free else little
        starts.append(max(0, min(middle - side // 2 + round(shift * room), length - side)))
    left, top = starts
    return resized(image, whole, interpolation)[top : top + bh, left : left + bw]


def turned(image: Image.Image, fit: Fit, look: Look, interpolation: str | None) -> np.ndarray:
    """The largest crop of the bucket's shape that lies in the picture turned by `look.angle`, so that no
    corner is empty; in the middle, or where `look.crop` says.

    The crop's half diagonals, turned, have to stay within the picture: of a crop of bw x bh times s the
    bounding box is s (bw |cos| + bh |sin|) wide and s (bw |sin| + bh |cos|) high.
    """
    bw, bh = fit.bucket
    cos, sin = math.cos(math.radians(look.angle)), math.sin(math.radians(look.angle))
    wide, high = bw * abs(cos) + bh * abs(sin), bw * abs(sin) + bh * abs(cos)
    s = min(image.width / wide, image.height / high)
    if (
        s > 1
    ):  # what is made smaller is averaged first: an affine transform only looks at a pixel's neighbours
        image = Image.fromarray(
            resized(image, (round(image.width / s), round(image.height / s)), interpolation)
        )
        s = min(image.width / wide, image.height / high)
    at = look.crop or (0.5, 0.5)
    x = image.width / 2 + (at[0] - 0.5) * (image.width - s * wide)
    y = image.height / 2 + (at[1] - 0.5) * (image.height - s * high)
    a, b = s * cos, -s * sin  # from the crop's pixels to the picture's; y goes down
    across = (a, b, x - a * bw / 2 - b * bh / 2, -b, a, y + b * bw / 2 - a * bh / 2)
    return np.asarray(image.transform((bw, bh), Image.Transform.AFFINE, across, Image.Resampling.BICUBIC))


def coloured(seen: np.ndarray, colour: Colour) -> np.ndarray:
    """Hue and saturation in HSV, then brightness and gamma as value -> (value * brightness) ^ gamma."""
    if colour.hue or colour.saturation != 1:
        hsv = np.array(Image.fromarray(seen).convert("HSV"))
        hsv[..., 0] += np.uint8(round(colour.hue / 360 * 256) % 256)
        hsv[..., 1] = (hsv[..., 1] * colour.saturation).clip(0, 255).round()
        bands = [Image.fromarray(hsv[..., i]) for i in range(3)]
        seen = np.asarray(Image.merge("HSV", bands).convert("RGB"))
    if colour.brightness == colour.gamma == 1:
        return seen
    values = (np.arange(256) / 255 * colour.brightness).clip(0, 1) ** colour.gamma
    return (values * 255).round().astype(np.uint8)[seen]


def resized(image: Image.Image, to: Size, interpolation: str | None = None) -> np.ndarray:
    """[H, W, 3] uint8. Unless told: means over areas to make it smaller, Lanczos to make it larger, as
    sd-scripts has it.

    Not Pillow's BOX for the areas: it counts a pixel wholly or not at all, and at three quarters of the size
    that is off by up to 90 of 255 on photographs; this is within 1 of OpenCV's INTER_AREA.
    """
    if interpolation in FILTERS:
        return np.array(image.resize(to, FILTERS[interpolation]))
    if image.width < to[0] or image.height < to[1]:
        larger = Image.Resampling.BOX if interpolation == "area" else Image.Resampling.LANCZOS
        return np.array(image.resize(to, larger))
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
