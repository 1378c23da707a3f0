"""The running mean of the adapters."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.train.ema import Ema
from lora_train.train.events import Progress
from lora_train.train.learner import Learner
from lora_train.train.parked import tensors

STEPS = 60


def followed(ema: Ema, values: np.ndarray) -> float:
    """The mean after a parameter took these values, one after each step."""
    learned = nn.Linear(1, 1, bias=False).double()
    learned.weight.data.fill_(values[0])
    average = ema.of(learned)
    for step, value in enumerate(values[1:], 1):
        learned.weight.data.fill_(value)
        average.update(step)
    return average.mean["weight"].item()


def test_the_mean_is_the_weighted_sum_it_stands_for():
    """Written out: the start times d^n, and each value times (1 - d) d^(how often it was updated since)."""
    values = np.random.default_rng(0).normal(size=STEPS + 1)
    for every in (1, 7):
        taken = values[every::every]
        weights = 0.1 * 0.9 ** np.arange(len(taken))[::-1]
        truth = 0.9 ** len(taken) * values[0] + (weights * taken).sum()
        ema = Ema(decay=0.9, update_step_interval=every, warmup=False)
        assert followed(ema, values) == pytest.approx(truth, rel=1e-12)


def test_the_warm_up_is_the_plain_mean_while_it_lasts():
    """With shares (1+n)/(10+n) a value's weight is 9/(10+n) times the product of all later shares."""
    values = np.random.default_rng(1).normal(size=STEPS + 1)
    n = np.arange(1, STEPS + 1)
    shares = (1 + n) / (10 + n)
    later = np.append(np.cumprod(shares[::-1])[::-1][1:], 1.0)
    truth = np.prod(shares) * values[0] + (9 / (10 + n) * later * values[1:]).sum()
    assert followed(Ema(decay=0.999, update_step_interval=1), values) == pytest.approx(truth, rel=1e-9)


def test_what_does_not_move_stays_to_the_bit():
    learned = nn.Linear(7, 7)
    average = Ema(decay=0.9, update_step_interval=1).of(learned)
    for step in range(1, 30):
        average.update(step)
    assert all(torch.equal(average.mean[name], p) for name, p in learned.named_parameters())


def test_shown_gives_back_to_the_bit_also_after_an_error():
    learned = nn.Linear(3, 3)
    average = Ema(decay=0.5).of(learned)
    before = [p.detach().clone() for p in learned.parameters()]
    for mean in average.mean.values():
        mean.zero_()
    with pytest.raises(KeyError), average.shown():  # noqa: PT012 (both are what is tested)
        assert not any(p.any() for p in learned.parameters())
        raise KeyError
    assert all(torch.equal(a, b) for a, b in zip(before, learned.parameters(), strict=True))


def test_a_share_of_nothing_is_refused():
    with pytest.raises(Mistake, match="decay = 0: expected more than 0"):
        build(Ema, {"decay": 0})
    assert Ema().of(nn.Linear(1, 1)) is None


def test_the_mean_leaves_the_card_with_the_rest():
    """What is parked in a pause is what `tensors` finds."""
    net = nn.Linear(2, 2)
    average = Ema(decay=0.9).of(net)
    course = types.SimpleNamespace()
    learner = Learner(
        net, course, torch.optim.SGD(net.parameters(), lr=0.1), None, Progress(1, 1), average=average
    )
    found = {id(tensor) for tensor in tensors(learner)}
    assert found >= {id(mean) for mean in average.mean.values()}
