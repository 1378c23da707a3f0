"""The guide's practice folders and its pictures, made by the workshop's own commands.

    python demo/guide.py [--output_dir demo/output/guide]

docs/dataset-guide.md is written about these folders, and tests/test_guide.py holds it to what commands say of
them. The photographs, for which there is nothing among the demo's own, are those of scikit-image.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
PICTURES = HERE.parent / "docs" / "guide"
INK, DUCK = HERE / "dataset" / "10_ink style", HERE / "subject" / "10_duck"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
SIDE, GAP = 200, 8
GROUND, LINE = "#e8e8e8", "#d04000"

CAPTIONS = {  # folder -> captions; the pictures are whatever the demo has, for only the words matter
    "okara": (
        "1girl, silver hair, long hair, blue eyes, fox ears, school uniform, sitting, classroom",
        "1girl, silver hair, long hair, blue eyes, fox ears, red coat, standing, snow, smile",
        "1girl, silver hair, long hair, blue eyes, fox ears, close-up, looking at viewer",
        "1girl, silver hair, ponytail, blue eyes, fox ears, swimsuit, running, beach, from behind",
        "1girl, silver hair, long hair, fox ears, pajamas, lying, bed, closed eyes",
        "1girl, silver hair, long hair, blue eyes, fox ears, armor, sword, castle, from below",
    ),
    "wardrobe/coat": (
        "1girl, black hair, red coat, fur collar, gold buttons, standing, street",
        "1boy, blond hair, red coat, fur collar, gold buttons, sitting, train",
        "1girl, brown hair, glasses, red coat, gold buttons, open coat, park",
        "no humans, red coat, fur collar, gold buttons, on a hanger, white background",
    ),
    "wardrobe/hat": ("1girl, black hair, straw hat, field", "1boy, straw hat, beach"),
    "lotus": (
        "1girl, brown hair, white shirt, sitting, crossed legs, hands on own knees, indoors",
        "1boy, short hair, black pants, sitting, crossed legs, hands on own knees, forest",
        "1girl, dress, sitting, crossed legs, arms up, beach, from side",
    ),
    "told": (
        "A photo of a woman in a park, who holds a red umbrella.",
        "A photo of a woman at a desk. She is reading.",
    ),
}  # fmt: skip


def practice(folder: pathlib.Path) -> None:
    """The folders that the guide's commands are run on."""
    shutil.copytree(DUCK, folder / "duck")
    for name, captions in CAPTIONS.items():
        (folder / name).mkdir(parents=True)
        for number, (text, drawing) in enumerate(zip(captions, sorted(INK.glob("*.png")), strict=False), 1):
            shutil.copy(drawing, folder / name / f"{number}.png")
            (folder / name / f"{number}.txt").write_text(text, encoding="utf-8")
    ink = folder / "ink"
    ink.mkdir()
    for file in INK.iterdir():
        shutil.copy(file, ink / file.name)
    for file in ink.glob("*.png"):  # large enough to be trained at 512
        with Image.open(file) as image:
            image.convert("RGB").resize((512, 512), Image.Resampling.LANCZOS).save(file)
    spoil(ink)


def spoil(ink: pathlib.Path) -> None:
    """What people's folders are like."""
    (ink / "bear.txt").unlink()
    (ink / "cactus.txt").write_text("", encoding="utf-8")
    (ink / "fire.png").write_bytes((ink / "fire.png").read_bytes()[:900])
    shutil.copy(ink / "fox.png", ink / "fox (2).png")
    (ink / "old name.txt").write_text("house, ink style", encoding="utf-8")
    (ink / "panda.txt").write_text("パンダ, ink style", encoding="cp932")
    (ink / "snail.txt").write_text("snail, ink stlye", encoding="utf-8")
    for name, change in {
        "frog": lambda image: image.resize((96, 96)),
        "pizza": lambda image: image.convert("CMYK"),
        "key": lambda image: image.resize((48, 48)).resize((512, 512), Image.Resampling.BICUBIC),
        "house": lambda image: image.resize((1600, 400)),
    }.items():
        with Image.open(ink / f"{name}.png") as image:
            changed = change(image)
        (ink / f"{name}.png").unlink()
        changed.save(ink / f"{name}{'.jpg' if changed.mode == 'CMYK' else '.png'}")
    with Image.open(ink / "star.png") as image:
        image.save(ink / "star.jpg", quality=12)
        ImageOps.mirror(Image.open(ink / "snail.png")).resize((420, 420)).save(ink / "snail small.png")
    (ink / "star.png").unlink()


# ── pictures ──


