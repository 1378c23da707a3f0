"""The gallery: teaches the demo checkpoint with every family of adapters and every objective, and measures.

    python demo/gallery.py [families erase slider pairs subject suggest] [--output_dir demo/output/gallery]

Every step is an ordinary command of `lora-train`, printed before it runs. What is there already is not
trained again; remove the folder to begin anew. Sheets and numbers go to docs/gallery.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from PIL import Image

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = ROOT / "docs" / "gallery" / "README.md"
sys.path[:0] = [str(ROOT), str(HERE)]

import gauge  # noqa: E402
from gauge import colourfulness, distance, mean, moved, nearest, redness, rising, spread, table  # noqa: E402
from run import CHECKPOINT  # noqa: E402
from studio import Shot, Studio, Words, near, opened, spelled  # noqa: E402

LORA = {"network_dim": 16, "network_alpha": 16, "conv_dim": 8, "conv_alpha": 8}
UNET = {"network_dim": 8, "network_alpha": 8, "network_train_unet_only": True}


def sheet(
    rows: Sequence[str], columns: Sequence[str], cell: Callable[[int, int], Image.Image], name: str
) -> str:
    """Into the gallery; in 64 colours, which are enough for it. Returns what shows it on the page."""
    from lora_train.plots import grid

    return shown(grid.sheet(rows, columns, cell), name)


def shown(page: Image.Image, name: str) -> str:
    page.quantize(64, dither=Image.Dither.NONE).save(PAGE.parent / f"{name}.png", optimize=True)
    return f"![{name}]({name}.png)"


# ── families ────────────────────────────────────────────────────────────────────────────────────────────────

STYLE, STEPS = "ink style", 300
SEEN, OTHERS = ("star", "rocket", "pizza", "cactus"), ("tulip", "bus", "lion", "guitar")
RATE = 3e-3
OWN: dict[str, Words] = {  # what a family needs beside or in place of LoRA's settings
    "loha": {"network_dim": 8, "network_alpha": 8, "conv_dim": 4, "conv_alpha": 4},
    "lokr": {"network_dim": 16, "factor": 4, "learning_rate": 2e-2},
    "ia3": {"learning_rate": 5e-2},
    "oft": {"network_dim": 8, "learning_rate": 2e-2},
    "boft": {"network_dim": 8, "learning_rate": 1e-2},
    "full": {"learning_rate": 2e-3},
    "lora_fa": {"learning_rate": 1e-2},
    "vera": {"network_dim": 64, "network_alpha": 64, "learning_rate": 3e-2},
}


def family_words(kind: str) -> Words:
    """Settings that the family does not have are left out."""
    from lora_train.adapters import FAMILIES
    from lora_train.knobs import settings

    has = {name for setting in settings(FAMILIES[kind]) for name in (setting.name, *setting.aka)}
    ranks = {name: value for name, value in LORA.items() if name in has}
    style = {
        "train_data_dir": "demo/dataset", "train_batch_size": 4, "max_train_steps": STEPS,
    }  # fmt: skip
    return {**style, "network.kind": kind, **ranks, "learning_rate": RATE, **OWN.get(kind, {})}


def families(output: pathlib.Path) -> tuple[str, list[str]]:
    from lora_train.adapters import FAMILIES

    studio = Studio(output, "families")
    sizes = {kind: studio.train(kind, family_words(kind)).stat().st_size for kind in FAMILIES}
    columns = [(thing, seed) for seed, thing in enumerate((*SEEN, *OTHERS), 1)]
    shots = {
        kind: [Shot(f"{thing}, {STYLE}", seed, kind) for thing, seed in columns] for kind in ("", *FAMILIES)
    }
    drawn = studio.draw([shot for row in shots.values() for shot in row])
    half = len(SEEN)

    def left(kind: str, part: slice) -> float:
        return mean(colourfulness(drawn[shot]) for shot in shots[kind][part])

    seen, others, every = slice(half), slice(half, None), slice(None)
    fall = {kind: 1 - left(kind, every) / left("", every) for kind in FAMILIES}
    rows: list[list[object]] = [["none", "", "", left("", seen), left("", others), "", ""]]
    for kind in FAMILIES:
        rate = family_words(kind)["learning_rate"]
        told = [f"{100 * fall[kind]:.0f} %", f"{100 * fall[kind] / fall['lora']:.0f} %"]
        size = f"{sizes[kind] / 1000:,.0f}"
        rows.append([kind, f"{rate:g}", size, left(kind, seen), left(kind, others), *told])
    heads = ["family", "learning rate", "kB", "colour: seen", "colour: others", "taken out", "of LoRA's"]
    picture = sheet(
        ["none", *FAMILIES], [thing for thing, _ in columns],
        lambda r, c: drawn[shots[["", *FAMILIES][r]][c]], "families")  # fmt: skip
    return f"{picture}\n\n{table(heads, rows)}", studio.commands


# ── erase ───────────────────────────────────────────────────────────────────────────────────────────────────

ERASED, KEPT = (
    "pizza",
    ("sunflower", "balloon", "crown", "bus", "frog", "bell", "lion", "fox", "tulip", "rocket"),
)
ERASE = {
    "objective.kind": "erase", "target": ERASED, **UNET, "train_batch_size": 2, "learning_rate": 1e-3,
}  # fmt: skip
ERASERS: dict[str, Words] = {
    "erase": {**ERASE, "max_denoising_steps": 10, "max_train_steps": 80},
    "instant": {**ERASE, "instant": True, "max_train_steps": 80},
}


def erase(output: pathlib.Path) -> tuple[str, list[str]]:
    studio, seeds = Studio(output, "erase"), (1, 2)
    for name, words in ERASERS.items():
        studio.train(name, words)
    things, ways = (ERASED, *KEPT), ("", *ERASERS)
    drawn = studio.draw([Shot(thing, seed, way) for thing in things for way in ways for seed in seeds])

    def of(thing: str, way: str) -> list[Image.Image]:
        return [drawn[Shot(thing, seed, way)] for seed in seeds]

    rows: list[list[object]] = []
    for thing in things:
        base = of(thing, "")
        rows.append([thing, spread(base), *(moved(base, of(thing, way)) for way in ERASERS)])
    rows.append(["mean of the others", *(mean(row[i] for row in rows[1:]) for i in range(1, 4))])
    heads = ["prompt", "seed to seed", *(f"moved by {way}" for way in ERASERS)]
    shown = [(way, seed) for seed in seeds[:2] for way in ways]
    picture = sheet(
        things, [f"{way or 'without'}, {seed}" for way, seed in shown],
        lambda r, c: drawn[Shot(things[r], shown[c][1], shown[c][0])], "erase")  # fmt: skip
    return f"{picture}\n\n{table(heads, rows)}", studio.commands


# ── slider ──────────────────────────────────────────────────────────────────────────────────────────────────

SLIDE = {
    "objective.kind": "slider", "target": "apple", "positive": "red apple", "negative": "green apple", **UNET,
    "guidance_strength": 1, "max_denoising_steps": 10, "train_batch_size": 2, "learning_rate": 5e-4,
    "max_train_steps": 50,
}  # fmt: skip
STRENGTHS, SLID = (-2, -1, 0, 1, 2), ("apple", "balloon", "bell")


def slider(output: pathlib.Path) -> tuple[str, list[str]]:
    studio, seeds = Studio(output, "slider"), (1, 2)
    studio.train("red", SLIDE)
    shots = {
        (thing, seed): [Shot(thing, seed, "red" if much else "", much or 1.0) for much in STRENGTHS]
        for thing in SLID for seed in seeds
    }  # fmt: skip
    drawn = studio.draw([shot for row in shots.values() for shot in row])
    rows: list[list[object]] = []
    for thing in SLID:
        means = [mean(redness(drawn[shots[thing, seed][i]]) for seed in seeds) for i in range(len(STRENGTHS))]
        rows.append([thing, *means, "yes" if rising(means) else "no"])
    heads = ["redness of", *(f"at {strength}" for strength in STRENGTHS), "rises all the way"]
    lines = [*shots]
    picture = sheet(
        [f"{thing}, {seed}" for thing, seed in lines], [str(strength) for strength in STRENGTHS],
        lambda r, c: drawn[shots[lines[r]][c]], "slider")  # fmt: skip
    return f"{picture}\n\n{table(heads, rows)}", studio.commands


# ── pairs ───────────────────────────────────────────────────────────────────────────────────────────────────

GIVEN, TAKEN = "fox", ("bus", "crown", "frog", "sunflower", "balloon", "pizza", "bell", "lion")


def pair_words(folder: pathlib.Path) -> dict[str, Words]:
    pair = {
        "original_image": near(folder / "pair" / "colour.png"), "original_prompt": GIVEN,
        "target_image": near(folder / "pair" / "grey.png"),
    }  # fmt: skip
    common = {**UNET, "learning_rate": 1e-3, "train_batch_size": 1}
    return {
        "difference": {"objective.kind": "difference", **pair, **common, "copier_steps": 100,
                       "max_train_steps": 100},
        "addift": {"objective.kind": "addift", **pair, **common, "max_train_steps": 50},
        "pair_slider": {"objective.kind": "pair_slider", **pair, **common, "max_train_steps": 100},
    }  # fmt: skip


def pairs(output: pathlib.Path) -> tuple[str, list[str]]:
    studio, seeds = Studio(output, "pairs"), (1, 2)
    original = studio.draw([Shot(GIVEN, 0)], "pair")[Shot(GIVEN, 0)]
    original.save(studio.folder / "pair" / "colour.png")
    original.convert("L").convert("RGB").save(studio.folder / "pair" / "grey.png")
    ways = pair_words(studio.folder)
    for name, words in ways.items():
        studio.train(name, words)
    columns = ["", *ways]
    drawn = studio.draw([Shot(thing, seed, way) for thing in TAKEN for way in columns for seed in seeds])
    plain = {(thing, seed): drawn[Shot(thing, seed)] for thing in TAKEN for seed in seeds}
    chance = mean(gauge.shape_distance(plain[thing, seeds[0]], plain[thing, seeds[1]]) for thing in TAKEN)
    rows: list[list[object]] = []
    for way in columns:
        own = {key: drawn[Shot(*key, way)] for key in plain}
        shape = mean(gauge.shape_distance(plain[key], own[key]) for key in plain) if way else chance
        rows.append([way or "without; seed to seed", mean(map(colourfulness, own.values())), shape])
    heads = ["learned by", "colour", "brightness moved"]
    picture = sheet(
        TAKEN, [way or "without" for way in columns],
        lambda r, c: drawn[Shot(TAKEN[r], seeds[0], columns[c])], "pairs")  # fmt: skip
    return f"{picture}\n\n{table(heads, rows)}", studio.commands


# ── subject ─────────────────────────────────────────────────────────────────────────────────────────────────

SUBJECT, WORD, CLASS = HERE / "subject", "zwx", "penguin"
LEARN = {
    "train_data_dir": near(SUBJECT), "train_batch_size": 2, "max_train_steps": 150, "learning_rate": 3e-3,
    "network_dim": 8, "network_alpha": 8,
}  # fmt: skip


def subject_words(folder: pathlib.Path) -> dict[str, Words]:
    return {
        "dreambooth": {**LEARN, "instance_prompt": f"{WORD} {CLASS}", "class_prompt": CLASS,
                       "class_data_dir": near(folder / "class"), "num_class_images": 8,
                       "class_infer_steps": 10, "class_guidance_scale": 5},
        "pivotal": {**LEARN, "instance_prompt": f"{WORD} {CLASS}", "token_string": WORD, "init_word": CLASS,
                    "embedding_learning_rate": 1e-2},
    }  # fmt: skip


def subject(output: pathlib.Path) -> tuple[str, list[str]]:
    studio, seeds = Studio(output, "subject"), (1, 2)
    ways = subject_words(studio.folder)
    for name, words in ways.items():
        studio.train(name, words)
    things, columns = (f"{WORD} {CLASS}", CLASS, "owl", "lion", "bus"), ("", *ways)
    drawn = studio.draw([Shot(thing, seed, way) for thing in things for way in columns for seed in seeds])
    its = [opened(file) for file in sorted(SUBJECT.rglob("*.png"))]
    rows: list[list[object]] = []
    for thing in things:
        of = [[drawn[Shot(thing, seed, way)] for seed in seeds] for way in columns]
        far = [mean(nearest(image, its) for image in images) for images in of]
        rows.append([thing, *far, spread(of[0]), *(moved(of[0], images) for images in of[1:])])
    heads = ["prompt", *(f"to the subject: {way or 'without'}" for way in columns), "seed to seed",
             *(f"moved by {way}" for way in ways)]  # fmt: skip
    shown = [(way, seed) for way in columns for seed in seeds[:2]]
    picture = sheet(
        things, [way or "without" for way, _ in shown],
        lambda r, c: drawn[Shot(things[r], shown[c][1], shown[c][0])], "subject")  # fmt: skip
    its_own = f"Its pictures differ among themselves by {spread(its):.1f}, to the nearest " \
              f"{mean(min(distance(a, b) for b in its if b is not a) for a in its):.1f}."  # fmt: skip
    return f"{picture}\n\n{table(heads, rows)}\n\n{its_own}", studio.commands


# ── strength and epoch ──────────────────────────────────────────────────────────────────────────────────────

CASES: dict[str, Words] = {
    "under": {"max_train_steps": 15, "learning_rate": 5e-4},
    "good": {"max_train_steps": 100, "learning_rate": 3e-3},
    "over": {"max_train_steps": 240, "learning_rate": 1e-2, "save_every_n_steps": 120},
}
HELD = {"train_data_dir": "demo/dataset", "train_batch_size": 4, **LORA, "validation_split": 0.25,
        "validate_every_n_steps": 1000, "save_best": "false"}  # fmt: skip
DRAWN = tuple(f"{thing}, {STYLE}" for thing in ("tulip", "lion"))
ACROSS = "strength: 0-1.6:0.2"


def plot_words(folder: pathlib.Path, name: str) -> list[str]:
    files = sorted(map(near, folder.glob(f"{name}*.safetensors")), reverse=True) or [near(folder / name)]
    size = {"width": 64, "height": 64, "steps": 8, "cfg": 5, "sampler": "dpm++_2m"}
    words = {**size, "outdir": near(folder / f"{name}-plot")}
    return ["plot", *spelled({"pretrained_model_name_or_path": near(CHECKPOINT)}), "--network_weights",
            *map(str, files), "--x", ACROSS, "--y", "file", "--z", "prompt", "--prompt", *DRAWN, "--tall",
            "--score", *spelled(words)]  # fmt: skip


def told_of(found: Mapping) -> list[str]:
    """Of a sheet's record: what is suggested, and loss and looks there and without it."""
    chosen, bare = found["suggestion"], found["bare"]
    place = {"file": chosen["file"], "strength": chosen["strength"]}
    there = [cell["metrics"] for cell in found["cells"] if place.items() <= cell["values"].items()]
    own = [f"{mean(cell[name] for cell in there):.3f}" if there else "" for name in ("loss", "looks")]
    file = f"{chosen['file']} at {chosen['strength']:g}" if chosen["file"] else "none"
    return [file, chosen["verdict"], own[0], f"{bare['loss']:.3f}", own[1], f"{bare['looks']:.3f}"]


