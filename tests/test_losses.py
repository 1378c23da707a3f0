"""What a wrong prediction costs, against integrals, limits and the error in x_0."""

from __future__ import annotations

import pytest
import torch

from lora_train.losses import averaged, elements, thresholds
from lora_train.noise import Schedule
from lora_train.objectives.denoise import Denoise
from lora_train.objectives.weighed import Weighed
from tests.test_objectives import x0_of

T = torch.tensor([0, 10, 100, 300, 500, 800, 999])
PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v"])
SOFT = {"min_snr_gamma": 5.0, "soft_min_snr": True}
IN_X0 = {  # what a weight is on the error in x_0, of the signal-to-noise ratio
    "min": ({"min_snr_gamma": 5.0}, lambda r: r.clamp(max=5)),
    "soft": (SOFT, lambda r: 1 / (1 / r + 1 / 5)),
    "debiased": ({"debiased_estimation_loss": True}, lambda r: r / r.clamp(max=1000).sqrt()),
    "p2": ({"p2_gamma": 1.0}, lambda r: r / (1 + r)),
    "p2 half": ({"p2_gamma": 0.5}, lambda r: r / (1 + r).sqrt()),
}


@PREDICTIONS
@pytest.mark.parametrize("kind", IN_X0)
def test_a_weight_pulls_the_same_on_x0_whatever_is_predicted(kind, prediction):
    """An error in the prediction, weighted, is the error it makes in x_0 times the weight of that."""
    settings, weight = IN_X0[kind]
    schedule = Schedule.scaled_linear(prediction=prediction)
    x0, n, error = torch.randn(3, len(T), 4, 8, 8, dtype=torch.float64)
    x_t, target = schedule.noisy(x0, n, T), schedule.target(x0, n, T)
    weighted = Weighed(**settings).weights(schedule, T).double() * averaged(error.square())
    moved = x0_of(schedule, x_t, target + error, T) - x0_of(schedule, x_t, target, T)
    in_x0 = averaged(moved.square()) * weight(schedule.snr(T).double())
    torch.testing.assert_close(weighted, in_x0, rtol=2e-4, atol=1e-9)


def test_softly_capped_is_capped_far_from_the_edge():
    schedule = Schedule.scaled_linear()
    far = torch.tensor([0, 999])  # ratios of 1175 and 0.0047
    hard, soft = (Weighed(**s).weights(schedule, far) for s in ({"min_snr_gamma": 5.0}, SOFT))
    torch.testing.assert_close(soft, hard, rtol=5e-3, atol=0)


def test_a_loss_in_v_weighed_like_noise_is_that_of_the_noise_it_stands_for():
    schedule = Schedule.scaled_linear(prediction="v")
    t = T[1:]  # the first step's ratio is clipped
    x0, n, error = torch.randn(3, len(t), 4, 8, 8, dtype=torch.float64)
    x_t, v = schedule.noisy(x0, n, t), schedule.target(x0, n, t)
    noise = schedule.clean(x_t, v + error, t)[1]
    weighted = Weighed(scale_v_pred_loss_like_noise_pred=True).weights(schedule, t) * averaged(error.square())
    torch.testing.assert_close(weighted, averaged((noise - n).square()), rtol=1e-4, atol=1e-9)


def test_a_loss_in_noise_with_that_of_v_added_is_the_sum_of_both():
    """The same wrong picture, said as noise and as v."""
    told, other = Schedule.scaled_linear(), Schedule.scaled_linear(prediction="v")
    t = T[1:]
    x0, n, wrong = torch.randn(3, len(t), 4, 8, 8, dtype=torch.float64)
    x_t = told.noisy(x0, n, t)
    a = told.alphas_cumprod[t].double().view(-1, 1, 1, 1)
    noise = (x_t - a.sqrt() * wrong) / (1 - a).sqrt()  # so that x_t stands for the picture `wrong`
    as_noise = averaged((noise - n).square())
    v = a.sqrt() * noise - (1 - a).sqrt() * wrong
    as_v = averaged((v - other.target(x0, n, t)).square())
    weighted = Weighed(v_pred_like_loss=0.3).weights(told, t) * as_noise
    torch.testing.assert_close(weighted, as_noise + 0.3 * as_v, rtol=1e-4, atol=1e-9)


def test_weights_multiply_and_none_of_them_weighs_nothing():
    schedule, both = Schedule.scaled_linear(), {"min_snr_gamma": 5.0, "p2_gamma": 1.0}
    each = [Weighed(**{name: value}).weights(schedule, T) for name, value in both.items()]
    torch.testing.assert_close(Weighed(**both).weights(schedule, T), each[0] * each[1])
    assert Weighed().weights(schedule, T) is None


