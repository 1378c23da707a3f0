"""Schedules against those of diffusers, transformers and torch; and classes of theirs by name."""

import math

import pytest
import torch

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.train.lr import SCHEDULERS
from lora_train.train.rates import Constant

STEPS, RATE = 37, 3e-4
GIVEN = {  # our settings, and what their makers call them
    "constant": ({}, {}),
    "constant_with_warmup": ({"lr_warmup_steps": 5}, {"num_warmup_steps": 5}),
    "linear": ({"lr_warmup_steps": 5}, {"num_warmup_steps": 5}),
    "cosine": ({"lr_warmup_steps": 0.2}, {"num_warmup_steps": 7}),
    "cosine_with_restarts": (
        {"lr_warmup_steps": 5, "lr_scheduler_num_cycles": 3},
        {"num_warmup_steps": 5, "num_cycles": 3},
    ),
    "cosine_with_min_lr": (
        {"lr_warmup_steps": 5, "lr_scheduler_num_cycles": 3, "lr_scheduler_min_lr_ratio": 0.2},
        {"num_warmup_steps": 5, "num_cycles": 1.5, "min_lr_rate": 0.2},
    ),
    "polynomial": (
        {"lr_warmup_steps": 5, "lr_scheduler_power": 2.5, "lr_scheduler_args": ["lr_end=1e-5"]},
        {"num_warmup_steps": 5, "power": 2.5, "lr_end": 1e-5},
    ),
    "inverse_sqrt": (
        {"lr_warmup_steps": 5, "lr_scheduler_timescale": 9},
        {"num_warmup_steps": 5, "timescale": 9},
    ),
    "warmup_stable_decay": (
        {"lr_warmup_steps": 5, "lr_decay_steps": 11, "lr_scheduler_min_lr_ratio": 0.1},
        {"num_warmup_steps": 5, "num_decay_steps": 11, "num_stable_steps": 21, "min_lr_ratio": 0.1},
    ),
    "piecewise_constant": (
        {"lr_scheduler_args": "step_rules=1:10,0.1:20,0.01"},
        {"step_rules": "1:10,0.1:20,0.01"},
    ),
}
ENDLESS = ("constant", "constant_with_warmup", "inverse_sqrt", "warmup_stable_decay", "piecewise_constant")
OURS = ("rex", "one_cycle", "adafactor")


def optimizer(rate: float = RATE) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def walked(schedule, steps: int = STEPS) -> list[float]:
    """The rates that a schedule of torch's kind gives its optimizer."""
    found = []
    for _ in range(steps):
        found.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return found


def ours(kind: str, **values) -> list[float]:
    lr = build(SCHEDULERS[kind], {"learning_rate": RATE, **values})
    return [lr.at(step, STEPS, RATE) for step in range(STEPS)]


def test_every_schedule_is_looked_at():
    assert {*GIVEN, *OURS} == {*SCHEDULERS}


@pytest.mark.parametrize("kind", GIVEN)
def test_it_is_that_of_diffusers_or_transformers(kind):
    pytest.importorskip("transformers")
    diffusers = pytest.importorskip("diffusers.optimization")
    from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

    values, theirs = GIVEN[kind]
    more = {} if kind in ENDLESS else {"num_training_steps": STEPS}
    made = diffusers.get_piecewise_constant_schedule
    if kind != "piecewise_constant":
        of_theirs = {k.value: v for k, v in diffusers.TYPE_TO_SCHEDULER_FUNCTION.items()}
        later = {k.value: v for k, v in TYPE_TO_SCHEDULER_FUNCTION.items()}
        made = of_theirs.get(kind) or later[kind]
    assert ours(kind, **values) == pytest.approx(
        walked(made(optimizer(), **theirs, **more)), rel=1e-9, abs=1e-15
    )


@pytest.mark.parametrize("shape", ["linear", "cosine", "1-sqrt"])
def test_warmup_stable_decay_bends_as_transformers_does(shape):
    transformers = pytest.importorskip("transformers")
    get_wsd_schedule = getattr(transformers, "get_wsd_schedule", None)
    if get_wsd_schedule is None:
        pytest.skip("this transformers has no such schedule")
    theirs = get_wsd_schedule(
        optimizer(), num_warmup_steps=6, num_decay_steps=9, num_stable_steps=22, warmup_type=shape,
        decay_type=shape)  # fmt: skip
    words = [f"warmup_type={shape}", f"decay_type={shape}"]
    found = ours("warmup_stable_decay", lr_warmup_steps=6, lr_decay_steps=9, lr_scheduler_args=words)
    assert found == pytest.approx(walked(theirs), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("values", "share"), [({}, 0.3), ({"lr_warmup_steps": 0.5}, 0.5)])
def test_one_cycle_is_torchs(values, share):
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer(), max_lr=RATE, total_steps=STEPS + 1, pct_start=share, cycle_momentum=False
    )
    lr = build(SCHEDULERS["one_cycle"], {"learning_rate": RATE, **values})
    found = [lr.at(step, STEPS + 1, RATE) for step in range(STEPS)]
    assert found == pytest.approx(walked(schedule), rel=1e-9)


