"""Holes: what of pictures is painted anew by models made for inpainting."""

import pytest
import torch
from torch.nn import functional

from lora_train.data import pictures
from lora_train.data.buckets import Fit
from lora_train.data.cache import Sample
from lora_train.data.holes import WHOLE, Holes, hole
from lora_train.data.looks import Look
from lora_train.data.pictures import Picture


def drawn(count: int, size=(128, 64)) -> torch.Tensor:
    return torch.stack([hole(size, torch.Generator().manual_seed(i)) for i in range(count)])


def test_a_hole_is_all_of_it_or_one_piece_somewhere():
    found = drawn(1000)
    assert found.shape == (1000, 1, 8, 16)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    full = found.flatten(1).all(1)
    assert full.float().mean().item() == pytest.approx(WHOLE, abs=0.06)  # and a few rectangles of full size
    assert found.flatten(1).any(1).all()
    for one in found[:200, 0]:  # each row and each column of it is without a gap
        for lines in (one, one.t()):
            edges = functional.pad(lines, (1, 1)).diff(dim=1).clamp(min=0).sum(1)
            assert (edges <= 1).all()


def test_half_of_the_others_are_round_and_they_are_everywhere():
    found = drawn(2000, (128, 128))[:, 0]
    found = found[~found.flatten(1).all(1)]
    box = found.amax(1).sum(1) * found.amax(2).sum(1)
    share = found.flatten(1).sum(1) / box
    large = box > 64
    assert (share[large] == 1).float().mean().item() == pytest.approx(0.5, abs=0.06)
    rounded = share[large & (share < 1)]
    assert rounded.mean().item() == pytest.approx(torch.pi / 4, abs=0.04)  # of an ellipse in its box
    seen = found.mean(0)
    assert seen.min() > 0.02
    torch.testing.assert_close(seen, seen.flip(0), atol=0.06, rtol=0)
    torch.testing.assert_close(seen, seen.t(), atol=0.06, rtol=0)


class Encoder:
    def __init__(self):
        self.seen = []

    def __call__(self, pixels, rngs):
        self.seen += [*pixels]
        mean = functional.avg_pool2d(pixels, 8)
        return torch.cat([mean, mean[:, :1]], 1)


@pytest.fixture
def picture(make) -> Picture:
    path = make("a.png", (96, 64))
    return Picture(path, "a", (96, 64), Fit((96, 64), (96, 64)))


def finished(holes: Holes, samples) -> torch.Tensor:
    return holes.finish(holes.fetch(samples), samples)


@pytest.mark.parametrize("count", [None, 3])
def test_the_hole_is_grey_and_the_rest_is_the_picture_as_it_is_shown(picture, count):
    encode = Encoder()
    samples = [Sample(picture, Look(flip=bool(i % 2)), i) for i in range(6)]
    found = finished(Holes(encode, 5, count), samples)
    assert found.shape == (6, 5, 8, 12)
    for sample, one in zip(samples, found, strict=True):
        whole = pictures.load(picture, sample.look)
        expected = functional.avg_pool2d(whole, 8) * (1 - one[:1])
        torch.testing.assert_close(one[1:4], expected)
    for pixels in encode.seen:
        assert ((pixels == 0).all(0).float().mean() > 0) == bool((pixels == 0).any())


def test_a_samples_hole_is_its_own_in_any_batch(picture):
    samples = [Sample(picture, Look(), i) for i in range(5)]
    together = finished(Holes(Encoder(), 5), samples)
    for i in (3, 0, 4):
        assert torch.equal(finished(Holes(Encoder(), 5), [samples[i]])[0], together[i])
    assert len({tuple(one[0].flatten().tolist()) for one in together}) > 1
    assert not torch.equal(finished(Holes(Encoder(), 6), samples), together)


def test_a_few_holes_are_encoded_once_each(picture):
    encode = Encoder()
    holes = Holes(encode, 5, 2)
    samples = [Sample(picture, Look(), i) for i in range(40)]
    whole = finished(holes, samples[:20])
    assert len({tuple(one[0].flatten().tolist()) for one in whole}) == 2
    before = len(encode.seen)
    finished(holes, samples[20:])
    assert len(encode.seen) == before
    again = Holes(Encoder(), 5, 2)  # a resumed run has the same
    assert torch.equal(finished(again, samples[10:20]), whole[10:])
    turned = [Sample(picture, Look(angle=10.0), i) for i in range(40, 44)]
    finished(holes, turned)
    finished(holes, turned)
    assert len(encode.seen) == before + 8  # what looks different each time is encoded each time
