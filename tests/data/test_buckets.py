"""The numbers here are sd-scripts', worked out by hand from its algorithm."""

import pytest

from lora_train.data.buckets import Buckets, Fit, Resolution, choose, make_resolutions, shrink
from lora_train.errors import Mistake
from lora_train.knobs import build

TALL_512 = [
    (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576),
    (512, 512),
]  # fmt: skip


def test_the_buckets_of_512_are_the_well_known_ones():
    assert list(make_resolutions((512, 512))) == sorted({*TALL_512, *((h, w) for w, h in TALL_512)})


def test_the_buckets_of_a_small_area_stay_between_their_bounds():
    # 65536 / 128 = 512; / 192 = 341 -> 320; / 256 = 256; / 320 = 204 -> 192; / 384 = 170 -> 128; / 448 -> 128
    assert make_resolutions((256, 256), 128, 512) == (
        (128, 384), (128, 448), (128, 512), (192, 320), (256, 256), (320, 192), (384, 128), (448, 128),
        (512, 128),
    )  # fmt: skip


@pytest.mark.parametrize("area", [(512, 512), (768, 512), (640, 448), (1024, 1024)])
@pytest.mark.parametrize("step", [8, 32, 64])
def test_buckets_keep_to_the_area_and_to_the_steps(area, step):
    for width, height in make_resolutions(area, 256, 1024, step):
        assert width * height <= area[0] * area[1]
        assert width % step == height % step == 0
        assert 256 <= min(width, height) <= max(width, height) <= 1024


@pytest.mark.parametrize(
    ("size", "bucket", "resized"),
    [
        ((512, 512), (512, 512), (512, 512)),
        ((1000, 872), (576, 448), (576, 502)),  # 1.147; 576/448 is 0.139 away, 512/512 0.147
        ((640, 427), (640, 384), (640, 427)),  # 1.499; 640/384 is 0.168 away, 576/448 0.213
        ((427, 640), (384, 640), (427, 640)),  # 0.667; 384/640 is 0.067 away, 448/576 0.111
        ((5000, 100), (1024, 256), (12800, 256)),  # wider than all buckets: the sides are cut off
        ((20, 20), (512, 512), (512, 512)),  # enlarged
    ],
)
def test_a_picture_comes_to_the_bucket_of_the_nearest_aspect_ratio(size, bucket, resized):
    assert choose(size, make_resolutions((512, 512))) == Fit(bucket, resized)


def test_of_two_equally_near_buckets_the_first_is_taken():
    assert choose((100, 100), ((64, 128), (128, 64), (96, 64))) == Fit((64, 128), (128, 128))
    assert choose((100, 100), ((32, 64), (96, 64))).bucket == (32, 64)  # 0.5 is 0.5 away, and so is 1.5


def test_a_picture_of_a_buckets_own_size_is_left_alone():
    """128x64 comes before 256x128 and is of the same shape; the picture's own size wins."""
    assert choose((256, 128), ((128, 64), (256, 128))) == Fit((256, 128), (256, 128))


@pytest.mark.parametrize(
    ("size", "bucket", "resized"),
    [
        ((300, 200), (256, 192), (300, 200)),  # small enough: only cut
        # 640/427 = 1.499, 313.4x209.1 has the area. 256x128 is 0.501 away, 256x192 is 0.166: the height it is
        ((640, 427), (256, 192), (288, 192)),
        # the same upright: 209.1x313.4. 192x256 (192 / 0.667 = 287.8) is 0.083 away, 128x256 is 0.167
        ((427, 640), (192, 256), (192, 288)),
    ],
)
def test_without_enlarging_buckets_follow_the_pictures(size, bucket, resized):
    assert shrink(size, 256 * 256, 64) == Fit(bucket, resized)


@pytest.mark.parametrize("size", [(63, 500), (500, 63), (20000, 50)])
def test_without_enlarging_a_picture_below_a_step_is_refused(size):
    with pytest.raises(Mistake, match=f"{size[0]}x{size[1]} pixels, with a side below 64"):
        Buckets(enable_bucket=True, bucket_no_upscale=True).fit(size)


def test_without_buckets_all_pictures_have_one_size():
    assert Buckets(resolution=Resolution(512, 384)).fit((1000, 400)) == Fit((512, 384), (960, 384))
    assert Buckets(resolution=Resolution(600, 900)).fit((600, 900)) == Fit((600, 896), (600, 900))


def test_bounds_that_are_no_multiples_of_the_step_are_widened():
    narrow = Buckets(Resolution(256, 256), enable_bucket=True, min_bucket_reso=130, max_bucket_reso=450)
    wide = Buckets(Resolution(256, 256), enable_bucket=True, min_bucket_reso=128, max_bucket_reso=512)
    assert all(narrow.fit((width, 100)) == wide.fit((width, 100)) for width in range(10, 900, 30))


def test_the_middle_of_the_picture_is_seen():
    assert Fit((320, 192), (384, 193)).crop == (32, 0, 352, 192)
    assert Fit((320, 192), (320, 195)).crop == (0, 1, 320, 193)


@pytest.mark.parametrize(
    ("value", "resolution"),
    [
        ("512", (512, 512)), ("768,512", (768, 512)), ("768, 512", (768, 512)), ("512x768", (512, 768)),
        (512, (512, 512)), (512.0, (512, 512)), ([768, 512], (768, 512)), ("(256, 256)", (256, 256)),
    ],
)  # fmt: skip
def test_a_resolution_is_one_number_or_two(value, resolution):
    found = Resolution.parse(value)
    assert (found.width, found.height) == resolution
    assert Resolution.parse(str(found)) == found


@pytest.mark.parametrize(
    "value", ["", "many", "0", "-512", "512,", "1,2,3", "512,512,512", 512.5, True, [], "99999"]
)
def test_other_resolutions_are_refused(value):
    with pytest.raises(ValueError, match="one number or width,height"):
        Resolution.parse(value)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"bucket_reso_steps": 60}, "bucket_reso_steps = 60: expected a multiple of 8"),
        ({"resolution": "128,512"}, "min_bucket_reso = 256: expected at most the shorter side of resolution"),
        (
            {"resolution": 2048},
            "max_bucket_reso = 1024: expected at least the longer side of resolution, 2048",
        ),
        ({"resolution": 32, "bucket_no_upscale": True}, "resolution = 32: expected at least bucket_reso_s"),
    ],
)
def test_what_cannot_go_together_is_told(settings, complaint):
    with pytest.raises(Mistake) as e:
        build(Buckets, {"enable_bucket": True, **settings})
    assert any(line.startswith(complaint) for line in str(e.value).splitlines())


def test_what_does_not_count_is_not_complained_of():
    assert not list(Buckets(Resolution(1000, 1500), enable_bucket=True, bucket_no_upscale=True).check())
    assert not list(Buckets(Resolution(2048, 2048), bucket_reso_steps=60).check())
    assert not list(Buckets().check())
