import dataclasses
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from lora_train.data import cache, pictures
from lora_train.data.buckets import Fit
from lora_train.data.cache import Cache, Fresh, Sample
from lora_train.data.looks import Look
from lora_train.data.pictures import Picture
from lora_train.errors import Mistake


class Encoder:
    """In place of an autoencoder: means over 8 x 8 pixels, and a draw; remembers what it was given."""

    def __init__(self, nan: bool = False):
        self.calls, self.nan = [], nan

    def __call__(self, pixels, rngs):
        self.calls.append(pixels)
        mean = functional.avg_pool2d(pixels, 8)
        mean = torch.cat([mean, mean[:, :1]], 1)
        noise = torch.stack([torch.randn(m.shape, generator=rng) for m, rng in zip(mean, rngs, strict=True)])
        return mean + noise + (float("nan") if self.nan else 0)

    @property
    def seen(self) -> int:
        return sum(len(call) for call in self.calls)


def picture(path: pathlib.Path, bucket=(32, 32)) -> Picture:
    return Picture(path, path.name, pictures.size(path), Fit(bucket, bucket))


def latents(kept: Cache, of: Picture, flip: bool = False) -> torch.Tensor:
    samples = [Sample(of, Look(flip=flip), 0)]
    return kept.finish(kept.fetch(samples), samples)


@pytest.fixture
def three(make) -> list[Picture]:
    return [picture(make("a.png")), picture(make("b.png"), (64, 32)), picture(make("c.png"))]


def views(of, flip=False):
    return [(p, f) for p in of for f in (False, True)[: 1 + flip]]


@pytest.fixture(params=["memory", "disk"])
def folder(request, tmp_path) -> pathlib.Path | None:
    return tmp_path / "cache" / "latents" if request.param == "disk" else None


def test_every_picture_is_encoded_once_in_batches_of_one_size(three, folder):
    encode = Encoder()
    kept = Cache(encode, "vae", folder=folder, batch=2)
    told = []
    kept.fill(views(three), lambda done, of: told.append((done, of)))
    assert sorted(tuple(call.shape) for call in encode.calls) == [(1, 3, 32, 64), (2, 3, 32, 32)]
    assert told == [(0, 3), (2, 3), (3, 3)]

    samples = [Sample(three[0], Look(), 0), Sample(three[2], Look(), 1)]
    found = kept.finish(kept.fetch(samples), samples)
    assert found.shape == (2, 4, 4, 4)
    assert found.dtype == torch.float32
    assert torch.equal(latents(kept, three[2]), found[1:])
    assert encode.seen == 3


def test_a_mirrored_picture_is_encoded_for_itself(three, folder):
    encode = Encoder()
    kept = Cache(encode, "vae", folder=folder)
    kept.fill(views(three[:1], flip=True))
    assert torch.equal(encode.calls[1], encode.calls[0].flip(-1))
    plain, mirrored = latents(kept, three[0]), latents(kept, three[0], flip=True)
    assert not torch.equal(plain, mirrored)
    assert not torch.equal(plain.flip(-1), mirrored)  # a draw of its own
    assert encode.seen == 2


def test_a_cache_made_again_is_the_same(three, folder, make):
    first, second = Cache(Encoder(), "vae", folder=folder, batch=3), Cache(Encoder(), "vae", batch=1)
    first.fill(views(three))
    second.fill(reversed(views(three)))
    for p in three:
        assert torch.equal(latents(first, p), latents(second, p))


def test_a_cache_on_disk_serves_the_next_run(three, tmp_path):
    Cache(Encoder(), "vae", folder=tmp_path / "cache").fill(views(three))
    encode = Encoder()
    again = Cache(encode, "vae", folder=tmp_path / "cache")
    told = []
    again.fill(views(three), lambda *done: told.append(done))
    assert torch.isfinite(latents(again, three[0])).all()
    assert encode.seen == 0
    assert told == [(3, 3)]
    assert not list((tmp_path / "cache").glob("*.part"))
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3


def test_a_renamed_or_copied_picture_is_still_known(three, tmp_path):
    Cache(Encoder(), "vae", folder=tmp_path / "cache").fill(views(three[:1]))
    copy = tmp_path / "other" / "name.png"
    copy.parent.mkdir()
    shutil.copy(three[0].path, copy)
    encode = Encoder()
    Cache(encode, "vae", folder=tmp_path / "cache").fill(views([picture(copy)]))
    assert encode.seen == 0


