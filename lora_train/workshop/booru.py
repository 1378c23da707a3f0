"""Taggers of drawings in ONNX files: WD14's, ML-Danbooru's, DeepDanbooru's, and others of these shapes."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from lora_train.errors import Mistake
from lora_train.workshop import wording
from lora_train.workshop.networks import answered, session
from lora_train.workshop.wording import CHARACTER, GENERAL, RATING, Label
from lora_train.workshop.work import needed

KINDS = {"0": GENERAL, "4": CHARACTER, "9": RATING}  # selected_tags.csv's numbers, which are Danbooru's
SIDE = {"wd": 448, "ml": 448, "dd": 512}  # where the file does not say it
USUAL = {"wd": 0.35, "ml": 0.7, "dd": 0.5}  # thresholds
LISTS = {"selected_tags.csv": "wd", "classes.json": "ml", "tags.csv": "ml", "tags.txt": "dd"}
KERAS = (".keras", ".h5")  # what DeepDanbooru's own projects have
RATED = "rating:"  # how DeepDanbooru's ratings begin
GRAIN = 4  # ML-Danbooru's sides are multiples of it
LONGEST = 4  # times the shorter side; more of a longer picture is squeezed
CHANCES = ("prediction", "predictions", "probs", "probabilities")  # names of outputs, where there are several
RGB = 3


def model_in(path: pathlib.Path) -> pathlib.Path:
    """The model's file that a person means by a file or a folder.

    Raises:
        Mistake: there is none, or there are several.
    """
    if path.is_file():
        if path.suffix.lower() not in (".onnx", *KERAS):
            raise Mistake(f"tagger = {path}: expected an .onnx file, or a folder with one")
        return path
    for endings in ((".onnx",), KERAS):
        files = sorted(file for file in path.iterdir() if file.suffix in endings and file.name[0] != ".")
        if path / "model.onnx" in files or len(files) == 1:
            return path / "model.onnx" if path / "model.onnx" in files else files[0]
        if files:
            names = ", ".join(file.name for file in files)
            raise Mistake(f"tagger = {path}: expected one of its files: {names}")
    raise Mistake(f"tagger = {path}: expected model.onnx and selected_tags.csv in it")


@dataclasses.dataclass(frozen=True)
class Booru:
    """A tagger in an .onnx file, with its list of labels beside it.

    Raises:
        Mistake: there is no such list.
    """

    path: pathlib.Path
    device: str = "auto"
    batch: int = 4

    def __post_init__(self) -> None:
        self.listed  # noqa: B018 (to complain before anything is begun)

    @functools.cached_property
    def listed(self) -> pathlib.Path:
        """The file with its labels."""
        for name in LISTS:
            if (self.path.parent / name).is_file():
                return self.path.parent / name
        raise Mistake(f"{self.path}: expected its list of labels beside it: {', '.join(LISTS)}")

    @property
    def kind(self) -> str:
        """Which way it wants pictures: wd, ml or dd."""
        return LISTS[self.listed.name]

    @property
    def usual(self) -> float:
        return USUAL[self.kind]

    @property
    def id(self) -> str:
        marks = [
            (file.name, (of := file.stat()).st_size, of.st_mtime_ns) for file in (self.path, self.listed)
        ]
        return f"{self.path.parent.name} {marks}"

    @functools.cached_property
    def labels(self) -> list[Label]:
        """Raises Mistake: they cannot be read."""
        try:
            text = self.listed.read_text(encoding="utf-8-sig")
            return READ[self.listed.name](text, self.listed.parent)
        except (OSError, ValueError, KeyError, csv.Error) as e:
            raise Mistake(f"{self.listed}: cannot be read as a list of labels ({e})") from e

    @functools.cached_property
    def session(self) -> object:
        """Raises Mistake: no onnxruntime, or no model that it can read."""
        if self.path.suffix in KERAS:
            return Keras(self.path)
        return session(self.path, f"tagger = {self.path}", self.device)

    # ── pictures ──

    @functools.cached_property
    def shape(self) -> tuple[bool, int | None, int | None]:
        """(whether colours stand before rows, height, width), as its input has them; None: any."""
        shape = ([one.shape for one in self.session.get_inputs()] or [[]])[0]
        sizes = [side if isinstance(side, int) and side > 0 else None for side in shape]
        if len(sizes) != 4:  # noqa: PLR2004 (batch, height, width, colours)
            raise Mistake(f"{self.path}: expected a model that takes pictures, and its input is {shape}")
        first = sizes[1] == RGB or (sizes[3] != RGB and self.kind == "ml")
        return (first, *(sizes[2:] if first else sizes[1:3]))

    @functools.cached_property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """(mean, deviation) of colours in 0..255, as a config.json of timm's says it; without one WD14's are
        taken as they are."""
        mean, deviation = np.zeros(RGB, np.float32), np.ones(RGB, np.float32)
        if self.kind != "wd":
            return mean, deviation * 255
        file = self.path.with_name("config.json")
        if self.shape[0] and file.is_file():
            said = json.loads(file.read_text(encoding="utf-8")).get("pretrained_cfg", {})
            if {"mean", "std"} <= said.keys():
                mean, deviation = np.float32(said["mean"]) * 255, np.float32(said["std"]) * 255
        return mean, deviation

    def ready(self) -> None:
        self.shape, self.scale, self.labels  # noqa: B018 (before threads ask for them)

    def prepared(self, image: Image.Image) -> np.ndarray:
        """[height, width, 3] or [3, height, width] float32."""
        first, height, width = self.shape
        side = SIDE[self.kind]
        if self.kind == "ml":
            size = (width, height) if height and width else kept(image.size, side)
            seen = image.resize(size, Image.LANCZOS)
        else:
            seen = (squared if self.kind == "wd" else stretched)(image, width or side, height or side)
        pixels = np.asarray(seen, np.float32)
        mean, deviation = self.scale
        pixels = (pixels - mean) / deviation
        if self.kind == "wd":  # they were trained on OpenCV's BGR
            pixels = pixels[..., ::-1]
        return np.ascontiguousarray(pixels.transpose(2, 0, 1) if first else pixels)

    # ── answers ──

    def asked(self, batch: Sequence[object]) -> list[bytes]:
        every = [chances for part in alike(batch, self._most) for chances in self._chances(part)]
        if every[0].shape != (len(self.labels),):
            raise Mistake(
                f"{self.path}: says {every[0].size} chances, and {self.listed.name} has {len(self.labels)} "
                "labels; they do not belong together")  # fmt: skip
        return [wording.answer(chances, self.labels) for chances in every]

    @property
    def _most(self) -> int:
        """Pictures at once; the file may say it."""
        said = self.session.get_inputs()[0].shape[0]
        return said if isinstance(said, int) and said > 0 else self.batch

    def _chances(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """[pictures, labels]; what is outside of 0..1 are logits."""
        outputs = [output.name for output in self.session.get_outputs()]
        name = next((name for name in outputs if name.lower() in CHANCES), outputs[0])
        said = self.session.get_inputs()[0].shape[0]
        missing = said - len(pictures) if isinstance(said, int) and said > 0 else 0
        full = np.stack([*pictures, *[pictures[-1]] * missing])
        given = {self.session.get_inputs()[0].name: full}
        found = answered(self.session, given, f"tagger = {self.path}", [name])[0][: len(pictures)]
        found = np.asarray(found, np.float32).reshape(len(pictures), -1)
        if self.kind == "ml" or found.min() < 0 or found.max() > 1:
            found = 1 / (1 + np.exp(-found))
        return found


@dataclasses.dataclass(frozen=True)
class Port:
    """Of a model: what goes in, or comes out."""

    name: str
    shape: tuple[int | None, ...] = ()


class Keras:
    """A model of a DeepDanbooru project, with the methods of onnxruntime that are used here."""

    def __init__(self, path: pathlib.Path):
        try:
            from tensorflow import keras
        except ImportError:
            raise needed("tensorflow", "tensorflow", f"{path.name}, which is no .onnx file,") from None
        self.model = keras.models.load_model(str(path), compile=False)

    def get_inputs(self) -> list[Port]:
        return [Port("input", tuple(self.model.input_shape))]

    def get_outputs(self) -> list[Port]:
        return [Port("output")]

    def run(self, outputs: Sequence[str], given: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.asarray(self.model.predict_on_batch(given["input"]))]


# ── pictures as they were trained on ──


def squared(image: Image.Image, width: int, height: int) -> Image.Image:
    """In the middle of a white square, and that resized, as in the models' own example."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.resize((width, height), Image.BICUBIC)


