"""A folder of a thousand pictures with every kind of problem in it, and the list of what was put where."""

from __future__ import annotations

import dataclasses
import pathlib
import random
import struct
import zlib

import numpy as np
from PIL import Image, ImageEnhance

SHAPES = ((64, 64), (96, 64), (64, 96), (128, 64), (80, 80))
LONG = ", ".join(f"sks word{i}" for i in range(60))


@dataclasses.dataclass
class Planted:
    """What `check` has to find, and nothing else."""

    root: pathlib.Path
    found: set[tuple[str, frozenset[str]]] = dataclasses.field(default_factory=set)
    count: int = 0  # of files that are named like pictures, in folders that are learned from

    def put(self, kind: str, *paths: pathlib.Path) -> None:
        self.found.add((kind, frozenset(map(str, paths))))


class Garden:
    """Makes pictures that do not look alike, each with a caption that nothing is wrong with."""

    def __init__(self, root: pathlib.Path, seed: int):
        self.rng, self.pixels = random.Random(seed), np.random.default_rng(seed)
        self.planted, self.number = Planted(root), 0

    def image(self, size: tuple[int, int] | None = None) -> Image.Image:
        cells = self.pixels.integers(20, 236, (8, 9, 3), np.uint8)
        return Image.fromarray(cells).resize(size or self.rng.choice(SHAPES), Image.Resampling.BICUBIC)

    def path(self, folder: str, ending: str = ".png") -> pathlib.Path:
        self.number += 1
        path = self.planted.root / folder / f"{self.number:04d}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        self.planted.count += 1
        return path

    def plain(
        self, folder: str, image: Image.Image | None = None, ending: str = ".png", **how
    ) -> pathlib.Path:
        """A picture with a caption."""
        path = self.path(folder, ending)
        (image or self.image()).save(path, **how)
        self.say(path, self.rng.choice(["sks, a dog", "a photo of SKS, grass", "[trigger] in the sun"]))
        return path

    def say(self, path: pathlib.Path, text: str | bytes) -> None:
        raw = text if isinstance(text, bytes) else text.encode()
        path.with_suffix(".txt").write_bytes(raw)


def garden(root: pathlib.Path, total: int = 1000, seed: int = 7) -> Planted:
    """The folders `pictures` (three with repeats) and `class` (regularisation)."""
    g = Garden(root, seed)
    for _ in range(6):
        for plant in (_unreadable, _captions, _shapes, _kinds, _groups):
            plant(g)
    _aside(g)
    for _ in range(3):
        g.plain("pictures/2_b", _solid(g.image()))  # an alpha channel, and nothing transparent
        g.say(g.plain("pictures/2_b"), b"\xef\xbb\xbf" + "sks, caf\u00e9".encode())
    while g.planted.count < total - 20:
        g.plain(g.rng.choice(["pictures/4_a", "pictures/2_b"]))
    while g.planted.count < total:
        g.say(g.plain("class/1_dog"), "a dog")
    (root / "pictures" / "4_a" / ".hidden.png").touch()
    return g.planted


def _unreadable(g: Garden) -> None:
    cut, empty, text, torn = (g.plain("pictures/4_a", ending=e) for e in (".png", ".png", ".jpg", ".jpg"))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size * 2 // 3])
    empty.write_bytes(b"")
    text.write_text("this is no picture", encoding="utf-8")
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    for path in (cut, empty, text, torn):
        g.planted.put("picture", path)


def _captions(g: Garden) -> None:
    for raw in (
        "sks, 猫が好き".encode("cp932"),
        "sks, caf\u00e9 cr\u00e8me".encode("cp1252"),
        "sks".encode("utf-16"),
        b"\x00\xff" * 9,
    ):
        path = g.plain("pictures/4_a")
        g.say(path, raw)
        g.planted.put("caption", path)
    bare, mute, empty, long, over, other = (
        g.plain(f"pictures/{folder}") for folder in ("2_b", "3", "4_a", "4_a", "2_b", "2_b")
    )
    bare.with_suffix(".txt").unlink()
    mute.with_suffix(".txt").unlink()
    g.say(empty, " \n")
    g.say(long, "sks, one\nsks, two")
    g.say(over, LONG)
    g.say(other, "a dog without its name")
    orphan = g.path("pictures/2_b").with_suffix(".txt")
    g.planted.count -= 1
    orphan.write_text("sks", encoding="utf-8")
    for kind, path in {
        "bare": bare, "mute": mute, "empty": empty, "long": long, "orphan": orphan, "over": over,
        "uncalled": other}.items():  # fmt: skip
        g.planted.put(kind, path)
    g.planted.put("uncalled", bare)  # its caption is the folder's name


