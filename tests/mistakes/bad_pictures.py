"""Pictures that cannot be read, or only look as if they could."""

from __future__ import annotations

import io
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator

from PIL import Image, features

from tests.mistakes.harness import EITHER, TAKEN, Case, Ground, chance, picture

POSIX = os.name == "posix"
MODES = {  # name -> ending, mode, how Pillow saves it
    "png": ("png", "RGB", {}),
    "png grey": ("png", "L", {}),
    "png palette": ("png", "P", {}),
    "png transparent": ("png", "RGBA", {}),
    "png 16 bit": ("png", "I;16", {"compress_level": 0}),
    "png 1 bit": ("png", "1", {}),
    "jpg": ("jpg", "RGB", {}),
    "jpg progressive": ("jpg", "RGB", {"progressive": True}),
    "jpg grey": ("jpg", "L", {}),
    "jpg CMYK": ("jpg", "CMYK", {}),
    "webp": ("webp", "RGB", {}),
    "webp lossless": ("webp", "RGBA", {"lossless": True}),
    "bmp": ("bmp", "RGB", {}),
    "bmp palette": ("bmp", "P", {}),
    "bmp 1 bit": ("bmp", "1", {}),
}
ALIKE = "b.png"


def saved(kind: str) -> bytes:
    ending, mode, how = MODES[kind]
    image = picture(kind)
    image = Image.new("I;16", (64, 64), 40000) if mode == "I;16" else image.convert(mode)
    file = io.BytesIO()
    image.save(file, {"jpg": "JPEG"}.get(ending, ending.upper()), **how)
    return file.getvalue()


def planted(name: str, content: Callable[[], bytes]) -> Callable[[Ground], None]:
    """In place of b.png."""

    def plant(ground: Ground) -> None:
        (ground.pictures / "b.png").unlink()
        (ground.pictures / name).write_bytes(content())

    return plant