def stretched(image: Image.Image, width: int, height: int) -> Image.Image:
    """As large as fits, and its edges drawn out to fill what is left: DeepDanbooru's way."""
    factor = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    small = np.asarray(image.resize(size, Image.BOX if factor < 1 else Image.BILINEAR))
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    around = ((top, height - size[1] - top), (left, width - size[0] - left), (0, 0))
    return Image.fromarray(np.pad(small, around, mode="edge"))


def kept(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The shorter side brought to `side`, the ratio kept: ML-Danbooru's way."""
    return tuple(int(min(n / min(size), LONGEST) * side) // GRAIN * GRAIN for n in size)


def alike(pictures: Sequence[np.ndarray], most: int) -> list[list[np.ndarray]]:
    """In order, those together that have one shape."""
    parts: list[list[np.ndarray]] = []
    for picture in pictures:
        if parts and parts[-1][0].shape == picture.shape and len(parts[-1]) < most:
            parts[-1].append(picture)
        else:
            parts.append([picture])
    return parts


# ── lists of labels ──


def _wd(text: str, folder: pathlib.Path) -> list[Label]:
    """tag_id,name,category,count."""
    rows = csv.DictReader(text.splitlines())
    return [Label(row["name"], KINDS.get(row["category"], GENERAL)) for row in rows]


def _json(text: str, folder: pathlib.Path) -> list[Label]:
    """A list, or a number for each."""
    found = json.loads(text)
    if isinstance(found, dict):
        numbered = all(key.isdecimal() for key in found)
        found = [found[key] for key in sorted(found, key=int)] if numbered else sorted(found, key=found.get)
    return [Label(str(name)) for name in found]


def _table(text: str, folder: pathlib.Path) -> list[Label]:
    """A column with names; the first where none is called so."""
    rows = [*csv.reader(text.splitlines())]
    heads = [head.strip().lower() for head in rows[0]]
    column = next((heads.index(head) for head in ("name", "tag") if head in heads), None)
    return [Label(row[column or 0]) for row in (rows if column is None else rows[1:]) if row]


def _lines(text: str, folder: pathlib.Path) -> list[Label]:
    """A tag a line; those of characters stand in a file of their own as well."""
    file = folder / "tags-character.txt"
    characters = set(file.read_text(encoding="utf-8-sig").split()) if file.is_file() else set()
    return [
        Label(name.removeprefix(RATED), RATING if name.startswith(RATED) else
              CHARACTER if name in characters else GENERAL)
        for name in text.split()
    ]  # fmt: skip


READ: dict[str, Callable[[str, pathlib.Path], list[Label]]] = {
    "selected_tags.csv": _wd, "classes.json": _json, "tags.csv": _table, "tags.txt": _lines,
}  # fmt: skip
