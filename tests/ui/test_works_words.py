"""What works on pictures are, and what they report, is there in Japanese."""

from __future__ import annotations

import itertools
import pathlib
import re

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_said import PLACE, ROW, pattern, plain

from lora_train.knobs import build, settings
from lora_train.run.bench import offered
from lora_train.run.schema import schema
from lora_train.ui.page import ROOT
from lora_train.workshop import WORKS
from lora_train.workshop.asking import TWICE, Asking
from lora_train.workshop.tag import Tag

FILES = sorted(ROOT.joinpath("javascript").glob("lora_train_1_words*.js"))  # as the page loads them
TEXTS = {file.name: file.read_text(encoding="utf-8") for file in FILES}
WORDS = {
    plain(english): plain(japanese)
    for text in TEXTS.values()
    for english, japanese in re.findall(r'"((?:[^"\\]|\\.)*)": "((?:[^"\\]|\\.)*)"', text)
}
SAID = {name: [(plain(en), plain(ja)) for en, ja in ROW.findall(text)] for name, text in TEXTS.items()}
TABLE = [*itertools.chain(*SAID.values())]
KNOWN = [pattern(english) for english, _ in TABLE]
OWN = {"folder", "recursive", "follow_links", "caption_extension", "only", "names", "dry_run"}  # the room's
TOLD = "lora_train_1_words_told_works.js"
BESIDE = {"undo", "redo", "history", "check", "tags"}  # which the page offers elsewhere


HELPED = {  # of settings that are a training's as well, see `page.helpedIn`
    s["help"] for s in schema()["settings"] if f'"{s["path"]}": ' in TEXTS["lora_train_1_words_help.js"]
}


def whole(line: str) -> bool:
    return line in WORDS or any(known.fullmatch(line) for known in KNOWN)


def there(line: str) -> bool:
    """As the page looks, see `page.said`: the whole, what stands behind a name, each of several sentences."""
    ends = [0, *(match.end() for match in re.finditer(": ", line))]
    if any(whole(line[at:]) for at in ends):
        return True
    first, _, then = line.partition("; ")
    return bool(then) and there(first) and there(then)


def titles(of: str) -> dict[str, str]:
    script = ROOT.joinpath("javascript", "lora_train_8_works.js").read_text(encoding="utf-8")
    return dict(re.findall(r'(\w+): "([^"]+)"', script.split(f"const {of} = {{")[1].split("};")[0]))


@pytest.mark.parametrize("name", WORKS)
def test_every_word_of_a_work(name):
    rows = [offered(name, s) for s in settings(WORKS[name])]
    drawn = [row for row in rows if row["path"] not in OWN and name not in BESIDE]
    over = titles("TITLES")
    words = {
        titles("NAMES").get(name, name.replace("-", " ").capitalize()),
        getattr(WORKS[name], "title", None),
    }
    words |= {row["group"][0].upper() + row["group"][1:] for row in drawn if not row["basic"]}
    words |= {over.get(row["path"], row["name"].replace("_", " ")) for row in drawn if row["basic"]}
    lost = words - WORDS.keys() - {None} if name not in BESIDE else set()
    lost |= {
        text for text in {WORKS[name].said(), *(row["help"] for row in rows)} - HELPED if not whole(text)
    }
    assert not lost


def test_no_row_is_of_a_help_that_is_given_no_more():
    said = {text for work in WORKS.values() for text in (work.said(), *(s.help for s in settings(work)))}
    for end in ("captions", "said_report", "works"):
        text = TEXTS[f"lora_train_1_words_{end}.js"].split(".said.push(")[0]
        helps = {plain(english) for english in re.findall(r'^ +"((?:[^"\\]|\\.)*\.)":', text, re.MULTILINE)}
        assert len(helps) > 15
        assert not helps - said


def test_rows_have_the_same_places_and_hide_no_other():
    rows = [line for line in TEXTS[TOLD].splitlines() if line.startswith('        ["')]
    own = SAID[TOLD]
    assert len(rows) == len(own) == len({english for english, _ in own})
    first = [english for english, _ in TABLE]
    for english, japanese in own:
        assert {*PLACE.findall(japanese)} <= {*PLACE.findall(english)}, english
        assert re.search("[ぁ-んァ-ヶ一-龠→（]", japanese), japanese
        sample = PLACE.sub("7", english)
        found = next(en for en, known in zip(first, KNOWN, strict=True) if known.fullmatch(sample))
        assert found == english, (found, english)