@pytest.mark.parametrize("change", ["picture", "autoencoder", "bucket", "resized", "version"])
def test_whatever_a_latent_depends_on_makes_it_anew(three, tmp_path, make, monkeypatch, change):
    kept = Cache(Encoder(), "vae", folder=tmp_path / "cache")
    kept.fill(views(three[:1]))
    encode, of, vae = Encoder(), three[0], "vae"
    if change == "picture":
        shutil.copy(three[1].path, of.path)
    elif change == "autoencoder":
        vae = "another"
    elif change == "version":
        monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    else:
        fit = {"bucket": Fit((32, 24), (32, 32)), "resized": Fit((32, 32), (40, 32))}[change]
        of = dataclasses.replace(of, fit=fit)
    Cache(encode, vae, folder=tmp_path / "cache").fill(views([of]))
    assert encode.seen == 1


@pytest.mark.parametrize("damage", ["cut off", "garbage", "empty", "one bit", "deleted", "another file"])
def test_a_damaged_file_is_made_again(three, tmp_path, damage):
    of, folder = three[0], tmp_path / "cache"
    kept = Cache(Encoder(), "vae", folder=folder)
    kept.fill(views([of]))
    whole = latents(kept, of)
    (path,) = folder.iterdir()
    raw = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes({
            "cut off": raw[:-7], "garbage": b"x" * 300, "empty": b"",
            "one bit": raw[:-3] + bytes([raw[-3] ^ 64]) + raw[-2:],
            "another file": cache_of_nothing(tmp_path),
        }[damage])  # fmt: skip
    assert torch.equal(latents(kept, of), whole)  # in the middle of a run
    encode = Encoder()
    Cache(encode, "vae", folder=folder).fill(views([of]))  # it is whole again
    assert encode.seen == 0


def cache_of_nothing(tmp_path) -> bytes:
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    return (tmp_path / "other.safetensors").read_bytes()


def test_all_damaged_pictures_are_told_and_no_time_is_lost_on_the_others(three, make):
    broken = []
    for name in ("x1.png", "x2.png", "x3.png"):
        path = make(name)
        broken.append(picture(path))
        path.write_bytes(path.read_bytes()[:2000])
    encode = Encoder()
    with pytest.raises(Mistake) as e:
        Cache(encode, "vae", batch=2).fill(views([broken[0], *three, *broken[1:]], flip=True))
    lines = str(e.value).splitlines()
    assert len(lines) == 3
    assert all(f"x{n}.png: damaged or cut off" in "".join(lines) for n in (1, 2, 3))
    assert encode.seen == 0


def test_latents_that_are_not_finite_name_the_picture(three, folder):
    kept = Cache(Encoder(nan=True), "vae", folder=folder)
    with pytest.raises(Mistake, match=r"a\.png: the autoencoder makes NaN of it.*float32"):
        kept.fill(views(three))
    assert folder is None or not list(folder.glob("*"))
    fresh, samples = Fresh(Encoder(nan=True), 0), [Sample(three[0], Look(), 0)]
    with pytest.raises(Mistake, match=r"a\.png: the autoencoder makes NaN"):
        fresh.finish(fresh.fetch(samples), samples)


def test_a_folder_that_cannot_be_written_says_what_to_do(three, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Mistake, match=r"latents cannot be kept there.*place\.cache_latents_to_disk"):
        Cache(Encoder(), "vae", folder=tmp_path / "file").fill(views(three))


def test_without_a_cache_each_sample_has_a_draw_of_its_own(three):
    def shown(seed, ordinal):
        fresh, samples = Fresh(Encoder(), seed), [Sample(three[0], Look(), ordinal)]
        return fresh.finish(fresh.fetch(samples), samples)

    assert torch.equal(shown(1, 5), shown(1, 5))
    assert not torch.equal(shown(1, 5), shown(1, 6))
    assert not torch.equal(shown(1, 5), shown(2, 5))


def test_no_gradient_is_kept(three):
    weight = torch.ones(1, requires_grad=True)
    kept = Cache(lambda pixels, rngs: functional.avg_pool2d(pixels, 8) * weight, "vae")
    assert not latents(kept, three[0]).requires_grad


def test_a_run_can_be_broken_off_while_encoding(three):
    class Stop(Exception):  # noqa: N818
        pass

    def stop(done, of):
        if done:
            raise Stop

    encode = Encoder()
    with pytest.raises(Stop):
        Cache(encode, "vae").fill(views(three), stop)
    assert encode.seen == 1
