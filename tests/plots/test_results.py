"""What is said of pictures and numbers: distances, looks, the suggestion, the heat map."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from lora_train.plots.differ import Likeness, changed, looks, moved
from lora_train.plots.heat import FRAME, HIGH, LOW, heat
from lora_train.plots.suggestion import Choice, Measured


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


SPREAD = np.array([-0.2, -0.1, 0.0, 0.1, 0.2])  # of pictures, at all places alike


def choice(*, held=True, on="5 pictures", **losses: float) -> Choice:
    """Of {"a_0.5": loss}, or (loss, looks); a loss and looks of 1 and 4 without a LoRA."""
    found = {}
    for name, value in losses.items():
        loss, looks = value if isinstance(value, tuple) else (value, None)
        file, _, strength = name.rpartition("_")
        found[file, float(strength)] = Measured(tuple(loss + SPREAD), looks)
    return Choice(found, Measured(tuple(1.0 + SPREAD), 4.0), held, on)


def test_the_lowest_loss_is_suggested():
    found = choice(**{"a_0": 1.0, "a_0.5": 0.8, "a_1": 0.7, "a_1.5": 0.75}).suggestion()
    assert (found.file, found.strength, found.verdict) == ("a", 1.0, "good")
    assert found.said() == ("Suggested: a at 1. Loss on 5 pictures 0.7, the best there is; without it 1.")


def test_scores_are_means_of_shares():
    found = choice(**{"a_0": (1.0, 4.0), "a_1": (0.5, 3.0)})
    assert found.scores() == {("a", 0.0): pytest.approx(1), ("a", 1.0): pytest.approx((0.5 + 0.75) / 2)}
    assert choice(**{"a_1": 0.5}).scores()["a", 1.0] == pytest.approx(0.5)


def test_what_still_gets_better_means_that_too_little_was_learned():
    found = choice(**{"a_0": 1.0, "a_0.5": 0.9, "a_1": 0.8, "a_1.5": 0.7}).suggestion()
    assert (found.strength, found.verdict) == (1.5, "underfit")
    assert choice(**{"a_0": 1.0, "a_0.5": 0.9, "a_1": 0.8}).suggestion().verdict == "good"


def test_what_is_best_at_half_strength_is_too_much():
    found = choice(**{"a_0": 1.0, "a_0.5": 0.8, "a_1": 1.2, "a_1.5": 1.9}).suggestion()
    assert (found.strength, found.verdict) == (0.5, "overfit")
    assert "; without it 1; at full strength 1.2. It has learned too much" in found.reason
    assert choice(**{"a_0": 1.0, "a_0.8": 0.8, "a_1": 0.9}).suggestion().verdict == "good"


def test_pictures_that_fall_apart_count_where_the_loss_is_blind():
    losses = {"a_0": (1.0, 4.0), "a_0.5": (0.7, 3.5), "a_1": (0.6, 7.0)}
    assert choice(**losses).suggestion().strength == 0.5
    assert choice(**{name: loss for name, (loss, _) in losses.items()}).suggestion().strength == 1.0


def test_nothing_better_than_nothing():
    found = choice(**{"a_0": 1.0, "a_0.5": 1.1, "a_1": 1.2}).suggestion()
    assert (found.file, found.verdict) == (None, "nothing learned")
    assert choice(**{"a_0.5": 1.1, "a_1": 1.2}).suggestion().file is None


def test_an_earlier_file_may_be_the_best():
    losses = {"a_0": 1.0, "a_1": 0.8, "b_0": 1.0, "b_1": 0.7, "c_0": 1.0, "c_1": 0.9}
    assert choice(**losses).suggestion().file == "b"


def test_of_what_pictures_cannot_tell_apart_the_weakest():
    plain = choice(**{"a_0": 1.0, "a_0.5": 0.705, "a_1": 0.7})
    assert plain.suggestion().strength == 1.0
    jitter = np.array([0.03, -0.03, 0.03, -0.03, 0.0])
    noisy = Measured(tuple(np.array(plain.found["a", 0.5].losses) + jitter))
    assert dataclasses.replace(plain, found={**plain.found, ("a", 0.5): noisy}).suggestion().strength == 0.5


def test_where_there_is_no_loss_the_looks_count():
    found = {("a", s): Measured(looks=value) for s, value in ((0.0, 4.0), (0.5, 2.0), (1.0, 4.5))}
    chosen = Choice(found, Measured(looks=4.0), held=False).suggestion()
    assert (chosen.strength, chosen.verdict) == (0.5, "overfit")
    said = "Distance to the training pictures' looks 2, the best there is; without it 4; at full strength 4.5"
    assert chosen.reason.startswith(said)
    assert Choice({("a", 1.0): Measured(moved=3.0)}, Measured(), held=False).suggestion() is None
    assert Choice({}, Measured(), held=False).suggestion() is None


def test_training_pictures_are_said_to_be_blind():
    assert "learned from" in choice(held=False, **{"a_0": 1.0, "a_1": 0.7}).suggestion().reason


def test_a_heat_map_has_its_colours_and_a_frame():
    page = heat(["a", "b"], ["0", "1"], [[1.0, 2.0], [None, 3.0]], title="Loss", framed=(1, 1))
    colours = {colour for _, colour in page.getcolors(1 << 24)}
    assert {LOW, HIGH, FRAME} <= colours
    assert page.width > 200


def test_the_suggestion_has_the_facts_behind_its_sentence():
    over = choice(**{"a_0.5": (0.8, 3.0), "a_1": (0.95, 3.9)}).suggestion()
    assert over.verdict == "overfit"
    assert over.numbers == {
        "loss": {"here": pytest.approx(0.8), "full": pytest.approx(0.95), "bare": pytest.approx(1)},
        "looks": {"here": 3.0, "full": 3.9, "bare": 4},
    }
    assert (over.of, over.held) == ("5 pictures", True)
    assert not choice(held=False, **{"a_1": 0.8}).suggestion().held
    for found in (over, choice(**{"a_1": 1.2}).suggestion()):
        for at in found.numbers.values():
            assert all(f"{value:.3g}"[:3] in found.reason for value in at.values())