# ── what they report ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def folder(tmp_path):
    """A drawing on plain ground, a picture without one, one with transparent parts, one that is damaged."""
    home = tmp_path / "set é" / "3_okara dog"
    home.mkdir(parents=True)
    ring = Image.new("RGB", (96, 64), (230, 240, 250))
    ImageDraw.Draw(ring).ellipse((30, 10, 60, 50), fill=(180, 40, 30))
    ring.save(home / "ring.png")
    (home / "ring.txt").write_text("cat, left hand")
    noise = np.random.default_rng(1).integers(0, 256, (64, 96, 4), dtype=np.uint8)
    Image.fromarray(noise).save(home / "clear.png")
    Image.fromarray(noise).convert("CMYK").save(home / "print.jpg")
    Image.fromarray(noise).save(home / "gone.png")
    (home / "gone.png").write_bytes((home / "gone.png").read_bytes()[:300])
    return home


def reported(folder: pathlib.Path, name: str, **values: object) -> list[str]:
    """Lines of a report, and what is said of each picture."""
    report = build(WORKS[name], {"folder": folder, **values}).run()
    every = [*report.facts.get("touched", ()), *report.facts.get("left", ())]
    return [*report.lines, *(one["what"] for one in every if one["what"])]


def runs(folder: pathlib.Path):
    dry = {"dry_run": True}
    painted = folder.parent / "painted.png"
    Image.new("L", (96, 64)).save(painted)
    yield reported(folder, "captions", add="snow", **dry)
    yield reported(folder, "captions", add="snow", names=["ring.png"])
    yield reported(
        folder, "convert", longest=48, rgb=True, background="#102030", format="jpg", strip=True, **dry
    )
    yield reported(folder, "flip", turn=["mirror", "90"], sides=False)
    yield reported(folder, "flip", turn=["mirror", "90"], sides=False)
    yield reported(folder, "flip", turn=["mirror"], in_place=True, names=["clear.png"], **dry)
    yield reported(folder, "crop", by="box", box=[0, 0, 40, 30], copy=True, **dry)
    yield reported(folder, "crop", by="box", box=[0, 0, 400, 30], **dry)
    yield reported(folder, "crop", by="centre", shape="square", **dry)
    yield reported(folder, "split", rows=1, columns=2, **dry)
    yield reported(folder, "upscale", resolution=128, min_bucket_reso=64, **dry)
    yield reported(folder, "upscale", resolution=1024, most=2, **dry)
    yield reported(folder, "background", by="colour", **dry)
    yield reported(folder, "background", by="alpha", **dry)
    yield reported(folder, "mask", by="colour", **dry)
    yield reported(folder, "mask", by="there", **dry)
    yield reported(folder, "mask", by="painted", painted=painted, names=["ring.png"])
    yield reported(folder, "rename", prefix="dog_", names=["ring.png"], **dry)
    yield reported(folder, "aside", names=["ring.png"], **dry)
    yield reported(folder, "export", format="jsonl", save_to=folder.parent / "all.jsonl")
    yield reported(folder, "export", format="toml", save_to=folder.parent / "all.toml")
    yield reported(folder.parent, "repeats", resolution=64)
    yield reported(
        folder,
        "regularise",
        class_prompt="a dog",
        num_class_images=3,
        resolution=64,
        names=["ring.png"],
        **dry,
    )
    Image.new("RGB", (64, 64)).save(folder / "gone.png")
    yield reported(folder.parent, "repeats", resolution=64, gradient_accumulation_steps=2)


def test_every_line_that_works_report(folder):
    lines = {line for found in runs(folder) for line in found}
    shown = re.compile(
        r"  \S+\.(png|jpg|txt)(: cat, .* -> .*)?|  class-\S+: a dog|\d+|a dog|-> \S+"
    )  # names, captions
    lost = {line for line in lines if not there(line) and not shown.fullmatch(line)}
    done = {line for line in lines if re.match(r"(laid|turned|\d+x\d+ to|[A-Z]+ to) ", line)}
    assert not [line for line in done if "; " in line and whole(line)]  # each part is said by itself
    assert len(lines) > 60
    assert not lost


@pytest.mark.parametrize(
    "line",
    ["face of 40x50; 512x768 to 400x400, as a_face1.png", "no person found; 512x768 to 512x512",
     "no face was found", "3.25% of it is painted anew, by lama", "nothing is painted in it", TWICE,
     Asking.nothing, Tag.nothing, "12 captions of 90 changed, then stopped", "a.png: has no mask",
     "3 of 20 drawn, then stopped, in /x y/reg", "40 pictures, 4 of them in 2 groups that are alike"],
)  # fmt: skip
def test_lines_that_need_a_model(line):
    assert there(line)
