"""Captions that cannot be read, folders that are none, and places that cannot be written to."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Sequence

from tests.mistakes.harness import TAKEN, Case, Ground, Plant, chance, picture

POSIX = os.name == "posix"
TEXT = "une fille à la plage, été"
JAPANESE = "女の子、桜の木"

CAPTIONS: dict[str, bytes] = {
    "in Latin-1": TEXT.encode("latin-1"),
    "in cp1252": "“fine” – a cat…".encode("cp1252"),
    "in Shift-JIS": JAPANESE.encode("cp932"),
    "in EUC-JP": JAPANESE.encode("euc_jp"),
    "in GBK": "女孩".encode("gbk"),
    "in KOI8": "кошка".encode("koi8-r"),
    "in UTF-16 with its mark": TEXT.encode("utf-16"),
    "in UTF-16 the other way": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "in UTF-16 without its mark": TEXT.encode("utf-16-le"),
    "in UTF-32": TEXT.encode("utf-32"),
    "in UTF-7 with a byte of none": b"+AOA-\xff",
    "cut inside a letter": "été".encode()[:-1],
    "with letters made too long": b"\xc0\xaf\xc1\x81",
    "with half a pair of UTF-16": b"a \xed\xa0\x80 b",
    "beyond Unicode": b"\xf5\x80\x80\x80",
    "with a zero": b"a cat\0, a dog",
    "of zeros": bytes(100),
    "that is a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100),
    "that is a program": b"\x7fELF\2\1\1" + bytes(100),
    "of chance": chance("caption").randbytes(300),
    "without an end": b"cat, " * 1_000_000,
}
PLAIN: dict[str, bytes] = {
    "empty": b"",
    "of blanks": b" \r\n\t\n ",
    "with the mark of UTF-8": codecs.BOM_UTF8 + b"a cat",
    "with all kinds of line ends": b"a cat\r\nb\rc\n\n",
    "of one comma": b",",
    "of control letters": bytes(range(1, 32)),
    "of braces": b"{{{|}}} {a|b",
    "of brackets": b"((((:::1.5)][",
    "long": b"cat, " * 5000,
}


def caption(content: bytes) -> Plant:
    return lambda ground: ground.write("pictures/2_thing/b.txt", content) and None


def no_caption(make: Callable[[Ground], object]) -> Plant:
    def plant(ground: Ground) -> None:
        (ground.pictures / "b.txt").unlink()
        make(ground)

    return plant


IN_ITS_PLACE: dict[str, Callable[[Ground], object]] = {
    "a folder for a caption": lambda g: (g.pictures / "b.txt").mkdir(),
    "a caption that links to nowhere": lambda g: (g.pictures / "b.txt").symlink_to("gone.txt"),
    "a caption that links to itself": lambda g: (g.pictures / "b.txt").symlink_to("b.txt"),
    "a caption that links to a folder": lambda g: (g.pictures / "b.txt").symlink_to(".."),
    "a caption that is a device": lambda g: (g.pictures / "b.txt").symlink_to("/dev/zero"),
    "a pipe for a caption": lambda g: os.mkfifo(g.pictures / "b.txt"),
}


# ── folders ───────────────────────────────────────────────────────────────────────────────────────────────


def only(name: str) -> Plant:
    """The numbered folder has this name."""

    def plant(ground: Ground) -> None:
        ground.pictures.rename(ground.set / name)

    return plant


def set_to(make: Callable[[Ground], object]) -> Plant:
    """train_data_dir is what `make` gives."""
    return lambda ground: ground.train(train_data_dir=make(ground))


def made(path: os.PathLike) -> os.PathLike:
    path.mkdir(parents=True)
    return path


def deep(ground: Ground) -> object:
    """Pictures two folders further down than they are looked for."""
    (ground.folder / "deep" / "inner").mkdir(parents=True)
    ground.set.rename(ground.folder / "deep" / "inner" / "pictures")
    return ground.folder / "deep"


def looped(ground: Ground) -> object:
    (ground.folder / "loop").symlink_to("loop")
    return ground.folder / "loop"


def round_about(ground: Ground) -> object:
    folder = made(ground.folder / "round" / "1_a")
    (folder / "1_b").symlink_to("..")
    return ground.folder / "round"


def emptied(ground: Ground) -> None:
    made(ground.set / "3_none")


def inner(ground: Ground) -> None:
    folder = made(ground.pictures / "5_inner")
    picture("inner").save(folder / "c.png")


def beside(ground: Ground) -> None:
    folder = made(ground.set / "without")
    picture("beside").save(folder / "c.png")


FOLDERS: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "no folder there": (set_to(lambda g: g.folder / "gone"), ("data.train_data_dir", "gone")),
    "an empty folder": (set_to(lambda g: made(g.folder / "bare")), ("data.train_data_dir", "bare")),
    "a folder of empty folders": (
        set_to(lambda g: made(g.folder / "bare" / "inner").parent), ("data.train_data_dir", "bare")),
    "a file for a folder": (set_to(lambda g: g.pictures / "a.png"), ("data.train_data_dir", "a.png")),
    "pictures too deep": (set_to(deep), ("data.train_data_dir", "deep", "inner")),
    "a folder that links to itself": (set_to(looped), ("data.train_data_dir", "loop")),
    "folders that link in a round": (set_to(round_about), ("1_a",)),
    "a device for a folder": (set_to(lambda g: "/dev/null"), ("data.train_data_dir", "/dev/null")),
    "a folder with a zero in its name": (set_to(lambda g: "a\0b"), ("data.train_data_dir",)),
    "a folder of too long a name": (set_to(lambda g: "a" * 300), ("data.train_data_dir",)),
    "a folder of too long a path": (set_to(lambda g: "a/" * 5000), ("data.train_data_dir",)),
    "an empty name for a folder": (set_to(lambda g: ""), ("data.train_data_dir",)),
    "a home of nobody": (set_to(lambda g: "~nobody_of_this_name/x"), ("data.train_data_dir",)),
    "a web address for a folder": (set_to(lambda g: "https://example.com/set"), ("data.train_data_dir",)),
    "a numbered folder without pictures": (emptied, ("3_none",)),
    "0 repeats": (only("0_thing"), ("0_thing",)),
    "repeats below nothing": (only("-1_thing"), ("-1_thing",)),
    "repeats with a fraction": (only("1.5_thing"), ("1.5_thing",)),
    "repeats that are a word": (only("ten_thing"), ("ten_thing",)),
    "repeats without end": (only("9" * 30 + "_thing"), ("9" * 30 + "_thing",)),
    "a name with a line break": (only("2_a\nb"), ("2_a",)),
    "repeats in hexadecimal": (only("0x10_thing"), ("0x10_thing",)),
    "regularisation that is not there": (
        lambda g: g.train(reg_data_dir=g.folder / "gone"), ("data.reg_data_dir", "gone")),
    "regularisation without pictures": (
        lambda g: g.train(reg_data_dir=made(g.folder / "reg")), ("data.reg_data_dir", "reg")),
    "regularisation that is a file": (
        lambda g: g.train(reg_data_dir=g.pictures / "a.png"), ("data.reg_data_dir", "a.png")),
}  # fmt: skip
SAID: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "a folder inside a folder of pictures": (inner, ("5_inner",)),
    "a folder without a number beside one": (beside, ("without",)),
    "a folder whose name is no text": (
        lambda g: os.rename(os.fsencode(g.pictures), os.fsencode(g.set) + b"/2_\xff\xfe"), ()),  # noqa: PTH104
}  # fmt: skip


# ── what is written ───────────────────────────────────────────────────────────────────────────────────────


def output(make: Callable[[Ground], object], **others: object) -> Plant:
    return lambda ground: ground.train(output_dir=make(ground), **others)


NAMES = {
    "with a slash": "a/b", "that goes up": "../x", "that is a dot": ".", "that is two": "..",
    "of blanks": "  ",
    "with a zero": "a\0b", "with a colon": "a:b", "with a star": "a*", "with a line break": "a\nb",
    "with a backslash": "a\\b", "with an escape": "a\x1b[31m", "with half a letter": "a\udcff",
    "longer than a file's": "a" * 300, "longer than with its step": "a" * 240,
}  # fmt: skip
OUTPUTS: dict[str, tuple[Plant, tuple[str, ...]]] = {
    "a file for the output": (output(lambda g: g.pictures / "a.png"), ("output.output_dir", "a.png")),
    "the output in a file": (output(lambda g: g.pictures / "a.png" / "x"), ("output.output_dir", "a.png")),
    "the output in a device": (output(lambda g: "/dev/null/x"), ("output.output_dir", "/dev/null")),
    "the output where nothing may be": (output(lambda g: "/proc/x"), ("output.output_dir", "/proc/x")),
    "the output of too long a name": (output(lambda g: g.folder / ("a" * 300)), ("output.output_dir",)),
    "the output with a zero": (output(lambda g: "a\0b"), ("output.output_dir",)),
    "the output that links to itself": (output(looped), ("output.output_dir", "loop")),
    **{
        f"an output name {kind}": (lambda g, name=name: g.train(output_name=name), ("output.output_name",))
        for kind, name in NAMES.items()
    },
}  # fmt: skip


# ── metadata files ────────────────────────────────────────────────────────────────────────────────────────


def metadata(content: bytes | str) -> Plant:
    def plant(ground: Ground) -> Sequence[str]:
        file = ground.write("said.json", content)
        return ground.train(train_data_dir=ground.pictures, in_json=file)

    return plant


METADATA: dict[str, bytes | str] = {
    "empty": "", "of blanks": "  \n", "cut": '{"a": {"caption": "x"', "with a comma too many": '{"a": "x",}',
    "that is a list": '[{"a": "x"}]', "that is a number": "3", "that is nothing": "null",
    "of numbers": '{"a": 3}', "with lists": '{"a": {"caption": ["x"]}}', "with numbers": '{"a": {"tags": 1}}',
    "in UTF-16": '{"a": "x"}'.encode("utf-16"), "in Latin-1": '{"a": "é"}'.encode("latin-1"),
    "that is a picture": b"\x89PNG\r\n\x1a\n" + bytes(50), "nested without end": "[" * 200_000,
    "with a number without end": '{"a": ' + "9" * 10_000 + "}", "of other pictures": '{"zzz": "x"}',
    "with nan": '{"a": NaN}', "with a name that is no text": '{"a": "x", "\\ud800": "y"}',
    "of pictures elsewhere": '{"/elsewhere/a.png": "x"}', "of a name with a zero": '{"a\\u0000": "x"}',
}  # fmt: skip

CASES = [
    *(Case(f"a caption {name}", caption(content), ("b.txt",)) for name, content in CAPTIONS.items()),
    *(Case(f"a caption {name} is taken", caption(text), (), ends=TAKEN) for name, text in PLAIN.items()),
    *(Case(name, no_caption(make), ("b.txt",)) for name, make in IN_ITS_PLACE.items() if POSIX),
    *(Case(name, *about) for name, about in FOLDERS.items()),
    *(Case(name, *about, ends=TAKEN) for name, about in SAID.items() if POSIX),
    *(Case(name, *about) for name, about in OUTPUTS.items() if POSIX),
    *(Case(f"a metadata file {name}", metadata(text), ("said.json",)) for name, text in METADATA.items()),
    Case(
        "a metadata file and regularisation",
        lambda g: g.train(in_json=g.write("said.json", json.dumps({"a": "x"})), reg_data_dir=g.set),
        ("reg_data_dir",),
    ),
    Case("no metadata file", lambda g: g.train(in_json=g.folder / "gone.json"), ("gone.json",)),
    Case("a folder for a metadata file", lambda g: g.train(in_json=g.folder), ("ground",)),
]
