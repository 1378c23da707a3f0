"""What holds for every objective, and for the noise they share."""

from __future__ import annotations

import math

import pytest
import torch

from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data.batches import Batch
from lora_train.losses import min_snr_weight
from lora_train.noise import Schedule
from lora_train.objectives import OBJECTIVES
from tests.tiny import Tiny

objectives = pytest.mark.parametrize("objective", ["denoise"])  # of others see the tests of their names


def batch(lent: Tiny, count: int, cached: bool = False) -> Batch:
    rng = torch.Generator().manual_seed(5)
    captions = [f"caption {i}" for i in range(count)]
    latents = torch.randn(count, 4, 8, 8, generator=rng)
    return Batch(latents, captions, lent.encode(captions) if cached else None, list(range(count)), captions)


def rngs(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(count)]


@objectives
def test_a_samples_loss_does_not_depend_on_its_batch(objective):
    lent = Tiny()
    course = OBJECTIVES[objective]().begin(lent, Network(Lora(), lent.layers()))
    whole = batch(lent, 3)
    together = course.losses(lent, whole, rngs(3))
    assert together.shape == (3,)
    assert together.dtype is torch.float32
    for i in range(3):
        one = Batch(whole.latents[i : i + 1], whole.captions[i : i + 1], None, [i], [""])
        torch.testing.assert_close(course.losses(lent, one, rngs(3)[i : i + 1])[0], together[i])


@objectives
@pytest.mark.parametrize("options", [{}, {"noise_offset": 0.1}, {"min_snr_gamma": 5.0}])
def test_losses_are_those_at_the_samples_own_draws(objective, options):
    lent, own = Tiny(), rngs(2)
    course = OBJECTIVES[objective](**options).begin(lent, Network(Lora(), lent.layers()))
    t, noise = [], []
    for rng in own:
        t.append(torch.randint(0, 1000, (), generator=rng))
        noise.append(torch.randn(4, 8, 8, generator=rng))
        if "noise_offset" in options:
            noise[-1] = noise[-1] + 0.1 * torch.randn(4, 1, 1, generator=rng)
    given = batch(lent, 2, cached=True)
    expected = course.losses_at(lent, given.latents, torch.stack(noise), torch.stack(t), given.conds)
    assert torch.equal(course.losses(lent, given, rngs(2)), expected)
    assert torch.equal(course.losses(lent, batch(lent, 2), rngs(2)), expected)


@objectives
def test_the_text_encoder_gets_gradients_through_the_loss(objective):
    lent = Tiny()
    network = Network(Lora(), lent.layers())
    course = OBJECTIVES[objective]().begin(lent, network)
    with network.attached():
        course.losses(lent, batch(lent, 2), rngs(2)).mean().backward()
    assert network.silent() == []
    assert course.parameters() == []
    assert course.state_dict() == {}


@objectives
def test_steps_are_drawn_from_the_range(objective):
    course = OBJECTIVES[objective](min_timestep=200, max_timestep=203).begin(Tiny(), None)
    given = batch(Tiny(), 60)
    drawn = set(course.timesteps(Tiny(), given, rngs(60)))
    assert drawn == {200, 201, 202}


def test_the_schedule_is_the_field_own():
    """Against the definition, in float64; diffusers' is the same to the bit (tests/test_reference.py)."""
    schedule = Schedule.scaled_linear()
    betas = torch.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(schedule.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_prediction_gives_the_picture_back(prediction):
    schedule = Schedule.scaled_linear(prediction=prediction)
    x0, n = torch.randn(2, 6, 4, 8, 8, dtype=torch.float64)
    t = torch.tensor([0, 100, 300, 500, 800, 999])
    found = x0_of(schedule, schedule.noisy(x0, n, t), schedule.target(x0, n, t), t)
    torch.testing.assert_close(found, x0, rtol=1e-5, atol=1e-4)


def x0_of(schedule: Schedule, x_t: torch.Tensor, guess: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The picture that a prediction stands for."""
    a = schedule.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    if schedule.prediction == "v":
        return a.sqrt() * x_t - (1 - a).sqrt() * guess
    return (x_t - (1 - a).sqrt() * guess) / a.sqrt()


def test_min_snr_is_the_same_cap_in_x0_whatever_is_predicted():
    """An error in the prediction, weighted, is the error it makes in x_0, times the capped ratio."""
    x0, n, error = torch.randn(3, 6, 4, 8, 8, dtype=torch.float64)
    t = torch.tensor([10, 100, 300, 500, 800, 950])
    for prediction in ("epsilon", "v"):
        schedule = Schedule.scaled_linear(prediction=prediction)
        x_t, target, snr = schedule.noisy(x0, n, t), schedule.target(x0, n, t), schedule.snr(t)
        weighted = min_snr_weight(snr, 5.0, prediction).double() * error.square().flatten(1).mean(1)
        moved = x0_of(schedule, x_t, target + error, t) - x0_of(schedule, x_t, target, t)
        in_x0 = moved.square().flatten(1).mean(1) * snr.clamp(max=5.0).double()
        torch.testing.assert_close(weighted, in_x0, rtol=1e-4, atol=1e-9)
    with pytest.raises(ValueError, match="no weights for prediction 'flow'"):
        min_snr_weight(snr, 5.0, "flow")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_an_error_costs_is_written_down(objective):
    """Under sd-scripts' names."""
    costs = {"loss_type": "huber", "huber_schedule": "constant", "huber_c": 0.3, "huber_scale": 2.0,
             "min_snr_gamma": 7.0}  # fmt: skip
    found = OBJECTIVES[objective](**costs, debiased_estimation_loss=True).record()
    assert found.items() >= {f"ss_{name}": value for name, value in costs.items()}.items()
    assert found["ss_debiased_estimation"] is True