def test_rex_is_its_papers_and_stays_high_with_a_large_d():
    paper = ours("rex", lr_scheduler_args=["d=0.5"])
    for step, rate in enumerate(paper):
        p = step / STEPS
        assert rate == pytest.approx(RATE * (1 - p) / (0.5 + 0.5 * (1 - p)))
    usual = ours("rex")
    assert usual[0] == paper[0] == RATE
    assert usual == sorted(usual, reverse=True)
    assert usual[STEPS // 2] > 0.9 * RATE
    assert paper == pytest.approx(ours("rex", lr_scheduler_args=["d=0.5"], lr_warmup_steps=0))


TORCH = torch.optim.lr_scheduler
CLASSES = [
    ("CosineAnnealingLR", ["T_max=10", "eta_min=1e-5"], lambda o: TORCH.CosineAnnealingLR(o, 10, 1e-5)),
    ("torch.optim.lr_scheduler.ExponentialLR", ["gamma=0.9"], lambda o: TORCH.ExponentialLR(o, 0.9)),
    ("StepLR", ["step_size=5"], lambda o: TORCH.StepLR(o, 5)),
    ("MultiStepLR", ["milestones=[3,9]", "gamma=0.5"], lambda o: TORCH.MultiStepLR(o, [3, 9], 0.5)),
    ("CyclicLR", ["base_lr=1e-5", "max_lr=1e-3", "step_size_up=4", "cycle_momentum=False"],
     lambda o: TORCH.CyclicLR(o, 1e-5, 1e-3, 4, cycle_momentum=False)),
]  # fmt: skip


@pytest.mark.parametrize("base", [RATE, 7e-5])
@pytest.mark.parametrize(("name", "words", "made"), CLASSES)
def test_a_class_by_its_name_gives_every_group_its_own_rates(name, words, made, base):
    lr = build(Constant, {"lr_scheduler_type": name, "lr_scheduler_args": words})
    assert [lr.at(step, STEPS, base) for step in range(STEPS)] == walked(made(optimizer(base)))


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        ("constant", {"lr_scheduler_args": ["d=1"]}, "lr_scheduler_args = d: this schedule has none"),
        ("cosine", {"lr_scheduler_type": "Cosine"}, "lr_scheduler_type = torch.optim.lr_scheduler.Cos"),
        ("cosine", {"lr_scheduler_type": "os.system"}, "lr_scheduler_type = os.system: expected the class"),
        ("cosine", {"lr_scheduler_type": "nowhere.X"}, "lr_scheduler_type = nowhere.X: needs the pack"),
        ("cosine", {"lr_scheduler_type": "StepLR", "lr_scheduler_args": ["steps=3"]},
         "lr_scheduler_args = steps: StepLR has step_size"),
        ("cosine", {"lr_scheduler_type": "StepLR", "lr_warmup_steps": 3}, "lr_warmup_steps: a schedule by"),
        ("polynomial", {"learning_rate": 1e-4, "lr_scheduler_args": ["lr_end=1"]}, "lr_scheduler_args = lr"),
        ("warmup_stable_decay", {}, "lr_decay_steps = 0: expected the steps"),
        ("piecewise_constant", {}, "lr_scheduler_args = step_rules='': expected such as"),
        ("piecewise_constant", {"lr_scheduler_args": ["step_rules=1:a,2"]}, "lr_scheduler_args = step_rul"),
        ("rex", {"lr_scheduler_args": ["d=1"]}, "lr_scheduler_args = d=1: expected 0 or more"),
        ("adafactor", {"lr_warmup_steps": 5}, "lr_warmup_steps: Adafactor's own"),
        ("cosine", {"lr_scheduler_args": ["3"]}, "lr_scheduler_args: 3: expected name=value"),
    ],
)  # fmt: skip
def test_what_a_schedule_cannot_be_is_said(kind, values, said):
    with pytest.raises(Mistake) as caught:
        build(SCHEDULERS[kind], values)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("ReduceLROnPlateau", [], "follows the loss"),
        ("OneCycleLR", ["max_lr=1e-3", "total_steps=99"], "set cycle_momentum=False"),
        ("OneCycleLR", ["max_lr=1e-3", "total_steps=9", "cycle_momentum=False"], "stops at step 10 of 37"),
        ("StepLR", ["step_size=0"], "stops at step"),
    ],
)
def test_a_class_that_does_not_come_through_is_refused_with_the_step(name, words, said):
    lr = build(Constant, {"lr_scheduler_type": name, "lr_scheduler_args": words})
    with pytest.raises(Mistake, match=said):
        lr.at(0, STEPS, RATE)


def test_adafactors_own_falls_with_the_root_of_the_step():
    assert ours("adafactor")[:2] == [1e-2, 1e-2]
    lr = SCHEDULERS["adafactor"]()
    assert lr.at(40_000 - 1, 50_000, 1.0) == pytest.approx(1 / math.sqrt(40_000))


def test_the_usual_rate_is_taken_where_none_is_given():
    assert Constant().filled(0.5).rate("unet") == 0.5
    assert Constant(learning_rate=0.1).filled(0.5).rate("te1") == 0.1
    assert Constant(unet_lr=0.2).filled(0.5).rate("unet") == 0.2