def told(line: str) -> dict:
    """What a command says, as data; the words are printed, too."""
    import contextlib
    import io

    from lora_train import cli

    words = shlex.split(line)
    sys.stdout.write(f"$ {line}\n")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        if status := cli.main([*words[1:], "--json"]):
            raise SystemExit(status)
    return json.loads(said.getvalue())


def sheet(name: str, rows: Sequence[Sequence[Image.Image]]) -> None:
    """Rows of pictures, small enough for a page."""
    wide = max(map(len, rows))
    whole = Image.new("RGB", (wide * (SIDE + GAP) + GAP, len(rows) * (SIDE + GAP) + GAP), "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            small = ImageOps.pad(image.convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS, GROUND)
            whole.paste(small, (GAP + x * (SIDE + GAP), GAP + y * (SIDE + GAP)))
    PICTURES.mkdir(exist_ok=True)
    whole.quantize(160).save(PICTURES / f"{name}.png", optimize=True)


def opened(folder: pathlib.Path | str, *, names: Sequence[str] = ()) -> list[Image.Image]:
    return [Image.open(pathlib.Path(folder, name)).copy() for name in names]


def drawn_on(image: Image.Image, box: Sequence[int]) -> Image.Image:
    """With what stays framed, and the rest pale."""
    pale = Image.blend(image.convert("RGB"), Image.new("RGB", image.size, "white"), 0.6)
    pale.paste(image.crop(box), tuple(box[:2]))
    ImageDraw.Draw(pale).rectangle(
        (box[0], box[1], box[2] - 1, box[3] - 1), outline=LINE, width=max(image.size) // 120
    )
    return pale


def crops() -> None:
    """What three ways of cropping leave of the photographs."""
    before = opened("photos", names=PHOTOGRAPHS)
    rows = []
    for by in ("centre --shape square", "focus --shape square", "face --shape square"):
        shutil.copytree("photos", "cut")
        told(f"lora-train dataset crop cut --by {by}")
        rows.append(
            [drawn_on(a, place(a, b)) for a, b in zip(before, opened("cut", names=PHOTOGRAPHS), strict=True)]
        )
        shutil.rmtree("cut")
    sheet("crops", rows)


def place(whole: Image.Image, part: Image.Image) -> tuple[int, int, int, int]:
    """Where a part was cut from: where it differs least."""
    import numpy as np

    a = np.asarray(whole.convert("L"), np.int16)
    b = np.asarray(part.convert("L"), np.int16)
    high, wide = b.shape
    places = [(x, y) for y in range(a.shape[0] - high + 1) for x in range(a.shape[1] - wide + 1)]
    thin = max(1, min(high, wide) // 16)
    x, y = min(places, key=lambda at: np.abs(
        a[at[1] : at[1] + high : thin, at[0] : at[0] + wide : thin] - b[::thin, ::thin]).sum())  # fmt: skip
    return x, y, x + wide, y + high


def grounds() -> None:
    """Ground taken away, and masks."""
    names = [f"{number}.png" for number in (1, 2, 4)]
    before = opened("duck", names=names)
    told("lora-train dataset mask duck --by colour --soften 1")
    masks = opened("duck", names=[name.replace(".", "-masklabel.") for name in names])
    told("lora-train dataset undo duck")
    told("lora-train dataset background duck --by colour --to #a8c8e8")
    sheet("ground", [before, masks, opened("duck", names=names)])
    told("lora-train dataset undo duck")


def alike() -> None:
    """What the report finds to be alike: a row for each group."""
    rows = []
    for folder, kinds in (("ink", ("same", "mirrored")), ("duck", ("near",))):
        findings = told(f"lora-train dataset check {folder}")["findings"]
        groups = [group for finding in findings if finding["kind"] in kinds for group in finding["groups"]]
        rows += [opened(folder, names=group) for group in groups]
    sheet("alike", rows)


def classes() -> None:
    """Pictures of the class, drawn by the demo's checkpoint."""
    checkpoint = HERE / "checkpoint" / "demo.safetensors"
    told(
        f"lora-train dataset regularise duck --class_prompt penguin --num_class_images 4 --resolution 64 "
        f"--min_bucket_reso 64 --pretrained_model_name_or_path '{checkpoint}'"
    )
    sheet("class", [[Image.open(file).copy() for file in sorted(pathlib.Path("reg/1_duck").glob("*.png"))]])


def main() -> None:
    import skimage.data

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=pathlib.Path, default=HERE / "output" / "guide")
    home = parser.parse_args().output_dir
    shutil.rmtree(home, ignore_errors=True)
    practice(home)
    photos = home / "photos"
    photos.mkdir()
    for name in PHOTOGRAPHS:
        shutil.copy(pathlib.Path(skimage.data.__file__).parent / name, photos)
    os.chdir(home)
    for made in (crops, grounds, alike, classes):
        made()


if __name__ == "__main__":
    main()
