"""What fills a hole in a picture from what is around it: LaMa, or OpenCV."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from lora_train.data.memory import usual
from lora_train.errors import Mistake
from lora_train.workshop.image import scaled
from lora_train.workshop.networks import answered, session
from lora_train.workshop.work import needed

# (RGB, "L" that is white where it is to be filled) -> RGB, as large; what it has outside is not used
Painter = Callable[[Image.Image, Image.Image], Image.Image]

NAMES = ("lama_fp32.onnx", "lama.onnx", "big-lama.onnx", "inpainting_lama_2025jan.onnx")
WHERE = "https://huggingface.co/Carve/LaMa-ONNX"
SIDE, GRAIN = 512, 8  # pixels that LaMa was made for, and whose multiples it takes where it takes several
BRIGHT = 2.0  # above it what it says is of 0 to 255
REACH = 5  # pixels around a place that OpenCV looks at


def lama_file(path: pathlib.Path | None) -> pathlib.Path | None:
    """None: there is none."""
    home = usual().with_name("removers")
    return path or next((home / name for name in NAMES if (home / name).is_file()), None)


def lama(path: pathlib.Path | None) -> Painter:
    """Suvorov et al., arXiv:2109.07161, as an .onnx file that takes a picture and a mask.

    Raises:
        Mistake: a package is missing, or the file.
    """
    found = lama_file(path)
    if found is None or not found.is_file():
        home = usual().with_name("removers")
        raise Mistake(f"lama = {path or ''}: no such file; get {NAMES[0]} from {WHERE}, and name it or put "
                      f"it into {home}")  # fmt: skip
    network = session(found, f"lama = {found}")
    inputs = {one.shape[1] if len(one.shape) == 4 else None: one for one in network.get_inputs()}
    if {*inputs} != {3, 1}:
        raise Mistake(f"lama = {found}: expected a network that takes a picture and a mask")
    return lambda image, hole: _lama(network, f"lama = {found}", image, hole)


def _lama(network: Any, which: str, image: Image.Image, hole: Image.Image) -> Image.Image:
    of, mask = sorted(network.get_inputs(), key=lambda one: -one.shape[1])  # 3 colours, and 1
    fixed = [side if isinstance(side, int) else None for side in of.shape[2:]]
    scale = SIDE / max(image.size)
    height, width = (
        side or max(GRAIN, round(own * scale / GRAIN) * GRAIN)
        for side, own in zip(fixed, image.size[::-1], strict=True)
    )
    pixels = np.asarray(scaled(image, (width, height))).astype(np.float32).transpose(2, 0, 1)[None] / 255
    wanted = np.asarray(hole.resize((width, height), Image.Resampling.BOX)) > 0
    given = {of.name: pixels, mask.name: wanted.astype(np.float32)[None, None]}
    said = answered(network, given, which)[0]
    if said.ndim != 4 or said.shape[1] != 3 or not np.isfinite(said).all():  # noqa: PLR2004 (of colours)
        raise Mistake(f"{which}: gives {list(said.shape)}, and no picture; take another file")
    said = said[0].transpose(1, 2, 0)
    said = said if said.max() > BRIGHT else said * 255  # of which there are files of both kinds
    made = Image.fromarray(np.rint(said).clip(0, 255).astype(np.uint8))
    return scaled(made, image.size)


def opencv() -> Painter:
    """Telea's, J. Graphics Tools 9 (2004): from the edge inwards, each place from those near it.

    Raises:
        Mistake: the package is missing.
    """
    try:
        import cv2
    except ImportError as e:
        raise needed("cv2", '"opencv-python-headless<5"', "erase by opencv") from e

    def paint(image: Image.Image, hole: Image.Image) -> Image.Image:
        holes = (np.asarray(hole) > 0).astype(np.uint8)
        return Image.fromarray(cv2.inpaint(np.asarray(image), holes, REACH, cv2.INPAINT_TELEA))

    return paint