def cut() -> Iterator[Case]:
    """Each kind of file, cut off in its head, in its middle and near its end, and at seeded places."""
    for kind in MODES:
        if kind.startswith("webp") and not features.check("webp"):
            continue
        name = f"b.{MODES[kind][0]}"
        length = len(saved(kind))
        places = {0, 1, 7, 20, length // 2, length * 9 // 10}
        places.update(chance("cut", kind).sample(range(30, length * 9 // 10), 3))
        for place in sorted(places):
            yield Case(
                f"{kind} cut after {place} of {length}",
                planted(name, lambda kind=kind, place=place: saved(kind)[:place]),
                (name,),
            )


def damaged() -> Iterator[Case]:
    """Bytes turned over, at seeded places: it may go unseen, but never without an end or an answer."""
    for kind in MODES:
        if kind.startswith("webp") and not features.check("webp"):
            continue
        name = f"b.{MODES[kind][0]}"
        for turn in range(3):
            yield Case(
                f"{kind} with damaged bytes {turn}",
                planted(name, lambda kind=kind, turn=turn: turned(saved(kind), kind, turn)),
                (),
                ends=EITHER,
            )


def turned(data: bytes, kind: str, turn: int) -> bytes:
    draw, found = chance("turn", kind, turn), bytearray(data)
    for _ in range(1 + 20 * turn):
        found[draw.randrange(len(found))] ^= draw.randrange(1, 256)
    return bytes(found)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, more: bytes = b"", data: bytes | None = None
) -> bytes:
    """A PNG of black, as its head says or not."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = zlib.compress(b"\0" * (1 + 3 * 64) * 64) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bmp(width: int, height: int, bits: int = 24) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 64 * 64 * 3, 0, 0, 54) + head + bytes(64 * 64 * 3)


def jpeg(old: bytes, new: bytes) -> bytes:
    data = saved("jpg")
    assert old in data
    return data.replace(old, new, 1)


def exif(data: bytes) -> bytes:
    """A JPEG with these as its EXIF data."""
    whole = saved("jpg")
    block = b"Exif\0\0" + data
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block + whole[2:]


TIFF = b"MM\0*\0\0\0\x08"
OTHERS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "text for a picture": ("b.png", lambda: b"a cat"),
    "a web page for a picture": ("b.jpg", lambda: b"<!DOCTYPE html><html><body>404</body></html>" * 20),
    "JSON for a picture": ("b.webp", lambda: b'{"error": "expired"}'),
    "a zip for a picture": ("b.png", lambda: b"PK\x03\x04" + bytes(200)),
    "a film for a picture": ("b.jpg", lambda: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(400)),
    "HEIC for a picture": ("b.jpg", lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400)),
    "SVG for a picture": ("b.png", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    "a Git LFS pointer for a picture": ("b.png", lambda: b"version https://git-lfs.github.com/spec/v1\n"),
    "nothing but zeros": ("b.png", lambda: bytes(5000)),
    "a RIFF that is sound": ("b.webp", lambda: b"RIFF\x24\0\0\0WAVEfmt " + bytes(100)),
    "a PNG of too many pixels": ("b.png", lambda: png(60000, 60000)),
    "a PNG of 2**31 pixels a side": ("b.png", lambda: png(2**31 - 1, 2**31 - 1)),
    "a BMP of too many pixels": ("b.bmp", lambda: bmp(60000, 60000)),
    "a PNG with a text that swells": (
        "b.png", lambda: png(64, 64, more=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000))))),
    "a PNG of no width": ("b.png", lambda: png(0, 64)),
    "a PNG of no height": ("b.png", lambda: png(64, 0)),
    "a BMP of no width": ("b.bmp", lambda: bmp(0, 64)),
    "a BMP of no height": ("b.bmp", lambda: bmp(64, 0)),
    "a BMP of 7 bits": ("b.bmp", lambda: bmp(64, 64, 7)),
    "a BMP of a width below nothing": ("b.bmp", lambda: bmp(-64, 64)),
    "a JPEG of no height": ("b.jpg", lambda: jpeg(b"\x08\0\x40\0\x40\x03", b"\x08\0\0\0\x40\x03")),
    "a JPEG of no width": ("b.jpg", lambda: jpeg(b"\x08\0\x40\0\x40\x03", b"\x08\0\x40\0\0\x03")),
    "a JPEG of 7 bits": ("b.jpg", lambda: jpeg(b"\x08\0\x40\0\x40\x03", b"\x07\0\x40\0\x40\x03")),
    "a JPEG that is only its start": ("b.jpg", lambda: b"\xff\xd8\xff\xe0"),
    "a JPEG without tables": ("b.jpg", lambda: jpeg(b"\xff\xdb", b"\xff\xfe")),
    "a PNG of 3 bits": ("b.png", lambda: png(64, 64, depth=3)),
    "a PNG of an unknown colour": ("b.png", lambda: png(64, 64, colour=5)),
    "a PNG without pixels": ("b.png", lambda: png(64, 64, data=b"")),
    "a PNG whose rows are no zlib": ("b.png", lambda: png(64, 64, data=b"none of it" * 30)),
    "a PNG whose head is too short": (
        "b.png", lambda: png(64, 64).replace(b"\0\0\0\x0dIHDR", b"\0\0\0\x08IHDR")),
    "a PNG whose head is wrong": ("b.png", lambda: png(64, 64).replace(b"IHDR\0\0\0\x40", b"IHDR\0\0\0\x41")),
    "a PNG whose ending is .jpg, cut": ("b.jpg", lambda: saved("png")[:900]),
    "an empty .JPEG": ("b.JPEG", lambda: b""),
}  # fmt: skip

HARMLESS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a PNG named .jpg": ("b.jpg", lambda: saved("png")),
    "a JPEG named .PNG": ("b.PNG", lambda: saved("jpg")),
    "a JPEG whose EXIF data are none": ("b.jpg", lambda: exif(b"none of it")),
    "a JPEG whose EXIF data end early": ("b.jpg", lambda: exif(TIFF + b"\0\x03\x01\x12")),
    "a JPEG whose EXIF data go round": ("b.jpg", lambda: exif(TIFF + b"\0\0\0\0\0\x08" * 9)),
    "a JPEG turned to side 99": (
        "b.jpg", lambda: exif(TIFF + b"\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0")),
    "a JPEG turned by a text": (
        "b.jpg", lambda: exif(TIFF + b"\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0")),
    "a picture with rubbish behind it": ("b.png", lambda: saved("png") + b"rubbish" * 99),
    "a PNG of too few rows, which Pillow fills": (
        "b.png", lambda: png(64, 64, data=zlib.compress(bytes(193 * 20)))),
    "a palette PNG without palette, which Pillow takes for grey": (
        "b.png", lambda: png(64, 64, colour=3, data=zlib.compress(bytes(65 * 64)))),
    "a picture of one pixel": ("b.png", lambda: one_pixel()),
}  # fmt: skip


def one_pixel() -> bytes:
    file = io.BytesIO()
    picture("one", (1, 1)).save(file, "PNG")
    return file.getvalue()


# ── what is no file, and names ────────────────────────────────────────────────────────────────────────────


def a_folder(ground: Ground) -> None:
    (ground.pictures / "c.png").mkdir()


def a_link_to_nowhere(ground: Ground) -> None:
    (ground.pictures / "c.png").symlink_to("gone.png")


def a_link_to_itself(ground: Ground) -> None:
    (ground.pictures / "c.png").symlink_to("c.png")


def a_link_to_a_folder(ground: Ground) -> None:
    (ground.pictures / "c.png").symlink_to("..")


def a_pipe(ground: Ground) -> None:
    os.mkfifo(ground.pictures / "c.png")


def a_device(ground: Ground) -> None:
    (ground.pictures / "c.png").symlink_to("/dev/zero")


PLACES = {
    "a folder named like a picture": a_folder,
    "a link to nowhere": a_link_to_nowhere,
    "a link to itself": a_link_to_itself,
    "a link to a folder": a_link_to_a_folder,
    "a pipe named like a picture": a_pipe,
    "a device named like a picture": a_device,
}


def named(name: str | bytes, content: bytes) -> Callable[[Ground], None]:
    def plant(ground: Ground) -> None:
        path = os.fsencode(ground.pictures) + b"/" + os.fsencode(name)
        with open(path, "wb") as file:  # noqa: PTH123
            file.write(content)

    return plant


NAMES: dict[str, str | bytes] = {
    "a line break": "c\nd.png",
    "a carriage return": "c\rd.png",
    "an escape": "c\x1b[31md.png",
    "no text": b"c\xff\xfed.png",
    "blanks around": "  c  .png",
    "a quote": "c'\"d.png",
    "braces": "c{0}%s%d.png",
    "a letter from right to left": "c\u202ed.png",
    "255 bytes": "c" * 251 + ".png",
    "a face": "c😀.png",
}


def names() -> Iterator[Case]:
    for kind, name in NAMES.items():
        shown = "c" if isinstance(name, bytes) or not name.isprintable() else name
        yield Case(f"damaged, its name with {kind}", named(name, saved("png")[:500]), (shown,))
        yield Case(f"whole, its name with {kind}", named(name, saved("png")), (), ends=TAKEN)


CASES = [
    *cut(),
    *damaged(),
    *(Case(name, planted(*file), (file[0],)) for name, file in OTHERS.items()),
    *(Case(name, planted(*file), (), ends=TAKEN) for name, file in HARMLESS.items()),
    *(Case(name, plant, ("c.png",)) for name, plant in PLACES.items() if POSIX),
    *(names() if POSIX and sys.platform != "darwin" else ()),
]