def suggest(output: pathlib.Path) -> tuple[str, list[str]]:
    studio, rows, said, pages = Studio(output, "suggest"), [], [], []
    for name, words in CASES.items():
        studio.train(name, {**HELD, **words})
        found, images = studio.plot(name, plot_words(studio.folder, name))
        pages += images
        rows.append([name, words["max_train_steps"], f"{words['learning_rate']:g}", *told_of(found)])
        said.append(f"- *{name}*: {found['suggestion']['text']}")
    heads = ["case", "steps", "rate", "suggested", "verdict", "loss", "without", "looks", "without"]
    lines = "\n".join(said)
    return f"{shown(below(pages), 'suggest')}\n\n{table(heads, rows)}\n\n{lines}", studio.commands


def below(pages: Sequence[Image.Image]) -> Image.Image:
    """All in one, one below the other."""
    paper = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), "white")
    top = 0
    for page in pages:
        paper.paste(page, (0, top))
        top += page.height
    return paper


PARTS = {"families": families, "erase": erase, "slider": slider, "pairs": pairs, "subject": subject,
         "suggest": suggest}  # fmt: skip


def put(page: str, part: str, text: str) -> str:
    """The page with the part's text between its marks."""
    marks = f"<!-- {part} -->", f"<!-- end of {part} -->"
    between = re.compile(f"{marks[0]}.*?{marks[1]}", re.DOTALL)
    if not between.search(page):
        raise ValueError(f"{PAGE}: expected {marks[0]} and {marks[1]}")
    return between.sub(lambda _: f"{marks[0]}\n{text}\n{marks[1]}", page)


def main() -> int:
    ask = argparse.ArgumentParser(description="Make the gallery, or parts of it.")
    ask.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[], metavar="PART")
    ask.add_argument("--output_dir", type=pathlib.Path, default=HERE / "output" / "gallery")
    told = ask.parse_args()
    for part in told.parts or PARTS:
        text, commands = PARTS[part](told.output_dir)
        block = "\n".join(commands)
        text += f"\n\n<details><summary>The commands</summary>\n\n```\n{block}\n```\n</details>"
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), part, text), encoding="utf-8")
        sys.stdout.write(f"\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