@pytest.mark.parametrize(
    "settings", [*(s for s, _ in IN_X0.values()), {"scale_v_pred_loss_like_noise_pred": True}]
)
def test_weights_of_v_are_finite_where_no_signal_is_left(settings):
    schedule = Schedule.scaled_linear(prediction="v").ending_in_noise()
    assert Weighed(**settings).refusals("v", True) == []
    assert Weighed(**settings).weights(schedule, T).isfinite().all()


UNDEFINED = [
    ("epsilon", True, {"min_snr_gamma": 5.0}), ("epsilon", True, {"debiased_estimation_loss": True}),
    ("epsilon", True, {"v_pred_like_loss": 1.0}),
    ("epsilon", False, {"scale_v_pred_loss_like_noise_pred": True}), ("v", False, {"v_pred_like_loss": 1.0}),
]  # fmt: skip


@pytest.mark.parametrize(("prediction", "last_is_noise", "settings"), UNDEFINED)
def test_what_is_undefined_for_a_prediction_is_refused_by_its_name(prediction, last_is_noise, settings):
    said = Denoise(**settings).refusals(prediction, last_is_noise)
    assert [line.partition(":")[0] for line in said] == [*settings]


def test_at_once():
    both = Denoise(min_snr_gamma=5.0, debiased_estimation_loss=True, scale_v_pred_loss_like_noise_pred=True)
    assert len(both.refusals("epsilon", True)) == 3
    assert Denoise().refusals("epsilon", True) == Denoise(p2_gamma=1.0).refusals("epsilon", True) == []


@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
@pytest.mark.parametrize("c", [0.01, 0.1, 1.0])
def test_a_robust_loss_is_the_integral_of_its_slope(kind, c):
    """2 x / sqrt(1 + (x / c)^2), of smooth_l1 over c: small errors count as they are, large ones all the
    same."""
    x = torch.linspace(0, 3, 30_001, dtype=torch.float64)
    slope = 2 * x / (1 + (x / c).square()).sqrt() / (1 if kind == "huber" else c)
    area = torch.cat([torch.zeros(1).double(), torch.cumulative_trapezoid(slope, x)])
    found = elements(kind, x[None], torch.tensor([c], dtype=torch.float64))[0]
    torch.testing.assert_close(found, area, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(elements(kind, -x[None], torch.tensor([c]).double())[0], found)


def test_a_robust_loss_lies_between_the_square_and_torchs_huber():
    e, c = torch.randn(1, 10_000, dtype=torch.float64), 0.5
    found = elements("huber", e, torch.tensor([c]).double())
    sharp = 2 * torch.nn.functional.huber_loss(e, torch.zeros_like(e), reduction="none", delta=c)
    assert (found <= e.square() + 1e-12).all()
    assert (found <= sharp + 1e-12).all()
    assert (sharp - found <= c**2).all()


def test_squares_and_sizes_are_torchs():
    e = torch.randn(2, 4, 8, 8)
    none = torch.zeros_like(e)
    assert torch.equal(elements("l2", e), torch.nn.functional.mse_loss(e, none, reduction="none"))
    assert torch.equal(elements("l1", e), torch.nn.functional.l1_loss(e, none, reduction="none"))


def test_nothing_is_lost_of_errors_much_smaller_than_c():
    e = torch.full((1, 4), 1e-4)
    torch.testing.assert_close(elements("huber", e, torch.tensor([1.0])), e.square())
    torch.testing.assert_close(elements("smooth_l1", e, torch.tensor([2.0])), e.square() / 2)


def test_thresholds_end_where_they_should():
    schedule = Schedule.scaled_linear()
    t, snr = torch.arange(1000), schedule.snr(torch.arange(1000))
    c = {s: thresholds(s, t, snr, steps=1000, c=0.1, scale=2.0) for s in ("constant", "exponential", "snr")}
    assert torch.equal(c["constant"], torch.full_like(snr, 0.2))
    assert c["exponential"][0] == 2.0
    assert c["exponential"][999].item() == pytest.approx(0.2, rel=3e-3)  # 0.2 behind the last
    steady = c["exponential"][1:] / c["exponential"][:-1]
    torch.testing.assert_close(steady, torch.full_like(steady, 0.1 ** (1 / 1000)))
    sigma = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()
    torch.testing.assert_close(c["snr"], 0.9 / (1 + sigma) ** 2 + 0.1)
    assert thresholds("snr", t[:1], torch.zeros(1), steps=1000, c=0.1, scale=1.0).item() == pytest.approx(0.1)
