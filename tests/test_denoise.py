"""What denoise adds to a plain loss: passes made by hand, and what is to be expected of a loss."""

from __future__ import annotations

import math

import pytest
import torch

from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data.batches import Batch
from lora_train.losses import averaged
from lora_train.objectives.denoise import Denoise
from lora_train.objectives.learned import Uncertainty
from tests.test_objectives import batch, rngs, x0_of
from tests.tiny import Tiny

PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v"])


def learned(lent: Tiny) -> Network:
    """Adapters that have learned something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        network = Network(Lora(), lent.layers())
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.05 * torch.randn(p.shape, generator=rng)
    return network


@pytest.fixture
def given():
    rng = torch.Generator().manual_seed(4)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=rng)
    return x0, noise, torch.tensor([50, 500, 950])


@PREDICTIONS
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_dream_learns_noise_with_the_models_own_error_in_it(prediction, p, given):
    """By hand: a first pass, the noise that the model saw in it by way of its picture, and a second pass."""
    lent = Tiny(prediction)
    schedule, (x0, noise, t), cond = lent.schedule, given, lent.encode(["a", "b", "c"])
    a = schedule.alphas_cumprod[t].view(-1, 1, 1, 1)
    course = Denoise(dream_detail_preservation=p).begin(lent, network := learned(lent))
    with network.attached():
        losses = course.losses_at(lent, x0, noise, t, cond)
        grads = torch.autograd.grad(losses.sum(), [*network.parameters()], allow_unused=True)
        with torch.no_grad():
            x_t = a.sqrt() * x0 + (1 - a).sqrt() * noise
            picture = x0_of(schedule, x_t.double(), lent.denoise(x_t, t, cond).double(), t)
            told = ((x_t - a.sqrt() * picture) / (1 - a).sqrt()).float()
            changed = noise + (1 - a).sqrt() ** p * (noise - told)
        x_t = a.sqrt() * x0 + (1 - a).sqrt() * changed
        goal = changed if prediction == "epsilon" else a.sqrt() * changed - (1 - a).sqrt() * x0
        expected = ((lent.denoise(x_t, t, cond) - goal) ** 2).mean((1, 2, 3))
        slopes = torch.autograd.grad(expected.sum(), [*network.parameters()], allow_unused=True)
    torch.testing.assert_close(losses, expected, rtol=1e-3, atol=1e-5)
    for one, two in zip(grads, slopes, strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-4)


def test_dream_gives_gradients_in_half_precision():
    """Autocast keeps half-precision copies of what it casts, those of the first pass without a gradient."""
    lent = Tiny()
    network = Network(Lora(), [layer for layer in lent.layers() if layer.part == "unet"])
    course = Denoise(dream_detail_preservation=1.0).begin(lent, network)
    with network.attached():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = course.losses(lent, batch(lent, 2), rngs(2)).mean()
        loss.backward()
    assert network.silent() == []


@PREDICTIONS
def test_kept_samples_learn_what_the_model_says_without_adapters(prediction, given):
    lent = Tiny(prediction)
    x0, noise, t = given
    captions = ["a", "b", "c"]
    course, network = Denoise().begin(lent, net := learned(lent)), net
    kept = torch.tensor([False, True, False])
    rows = Batch(x0, captions, None, [0, 1, 2], captions, kept=kept)
    with torch.no_grad():
        plain = lent.encode(captions)
        x_t, before = None, None
        with network.attached():
            found = course.losses(lent, rows, rngs(3))
            without = course.losses(lent, Batch(x0, captions, None, [0, 1, 2], captions), rngs(3))
            t, noise = course.draws(lent, rows, rngs(3))
            x_t = lent.schedule.noisy(x0, noise, t)
            guess = lent.denoise(x_t, t, lent.encode(captions))
        before = lent.denoise(x_t, t, plain)
    assert torch.equal(found[[0, 2]], without[[0, 2]])
    torch.testing.assert_close(found[1], (guess - before)[1].square().mean())


@pytest.mark.parametrize("cached", [False, True])
def test_a_class_is_held_to_what_the_model_says_without_adapters(cached, given):
    lent = Tiny()
    x0, _, _ = given
    captions, classes = ["sks dog", "a cat", "sks"], ["a dog", None, "dog"]
    settings, network = Denoise(diff_output_preservation_multiplier=0.7), learned(lent)
    course = settings.begin(lent, network)
    conds = lent.encode(captions) if cached else None
    of = lent.encode([c or "whatever" for c in classes]) if cached else None
    rows = Batch(x0, captions, conds, [0, 1, 2], captions, classes=classes, class_conds=of)
    bare = Batch(x0, captions, conds, [0, 1, 2], captions)
    with torch.no_grad():
        plain = lent.encode(["a dog", "dog"])
        with network.attached():
            more = course.losses(lent, rows, rngs(3)) - course.losses(lent, bare, rngs(3))
            t, noise = course.draws(lent, rows, rngs(3))
            x_t = lent.schedule.noisy(x0, noise, t)[[0, 2]]
            guess = lent.denoise(x_t, t[[0, 2]], plain if cached else lent.encode(["a dog", "dog"]))
        before = lent.denoise(x_t, t[[0, 2]], plain)
    expected = torch.zeros(3)
    expected[[0, 2]] = 0.7 * (guess - before).square().mean((1, 2, 3))
    torch.testing.assert_close(more, expected, rtol=1e-3, atol=1e-6)
    assert more[0] > 0


def test_a_piece_without_a_class_is_as_in_the_whole_batch(given):
    lent, (x0, _, _) = Tiny(), given
    network, captions = learned(lent), ["sks dog", "a cat", "sks"]
    course = Denoise().begin(lent, network)
    batch = Batch(x0, captions, None, [0, 1, 2], captions, classes=["a dog", None, "dog"])
    with torch.no_grad(), network.attached():
        whole, parts = course.losses(lent, batch, rngs(3)), zip(batch.pieces(1), rngs(3), strict=True)
        found = torch.cat([course.losses(lent, piece, [rng]) for piece, rng in parts])
    torch.testing.assert_close(found, whole)


def test_seen_noise_is_not_in_the_target(given):
    lent = Tiny("v")
    (x0, noise, t), cond = given, lent.encode(["a", "b", "c"])
    course, added = Denoise().begin(lent, learned(lent)), torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        found = course.losses_at(lent, x0, noise, t, cond, added=added)
        guess = lent.denoise(lent.schedule.noisy(x0, noise + added, t), t, cond)
    assert torch.equal(found, averaged((guess - lent.schedule.target(x0, noise, t)).square()))


def test_a_batch_can_share_its_timestep_in_pieces_too():
    lent = Tiny()
    course = Denoise(fixed_timesteps_in_batch=True, min_timestep=100, max_timestep=900).begin(lent, None)
    rows = batch(lent, 4)
    rows.lots = torch.full([4], 0.25, dtype=torch.float64)
    assert course.timesteps(lent, rows, rngs(4)) == [300] * 4
    assert [course.timesteps(lent, piece, rngs(2)) for piece in rows.pieces(2)] == [[300] * 2] * 2
    own = Denoise(min_timestep=100, max_timestep=900).begin(lent, None)
    for one, other in zip(
        course.draws(lent, rows, rngs(4))[1:], own.draws(lent, rows, rngs(4))[1:], strict=True
    ):
        assert torch.equal(one, other)


# --- learned weights


def test_what_is_learned_is_the_logarithm_of_the_mean_loss():
    """Of losses whose mean is known at each step, by torch's Adam."""
    course = Uncertainty(128)
    t, rng = torch.arange(1000), torch.Generator().manual_seed(1)
    mean = 0.02 + 0.3 * (t / 1000) ** 2
    adam = torch.optim.Adam(course.parameters(), 0.03)
    for _ in range(1000):
        at = torch.randint(1000, (64,), generator=rng)
        losses = mean[at] * -torch.rand(64, generator=rng).log()  # spread as their mean is large
        adam.zero_grad()
        course.weighed(losses, at / 1000).mean().backward()
        adam.step()
    with torch.no_grad():
        off = (course(t / 1000) - mean.log()).abs()
    assert off.mean() < 0.1
    assert off.max() < 0.5


def test_at_first_nothing_is_weighed_and_the_adapters_gradient_is_that_of_the_plain_loss(given):
    lent, found = Tiny(), []
    (x0, noise, t), cond = given, lent.encode(["a", "b", "c"])
    for on in (False, True):
        network = learned(lent)
        course = Denoise(edm2_loss_weighting=on, edm2_loss_weighting_num_channels=8).begin(lent, network)
        with network.attached():
            losses = course.losses_at(lent, x0, noise, t, cond)
            losses.sum().backward()
        found.append((losses, [p.grad for p in network.parameters()], course))
    assert torch.equal(found[0][0], found[1][0])
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert found[0][2].parameters() == []
    (weight,) = found[1][2].parameters()
    waves = torch.cos(found[1][2].learned.frequencies * ((t / 1000 - 0.5) / 2)[:, None]
                      + found[1][2].learned.phases)  # fmt: skip
    torch.testing.assert_close(weight.grad, ((1 - losses)[:, None] * waves).sum(0) * math.sqrt(2) / 8)
    assert found[1][2].rate == 0.02
