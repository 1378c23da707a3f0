"""What tells a subject from its ground: rembg's networks, run as rembg runs them, and MediaPipe's persons."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from lora_train.data.memory import usual
from lora_train.errors import Mistake
from lora_train.values import shown
from lora_train.workshop.networks import answered, session
from lora_train.workshop.work import needed

Find = Callable[[Image.Image], Image.Image]  # RGB -> how much each place is subject, "L", as large

PERSON = "person"
HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
ONES, SPREAD = (1.0, 1.0, 1.0), (0.229, 0.224, 0.225)
LEAST = 1e-3  # between the least and the most sure place of a picture that has a subject
RELEASE = "https://github.com/danielgatis/rembg/releases"


@dataclasses.dataclass(frozen=True)
class Remover:
    """How a network of rembg's is asked."""

    side: int  # pixels of the square that it looks at
    mean: Sequence[float] = IMAGENET
    spread: Sequence[float] = SPREAD
    bare: bool = False  # whether what it says is still to be brought to 0 to 1 (by the logistic function)


SMALL, LARGE = Remover(320), Remover(1024, bare=True)
REMOVERS: dict[str, Remover] = {
    "u2net": SMALL, "u2netp": SMALL, "u2net_human_seg": SMALL, "silueta": SMALL,
    "isnet-general-use": Remover(1024, HALF, ONES), "isnet-anime": Remover(1024, IMAGENET, ONES),
    "bria-rmbg": Remover(1024), "birefnet-general": LARGE, "birefnet-general-lite": LARGE,
    "birefnet-portrait": LARGE, "birefnet-dis": LARGE, "birefnet-hrsod": LARGE, "birefnet-cod": LARGE,
    "birefnet-massive": LARGE,
}  # fmt: skip


def finder(name: str) -> Find:
    """Args:
        name: of REMOVERS, "person", or an .onnx file, whose name or input says which of them it is like.

    Raises:
        Mistake: a package is missing, or the file.
    """
    return _person() if name == PERSON else _network(name)


def kind(path: pathlib.Path, side: int | None) -> Remover:
    """How a file of any name is asked: as the one whose name it begins with, or whose input is as large."""
    stem = path.stem.lower()
    like = [own for own in REMOVERS if stem.startswith(own)]
    if like:
        return REMOVERS[max(like, key=len)]
    if stem.startswith(("birefnet", "ben")):
        return LARGE if stem.startswith("birefnet") else REMOVERS["isnet-general-use"]
    return REMOVERS["isnet-general-use"] if side == 1024 else SMALL


def _places(name: str) -> Iterator[pathlib.Path]:
    """Where rembg keeps it, of this or an older version, and where we do."""
    data = os.environ.get("XDG_DATA_HOME")
    old = os.environ.get("U2NET_HOME") or os.path.join(data or "~", ".u2net")  # noqa: PTH118 (~ is left alone)
    new = os.environ.get("REMBG_HOME") or (os.path.join(data, "rembg") if data else "~/.rembg")  # noqa: PTH118
    yield usual().with_name("removers") / f"{name}.onnx"
    for home in (old, new):
        yield pathlib.Path(home).expanduser() / "models" / name / f"{name}.onnx"
        yield pathlib.Path(home).expanduser() / f"{name}.onnx"


def _file(name: str) -> pathlib.Path:
    path = pathlib.Path(name)
    if path.suffix.lower() == ".onnx":
        if not path.is_file():
            raise Mistake(f"remover = {name}: no such file")
        return path
    if name not in REMOVERS:
        raise Mistake(f"remover = {shown(name)}: expected {', '.join(REMOVERS)}, {PERSON}, or an .onnx file")
    places = [*_places(name)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise Mistake(f"remover = {name}: not on this machine; get {name}.onnx from {RELEASE} and put it to "
                      f"{places[0]}")  # fmt: skip
    return found


def _network(name: str) -> Find:
    path = _file(name)
    network = session(path, f"remover = {path}")
    shape = ([one.shape for one in network.get_inputs()] or [[]])[0]
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise Mistake(f"remover = {path}: expected a network that takes pictures of 3 channels, not {shape}")
    side = shape[2] if isinstance(shape[2], int) else None
    how = kind(path, side)
    return lambda image: _asked(network, f"remover = {path}", how, side or how.side, image)


def _asked(network: Any, which: str, how: Remover, side: int, image: Image.Image) -> Image.Image:
    pixels = np.asarray(image.resize((side, side), Image.Resampling.LANCZOS)).astype(np.float64)
    pixels = (pixels / max(pixels.max(), 1e-6) - how.mean) / how.spread
    given = {network.get_inputs()[0].name: pixels.transpose(2, 0, 1)[None].astype(np.float32)}
    said = answered(network, given, which)[0]
    if said.ndim != 4:  # noqa: PLR2004 (pictures, colours, height, width)
        raise Mistake(f"{which}: gives {list(said.shape)}; expected a picture of how much is subject")
    said = said[0, 0]
    if how.bare:
        said = 1 / (1 + np.exp(-said))
    low, high = said.min(), said.max()
    if not high - low >= LEAST:  # nothing stands out, or it is not finite
        return Image.new("L", image.size)
    mask = ((said - low) / (high - low) * 255).astype(np.uint8)
    return Image.fromarray(mask).resize(image.size, Image.Resampling.LANCZOS)


def _person() -> Find:
    """MediaPipe's selfie segmentation, which its versions before 1 bring along."""
    try:
        import mediapipe
    except ImportError as e:
        raise needed("mediapipe", '"mediapipe<1"', f"remover = {PERSON}") from e
    if not hasattr(mediapipe, "solutions"):
        raise Mistake(f"remover = {PERSON}: mediapipe {mediapipe.__version__} comes without its networks; "
                      'install another with: pip install "mediapipe<1", or take another remover')  # fmt: skip
    found = mediapipe.solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)

    def find(image: Image.Image) -> Image.Image:
        said = found.process(np.asarray(image)).segmentation_mask
        return Image.fromarray((said.clip(0, 1) * 255).round().astype(np.uint8)).resize(image.size)

    return find
