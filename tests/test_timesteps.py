"""Timesteps: every distribution against its definition, and noise against its covariance."""

from __future__ import annotations

import math

import pytest
import torch

from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.noise import Schedule, pyramid
from lora_train.objectives.noised import Noised
from lora_train.objectives.timed import Timed
from lora_train.timesteps import SHARES, cumulative, picked

COUNT = 20_000
U = torch.rand(COUNT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
N = torch.randn(COUNT, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def rejected(density, top: float) -> torch.Tensor:
    """Draws from 0..1 with a density, by throwing away."""
    rng = torch.Generator().manual_seed(3)
    x, y = torch.rand(2, 40 * COUNT, generator=rng, dtype=torch.float64)
    return x[y * top < density(x)][:COUNT]


def of_gammas(a: float, b: float) -> torch.Tensor:
    """Beta by its definition: of two gammas the share of the first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return torch.distributions.Beta(a, b).sample((COUNT,)).double()


# name, weight, bias -> draws from 0..1 by another way than the sums in lora_train.timesteps
DRAWS = [
    ("uniform", 0.0, 0.0, lambda: U),
    ("sigmoid", 8.0, 0.1, lambda: rejected(lambda x: torch.sigmoid(8 * (x - 0.6)), 1)),
    ("sigmoid", -5.0, 0.0, lambda: rejected(lambda x: torch.sigmoid(-5 * (x - 0.5)), 1)),
    ("sigmoid", 0.0, 0.0, lambda: U),
    ("logit_normal", 0.0, 0.0, lambda: torch.sigmoid(N)),
    ("logit_normal", 0.5, -0.7, lambda: torch.sigmoid(1.5 * N - 0.7)),
    ("heavy_tail", 1.29, 0.0, lambda: 1 - U - 1.29 * (torch.cos(math.pi / 2 * U) ** 2 - 1 + U)),
    ("heavy_tail", -1.0, 0.0, lambda: 1 - U + (torch.cos(math.pi / 2 * U) ** 2 - 1 + U)),
    ("cos_map", 0.0, 0.0, lambda: 1 - 1 / (torch.tan(math.pi / 2 * U) + 1)),
    ("inverted_parabola", 8.0, 0.0, lambda: rejected(lambda x: 2 - 8 * (x - 0.5) ** 2, 2)),
    ("inverted_parabola", 30.0, 0.3, lambda: rejected(lambda x: 2 - 30 * (x - 0.8) ** 2, 2)),
    ("inverted_parabola", -3.0, 0.0, lambda: rejected(lambda x: 2 + 3 * (x - 0.5) ** 2, 3)),
    ("beta", 0.5, 1.0, lambda: of_gammas(0.5, 1.0)),
    ("beta", 2.0, 3.0, lambda: of_gammas(2.0, 3.0)),
    ("beta", 0.3, 0.4, lambda: of_gammas(0.3, 0.4)),
    ("beta", 60.0, 20.0, lambda: of_gammas(60.0, 20.0)),
    ("content", 0.0, 0.0, lambda: 1 - U**3),
    ("style", 0.0, 0.0, lambda: U**3),
]
SHIFTS = pytest.mark.parametrize("shift", [1.0, 3.0])


@SHIFTS
@pytest.mark.parametrize(("kind", "weight", "bias", "draws"), DRAWS)
def test_a_distribution_is_that_of_its_definition(kind, weight, bias, draws, shift):
    """Kolmogorov and Smirnov: the largest distance of the shares, over the root of the number of draws."""
    x = draws()
    x = shift * x / (1 + (shift - 1) * x)
    shares = cumulative(kind, 1000, weight, bias, shift)
    seen = torch.histc(x, 1000, 0, 1).cumsum(0) / len(x)
    far = (seen - shares[1:]).abs().max().item() * math.sqrt(len(x))
    assert far < 1.95  # 1 in 1000


@pytest.mark.parametrize(("kind", "weight", "bias", "draws"), DRAWS)
def test_steps_are_drawn_as_often_as_they_should(kind, weight, bias, draws):
    settings = Timed(min_timestep=200, max_timestep=700, timestep_distribution=kind, noising_weight=weight,
                     noising_bias=bias, timestep_shift=1.5)  # fmt: skip
    shares = settings.shares(1000)
    own = picked(shares, U) + 200
    rng = torch.Generator().manual_seed(7)
    drawn = torch.stack([settings.step(1000, shares, rng) for _ in range(1500)])
    for steps in (own, drawn):
        assert steps.min() >= 200
        assert steps.max() <= 699
        seen = torch.histc(steps.double() - 200, 500, 0, 500).cumsum(0) / len(steps)
        assert (seen - shares[1:]).abs().max().item() * math.sqrt(len(steps)) < 1.95


def test_every_distribution_is_tried_and_none_is_uniform_by_chance():
    assert {kind for kind, *_ in DRAWS} == set(SHARES)
    plain = cumulative("uniform", 1000)
    torch.testing.assert_close(plain, torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert Timed().shares(1000) is None


def test_the_ends_of_the_dice_are_steps():
    for kind, weight, bias, _ in DRAWS:
        shares = cumulative(kind, 10, weight, bias)
        ends = picked(shares, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
        assert ends.min() >= 0
        assert ends.max() <= 9
        assert picked(shares, torch.tensor(1.0, dtype=torch.float64)) == 9


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"min_timestep": 500, "max_timestep": 500}, "min_timestep = 500: expected less than max_timestep"),
        ({"timestep_distribution": "logit_normal", "noising_weight": -1}, "noising_weight = -1: expected"),
        ({"timestep_distribution": "heavy_tail", "noising_weight": 1.8}, "noising_weight = 1.8: expected"),
        ({"timestep_distribution": "beta"}, "noising_weight = 0, noising_bias = 0: expected both above 0"),
        ({"timestep_distribution": "inverted_parabola", "noising_weight": 100, "noising_bias": 9},
         "noising_weight = 100, noising_bias = 9: no step is left"),
        ({"timestep_distribution": "sigmoid", "noising_weight": 1000, "noising_bias": 9},
         "noising_weight = 1000, noising_bias = 9: no step is left"),
        ({"adaptive_noise_scale": 0.1}, "adaptive_noise_scale: is added to noise_offset"),
        ({"soft_min_snr": True}, "soft_min_snr: expected min_snr_gamma beside it"),
    ],
)  # fmt: skip
def test_numbers_that_go_together_badly_are_refused(settings, text):
    with pytest.raises(Mistake) as caught:
        assemble({f"objective.{name}": value for name, value in settings.items()})
    assert str(caught.value).startswith(f"objective.{text}")


# --- noise

SHAPE = (4, 8, 12)


def many(settings: Noised, latent: torch.Tensor | None = None, count: int = 3000) -> tuple[torch.Tensor, ...]:
    latent = torch.zeros(SHAPE) if latent is None else latent
    found = [settings.noise(latent, "a", torch.Generator().manual_seed(i)) for i in range(count)]
    return tuple(map(torch.stack, zip(*found, strict=True)))


def across(noise: torch.Tensor) -> float:
    """Mean covariance of two elements of a channel."""
    flat = noise.double().flatten(2)
    n = flat.shape[-1]
    return ((flat.sum(-1).square() - flat.square().sum(-1)) / (n * (n - 1))).mean().item()


@pytest.mark.parametrize(
    ("settings", "covariance"),
    [
        ({"noise_offset": 0.5}, 0.25),
        ({"noise_offset": 0.6, "noise_offset_random_strength": True}, 0.12),  # the mean of u^2 is a third
        ({"noise_offset": 0.2, "adaptive_noise_scale": 0.5}, 0.49),  # 0.2 + 0.5 * 1
        ({"noise_offset": 0.2, "adaptive_noise_scale": -5.0}, 0.0),
    ],
)
def test_an_offset_is_what_elements_of_a_channel_share(settings, covariance):
    latent = torch.full(SHAPE, -1.0)
    noise, *more = many(Noised(**settings), latent)
    assert not more
    assert across(noise) == pytest.approx(covariance, abs=0.015)
    between = (noise[:, 0].mean((1, 2)) * noise[:, 1].mean((1, 2))).mean().item()
    assert between == pytest.approx(0, abs=0.02)
    assert noise.var().item() == pytest.approx(1 + covariance, abs=0.02)


@pytest.mark.parametrize(("random", "variance"), [(False, 0.09), (True, 0.03)])
def test_more_noise_is_seen_than_is_to_be_predicted(random, variance):
    settings = Noised(ip_noise_gamma=0.3, ip_noise_gamma_random_strength=random)
    noise, added = many(settings, count=1000)
    assert torch.equal(noise, many(Noised(), count=1000)[0])
    assert added.var().item() == pytest.approx(variance, rel=0.06)
    assert (noise * added).mean().item() == pytest.approx(0, abs=0.005)


def rows(length: int, coarse: int) -> torch.Tensor:
    """[length, coarse]: how much of each coarse number an element gets, in a line between their middles."""
    found = torch.zeros(length, coarse, dtype=torch.float64)
    for i in range(length):
        place = min(max((i + 0.5) * coarse / length - 0.5, 0), coarse - 1)
        low = min(int(place), coarse - 1)
        high = min(low + 1, coarse - 1)
        found[i, low] += 1 - (place - low)
        found[i, high] += place - low
    return found


def test_coarser_noise_has_the_covariance_of_its_levels():
    """Given how coarse each level is drawn, the sum of what the levels give; then its mean over draws."""
    discount, count, expected = 0.7, 6000, torch.zeros(96, 96, dtype=torch.float64)
    seen, height, width = [], 8, 12
    for seed in range(count):
        noise = pyramid(torch.zeros(1, height, width), 3, discount, torch.Generator().manual_seed(seed))
        assert noise.std().item() == pytest.approx(1, abs=1e-5)
        seen.append(noise.flatten())
        rng = torch.Generator().manual_seed(seed)
        whole = torch.zeros(96, 96, dtype=torch.float64)
        if seed >= 300:
            continue
        for level in range(3):
            ratio = (2 + 2 * torch.rand((), generator=rng).item()) ** level
            size = max(1, int(height / ratio)), max(1, int(width / ratio))
            torch.randn(1, 1, *size, generator=rng)
            taken = torch.kron(rows(height, size[0]), rows(width, size[1]))
            whole += discount ** (2 * level) * taken @ taken.T
            if 1 in size:
                break
        expected += whole / 300
    found = torch.stack(seen).double()
    near = [(0, 1), (40, 41), (40, 52), (0, 95), (40, 44), (5, 6)]
    for i, j in near:  # correlations, which the last division leaves alone, but for its own chance
        own = (found[:, i] * found[:, j]).mean() / (found[:, i].var() * found[:, j].var()).sqrt()
        other = expected[i, j] / (expected[i, i] * expected[j, j]).sqrt()
        assert own.item() == pytest.approx(other.item(), abs=0.08), (i, j)


def test_levels_end_at_a_pixel_and_off_is_off():
    rng = torch.Generator().manual_seed(1)
    assert pyramid(torch.randn(SHAPE), 64, 0.3, rng).isfinite().all()
    latent, before = torch.zeros(SHAPE), torch.Generator().manual_seed(1)
    (noise,) = Noised().noise(latent, "a", torch.Generator().manual_seed(1))
    assert torch.equal(noise, torch.randn(SHAPE, generator=before))


def test_a_picture_can_have_its_own_noise():
    settings = Noised(force_consistent_noise=True, noise_offset=0.1)
    one, two, other = (settings.noise(torch.zeros(SHAPE), name, torch.Generator().manual_seed(i))[0]
                       for i, name in enumerate(("a", "a", "b")))  # fmt: skip
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_schedule_ends_in_noise_and_begins_as_it_was():
    plain = Schedule.scaled_linear(prediction="v")
    ended = plain.ending_in_noise()
    assert not plain.last_is_noise
    assert ended.last_is_noise
    assert ended.snr(torch.tensor([999])) == 0
    torch.testing.assert_close(ended.alphas_cumprod[0], plain.alphas_cumprod[0])
