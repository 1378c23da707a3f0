"""Finds faces and persons in pictures, with what is installed or lies on the disk."""

from __future__ import annotations

import ast
import contextlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from lora_train.errors import Mistake
from lora_train.workshop.focus import Box
from lora_train.workshop.networks import answered, session
from lora_train.workshop.work import needed

Find = Callable[[Image.Image], list[Box]]  # of an RGB picture; the largest first

FACE, PERSON = "face", "person"
DRAWN = "animeface"  # a detector by its package's name
LONGEST = 1280  # pixels of the side that OpenCV looks at; a face is then 20 and more of them
CASCADES = ("haarcascade_frontalface_alt2.xml", "haarcascade_profileface.xml")
SURE = 5  # neighbours that a cascade's find needs
BODY = (-1.0, -0.6, 2.0, 6.5)  # left, top, right, bottom of a standing person, in faces from a face's corner
LEAST = 0.04  # of the picture's shorter side: smaller finds are chance
LIKELY = 0.25  # of a network's finds
SAME = 0.4  # of two boxes' union that they share: one find
FEW = 1000  # a network with so few boxes has sorted them itself
FILES = (".onnx", ".xml")


def finder(what: str, source: str | None) -> Find:
    """What finds faces or persons.

    Args:
        source: "animeface", an OpenCV cascade (.xml), a YOLO (.onnx), a folder with one of them; None: what
            OpenCV comes with, made for faces in photographs. What finds faces takes a person to be a face
            with the room of a body below it: OpenCV's finders of persons take rockets and horses for some.

    Raises:
        Mistake: a package is missing, or no such file.
    """
    if source == DRAWN:
        return _drawn() if what == FACE else _bodies(_drawn())
    path = pathlib.Path(source) if source else None
    if path and path.is_dir():
        path = next((p for end in FILES for p in sorted(path.iterdir()) if p.suffix.lower() == end), None)
        if path is None:
            raise Mistake(f"detector = {source}: expected a file in it that ends with .onnx or .xml")
    if path and not path.is_file():
        raise Mistake(f"detector = {source}: no such file; give an OpenCV cascade (.xml), a YOLO (.onnx), or "
                      f"{DRAWN}")  # fmt: skip
    if path and path.suffix.lower() == ".onnx":
        return _network(path, what)
    if path and path.suffix.lower() != ".xml":
        raise Mistake(f"detector = {source}: expected a file that ends with .xml or .onnx")
    return _cascades(path) if what == FACE else _bodies(_cascades(path))


def united(boxes: Sequence[Box]) -> list[Box]:
    """Without those that are another's again, the largest first."""
    kept: list[Box] = []
    for box in sorted(boxes, key=_area, reverse=True):
        if all(_shared(box, other) < SAME for other in kept):
            kept.append(box)
    return kept


def _bodies(find: Find) -> Find:
    def bodies(image: Image.Image) -> list[Box]:
        found = []
        for left, top, right, bottom in find(image):
            wide, high = right - left, bottom - top
            (x, y, to_x, to_y) = BODY
            body = (left + x * wide, top + y * high, left + to_x * wide, top + to_y * high)
            found.append(_boxed(body, 1, image))
        return found

    return bodies


def _cascades(path: pathlib.Path | None) -> Find:
    cv2 = _opencv()
    names = [path] if path else [pathlib.Path(cv2.data.haarcascades) / name for name in CASCADES]
    try:
        made = [cv2.CascadeClassifier(str(name)) for name in names]
    except (cv2.error, SystemError):  # a file that is no XML; an empty one is no error
        made = []
    if not made or any(cascade.empty() for cascade in made):
        raise Mistake(f"detector = {path}: expected an OpenCV cascade")
    profiles = [False, True][: len(made)]

    def find(image: Image.Image) -> list[Box]:
        scale = min(1.0, LONGEST / max(image.size))
        small = image.convert("L").resize([max(1, round(n * scale)) for n in image.size])
        grey = cv2.equalizeHist(np.asarray(small))
        least = max(20, round(min(small.size) * LEAST))
        found: list[Box] = []
        for cascade, profile in zip(made, profiles, strict=True):
            if profile and found:
                continue  # looks for what is not seen from the front
            for mirrored in (False, True)[: 1 + profile]:
                seen = np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey
                for x, y, wide, high in cascade.detectMultiScale(seen, 1.1, SURE, 0, (least, least)):
                    left = small.width - x - wide if mirrored else x
                    found.append(_boxed((left, y, left + wide, y + high), scale, image))
        return united(found)

    return find


def _drawn() -> Find:
    try:
        import animeface
    except ImportError:
        raise needed("animeface", "animeface", "finding drawn faces") from None

    def find(image: Image.Image) -> list[Box]:
        scale = min(1.0, LONGEST / max(image.size))
        small = image.resize([max(1, round(n * scale)) for n in image.size])
        places = [face.face.pos for face in animeface.detect(small)]
        return united([_boxed((p.x, p.y, p.x + p.width, p.y + p.height), scale, image) for p in places])

    return find


