"""Pictures are converted as it is said; what need not change stays byte for byte, and all can be undone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.workshop import image as images
from lora_train.workshop.convert import Convert
from lora_train.workshop.journal import Journal
from lora_train.workshop.stripped import stripped
from tests.workshop.folders import content

NOISE = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
SMOOTH = np.stack([np.add.outer(np.arange(96) * 2, np.arange(160))] * 3, -1).astype(np.uint8)
MODES = {
    "RGB": Image.fromarray(NOISE[..., :3].copy()), "RGBA": Image.fromarray(NOISE),
    "L": Image.fromarray(NOISE[..., 0].copy()), "LA": Image.fromarray(NOISE).convert("LA"),
    "P": Image.fromarray(NOISE[..., :3].copy()).quantize(16),
    "1": Image.fromarray(NOISE[..., 0].copy()).convert("1"),
    "I;16": Image.fromarray(NOISE[..., 0].astype(np.uint16) * 257),
}  # fmt: skip


def run(folder, **values):
    return build(Convert, {"folder": folder, **values}).run().facts


def exif(orientation=None):
    found = Image.Exif()
    found[0x010F] = "Maker"
    if orientation:
        found[0x0112] = orientation
    return found.tobytes()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ending", [".png", ".webp", ".gif", ".tif", ".bmp"])
def test_what_is_read_is_written_again_without_loss(folder, mode, ending):
    path = folder / f"a{ending}"
    try:
        MODES[mode].save(path, **({"lossless": True, "exact": True} if ending == ".webp" else {}))
    except OSError:
        pytest.skip("no such files")
    shot = images.read(path)
    again = Image.open(io.BytesIO(images.written(shot, shot.image)))
    for way in ("RGBA",) if mode != "I;16" else (again.mode,):
        assert np.array_equal(np.asarray(again.convert(way)), np.asarray(Image.open(path).convert(way)))
    assert shot.lossless


@pytest.mark.parametrize("orientation", range(2, 9))
def test_turned_pictures_become_upright_and_keep_what_they_say(folder, orientation):
    Image.fromarray(SMOOTH).save(folder / "a.png", exif=exif(orientation), icc_profile=srgb())
    from PIL import ImageOps

    truth = np.asarray(ImageOps.exif_transpose(Image.open(folder / "a.png")))
    assert run(folder, upright=True)["changed"] == 1
    with Image.open(folder / "a.png") as found:
        assert np.array_equal(np.asarray(found), truth)
        assert found.getexif().get(0x0112) is None
        assert found.getexif()[0x010F] == "Maker"
        assert found.info["icc_profile"] == srgb()
    assert run(folder, upright=True)["changed"] == 0


def test_a_lossy_webp_is_told_from_one_without_loss(folder):
    Image.fromarray(NOISE).save(folder / "a.webp", lossless=True, exact=True, exif=exif())
    Image.fromarray(NOISE).save(folder / "b.webp", quality=50, exif=exif())
    assert images.read(folder / "a.webp").lossless
    assert not images.read(folder / "b.webp").lossless


@pytest.mark.parametrize(
    ("name", "extra"),
    [("a.jpg", {"quality": 80}), ("b.jpg", {"quality": 80, "progressive": True}), ("c.png", {}),
     ("d.webp", {"quality": 80}), ("e.webp", {"lossless": True})],
)  # fmt: skip
def test_stripping_leaves_the_pixels_as_they_are_encoded(folder, name, extra):
    words = PngImagePlugin.PngInfo()
    words.add_text("parameters", "a secret prompt")
    words.add_itxt("note", "秘密")
    extra = {**extra, **({"pnginfo": words} if name.endswith("png") else {})}
    extra |= {"comment": b"a secret comment"} if name.endswith("jpg") else {}
    path = folder / name
    Image.fromarray(SMOOTH).save(path, exif=exif(), icc_profile=srgb(), **extra)
    if name == "b.jpg":  # what phones put behind the picture
        path.write_bytes(path.read_bytes() + b"\xff\xd8 a secret film")
    before, pixels = content(folder), np.asarray(Image.open(path))
    assert run(folder, strip=True)["changed"] == 1
    with Image.open(path) as found:
        assert np.array_equal(np.asarray(found), pixels)
        assert found.info["icc_profile"] == srgb()
        assert not len(found.getexif())
    assert b"secret" not in path.read_bytes()
    assert b"Maker" not in path.read_bytes()
    assert run(folder, strip=True)["changed"] == 0
    Journal(folder).undo()
    assert content(folder) == before


def test_damaged_files_are_not_taken_for_stripped():
    file = io.BytesIO()
    Image.fromarray(SMOOTH).save(file, "JPEG", exif=exif())
    assert stripped(file.getvalue()[:30]) is None
    assert stripped(b"nothing at all") is None


def test_stripping_a_turned_picture_turns_its_pixels(folder):
    Image.fromarray(SMOOTH).save(folder / "a.jpg", exif=exif(6), quality=95)
    run(folder, strip=True)
    with Image.open(folder / "a.jpg") as found:
        assert found.size == (96, 160)
        assert not len(found.getexif())
        assert np.abs(np.asarray(found).astype(int) - np.rot90(SMOOTH, -1)).max() < 12


def test_another_kind_of_file_keeps_profile_caption_and_what_it_says(folder):
    Image.fromarray(SMOOTH).save(folder / "a.png", exif=exif(), icc_profile=srgb())
    (folder / "a.txt").write_text("a cat")
    before = content(folder)
    facts = run(folder, format="jpg", quality=90)
    assert facts["touched"][0]["what"] == "PNG to JPEG"
    assert sorted(content(folder)) == ["a.jpg", "a.txt"]
    with Image.open(folder / "a.jpg") as found:
        assert found.format == "JPEG"
        assert found.getexif()[0x010F] == "Maker"
        assert found.info["icc_profile"] == srgb()
        assert found.layer[1][1:3] == (1, 1)  # colours in full resolution
    Journal(folder).undo()
    assert content(folder) == before
    Journal(folder).redo()
    assert sorted(content(folder)) == ["a.jpg", "a.txt"]


def test_webp_without_loss_is_one(folder):
    Image.fromarray(NOISE).save(folder / "a.png")
    run(folder, format="webp", lossless=True)
    assert np.array_equal(np.asarray(Image.open(folder / "a.webp")), NOISE)


def test_a_name_that_is_taken_is_left_alone(folder):
    for name in ("a.png", "a.jpg", "b.png", "b.bmp"):
        Image.fromarray(SMOOTH).save(folder / name)
    facts = run(folder, format="jpg")
    assert [t["name"] for t in facts["touched"]] == ["b.bmp"]
    assert {t["name"]: t["what"].split(";")[0] for t in facts["left"]} == {
        "a.png": "a.jpg is there already",
        "b.png": "another picture's file gets the name b.jpg, too"}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "size"),
    [({"longest": 80}, (80, 48)), ({"shortest": 48}, (80, 48)), ({"longest": 320}, (160, 96)),
     ({"longest": 320, "enlarge": True}, (320, 192)), ({"shortest": 97, "enlarge": True}, (162, 97)),
     ({"max_resolution": "80x48"}, (80, 48)), ({"max_resolution": "512"}, (160, 96))],
)  # fmt: skip
def test_sizes_are_kept_to_and_masks_follow(folder, values, size):
    Image.fromarray(SMOOTH).save(folder / "a.png")
    mask = Image.new("L", (160, 96))
    mask.paste(255, (0, 0, 80, 96))
    mask.save(folder / "a-masklabel.png")
    (folder / "a_0512x0768_sd.npz").write_bytes(b"what a was")
    (folder / "masks").mkdir()
    mask.save(folder / "masks" / "a.png")
    before, changed = content(folder), size != (160, 96)
    facts = run(folder, conditioning_data_dir="masks", **values)
    assert facts["changed"] == changed
    for path in (folder / "a.png", folder / "a-masklabel.png", folder / "masks" / "a.png"):
        assert Image.open(path).size == size
    assert (folder / "a_0512x0768_sd.npz").exists() != changed
    half = np.asarray(Image.open(folder / "masks" / "a.png"))
    assert abs(half.mean() - 127.5) < 2
    if changed:
        Journal(folder).undo()
    assert content(folder) == before


def test_a_mask_of_another_size_keeps_the_picture_as_it_is(folder):
    Image.fromarray(SMOOTH).save(folder / "a.png")
    Image.new("L", (8, 8)).save(folder / "a-masklabel.png")
    before = content(folder)
    facts = run(folder, longest=80)
    assert facts["changed"] == 0
    assert "save it at the picture's size" in facts["left"][0]["what"]
    assert content(folder) == before


def test_rgb_is_three_channels_in_the_colours_of_a_screen(folder):
    for mode, picture in MODES.items():
        picture.save(folder / f"{mode.replace(';', '')}.png")
    MODES["RGB"].convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    MODES["RGB"].save(folder / "moving.gif", save_all=True, append_images=[MODES["L"].convert("RGB")])
    plain = (folder / "RGB.png").read_bytes()
    facts = run(folder, rgb=True)
    assert facts["changed"] == len(MODES) + 2 - 1
    for path in (p for p in folder.iterdir() if p.is_file()):
        with Image.open(path) as found:
            assert found.mode in ("RGB", "P" if path.suffix == ".gif" else "RGB"), path
            assert getattr(found, "n_frames", 1) == 1
    assert (folder / "RGB.png").read_bytes() == plain
    ground = Image.new("RGBA", (40, 24), (255, 255, 255, 255))
    laid = Image.alpha_composite(ground, MODES["RGBA"]).convert("RGB")
    assert np.array_equal(np.asarray(Image.open(folder / "RGBA.png")), np.asarray(laid))
    assert abs(int(np.asarray(Image.open(folder / "I16.png"))[0, 0, 0]) - int(NOISE[0, 0, 0])) <= 1


def test_profiles_are_worked_into_the_pixels(folder):
    wide = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()  # of another space: not used
    Image.fromarray(SMOOTH).save(folder / "a.png", icc_profile=wide)
    Image.fromarray(SMOOTH).save(folder / "b.png", icc_profile=srgb())
    facts = run(folder, rgb=True)
    assert [t["name"] for t in facts["touched"]] == ["a.png"]
    assert "icc_profile" not in Image.open(folder / "a.png").info


def test_pictures_are_laid_on_a_colour(folder):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(folder / "a.png")
    run(folder, background="#102030")
    assert Image.open(folder / "a.png").getpixel((0, 0)) == (0x10, 0x20, 0x30)


@pytest.mark.parametrize(
    ("values", "word"),
    [({}, "expected what to do"), ({"longest": 4, "shortest": 4}, "beside longest"),
     ({"enlarge": True, "strip": True}, "longest, shortest"), ({"background": "ish"}, "expected a colour"),
     ({"lossless": True, "format": "png"}, "format = webp")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(folder, values, word):
    with pytest.raises(Mistake, match=word):
        run(folder, **values)


def test_a_damaged_picture_does_not_keep_the_others(folder):
    Image.fromarray(SMOOTH).save(folder / "a.png")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:300])
    facts = run(folder, longest=40)
    assert (facts["changed"], [t["name"] for t in facts["left"]]) == (1, ["b.png"])


def test_a_dry_run_says_it_and_writes_nothing(folder, capsys):
    Image.fromarray(SMOOTH).save(folder / "a.png")
    before = content(folder)
    assert command(["convert", str(folder), "--longest", "80", "--format", "webp", "--dry_run"]) == 0
    assert "a.png: 160x96 to 80x48; PNG to WEBP" in capsys.readouterr().out
    assert content(folder) == before


def test_a_second_name_of_a_picture_is_left_alone(folder):
    Image.fromarray(SMOOTH).save(folder / "a.png")
    (folder / "b.png").symlink_to(folder / "a.png")
    facts = run(folder, longest=80)
    assert [t["name"] for t in facts["left"]] == ["b.png"]
    Journal(folder).undo()
    assert Image.open(folder / "a.png").size == (160, 96)


def srgb():
    if not hasattr(srgb, "profile"):
        srgb.profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return srgb.profile


def test_what_phones_write_is_a_jpeg_and_what_is_no_picture_file_is_said(folder):
    Image.fromarray(SMOOTH).save(folder / "a.jpg", "MPO", save_all=True, append_images=[MODES["RGB"]])
    Image.fromarray(SMOOTH).save(folder / "b.png", "ICO")
    facts = run(folder, longest=80)
    assert [t["name"] for t in facts["touched"]] == ["a.jpg"]
    assert [t["name"] for t in facts["left"]] == ["b.png"] * (len(facts["left"]))
    with Image.open(folder / "a.jpg") as found:
        assert (found.format, found.size) == ("JPEG", (80, 48))
    assert Image.open(folder / "b.png").format == "ICO"


def test_colours_of_print_stay_and_become_a_screens_where_that_is_asked(folder):
    cmyk = Image.fromarray(SMOOTH).convert("CMYK")
    cmyk.save(folder / "a.jpg", quality=98)
    run(folder, longest=80, quality=98)
    with Image.open(folder / "a.jpg") as found:
        assert found.mode == "CMYK"
        truth = np.asarray(Image.fromarray(SMOOTH).resize((80, 48), Image.Resampling.LANCZOS)).astype(int)
        assert np.abs(np.asarray(found.convert("RGB")).astype(int) - truth).mean() < 3
    run(folder, format="png")
    assert Image.open(folder / "a.png").mode == "RGB"
