"""Looks against closed forms: where a gradient's pixels come to lie, what a colour becomes."""

import colorsys
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.data import pictures, pixels
from lora_train.data.buckets import Fit
from lora_train.data.looks import CHANCE, HUE, Colour, Face, Look, LookRules
from lora_train.data.pictures import Picture

ALL = LookRules(flip_aug=True, color_aug=True, random_crop=True, rotate_aug=20)


def rng(seed=0):
    return random.Random(seed)


def ramp(width: int, height: int) -> Image.Image:
    """Red rises to the right, green downwards, one a pixel."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 128)], -1).astype(np.uint8))


def middle(size: tuple[int, int], bucket: tuple[int, int]) -> Fit:
    return Fit(bucket, size)


def test_the_flip_is_drawn_first_whatever_else_is_on():
    for seed in range(50):
        flips = {rules.draw(rng(seed)).flip for rules in (ALL, LookRules(flip_aug=True))}
        assert len(flips) == 1
        plain = rng(seed)
        assert LookRules().draw(plain) == Look()
        once = rng(seed)
        once.random()
        assert plain.random() == once.random()  # one number, also where nothing is on


def test_equal_draws_are_equal_looks():
    assert [ALL.draw(rng(s)) for s in range(20)] == [ALL.draw(rng(s)) for s in range(20)]


@pytest.mark.parametrize(
    ("rules", "fixed"),
    [
        ({}, True), ({"flip_aug": True}, True), ({"color_aug": True}, False), ({"random_crop": True}, False),
        ({"rotate_aug": 3.0}, False), ({"face_crop_aug_range": (1.0, 2.0)}, False),
    ],
)  # fmt: skip
def test_only_what_is_the_same_each_time_can_be_kept(rules, fixed):
    assert LookRules(**rules).fixed is fixed


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"transparent_color": "whitish"}, "transparent_color = whitish: expected a colour"),
        ({"face_crop_aug_range": (2.0, 1.0)}, "face_crop_aug_range = 2.0,1.0: expected two numbers"),
        ({"face_crop_aug_range": (1.0,)}, "face_crop_aug_range = 1.0: expected two numbers"),
        ({"face_crop_aug_range": (1.0, 2.0), "rotate_aug": 5.0}, "rotate_aug: expected none beside"),
    ],
)
def test_what_cannot_be_is_told(values, text):
    (complaint,) = LookRules(**values).check()
    assert complaint.startswith(text)


def test_crops_cover_the_whole_range_and_no_more():
    image, fit = ramp(96, 64), middle((96, 64), (64, 64))
    rules = LookRules(random_crop=True)
    lefts = [int(pixels.shown(image, fit, rules.draw(rng(s)))[0, 0, 0]) for s in range(2000)]
    assert (min(lefts), max(lefts)) == (0, 32)
    assert np.bincount(lefts).min() > 2000 / 33 / 3
    assert {int(pixels.shown(image, fit, rules.draw(rng(s)))[0, 0, 1]) for s in range(20)} == {0}
    assert pixels.shown(image, fit, Look())[0, 0, 0] == 16


@pytest.mark.parametrize("angle", [-90, -30, -7.5, 12, 45, 90, 180])
@pytest.mark.parametrize("bucket", [(64, 64), (32, 64)])
def test_a_turned_picture_is_the_gradient_turned_with_its_corners_inside(angle, bucket):
    image = ramp(200, 160)
    seen = pixels.shown(image, middle((200, 160), bucket), Look(angle=angle)).astype(float)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    wide, high = bucket[0] * abs(cos) + bucket[1] * abs(sin), bucket[0] * abs(sin) + bucket[1] * abs(cos)
    s = min(200 / wide, 160 / high)
    y, x = np.mgrid[: bucket[1], : bucket[0]] + 0.5
    x, y = x - bucket[0] / 2, y - bucket[1] / 2
    red, green = 100 + s * (x * cos - y * sin) - 0.5, 80 + s * (x * sin + y * cos) - 0.5
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(seen[..., 0] - red)[inner].max() < 2.5
    assert np.abs(seen[..., 1] - green)[inner].max() < 2.5
    assert np.abs(seen[..., 2] - 128).max() <= 1  # no corner is empty
    corners = np.abs(np.array([[red[0, 0], green[0, 0]], [red[0, -1], green[0, -1]]]) - [99.5, 79.5])
    assert (corners.max(0) / [100, 80]).max() > 0.95  # and no larger crop fits


def test_angles_are_drawn_to_both_sides_up_to_the_largest():
    angles = [LookRules(rotate_aug=20).draw(rng(s)).angle for s in range(1000)]
    assert -20 <= min(angles) < -19 < 19 < max(angles) <= 20
    assert abs(sum(angles) / 1000) < 1.5


def test_each_colour_changes_in_a_third_of_the_showings():
    looks = [LookRules(color_aug=True).draw(rng(s)).colour for s in range(3000)]
    for name in ("hue", "saturation", "brightness", "gamma"):
        changed = sum(getattr(c, name) != getattr(Colour(), name) for c in looks)
        assert abs(changed / 3000 - CHANCE) < 0.04
    assert HUE - 1 < max(c.hue for c in looks) <= HUE


def test_hues_go_round_the_wheel():
    for before in ((255, 0, 0), (0, 200, 40), (30, 60, 220)):
        seen = pixels.coloured(np.full((2, 2, 3), before, np.uint8), Colour(hue=90))[0, 0] / 255
        h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in before))
        assert seen == pytest.approx(colorsys.hsv_to_rgb((h + 0.25) % 1, s, v), abs=0.03)


def test_saturation_brightness_and_gamma_are_what_they_say():
    grey = np.full((1, 1, 3), 100, np.uint8)
    assert pixels.coloured(grey, Colour(brightness=1.2))[0, 0].tolist() == [120] * 3
    assert pixels.coloured(grey, Colour(gamma=0.5))[0, 0, 0] == round(255 * (100 / 255) ** 0.5)
    assert pixels.coloured(grey, Colour(saturation=0.5))[0, 0].tolist() == [100] * 3
    red = pixels.coloured(np.full((1, 1, 3), (200, 100, 100), np.uint8), Colour(saturation=0.5))[0, 0]
    assert red == pytest.approx([200, 150, 150], abs=2)


def around(fit, span, scale=0.0, shift=(0.0, 0.0), free=False, at=(300, 120, 40, 60), size=(400, 400)):
    """Left, top and width of the crop in the picture, read off a gradient."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    image = Image.fromarray(np.stack([x * 255 // size[0], y * 255 // size[1], x * 0], -1).astype(np.uint8))
    face = Face(span, scale, shift, free)
    seen = pixels.shown(image, fit, Look(face=face), "bilinear", at).astype(float)
    left, right = (seen[5:-5, column, 0].mean() * size[0] / 255 for column in (0, -1))
    return left, seen[0, 5:-5, 1].mean() * size[1] / 255, right - left


