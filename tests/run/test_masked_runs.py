"""Whole runs with masks."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_train.errors import Mistake


def paint(folder, value) -> None:
    """Masks for the pictures of `trained`: white, black, or the left half."""
    folder.mkdir()
    for name in "abc":
        mask = Image.new("L", (64, 64), 255 if value != "black" else 0)
        if value == "half":
            mask.paste(0, (32, 0, 64, 64))
        mask.save(folder / f"{name}.png")


def run(trained, tmp_path, name, value=None, **options):
    if value is not None:
        paint(tmp_path / value, value)
        options |= {"data__conditioning_data_dir": tmp_path / value, "objective__masked_loss": True}
    return trained(name, **options)


def weights(outcome):
    return load_file(outcome.file)


def same(a, b) -> bool:
    one, two = weights(a), weights(b)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    "options",
    [{}, {"place__cache_latents": False}, {"objective__normalize_masked_area_loss": True},
     {"data__flip_aug": True, "objective__masked_prior_preservation_weight": 1.0}],
)  # fmt: skip
def test_a_mask_that_is_white_everywhere_changes_no_bit(trained, tmp_path, options):
    plain = {k: v for k, v in options.items() if "mask" not in k}
    assert same(run(trained, tmp_path, "a", **plain), run(trained, tmp_path, "b", "white", **options))


def test_a_mask_acts_and_one_that_is_black_leaves_nothing_to_learn(trained, tmp_path):
    plain, half, black = (run(trained, tmp_path, str(i), v) for i, v in enumerate((None, "half", "black")))
    assert not same(plain, half)
    lines = (tmp_path / "2" / "x-run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["loss"] for line in lines} == {0.0}
    assert all(not v.any() for k, v in weights(black).items() if k.endswith("lora_up.weight"))


@pytest.mark.parametrize(
    "values",
    [{"objective__unmasked_weight": 0.5}, {"objective__unmasked_probability": 0.5},
     {"objective__normalize_masked_area_loss": True}, {"objective__masked_prior_preservation_weight": 1.0}],
)  # fmt: skip
def test_an_option_of_masks_acts(trained, tmp_path, values):
    paint(tmp_path / "m", "half")
    masked = {"data__conditioning_data_dir": tmp_path / "m", "objective__masked_loss": True}
    assert not same(trained("a", **masked), trained("b", **masked, **values))


def test_a_masked_run_that_is_resumed_is_the_run_that_never_stopped(trained, tmp_path):
    paint(tmp_path / "m", "half")
    masked = {
        "data__conditioning_data_dir": tmp_path / "m", "objective__masked_loss": True,
        "objective__unmasked_probability": 0.4, "objective__masked_prior_preservation_weight": 0.5,
        "data__flip_aug": True, "place__cache_latents_to_disk": True,
    }  # fmt: skip
    whole = trained("a", **masked)
    stopped = trained("b", stop=4, **masked)
    assert same(whole, trained("c", place__resume=stopped.state, **masked))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"objective__masked_loss": True}, "objective.masked_loss: expected the folder of masks in"),
        ({"data__mask_suffix": "-m"}, "data.conditioning_data_dir, data.mask_suffix: these masks are used"),
    ],
)
def test_masks_that_cannot_act_are_refused(trained, values, text):
    with pytest.raises(Mistake, match="masks") as caught:
        trained("a", **values)
    assert str(caught.value).startswith(text)


def test_opacity_masks_by_itself(trained, pictures):
    plain = trained("a", data__alpha_mask=True)
    assert same(plain, trained("b"))  # they have none
    for path in (pictures / "2_things").glob("*.png"):
        with Image.open(path) as image:
            clear = image.convert("RGBA")
        clear.putalpha(Image.linear_gradient("L").resize(clear.size))
        clear.save(path)
    assert not same(plain, trained("c", data__alpha_mask=True))
    assert not same(trained("c", data__alpha_mask=True), trained("d"))