def _network(path: pathlib.Path, what: str) -> Find:
    """A YOLO of any of the usual generations, by the shape of what it gives."""
    model = session(path, f"detector = {path}, which is to be a YOLO's .onnx file")
    entry = ([*model.get_inputs()] or [None])[0]
    sides = [side if isinstance(side, int) else 640 for side in entry.shape[2:]] if entry else []
    if len(sides) != 2 or entry.shape[1] not in (3, "3"):
        raise Mistake(f"detector = {path}: expected a YOLO's .onnx file, with pictures [1, 3, height, width] "
                      f"for its input, and not {entry and entry.shape}")  # fmt: skip
    wanted = _classes(model.get_modelmeta().custom_metadata_map, what)

    def find(image: Image.Image) -> list[Box]:
        scale = min(sides[1] / image.width, sides[0] / image.height)
        small = image.resize([max(1, round(n * scale)) for n in image.size])
        canvas = Image.new("RGB", (sides[1], sides[0]), (114, 114, 114))
        canvas.paste(small)
        pixels = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None] / 255
        half = "float16" in entry.type
        given = {entry.name: pixels.astype(np.float16 if half else np.float32)}
        outputs = answered(model, given, f"detector = {path}")
        boxes, chances = _read(np.asarray(outputs[0], np.float32), wanted, path)
        best = np.argsort(-chances)
        kept: list[Box] = []
        for i in best[chances[best] >= LIKELY]:
            box = _boxed(boxes[i], scale, image)
            if _area(box) and all(_shared(box, other) < SAME for other in kept):
                kept.append(box)
        return sorted(kept, key=_area, reverse=True)

    return find


def _classes(about: dict[str, str], what: str) -> list[int] | None:
    """Of what the file says it knows, the numbers of faces or persons; None: it does not say, or has none."""
    with contextlib.suppress(ValueError, SyntaxError, AttributeError):
        names = ast.literal_eval(about.get("names", ""))
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        return [int(i) for i, name in pairs if what in str(name).lower()] or None
    return None


def _read(out: np.ndarray, wanted: list[int] | None, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(corners [N, 4] in the network's pixels, chances [N]) of what a YOLO gives: [1, 4 + classes, N] since
    version 8, [1, N, 5 + classes] before, [1, N, 6] with corners, chance and class where it has sorted them.

    Raises:
        Mistake: none of these.
    """
    if out.ndim == 3 and out.shape[2] == 6 and out.shape[1] <= FEW:
        rows = out[0]
        return rows[:, :4], rows[:, 4] * (np.isin(rows[:, 5].round(), wanted) if wanted else 1)
    if out.ndim != 3 or min(out.shape[1:]) < 5:
        raise Mistake(f"detector = {path}: gives {list(out.shape)}; expected a YOLO's [1, boxes, numbers]")
    later = out.shape[1] < out.shape[2]
    rows = out[0].T if later else out[0]
    chances = rows[:, 4:] if later else rows[:, 5:] * rows[:, 4:5]
    if not chances.shape[1]:
        chances = rows[:, 4:5]
    if wanted and max(wanted) < chances.shape[1]:
        chances = chances[:, wanted]
    middle, sides = rows[:, :2], rows[:, 2:4]
    return np.concatenate([middle - sides / 2, middle + sides / 2], 1), chances.max(1)


def _boxed(box: Sequence[float], scale: float, image: Image.Image) -> Box:
    """In the picture's own pixels, within it."""
    left, top, right, bottom = (float(n) / scale for n in box)
    width, height = image.size
    return (
        max(0, min(width, round(left))), max(0, min(height, round(top))),
        max(0, min(width, round(right))), max(0, min(height, round(bottom))),
    )  # fmt: skip


def _area(box: Box) -> int:
    return max(0, box[2] - box[0]) * max(0, box[3] - box[1])


def _shared(one: Box, other: Box) -> float:
    """Of their union; or all, where one is within the other."""
    both = _area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
    if both >= 0.9 * min(_area(one), _area(other)):
        return 1.0
    return both / (_area(one) + _area(other) - both)


def _opencv() -> Any:
    """Raises Mistake: not installed, or too new to have cascades."""
    try:
        import cv2
    except ImportError:
        raise needed("cv2", '"opencv-python-headless<5"', "finding faces") from None
    if not hasattr(cv2, "CascadeClassifier"):
        raise Mistake(f"finding faces needs OpenCV 4; this is {cv2.__version__}, which has none of its "
                      'cascades any more. Install "opencv-python-headless<5", or give an .onnx file as '
                      "detector")  # fmt: skip
    return cv2
