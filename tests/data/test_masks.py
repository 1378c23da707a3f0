"""Masks: found beside pictures, brought to latents as the pictures are, and kept with them."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from lora_train.data import pictures
from lora_train.data.buckets import Fit
from lora_train.data.cache import Cache, Fresh, Sample
from lora_train.data.folder import Data
from lora_train.data.health import health
from lora_train.data.looks import Colour, Face, Look
from lora_train.data.memory import Memory
from lora_train.data.pictures import Picture
from lora_train.data.plan import plan, survey
from lora_train.errors import Mistake
from lora_train.knobs import build

LOOKS = {
    "plain": Look(),
    "flipped": Look(flip=True),
    "cut elsewhere": Look(crop=(0.9, 0.1)),
    "turned": Look(angle=20.0),
    "turned and flipped": Look(flip=True, angle=-35.0, crop=(0.2, 0.7)),
    "coloured": Look(colour=Colour(hue=15, gamma=1.1, brightness=0.9)),
    "around a face": Look(face=Face((1.0, 3.0), 0.5, (0.2, -0.3), False)),
}


def spots(size) -> np.ndarray:
    """[H, W] uint8: smooth enough that pictures and masks of it are alike after any filter."""
    y, x = np.mgrid[: size[1], : size[0]]
    return (127 + 120 * np.sin(x / 17 + 1) * np.cos(y / 11)).astype(np.uint8)


@pytest.fixture
def pair(tmp_path) -> Picture:
    """A grey picture, and a mask with the same values in red and noise in the other channels."""
    size, path = (200, 150), tmp_path / "p" / "x_100_75_30_30.png"
    path.parent.mkdir()
    grey = spots(size)
    Image.fromarray(np.stack([grey] * 3, -1)).save(path)
    other = np.random.default_rng(0).integers(0, 256, grey.shape, np.uint8)
    mask = tmp_path / "x_100_75_30_30.png"
    Image.fromarray(np.stack([grey, other, other], -1)).save(mask)
    return Picture(path, path.name, size, Fit((128, 64), (128, 96)), mask=mask)


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("interpolation", [None, "bicubic"])
def test_a_mask_goes_where_its_picture_goes(pair, look, interpolation):
    """A picture that is its own mask: the one is the other, whatever is done to it, but for its colours."""
    pair = dataclasses.replace(pair, interpolation=interpolation)
    found = pictures.mask(pair, look)
    seen = (pictures.load(pair, dataclasses.replace(look, colour=None))[:1] + 1) / 2
    expected = functional.interpolate(seen[None], size=(8, 16), mode="area")[0]
    assert found.shape == (1, 8, 16)
    torch.testing.assert_close(found, expected)


def test_a_mirrored_mask_is_mirrored_left_to_right(pair):
    plain, mirrored = pictures.mask(pair), pictures.mask(pair, Look(flip=True))
    torch.testing.assert_close(mirrored, plain.flip(-1))
    assert not torch.allclose(mirrored, plain.flip(-2), atol=0.1)


def test_opacity_is_a_mask_and_the_colours_under_it_are_seen(tmp_path):
    path, alpha = tmp_path / "a.png", spots((64, 64))
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(np.dstack([colours, alpha])).save(path)
    own = Picture(path, "a", (64, 64), Fit((64, 64), (64, 64)), background=None, mask=path)
    expected = functional.interpolate(torch.tensor(alpha)[None, None].float() / 255, size=(8, 8), mode="area")
    torch.testing.assert_close(pictures.mask(own), expected[0])
    seen = ((pictures.load(own) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.array_equal(seen, colours)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK"])
def test_of_what_has_no_opacity_all_counts(tmp_path, mode):
    path = tmp_path / "a.tif"
    Image.new(mode, (64, 64)).save(path)
    own = Picture(path, "a", (64, 64), Fit((64, 64), (64, 64)), background=None, mask=path)
    assert torch.equal(pictures.mask(own), torch.ones(1, 8, 8))


# ── finding them ────────────────────────────────────────────────────────────────────────────────────────────


def planned(**values):
    return plan(build(Data, {"resolution": 64, **values}))


def complaint(**values) -> str:
    with pytest.raises(Mistake) as caught:
        planned(**values)
    return str(caught.value)


def masks(of) -> dict[str, str | None]:
    return {item.path.name: item.mask and item.mask.parent.name + "/" + item.mask.name for item in of.items}


def test_masks_are_found_by_their_pictures_names(make, tmp_path):
    make("p/1_cat/a.png"), make("p/1_cat/b.jpg"), make("p/2_dog/a.png")
    make("m/1_cat/a.jpg"), make("m/1_cat/b.png"), make("m/2_dog/a.png")
    found = planned(train_data_dir=tmp_path / "p", conditioning_data_dir=tmp_path / "m")
    assert [item.mask.relative_to(tmp_path / "m").as_posix() for item in found.items] == [
        "1_cat/a.jpg", "1_cat/b.png", "2_dog/a.png"]  # fmt: skip


def test_masks_may_lie_beside_their_pictures(make, tmp_path):
    make("p/a.png"), make("p/a-masklabel.png"), make("p/b.png"), make("p/b-masklabel.webp")
    found = planned(train_data_dir=tmp_path / "p", mask_suffix="-masklabel")
    assert masks(found) == {"a.png": "p/a-masklabel.png", "b.png": "p/b-masklabel.webp"}


def test_masks_with_an_ending_may_lie_in_a_folder_of_their_own(make, tmp_path):
    make("p/a.png"), make("m/a_mask.png")
    found = planned(train_data_dir=tmp_path / "p", mask_suffix="_mask", conditioning_data_dir=tmp_path / "m")
    assert masks(found) == {"a.png": "m/a_mask.png"}


def test_masks_that_are_missing_or_not_of_their_picture_are_all_told(make, tmp_path):
    make("p/a.png"), make("p/b.png"), make("p/c.png")
    make("m/a.png"), make("m/b.png", (64, 32))
    told = complaint(train_data_dir=tmp_path / "p", conditioning_data_dir=tmp_path / "m").splitlines()
    assert len(told) == 2
    assert "b.png: a mask of 64x32 pixels, and its picture b.png has 64x64" in told[0]
    assert "c.png: no mask c.png in" in told[1]
    found = planned(train_data_dir=tmp_path / "p", conditioning_data_dir=tmp_path / "m", skip_unreadable=True)
    assert masks(found) == {"a.png": "m/a.png"}


def test_regularisation_pictures_need_none(make, tmp_path):
    make("p/1_cat/a.png"), make("r/1_cat/r.png"), make("m/a.png")
    found = planned(
        train_data_dir=tmp_path / "p", reg_data_dir=tmp_path / "r", conditioning_data_dir=tmp_path / "m"
    )
    assert masks(found) == {"a.png": "m/a.png", "r.png": None}


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"conditioning_data_dir": "gone"}, "gone: cannot be read: No such file or directory"),
        ({"conditioning_data_dir": "p"}, "p: the pictures' own folder; give that of their masks, or"),
        ({"conditioning_data_dir": "p", "alpha_mask": True}, "alpha_mask: expected none beside masks of"),
        ({"mask_suffix": "a/b"}, "mask_suffix = a/b: expected what stands behind a name"),
    ],
)
def test_folders_of_masks_that_cannot_be_meant(make, tmp_path, monkeypatch, values, text):
    make("p/a.png")
    monkeypatch.chdir(tmp_path)
    assert complaint(train_data_dir="p", **values).startswith(text)


def test_a_damaged_mask_is_found_before_a_run(make, tmp_path):
    make("p/a.png")
    mask = make("m/a.png")
    mask.write_bytes(mask.read_bytes()[:3000])
    _, findings = survey(
        build(Data, {"resolution": 64, "train_data_dir": tmp_path / "p",
                     "conditioning_data_dir": tmp_path / "m"}), decode=True)  # fmt: skip
    (found,) = (f for f in findings if f.fatal)
    assert found.kind == "mask"
    assert "damaged or cut off" in found.text


# ── keeping them ────────────────────────────────────────────────────────────────────────────────────────────


def encode(pixels, rngs):
    return functional.avg_pool2d(pixels, 8)


@pytest.mark.parametrize("disk", [False, True])
def test_kept_masks_are_those_made_anew(pair, tmp_path, disk):
    cache = Cache(encode, "vae", folder=tmp_path / "latents" if disk else None)
    cache.fill([(pair, False), (pair, True)])
    samples = [Sample(pair, Look(), 0), Sample(pair, Look(flip=True), 1)]
    fresh = Fresh(encode, 0).masks(samples)
    assert fresh.shape == (2, 1, 8, 16)
    assert torch.equal(cache.masks(samples), fresh)
    pair.mask.unlink()  # it is not read again
    assert torch.equal(cache.masks(samples), fresh)


def test_a_mask_that_was_changed_is_read_again_and_latents_are_not(pair, tmp_path):
    def keys():
        return Cache(encode, "vae", folder=tmp_path / "latents").keys(pair, False)

    before = keys()
    Image.new("RGB", pair.size).save(pair.mask)
    assert len(before & keys()) == 1
    bare = Cache(encode, "vae").keys(dataclasses.replace(pair, mask=None), False)
    assert bare == before & keys()  # nor does a latent know of a mask


def test_without_masks_there_are_none(pair):
    bare = dataclasses.replace(pair, mask=None)
    for latents in (Cache(encode, "vae"), Fresh(encode, 0)):
        assert latents.masks([Sample(bare, Look(), 0)]) is None
    mixed = [Sample(bare, Look(), 0), Sample(pair, Look(), 1)]
    assert torch.equal(Fresh(encode, 0).masks(mixed)[0], torch.ones(1, 8, 16))


def test_all_masks_that_cannot_be_read_are_told(pair, tmp_path):
    pair.mask.write_bytes(b"nothing")
    with pytest.raises(Mistake, match=r"x_100_75_30_30\.png: not a picture, or damaged"):
        Cache(encode, "vae").fill([(pair, False)])


# ── what is said of them ────────────────────────────────────────────────────────────────────────────────────


def remarks(**values) -> dict[str, list[str]]:
    found = health(planned(**values), Memory(), None, 75)
    return {kind: [f.paths[0].name for f in found if f.kind == kind] for kind in {f.kind for f in found}}


def test_pictures_without_opacity_are_told_where_it_is_a_mask(make, tmp_path):
    make("p/a.png")
    clear = Image.new("RGBA", (64, 64), (9, 9, 9, 0))
    clear.save(tmp_path / "p" / "b.png")
    assert remarks(train_data_dir=tmp_path / "p", alpha_mask=True)["opaque"] == ["a.png"]
    found = remarks(train_data_dir=tmp_path / "p")
    assert found["transparent"] == ["b.png"]
    assert "opaque" not in found


def test_masks_that_would_be_learned_from_are_told(make, tmp_path):
    make("p/a.png"), make("p/a-masklabel.png"), make("p/c-masklabel.png")
    assert remarks(train_data_dir=tmp_path / "p")["labels"] == ["a-masklabel.png"]
    (tmp_path / "p" / "c-masklabel.png").unlink()
    assert "labels" not in remarks(train_data_dir=tmp_path / "p", mask_suffix="-masklabel")
