"""A folder of pictures with every kind of problem that the report knows, and what was put where."""

from __future__ import annotations

import collections
import concurrent.futures
import io
import pathlib
import random
import unicodedata
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

SIZES = ((384, 384), (448, 384), (384, 480), (512, 384), (400, 400))
TAGS = ("standing", "sitting", "grass", "sky", "smile", "indoors", "night", "from above")
TRIGGER = "sks"
FUZZY = ("blurred", "artefacts", "near", "mirrored")  # kinds that are measured, and may be wrong
EXIF_TURN = 0x0112

Job = tuple[pathlib.Path, Callable[[], bytes]]  # a file, and what makes its content


def scene(seed: int, size: tuple[int, int]) -> Image.Image:
    """Slow and quick changes of colour, as photographs have them, with things that have edges before them."""
    rng = np.random.default_rng(seed)
    mixed = np.zeros((size[1], size[0], 3), np.float32)
    for cells, weight in ((5, 0.5), (17, 0.25), (67, 0.15), (min(size), 0.1)):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        mixed += weight * np.asarray(layer.resize(size, Image.Resampling.BICUBIC), np.float32)
    image = Image.fromarray(((mixed - 128) * 1.6 + 128).clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = (int(rng.integers(0, side)) for side in size)
        wide, high = (int(rng.integers(side // 12, side // 3)) for side in size)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + wide, y + high), fill=colour, outline=(0, 0, 0))
    return image


def encoded(image: Image.Image, kind: str, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {}), **how)
    return file.getvalue()


class Troubled:
    """Plans the folder; `make` writes it.

    Args:
        total: pictures, about.
        each: how often each problem is planted.
    """

    def __init__(self, root: pathlib.Path, total: int, each: int, seed: int = 1):
        self.root, self.rng, self.number = root, random.Random(seed), 0
        self.truth: dict[str, set[frozenset[str]]] = collections.defaultdict(set)
        self.jobs: list[Job] = []
        self.clean: set[str] = set()
        for _ in range(each):
            for plant in (self._broken, self._sized, self._seen, self._moded, self._twins, self._worded,
                          self._named):  # fmt: skip
                plant()
        self.put("unique", self.plain(text=f"{TRIGGER}, sky, grass, zebra crossing"))
        while self.number < total:
            self.clean.add(self.plain())

    @property
    def names(self) -> int:
        return self.number

    def make(self, threads: int = 2) -> None:
        outside = self.root.with_name(f"{self.root.name}_outside")
        outside.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(parents=True, exist_ok=True)
        (outside / "other.png").write_bytes(encoded(scene(0, (300, 300)), "PNG"))
        (self.root / "link.png").symlink_to(outside / "other.png")
        self.put("outside", "link.png")
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(lambda job: job[0].write_bytes(job[1]()), self.jobs):
                pass

    def put(self, kind: str, *names: str) -> None:
        self.truth[kind].add(frozenset(names))

    def file(self, name: str, make: Callable[[], bytes]) -> None:
        self.jobs.append((self.root / name, make))

    def name(self, ending: str) -> str:
        self.number += 1
        return f"pic_{self.number:06d}{ending}"

    def say(self, name: str, text: str | bytes | None = None) -> None:
        if text is None:
            text = ", ".join([TRIGGER, *self.rng.sample(TAGS, 3)])
        raw = text if isinstance(text, bytes) else text.encode()
        self.file(f"{name.rpartition('.')[0]}.txt", lambda: raw)

    def plain(
        self,
        ending: str | None = None,
        change: Callable[[Image.Image], Image.Image] = lambda image: image,
        size: tuple[int, int] | None = None,
        text: str | bytes | None = None,
        name: str | None = None,
        **how: object,
    ) -> str:
        """A picture of its own, changed in some way."""
        ending = ending or self.rng.choice((".png", ".jpg"))
        if ending == ".jpg":
            how = {"quality": self.rng.randint(85, 95), **how}
        kind = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[ending]
        named = self.name(ending)
        name, seed, size = name or named, self.number, size or self.rng.choice(SIZES)
        self.file(name, lambda: encoded(change(scene(seed, size)), kind, **how))
        self.say(name, text)
        return name

    # ── what is planted ──

    def _broken(self) -> None:
        for ending, content in (
            (".png", b""),
            (".jpg", b"this is no picture"),
            (".png", b"\x89PNG" + b"x" * 99),
        ):
            name = self.name(ending)
            self.file(name, lambda content=content: content)
            self.say(name)
            self.put("unreadable", name)
        for ending, kind in ((".png", "PNG"), (".jpg", "JPEG")):
            name, seed = self.name(ending), self.number

            def cut(seed: int = seed, kind: str = kind) -> bytes:
                whole = encoded(scene(seed, (384, 384)), kind)
                return whole[: len(whole) * 2 // 3]

            self.file(name, cut)
            self.say(name)
            self.put("truncated", name)
        name = self.plain(".png")
        mask = f"{name[:-4]}-masklabel.png"
        self.file(mask, lambda: encoded(Image.new("L", (384, 384), 255), "PNG"))
        self.put("labels", mask)
        other = f"notes_{self.number}.doc"
        self.file(other, lambda: b"something")
        self.put("other", other)

    def _sized(self) -> None:
        self.put("tiny", self.plain(size=(230, 200)))
        self.put("enlarged", self.plain(size=(280, 300)))
        self.put("aspect", self.plain(size=(1200, 360)))
        long = self.plain(size=(270, 1600))
        self.put("aspect", long)
        self.put("cut", long)

    def _seen(self) -> None:
        self.put("blurred", self.plain(change=lambda image: image.filter(ImageFilter.GaussianBlur(4))))
        self.put("artefacts", self.plain(".jpg", quality=self.rng.randint(8, 40)))

        def again(image: Image.Image) -> Image.Image:
            return Image.open(io.BytesIO(encoded(image, "JPEG", quality=10))).convert("RGB")

        self.put("artefacts", self.plain(".png", again))

    def _moded(self) -> None:
        def hole(image: Image.Image) -> Image.Image:
            image = image.convert("RGBA")
            image.paste((0, 0, 0, 0), (0, 0, 90, 90))
            return image

        def deep(image: Image.Image) -> Image.Image:
            return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)

        exif = Image.Exif()
        exif[EXIF_TURN] = self.rng.choice((3, 6, 8))
        self.put("transparent", self.plain(".png", hole))
        self.put("cmyk", self.plain(".jpg", lambda image: image.convert("CMYK")))
        self.put("deep", self.plain(".png", deep))
        self.put("palette", self.plain(".png", lambda image: image.quantize(256)))
        self.put("turned", self.plain(".jpg", exif=exif.tobytes()))
        more = [scene(10_000_000 + self.number, (384, 384))]
        self.put("animated", self.plain(".png", size=(384, 384), save_all=True, append_images=more))

    def _twins(self) -> None:
        first, second, third = (self.plain(".png", text=f"{TRIGGER}, sky") for _ in range(3))
        self._copied(first, second, third)
        one, two = (self.plain(".jpg", text=f"{TRIGGER}, {tag}") for tag in ("sky", "grass"))
        self._copied(one, two)
        self.put("differing", one, two)

        def changed(change: Callable[[Image.Image], Image.Image], ending: str, seed: int) -> str:
            name = self.name(ending)
            kind, how = ("JPEG", {"quality": 60}) if ending == ".jpg" else ("PNG", {})
            self.file(name, lambda: encoded(change(scene(seed, (448, 384))), kind, **how))
            self.say(name)
            return name

        seed = 20_000_000 + self.number
        self.put(
            "near",
            changed(lambda image: image, ".png", seed),
            changed(lambda image: image.resize((600, 514), Image.Resampling.LANCZOS), ".png", seed),
            changed(lambda image: image, ".jpg", seed),
            changed(lambda image: ImageEnhance.Brightness(image).enhance(1.08), ".png", seed),
        )
        seed += 1
        self.put(
            "mirrored", changed(lambda image: image, ".png", seed), changed(ImageOps.mirror, ".jpg", seed)
        )

    def _copied(self, first: str, *others: str) -> None:
        """These files get the first one's content."""
        content = dict(self.jobs)[self.root / first]
        self.jobs = [(path, content if path.name in others else own) for path, own in self.jobs]
        self.put("same", first, *others)

    def _worded(self) -> None:
        bare = self.name(".png")
        seed = self.number
        self.file(bare, lambda: encoded(scene(seed, (384, 384)), "PNG"))
        self.put("missing", bare)
        self.put("empty", self.plain(text=" \n"))
        orphan = f"gone_{self.number:06d}.txt"
        self.file(orphan, lambda: b"sks, sky")
        self.put("orphan", orphan)
        for text, codec in (("猫が好き", "cp932"), ("café crème", "cp1252"), ("sky", "utf-16")):
            for _ in range(2):  # so that their tags are not alone
                self.put("encoding", self.plain(text=f"{TRIGGER}, {text}".encode(codec)))
        self.put("garbled", self.plain(text=b"\x89PNG\0\0\0\rIHDR\0\0"))
        self.put("long", self.plain(text=", ".join([TRIGGER, *TAGS * 8])))
        self.put("lines", self.plain(text=f"{TRIGGER}, sky\n{TRIGGER}, grass"))
        self.put("uncalled", self.plain(text="sky, grass"))

    def _named(self) -> None:
        stem = self.name("")
        for ending in (".png", ".jpg"):
            self.plain(ending, name=stem + ending, text=f"{TRIGGER}, sky")
        self.put("stem", f"{stem}.png", f"{stem}.jpg")
        two = [unicodedata.normalize(form, f"café_{self.number}.png") for form in ("NFC", "NFD")]
        self.put("unicode", *(self.plain(".png", name=name) for name in two))
        dogs = [f"{dog}_{self.number}.png" for dog in ("Dog", "dog")]
        self.put("capitals", *(self.plain(".png", name=name) for name in dogs))
        self.put("lengthy", self.plain(".png", name=f"{'long_' * 47}{self.number:08d}.png"))
        self.put("unusual", self.plain(".png", name=f"what? {self.number}.png"))


def wrong(
    truth: dict[str, set[frozenset[str]]], found: dict[str, set[frozenset[str]]]
) -> Iterator[tuple[str, int, int, int]]:
    """(kind, planted, of these found, found that was not planted)."""
    for kind in sorted({*truth, *found}):
        planted, seen = truth.get(kind, set()), found.get(kind, set())
        yield kind, len(planted), len(planted & seen), len(seen - planted)
