"""Folders count as they should, and the steps are those that training makes."""

from __future__ import annotations

import fractions
import itertools
import random

import pytest
from PIL import Image

from lora_train.data.batches import numbers
from lora_train.data.folder import Data
from lora_train.data.plan import plan
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.workshop.repeats import Repeats, furthest, suggested


def make(folder, **counts):
    for name, count in counts.items():
        (folder / name.lstrip("n")).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (64, 64 if i % 3 else 96), (i, 0, 0)).save(
                folder / name.lstrip("n") / f"{i}.png"
            )


def test_the_steps_are_those_of_a_training_with_these_names(tmp_path):
    make(tmp_path, n10_cat=12, n1_dog=30, bird=5)
    values = {"folder": tmp_path, "shares": "cat = 2", "batch_size": 2, "gradient_accumulation_steps": 2,
              "resolution": "64", "max_train_epochs": 3}  # fmt: skip
    facts = build(Repeats, values).run().facts
    assert [row["folder"] for row in facts["folders"]] == ["10_cat", "1_dog", "bird"]
    assert [row["now"] for row in facts["folders"]] == [10, 1, 1]
    for row in facts["folders"]:
        assert row["samples"] == row["pictures"] * row["repeats"]
        assert row["share"] == pytest.approx(row["wanted"], rel=0.05)
        (tmp_path / row["folder"]).rename(tmp_path / row["name"])
    data = build(
        Data,
        {
            "train_data_dir": tmp_path,
            "batch_size": 2,
            "resolution": "64",
            "enable_bucket": True,
            "min_bucket_reso": 64,
        },
    )
    truth = numbers(plan(data), 2)
    assert facts["then"]["steps"] == truth.steps
    assert facts["then"]["samples"] == truth.samples
    assert facts["then"]["all"] == 3 * truth.steps


def test_the_smallest_repeats_that_do(tmp_path):
    """Against all there are, up to a bound."""
    rng = random.Random(2)
    for _ in range(25):
        counts = [rng.randrange(3, 40) for _ in range(2)]
        shares = [fractions.Fraction(rng.randrange(1, 4)) for _ in range(2)]
        found = suggested(counts, shares, 0.1)
        every = itertools.product(range(1, 40), repeat=2)
        good = [pair for pair in every if furthest(counts, shares, pair) <= 0.1]
        assert furthest(counts, shares, found) <= 0.1
        assert min(found) == min(map(min, good))


def test_shares_that_are_equal_or_exact():
    one = fractions.Fraction(1)
    assert suggested([10, 20, 40], [one] * 3, 0.05) == [4, 2, 1]
    assert suggested([7], [one], 0.0) == [1]
    assert suggested([3, 2], [one, one], 0.0) == [2, 3]
    assert furthest([3, 2], [one, one], [2, 3]) == 0
    assert furthest([1, 1], [one, 3 * one], [1, 1]) == pytest.approx(1)


def test_the_command_says_what_to_rename(tmp_path, capsys):
    make(tmp_path, n1_cat=4, n1_dog=2)
    command(["repeats", str(tmp_path), "--resolution", "64"])
    out = capsys.readouterr().out
    assert "1_dog: 2 pictures x 2 (now 1) = 4 samples, 50.0% of an epoch; wanted 50.0%" in out
    assert "  1_dog -> 2_dog, or num_repeats = 2\n" in out
    assert "1_cat ->" not in out
    assert "Then: 6 pictures, with their repeats = 8 samples" in out


@pytest.mark.parametrize(
    ("shares", "said"),
    [("cat", "name = number"), ("cat = 0", "name = number"), ("cat = x", "name = number"),
     ("cart = 2", "no such folder in")],
)  # fmt: skip
def test_what_cannot_work_is_refused(tmp_path, shares, said):
    make(tmp_path, cat=1)
    with pytest.raises(Mistake, match=said):
        build(Repeats, {"folder": tmp_path, "shares": shares}).run()


def test_pictures_without_folders_are_no_concepts(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(Mistake, match="no folder with pictures in it"):
        build(Repeats, {"folder": tmp_path}).run()