def _shapes(g: Garden) -> None:
    g.planted.put("enlarged", g.plain("pictures/4_a", g.image((32, 32))))
    g.planted.put("cut", g.plain("pictures/4_a", g.image((400, 64))))


def _kinds(g: Garden) -> None:
    exif = Image.Exif()
    exif[0x0112] = g.rng.choice([3, 6, 8])
    g.planted.put("turned", g.plain("pictures/4_a", ending=".jpg", exif=exif))
    exif[0x0112] = 1
    g.plain("pictures/4_a", ending=".jpg", exif=exif)
    clear = _solid(g.image())
    clear.putpixel((5, 5), (0, 0, 0, 100))
    g.planted.put("transparent", g.plain("pictures/2_b", clear))
    g.planted.put("cmyk", g.plain("pictures/2_b", g.image().convert("CMYK"), ".jpg"))
    grey = np.asarray(g.image().convert("L")).astype(np.uint16) * 257
    g.planted.put("deep", g.plain("pictures/2_b", Image.fromarray(grey)))
    colours = g.plain("pictures/2_b")
    colours.write_bytes(_png16(np.asarray(g.image())))
    g.planted.put("deep", colours)
    frames = [g.image((64, 64)) for _ in range(3)]
    g.planted.put("still", g.plain("pictures/2_b", frames[0], save_all=True, append_images=frames[1:]))


def _groups(g: Garden) -> None:
    first, second, third = (g.plain("pictures/4_a"), g.path("pictures/2_b"), g.path("pictures/4_a"))
    for copy in (second, third):
        copy.write_bytes(first.read_bytes())
    for path in (first, second, third):
        g.say(path, "sks, the same")
    g.planted.put("same", first, second, third)

    one, two = g.plain("pictures/4_a"), g.path("pictures/4_a")
    two.write_bytes(one.read_bytes())
    g.say(one, "sks, one thing")
    g.say(two, "sks, another")
    g.planted.put("same", one, two)
    g.planted.put("differing", one, two)

    image = g.image((96, 96))
    near = [
        g.plain("pictures/2_b", image),
        g.plain("pictures/4_a", image.resize((72, 72), Image.Resampling.LANCZOS)),
        g.plain("pictures/4_a", image, ".jpg", quality=80),
        g.plain("pictures/2_b", ImageEnhance.Brightness(image).enhance(1.08)),
    ]
    g.planted.put("near", *near)

    png = g.plain("pictures/2_b")
    jpg = png.with_suffix(".jpg")
    g.image().save(jpg)
    g.planted.count += 1
    g.planted.put("stem", png, jpg)


def _aside(g: Garden) -> None:
    root = g.planted.root / "pictures"
    for path in (root / "birds" / "a.png", root / "0_none" / "a.png", root / "loose.png"):
        path.parent.mkdir(exist_ok=True)
        g.image().save(path)
    g.planted.put("ignored", root / "birds")
    g.planted.put("ignored", root / "0_none")
    g.planted.put("ignored", root / "loose.png")
    inner = root / "4_a" / "more"
    inner.mkdir()
    g.image().save(inner / "a.png")
    g.planted.put("inner", inner)
    for name in ("sketch.psd", "notes.doc"):
        (root / "4_a" / name).write_bytes(b"something")
        g.planted.put("other", root / "4_a" / name)


def _solid(image: Image.Image) -> Image.Image:
    image.putalpha(255)
    return image


def _png16(pixels: np.ndarray) -> bytes:
    """RGB of 16 bits, which Pillow cannot write."""
    wide = (pixels.astype(">u2") * 257).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in wide)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
