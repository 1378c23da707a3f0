"""The gallery: what it measures, and that the commands it runs are understood."""

from __future__ import annotations

import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "demo"))
import gallery  # noqa: E402
import gauge  # noqa: E402
import run as demo  # noqa: E402
import studio  # noqa: E402

from lora_train import options, plotting  # noqa: E402
from lora_train.adapters import FAMILIES  # noqa: E402
from lora_train.job import assemble, declared  # noqa: E402
from lora_train.knobs import build  # noqa: E402
from lora_train.objectives import OBJECTIVES  # noqa: E402
from lora_train.options import train_values  # noqa: E402
from lora_train.plots.plan import Plan  # noqa: E402
from lora_train.prompts import parse_prompt  # noqa: E402


def flat(*colour: int) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def noise() -> Image.Image:
    return Image.merge("RGB", [Image.effect_noise((64, 64), 90) for _ in range(3)])


def trainings(folder: pathlib.Path) -> dict[str, studio.Words]:
    return {
        **{kind: gallery.family_words(kind) for kind in FAMILIES},
        **gallery.ERASERS,
        "red": gallery.SLIDE,
        **gallery.pair_words(folder),
        **gallery.subject_words(folder),
        **{name: {**gallery.HELD, **words} for name, words in gallery.CASES.items()},
    }


def test_colourfulness_is_the_demos(tmp_path):
    picture = Image.effect_noise((8, 8), 90).convert("RGB")
    picture.putpixel((3, 3), (250, 10, 90))
    picture.save(tmp_path / "one.png")
    assert gauge.colourfulness(picture) == pytest.approx(demo.colourfulness(tmp_path / "one.png"))


def test_distances_are_those_of_flat_colours():
    assert gauge.distance(flat(10, 20, 30), flat(13, 24, 30)) == pytest.approx(np.sqrt(25 / 3))
    assert gauge.shape_distance(flat(255, 0, 0), flat(76, 76, 76)) == 0  # 0.299 of 255
    three = [flat(0, 0, 0), flat(2, 2, 2), flat(6, 6, 6)]
    assert gauge.spread(three) == pytest.approx((2 + 6 + 4) / 3)
    assert gauge.moved(three, [flat(1, 1, 1)] * 3) == pytest.approx((1 + 1 + 5) / 3)
    assert gauge.nearest(flat(5, 5, 5), three) == pytest.approx(1)


def test_redness_is_of_what_is_not_white():
    picture = flat(255, 255, 255)
    assert gauge.redness(picture) == 0
    picture.paste((200, 50, 0), (0, 0, 2, 2))
    assert gauge.redness(picture) == 150
    assert gauge.rising([1, 2, 3])
    assert not gauge.rising([1, 2, 2])


def test_a_table_has_its_numbers_to_the_right():
    assert gauge.table(["a", "b"], [["x", 1.25], ["y", 20.0]]).splitlines() == [
        "| a | b |", "| --- | ---: |", "| x | 1.2 |", "| y | 20.0 |",
    ]  # fmt: skip


def test_every_command_is_understood(tmp_path):
    every, made = declared(), {}
    for name, settings in trainings(tmp_path).items():
        values, _ = train_values(studio.train_words(tmp_path, name, settings)[1:], every)
        made[name], output, _ = assemble(values)
        assert output.output_name == name
    assert {type(job.network) for job in made.values()} == set(FAMILIES.values())
    assert {type(job.objective) for job in made.values()} == set(OBJECTIVES.values())


def test_the_plots_of_the_cases_are_understood(tmp_path):
    (tmp_path / "good.safetensors").write_bytes(b"1234")
    parser = plotting._parser(declared())
    given = options.parse(parser, gallery.plot_words(tmp_path, "good")[1:])
    assert given["score"] is True
    plan = build(Plan, plotting._plan_values(given))
    assert [len(axis.values()) for axis in (plan.x,)] == [9]
    assert plan.prompt.texts == gallery.DRAWN


def test_a_shot_names_its_lora_and_is_one_line():
    shot = gallery.Shot("red apple", 3, "red", -0.5)
    prompt = parse_prompt(shot.line, "ddim")
    assert (prompt.width, prompt.height, prompt.seed, prompt.sample_sampler) == (64, 64, 3, "dpm++_2m")
    assert prompt.prompt == "red apple <lora:red:-0.5>"
    assert "<" not in gallery.Shot("red apple", 3).line


def test_a_part_takes_the_place_of_what_it_had():
    page = "top\n<!-- one -->\nold\n<!-- end of one -->\n<!-- two -->\n<!-- end of two -->\n"
    put = gallery.put(page, "one", r"new \1")
    assert put == page.replace("old", r"new \1")
    with pytest.raises(ValueError, match="three"):
        gallery.put(page, "three", "")


@pytest.mark.parametrize("part", gallery.PARTS)
def test_every_part_makes_its_sheet_and_its_table(part, tmp_path, monkeypatch):
    """Of noise in place of what would be trained and drawn."""

    def train(studio, name, settings):
        file = studio.folder / f"{name}.safetensors"
        file.write_bytes(b"1234")
        studio.commands.append(name)
        return file

    def draw(studio, shots, folder="pictures"):
        (studio.folder / folder).mkdir(exist_ok=True)
        return {shot: noise() for shot in shots}

    def plot(studio, name, words):
        chosen = {"file": name, "strength": 1.0, "verdict": "good", "text": "Suggested."}
        cell = {"values": {"file": name, "strength": 1.0}, "metrics": {"loss": 0.5, "looks": 2.0}}
        return {"suggestion": chosen, "bare": cell["metrics"], "cells": [cell]}, [noise(), noise()]

    monkeypatch.setattr(gallery.Studio, "train", train)
    monkeypatch.setattr(gallery.Studio, "plot", plot)
    monkeypatch.setattr(gallery.Studio, "draw", draw)
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "README.md")
    text, commands = gallery.PARTS[part](tmp_path)
    assert (tmp_path / f"{part}.png").exists()
    assert text.startswith(f"![{part}]({part}.png)\n\n| ")
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert commands


def test_the_page_has_a_place_for_each_part_and_its_sheets_are_small():
    page = gallery.PAGE.read_text(encoding="utf-8")
    assert all(gallery.put(page, part, "") for part in gallery.PARTS)
    sheets = sorted(gallery.PAGE.parent.glob("*.png"))
    assert all(file.stat().st_size < 200_000 for file in sheets)
    assert sum(file.stat().st_size for file in sheets) < 2_000_000
    assert all(f"({file.name})" in page for file in sheets)
