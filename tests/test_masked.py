"""Masked losses, against formulas written otherwise."""

import pytest
import torch

from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data.batches import Batch
from lora_train.noise import Schedule
from lora_train.objectives.denoise import Denoise
from tests.tiny import Tiny

CAPTIONS = ["one", "two"]


@pytest.fixture
def lent() -> Tiny:
    return Tiny()


@pytest.fixture
def given() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=rng) for _ in range(2))
    return {"latents": latents, "noise": noise, "timesteps": torch.tensor([200, 700])}


def half() -> torch.Tensor:
    """The left half counts."""
    mask = torch.zeros(2, 1, 8, 8)
    mask[..., :4] = 1
    return mask


def trained(lent, seed=0) -> Network:
    """Adapters that have learned something."""
    torch.manual_seed(seed)
    network = Network(Lora(dim=2), lent.layers())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def errors(lent, given) -> torch.Tensor:
    """What the model is off by, squared."""
    s, t = lent.schedule, given["timesteps"]
    a = s.alphas_cumprod[t].view(-1, 1, 1, 1)
    noisy = a.sqrt() * given["latents"] + (1 - a).sqrt() * given["noise"]
    with torch.no_grad():
        return (lent.denoise(noisy, t, lent.encode(CAPTIONS)) - given["noise"]) ** 2


def losses(lent, given, masks, network=None, **options) -> torch.Tensor:
    course = Denoise(**options).begin(lent, network or Network(Lora(), lent.layers()))
    plain = lent.encode(CAPTIONS) if course.settings.preserves else None
    return course.losses_at(lent, **given, cond=lent.encode(CAPTIONS), masks=masks, plain=plain)


def test_the_mean_is_over_all_places_or_over_those_that_count(lent, given):
    off = errors(lent, given)
    whole = losses(lent, given, half())
    torch.testing.assert_close(whole, off[..., :4].mean((1, 2, 3)) / 2)
    by_area = losses(lent, given, half(), normalize_masked_area_loss=True)
    torch.testing.assert_close(by_area, off[..., :4].mean((1, 2, 3)))


def test_a_mask_that_hides_all_costs_nothing(lent, given):
    nothing = torch.zeros(2, 1, 8, 8)
    for by_area in (False, True):
        found = losses(lent, given, nothing, normalize_masked_area_loss=by_area)
        assert torch.equal(found, torch.zeros(2))


def test_min_snr_weighs_what_a_mask_leaves(lent, given):
    ratio = losses(lent, given, half(), min_snr_gamma=5.0) / losses(lent, given, half())
    expected = losses(lent, given, None, min_snr_gamma=5.0) / losses(lent, given, None)
    torch.testing.assert_close(ratio, expected)


@pytest.mark.parametrize("by_area", [False, True])
class Asked(Schedule):
    """Asks for what it is told to."""

    def target(self, x0, n, t):
        return wanted[0]


wanted = [None]


@pytest.mark.parametrize("by_area", [False, True])
def test_nothing_is_learned_from_what_a_mask_hides(lent, given, by_area):
    """What is asked for there changes neither the loss nor any parameter's gradient, to the bit."""
    network = trained(lent)
    lent.schedule = Asked(lent.schedule.alphas_cumprod)

    def gradient(target):
        wanted[0] = target
        with network.attached():
            loss = losses(lent, given, half(), network, normalize_masked_area_loss=by_area).sum()
            return loss, torch.autograd.grad(loss, [*network.parameters()], allow_unused=True)

    inside, outside = given["noise"].clone(), given["noise"].clone()
    inside[..., :4] += 0.5
    outside[..., 4:] += 100
    loss, grads = gradient(given["noise"])
    hidden, same = gradient(outside)
    seen, other = gradient(inside)
    assert torch.equal(loss, hidden)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(grads, same, strict=True))
    assert not torch.equal(loss, seen)
    assert any(a is not None and not torch.equal(a, b) for a, b in zip(grads, other, strict=True))


def test_the_gradient_under_a_mask_is_that_of_finite_differences(lent, given):
    """Along the gradient itself, where rounding to float32 hides least."""
    network = trained(lent)
    options = {"normalize_masked_area_loss": True, "masked_prior_preservation_weight": 0.5}
    parameters = [p for p in network.parameters() if p.requires_grad]

    def loss() -> torch.Tensor:
        with network.attached():
            return losses(lent, given, half(), network, **options).sum()

    grads = torch.autograd.grad(loss(), parameters, allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    length = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    moved = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter += step * grad / length
            moved.append(loss())
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter -= step * grad / length
    torch.testing.assert_close((moved[0] - moved[1]) / 2e-3, length, rtol=1e-2, atol=0)


def test_what_is_hidden_may_count_a_little(lent, given):
    course = Denoise(unmasked_weight=0.25).begin(lent, Network(Lora(), lent.layers()))
    off = errors(lent, given)
    found = course.losses_at(
        lent, **given, cond=lent.encode(CAPTIONS), masks=course.settings.masks(half(), [])
    )
    left, right = off[..., :4].mean((1, 2, 3)), off[..., 4:].mean((1, 2, 3))
    torch.testing.assert_close(found, (left + 0.25 * right) / 2)


def test_a_mask_is_left_out_as_often_as_is_asked_for():
    settings, count = Denoise(unmasked_probability=0.3), 2000
    rngs = [torch.Generator().manual_seed(i) for i in range(count)]
    found = settings.masks(torch.zeros(count, 1, 2, 2), rngs).flatten(1)
    assert ((found == 0).all(1) | (found == 1).all(1)).all()
    assert found.mean().item() == pytest.approx(0.3, abs=0.04)  # 4 standard errors


def test_switched_off_nothing_is_drawn():
    rng = torch.Generator().manual_seed(1)
    before = rng.get_state()
    assert torch.equal(Denoise().masks(half(), [rng, rng]), half())
    assert Denoise(unmasked_probability=0.5, unmasked_weight=0.5).masks(None, [rng, rng]) is None
    assert torch.equal(rng.get_state(), before)


def test_what_is_hidden_can_be_held_to_the_model_as_it_was(lent, given):
    """Two passes by hand."""
    network, weight = trained(lent), 0.7
    rngs = [torch.Generator().manual_seed(i) for i in range(2)]
    t, noise = zip(
        *((torch.randint(1000, (), generator=r), torch.randn(4, 8, 8, generator=r)) for r in rngs),
        strict=True,
    )
    t, noise = torch.stack(t), torch.stack(noise)
    noisy = lent.schedule.noisy(given["latents"], noise, t)
    with torch.no_grad():
        before = lent.denoise(noisy, t, lent.encode(CAPTIONS))
        with network.attached():
            guess = lent.denoise(noisy, t, lent.encode(CAPTIONS))
            batch = Batch(given["latents"], CAPTIONS, None, [0, 1], CAPTIONS, masks=half())
            course = Denoise(masked_prior_preservation_weight=weight).begin(lent, network)
            found = course.losses(lent, batch, [torch.Generator().manual_seed(i) for i in range(2)])
    learned = ((guess - noise) ** 2)[..., :4].sum((1, 2, 3))
    kept = ((guess - before) ** 2)[..., 4:].sum((1, 2, 3))
    torch.testing.assert_close(found, (learned + weight * kept) / 256)
