import contextlib
import pathlib
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from lora_train.data import pictures
from lora_train.data.buckets import Fit
from lora_train.data.pictures import Picture
from lora_train.errors import Mistake

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def corners() -> Image.Image:
    """6 x 4: red top left, green top right, blue bottom left, white bottom right."""
    image = Image.new("RGB", (6, 4))
    for x, y, colour in ((0, 0, RED), (3, 0, GREEN), (0, 2, BLUE), (3, 2, WHITE)):
        image.paste(colour, (x, y, x + 3, y + 2))
    return image


def noise(width=97, height=61) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def picture(path: pathlib.Path, bucket, resized=None) -> Picture:
    return Picture(path, path.name, pictures.size(path), Fit(bucket, resized or bucket))


def shown(path: pathlib.Path) -> np.ndarray:
    """[H, W, 3] in 0..255, at the picture's own size."""
    pixels = pictures.load(picture(path, pictures.size(path)))
    return ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("ending", ["png", "bmp", "webp"])
def test_pixels_are_from_minus_one_to_one(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    corners().save(path, **({"lossless": True} if ending == "webp" else {}))
    pixels = pictures.load(picture(path, (6, 4)))
    assert pixels.shape == (3, 4, 6)
    assert pixels.dtype == torch.float32
    assert pixels[:, 0, 0].tolist() == [1, -1, -1]
    assert pixels[:, 3, 5].tolist() == [1, 1, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_camera_held_in_any_way_gives_an_upright_picture(tmp_path, orientation, ending):
    """The stored pixels are made by hand so that the upright picture is always `corners`."""
    upright = np.asarray(corners().resize((48, 32), Image.Resampling.NEAREST))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=100)

    assert pictures.size(path) == (48, 32)
    found = shown(path)
    for y, x in ((4, 4), (4, 44), (28, 4), (28, 44)):  # jpeg is not exact
        assert np.abs(found[y, x].astype(int) - upright[y, x]).max() < 12, (x, y)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_exif_data_that_cannot_be_read_turn_nothing(tmp_path):
    path = tmp_path / "a.jpg"
    noise().save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert pictures.size(path) == (97, 61)
    assert shown(path).shape == (61, 97, 3)


def test_what_is_transparent_is_white_whatever_colour_it_hides(tmp_path):
    rgba = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    rgba.paste((0, 0, 255, 255), (4, 0, 8, 8))
    rgba.putpixel((4, 0), (0, 0, 0, 128))
    rgba.save(tmp_path / "rgba.png")
    found = shown(tmp_path / "rgba.png")
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[7, 7].tolist() == [0, 0, 255]
    assert found[0, 4].tolist() == [127, 127, 127]


@pytest.mark.parametrize("kind", ["LA", "P with one clear colour", "P with many", "RGB with one", "webp"])
def test_other_kinds_of_transparency_are_white_too(tmp_path, kind):
    path = tmp_path / ("a.webp" if kind == "webp" else "a.png")
    if kind == "LA":
        Image.new("LA", (8, 8), (0, 0)).save(path)
    elif kind == "webp":
        Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(path, lossless=True, exact=True)
    elif kind.startswith("RGB"):
        Image.new("RGB", (8, 8), RED).save(path, transparency=RED)
    else:
        image = Image.new("P", (8, 8), 1)
        image.putpalette([*BLACK, *RED])
        image.save(path, transparency=1 if "one" in kind else bytes([255, 0]))
    assert (shown(path) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_come_out_in_colours(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (16, 16), WHITE).convert(mode).save(path)
    assert (shown(path) == 255).all()


def test_sixteen_bits_of_grey_are_not_cut_off(tmp_path):
    grey = np.full((8, 8), 128 * 257, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert (shown(tmp_path / "a.png") == 128).all()


def test_making_smaller_is_the_mean_over_areas(tmp_path):
    """3 pixels to 2: the middle one counts half on either side."""
    path = tmp_path / "a.png"
    Image.fromarray(np.array([[[0] * 3, [90] * 3, [240] * 3]] * 2, np.uint8)).save(path)
    pixels = pictures.load(picture(path, (2, 2)))
    assert ((pixels[0, 0] + 1) * 127.5).round().tolist() == [30, 190]


@pytest.mark.parametrize("size", [(97, 61), (96, 60), (50, 61), (32, 20), (7, 5), (1, 1)])
def test_the_mean_over_areas_is_that_of_a_finer_grid(tmp_path, size):
    """Independent: every pixel repeated until the areas are whole pixels, then plain means."""
    path = tmp_path / "a.png"
    noise().save(path)
    fine = np.asarray(noise()).astype(np.float64)
    for axis, length in ((0, size[1]), (1, size[0])):
        fine = np.repeat(fine, length, axis)
        fine = np.stack([part.mean(axis) for part in np.split(fine, length, axis)], axis)
    found = ((pictures.load(picture(path, size)) + 1) * 127.5).permute(1, 2, 0).numpy()
    assert np.abs(found - fine).max() <= 0.501


def test_making_larger_is_lanczos(tmp_path):
    path = tmp_path / "a.png"
    noise().save(path)
    found = ((pictures.load(picture(path, (128, 64))) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.asarray(noise().resize((128, 64), Image.Resampling.LANCZOS)))


def test_the_crop_is_the_middle(tmp_path):
    path = tmp_path / "a.png"
    columns = np.tile(np.arange(100, dtype=np.uint8), (20, 1))
    Image.fromarray(columns).save(path)
    pixels = pictures.load(picture(path, (40, 16), (100, 20)))
    assert pixels.shape == (3, 16, 40)
    assert ((pixels[0, 0] + 1) * 127.5).round().int().tolist() == list(range(30, 70))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_picture_that_is_cut_off_is_found(tmp_path, ending, share):
    whole, cut = tmp_path / f"whole.{ending}", tmp_path / f"cut.{ending}"
    noise().save(whole)
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    pictures.verify(whole)
    with pytest.raises(Mistake, match="cut.*(damaged|not a picture).*replace it or take it out"):
        pictures.verify(cut)


def test_a_host_that_fills_cut_pictures_with_grey_does_not_hide_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = tmp_path / "a.png"
    noise().save(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(Mistake, match="damaged or cut off"):
        pictures.verify(path)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # left as it was


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"hello, this is no picture", "not a picture, or damaged"),
        (None, "no such file"),
    ],
)
def test_what_is_no_picture_is_told_apart(tmp_path, content, reason):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    for look in (pictures.size, pictures.verify):
        with pytest.raises(Mistake, match=f"a.png: {reason}"):
            look(path)


def test_a_picture_too_large_for_pillow_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    noise().save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Mistake, match="more than 2000 pixels"):
        pictures.size(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp"])
def test_damage_anywhere_is_a_mistake_or_nothing(tmp_path, ending):
    """Whatever Pillow raises on garbage, no other error comes out."""
    path = tmp_path / f"a.{ending}"
    noise(16, 16).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 3):
            damaged[at] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(Mistake):
            width, height = pictures.size(path)
            if width * height < 10_000:
                pictures.load(Picture(path, path.name, (width, height), Fit((8, 8), (8, 8))))


def test_complaints_beyond_ten_are_counted():
    pictures.complain([])
    with pytest.raises(Mistake) as e:
        pictures.complain([f"c{i}" for i in range(12)])
    assert str(e.value).splitlines() == [*(f"c{i}" for i in range(10)), "... and 2 more"]


def test_transparency_is_laid_on_the_colour_that_is_asked(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(path)
    seen = pictures.load(Picture(path, "a", (64, 64), Fit((64, 64), (64, 64)), background=(32, 64, 96)))
    assert ((seen[:, 0, 0] + 1) * 127.5).round().tolist() == [32, 64, 96]


def test_of_an_animation_the_first_frame_is_taken_and_the_frames_are_counted(tmp_path):
    red, blue = (Image.new("RGB", (64, 64), c) for c in ("#ff0000", "#0000ff"))
    for ending, how in (("gif", {}), ("webp", {"lossless": True}), ("png", {})):
        path = tmp_path / f"a.{ending}"
        red.save(path, save_all=True, append_images=[blue, red], **how)
        assert pictures.frames(path) == 3
        assert np.asarray(pictures.upright(path))[5, 5].tolist() == [255, 0, 0]
    red.save(tmp_path / "b.jpg")
    assert pictures.frames(tmp_path / "b.jpg") == 1


def test_sixteen_bits_a_channel_and_floats_keep_their_range(tmp_path):
    Image.fromarray(np.linspace(0, 3, 64 * 64, dtype=np.float32).reshape(64, 64)).save(tmp_path / "f.tif")
    seen = np.asarray(pictures.upright(tmp_path / "f.tif"))[..., 0]
    assert (seen.min(), seen.max()) == (0, 255)
    wide = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # a PNG of 2 x 1 pixels, 16 bits a channel
    rows = zlib.compress(b"\0" + struct.pack(">6H", 0, 32768, 65535, 257, 514, 771))
    chunks = [(b"IHDR", wide), (b"IDAT", rows), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "w.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert np.asarray(pictures.upright(tmp_path / "w.png"))[0].tolist() == [[0, 128, 255], [1, 2, 3]]


def test_avif_is_read_where_pillow_has_it_and_else_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "a.avif"
    if ".avif" in Image.registered_extensions():
        Image.new("RGB", (64, 64), "#4080c0").save(path, quality=100)
        assert np.asarray(pictures.upright(path))[9, 9].tolist() == pytest.approx([64, 128, 192], abs=4)
    path.write_bytes(b"of some kind")
    monkeypatch.setattr(Image, "registered_extensions", dict)
    monkeypatch.setitem(sys.modules, "pillow_avif", None)
    with pytest.raises(Mistake, match=r"a\.avif: this Pillow cannot read.*install pillow-avif-plugin"):
        pictures.size(path)