def test_a_face_comes_to_the_middle_at_the_size_that_was_drawn():
    fit = middle((128, 128), (128, 128))
    for span, wanted in (((3.0, 3.0), 180), ((4.0, 4.0), 240)):
        left, top, width = around(fit, span)
        assert width == pytest.approx(wanted, rel=0.03)
        assert left == pytest.approx(min(300 - wanted / 2, 400 - wanted), abs=5)
        assert top == pytest.approx(max(0, 120 - wanted / 2), abs=5)


def test_a_face_is_not_enlarged_and_the_picture_covers_the_bucket():
    fit = middle((128, 128), (128, 128))
    assert around(fit, (0.5, 0.5))[2] == pytest.approx(128, rel=0.03)  # 30 pixels would be enlarged
    assert around(fit, (50.0, 50.0))[2] == pytest.approx(400, rel=0.03)  # all there is
    near, far = (around(fit, (3.0, 6.0), scale=s)[2] for s in (1.0, 0.0))
    assert (near, far) == (pytest.approx(180, rel=0.03), pytest.approx(360, rel=0.03))


def test_a_free_crop_around_a_face_goes_as_far_as_the_picture():
    fit = middle((128, 128), (128, 128))
    ends = [around(fit, (3.0, 3.0), shift=(s, s), free=True)[:2] for s in (-1.0, 1.0)]
    assert ends[0] == pytest.approx((0, 0), abs=4)
    assert ends[1] == pytest.approx((220, 220), abs=6)


@pytest.mark.parametrize(
    ("name", "face"),
    [
        ("a_320_200_96_128.png", (320, 200, 96, 128)), ("my_photo_1_2_3_4.jpg", (1, 2, 3, 4)),
        ("a.png", None), ("1_2_3_4.png", None), ("a_1_2_0_4.png", None), ("a_b_2_3_4.png", None),
    ],
)  # fmt: skip
def test_a_files_name_says_where_a_face_is(tmp_path, name, face):
    assert pictures.face(tmp_path / name) == face


@pytest.mark.parametrize(
    "how", ["lanczos", "nearest", "bilinear", "linear", "bicubic", "cubic", "box", "area"]
)
def test_pictures_are_resized_as_asked(how):
    image = Image.effect_noise((90, 90), 80).convert("RGB")
    names = {"linear": "bilinear", "cubic": "bicubic", "area": None}
    seen = pixels.resized(image, (60, 60), how)
    if how == "area":
        assert np.array_equal(seen, pixels.resized(image, (60, 60)))
    else:
        filter = Image.Resampling[names.get(how, how).upper()]
        assert np.array_equal(seen, np.asarray(image.resize((60, 60), filter)))


def test_looks_act_on_a_file(tmp_path):
    path = tmp_path / "a.png"
    ramp(96, 64).save(path)
    picture = Picture(path, "a", (96, 64), middle((96, 64), (64, 64)))
    plain = pictures.load(picture)
    assert torch.equal(pictures.load(picture, Look(flip=True)), plain.flip(-1))
    assert torch.equal(pictures.load(picture, Look(crop=(0.5, 0.5))), plain)
    assert not torch.equal(pictures.load(picture, Look(colour=Colour(gamma=1.05))), plain)
