"""What is said of pictures and numbers: distances, looks, the suggestion, the heat map."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lora_train.plots.differ import Likeness, changed, looks, moved
from lora_train.plots.heat import FRAME, HIGH, LOW, heat
from lora_train.plots.suggestion import Measured, suggestion


def flat(*colour: int) -> Image.Image:
    return Image.new("RGB", (8, 8), colour)


def noise(seed: int, low: int = 0, high: int = 256) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(low, high, (64, 64, 3), np.uint8))


def test_distances_are_those_of_flat_colours():
    assert moved(flat(10, 20, 30), flat(13, 24, 30)) == pytest.approx(np.sqrt(25 / 3))
    assert changed(flat(10, 20, 30), flat(31, 40, 30), 20) == pytest.approx(1 / 3)
    assert changed(flat(0, 0, 0), flat(20, 20, 20), 20) == 0
    assert moved(flat(1, 2, 3), flat(1, 2, 3).resize((16, 16))) == 0


def test_looks_of_a_flat_picture():
    found = looks(flat(255, 255, 255))
    assert found[:6] == pytest.approx([1, 0, 0, 0, 0, 0])
    assert found[7:15] == pytest.approx([0] * 7 + [1])
    assert found[15:] == pytest.approx([0, 0, 0])
    red = looks(flat(255, 0, 0))
    assert red[6] == pytest.approx(0.3 * np.hypot(1, 0.5))  # how colourful


def test_pictures_of_a_kind_are_near_it_and_others_far():
    set_ = Likeness.of(noise(i, 0, 100) for i in range(8))
    own = [set_.distance(noise(100 + i, 0, 100)) for i in range(4)]
    others = [set_.distance(noise(200 + i)) for i in range(4)]
    assert max(own) < 1.5 < min(others)
    mixed = [
        set_.distance(Image.blend(noise(1, 0, 100), flat(255, 255, 255).resize((64, 64)), a))
        for a in (0, 0.3, 0.9)
    ]
    assert mixed == sorted(mixed)


def measured(**losses: float) -> dict:
    """{"a_0.5": loss} -> what would be found; pictures differ by much, and at all places alike."""
    spread = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])
    return {
        (name.rpartition("_")[0], float(name.rpartition("_")[2])): Measured(tuple(loss + spread))
        for name, loss in losses.items()
    }


def test_the_lowest_loss_is_suggested():
    found = suggestion(
        measured(**{"a_0": 1.0, "a_0.5": 0.8, "a_1": 0.7, "a_1.5": 0.75}), held=True, on="5 pictures"
    )
    assert (found.file, found.strength, found.verdict) == ("a", 1.0, "good")
    assert found.reason == "The loss on 5 pictures is lowest there, 0.7, and 1 without it."


def test_a_loss_that_still_falls_means_that_too_little_was_learned():
    found = suggestion(measured(**{"a_0": 1.0, "a_0.5": 0.9, "a_1": 0.8, "a_1.5": 0.7}), held=True)
    assert (found.strength, found.verdict) == (1.5, "underfit")


def test_a_loss_that_rises_to_full_strength_means_too_much():
    found = suggestion(measured(**{"a_0": 1.0, "a_0.5": 0.8, "a_1": 1.2, "a_1.5": 1.9}), held=True)
    assert (found.strength, found.verdict) == (0.5, "overfit")
    assert "1.2 at full strength" in found.reason


def test_nothing_better_than_nothing():
    found = suggestion(measured(**{"a_0": 1.0, "a_0.5": 1.1, "a_1": 1.2}), held=True)
    assert (found.file, found.verdict) == (None, "nothing learned")


def test_an_earlier_file_may_be_the_best():
    losses = {"a_0": 1.0, "a_1": 0.8, "b_0": 1.0, "b_1": 0.7, "c_0": 1.0, "c_1": 0.9}
    assert suggestion(measured(**losses), held=True).file == "b"


def test_of_what_pictures_cannot_tell_apart_the_weakest():
    found = measured(**{"a_0": 1.0, "a_0.5": 0.705, "a_1": 0.7})
    jitter = np.array([0.03, -0.03, 0.03, -0.03, 0.0])
    found["a", 0.5] = Measured(tuple(np.array(found["a", 0.5].losses) + jitter))
    chosen = suggestion(found, held=True)
    assert chosen.strength == 0.5
    assert "lowest there" not in chosen.reason


def test_where_there_is_no_loss_the_looks_count():
    found = {("a", s): Measured(looks=value) for s, value in ((0.0, 5.0), (0.5, 2.0), (1.0, 3.0))}
    chosen = suggestion(found, held=False)
    assert (chosen.strength, chosen.verdict) == (0.5, "overfit")
    assert chosen.reason.startswith("The distance to the looks of the training pictures is lowest there, 2")
    assert suggestion({("a", 1.0): Measured(moved=3.0)}, held=False) is None
    assert suggestion({}, held=False) is None


def test_training_pictures_are_said_to_be_blind():
    found = suggestion(measured(**{"a_0": 1.0, "a_1": 0.7}), held=False, on="5 training pictures")
    assert "learned from" in found.reason


def test_a_heat_map_has_its_colours_and_a_frame():
    page = heat(["a", "b"], ["0", "1"], [[1.0, 2.0], [None, 3.0]], title="Loss", framed=(1, 1))
    colours = {colour for _, colour in page.getcolors(1 << 24)}
    assert {LOW, HIGH, FRAME} <= colours
    assert page.width > 200
