"""Blur and compression, against another implementation and against what was done to the pictures."""

import io
import pathlib

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lora_train.data import exam, measures, pictures
from lora_train.data.memory import Known, Memory
from lora_train.errors import Mistake

DRAWINGS = sorted((pathlib.Path(__file__).parents[2] / "demo" / "dataset").rglob("*.png"))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("L"))


def texture(size=(256, 256), seed=0) -> Image.Image:
    """As sharp everywhere, with slow and quick changes as photographs have them."""
    rng = np.random.default_rng(seed)
    layers = [
        Image.fromarray(rng.integers(0, 256, (size[1] // n, size[0] // n), np.uint8)).resize(
            size, Image.Resampling.BICUBIC
        )
        for n in (1, 2, 4, 16, 64)
    ]
    weights = (0.1, 0.1, 0.15, 0.25, 0.4)
    mixed = sum(weight * np.asarray(x, np.float32) for weight, x in zip(weights, layers, strict=True))
    return Image.fromarray(mixed.astype(np.uint8))


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def blur_effect(seen: np.ndarray) -> float:
    """Equations 1 to 6 of the paper, step by step, for a picture of one tile."""
    told = []
    for picture in (seen.astype(float), seen.T.astype(float)):
        variation = lost = 0.0
        for row in picture:
            wide = np.concatenate([[row[0]] * 4, row, [row[-1]] * 4])
            soft = np.convolve(wide, np.ones(9) / 9, mode="valid")
            for x in range(1, len(row)):
                own, after = abs(row[x] - row[x - 1]), abs(soft[x] - soft[x - 1])
                variation += own
                lost += max(0.0, own - after)
        told.append((variation - lost) / variation)
    return max(told)


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_softness_is_the_blur_effect_of_a_tile(radius, monkeypatch):
    monkeypatch.setattr(measures, "TILES", 1)
    seen = grey(texture((72, 60)).filter(ImageFilter.GaussianBlur(radius)))
    assert measures.softness(seen) == pytest.approx(blur_effect(seen), abs=1e-4)


def test_softness_orders_pictures_as_another_implementation_does():
    skimage = pytest.importorskip("skimage.measure")
    blurred = [grey(texture().filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 4)]
    ours = [measures.softness(seen) for seen in blurred]
    theirs = [skimage.blur_effect(seen, h_size=9) for seen in blurred]
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("path", DRAWINGS[:6], ids=lambda path: path.stem)
def test_drawings_are_sharp_until_they_are_blurred(path):
    image = Image.open(path).convert("RGB")
    assert measures.softness(grey(image)) < 0.3
    assert measures.softness(grey(image.filter(ImageFilter.GaussianBlur(3)))) > measures.BLURRED


def test_a_blurred_background_is_no_blurred_picture():
    image = texture()
    soft = image.filter(ImageFilter.GaussianBlur(8))
    assert measures.softness(grey(soft)) > measures.BLURRED
    soft.paste(image.crop((96, 96, 192, 192)), (96, 96))
    assert measures.softness(grey(soft)) < measures.BLURRED


def test_what_has_nothing_to_see_is_not_called_blurred():
    assert measures.softness(np.full((64, 64), 255, np.uint8)) == 0
    assert measures.softness(np.zeros((4, 4), np.uint8)) == 0


@pytest.mark.parametrize("corner", [(0, 0), (3, 5)])
def test_blocks_are_seen_after_saving_as_png_and_cropping(corner):
    image = texture((320, 240), 3).filter(ImageFilter.GaussianBlur(1.5))
    crop = (*corner, 320, 240)
    assert measures.blocks(grey(image.crop(crop))) < 0.2
    assert measures.blocks(grey(saved(image, 10).crop(crop))) > measures.BLOCKY


@pytest.mark.parametrize("path", DRAWINGS[:6], ids=lambda path: path.stem)
def test_straight_lines_are_no_blocks(path):
    assert measures.blocks(grey(Image.open(path))) < measures.BLOCKY


def test_lines_at_every_eighth_pixel_are_edges_and_no_blocks():
    seen = np.full((256, 256), 230, np.uint8)
    seen[::8] = seen[:, ::8] = 30
    assert measures.blocks(seen) < measures.BLOCKY


@pytest.mark.parametrize("quality", [5, 20, 40, 50, 75, 90, 97])
def test_the_quality_is_what_the_file_was_saved_with(quality):
    assert abs(measures.quality(saved(texture((64, 64)), quality)) - quality) <= 2


def test_other_files_have_no_quality():
    assert measures.quality(Image.new("RGB", (8, 8))) is None


def test_a_reduced_look_at_a_large_file_says_the_same(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    texture((1600, 1200), 5).filter(ImageFilter.GaussianBlur(6)).save(path, quality=92)
    whole, reduced = Known(0, 0), Known(0, 0)
    exam.examine(path, whole)
    monkeypatch.setattr(exam, "LARGE", 1000)
    exam.examine(path, reduced)
    assert reduced.softness == pytest.approx(whole.softness, abs=0.05)
    assert (reduced.width, reduced.height, reduced.quality) == (1600, 1200, whole.quality)
    cells = [np.frombuffer(known.cells, np.uint8).astype(int) for known in (whole, reduced)]
    assert abs(cells[0] - cells[1]).max() <= 2


def test_damage_is_told_apart(tmp_path):
    good = tmp_path / "a.jpg"
    texture().save(good)
    assert exam.fault(good, known := Known(0, 0)) is None
    assert exam.examined(known)
    cut, none = tmp_path / "b.jpg", tmp_path / "c.jpg"
    cut.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    none.write_bytes(b"nothing")
    assert [exam.fault(path, Known(0, 0))[0] for path in (cut, none)] == ["truncated", "unreadable"]


def test_what_may_not_be_read_is_told_apart(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pictures.Image, "open", refused)
    assert exam.fault(path, Known(0, 0)) == ("locked", "damaged or cut off ([Errno 13] Permission denied: "
                                             f"{str(path)!r})")  # fmt: skip


def test_a_cut_off_file_is_found_by_several_threads_though_the_host_fills_what_is_missing(
    tmp_path, monkeypatch
):
    import concurrent.futures

    monkeypatch.setattr(pictures.ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for i in range(24):
        texture((96, 96), i).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes()[:-600])
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda i: exam.fault(tmp_path / f"{i}.png", Known(0, 0)), range(24))]
    assert {fault and fault[0] for fault in found} == {"truncated"}
    assert pictures.ImageFile.LOAD_TRUNCATED_IMAGES is True
    with pytest.raises(Mistake):
        pictures.verify(tmp_path / "0.png")


def test_a_name_that_is_no_text_does_not_keep_others_from_being_remembered(tmp_path):
    memory = Memory(tmp_path / "memory.sqlite")
    for name in ("b\udcff.png", "a.png"):
        (tmp_path / "a.txt").touch()
        memory.of(tmp_path, name, (tmp_path / "a.txt").stat()).softness = 0.5
    memory.keep()
    again = Memory(tmp_path / "memory.sqlite")
    status = (tmp_path / "a.txt").stat()
    assert again.of(tmp_path, "a.png", status).softness == 0.5
    assert again.of(tmp_path, "b\udcff.png", status).softness is None
