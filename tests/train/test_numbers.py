"""Numbers that come later than their step, as a GPU's do: nothing waits for them, nothing else differs."""

import json
import logging

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data.batches import Batch, Group
from lora_train.objectives.denoise import Denoise
from lora_train.run.store import State
from lora_train.train import loop
from lora_train.train.events import Progress, Watcher
from lora_train.train.finite import Ruined
from lora_train.train.learner import Learner
from lora_train.train.lr import Constant
from lora_train.train.optim import AdamW
from lora_train.train.parallel import Team
from tests.run.conftest import pictures, trained  # noqa: F401 (fixtures)
from tests.run.test_session import LIVELY, lines, same
from tests.tiny import Tiny
from tests.train.test_finite import FailingHost

FUSED = "fused" if torch.__version__ >= "2.4" else None  # on a CPU, where it came later than on a GPU


@pytest.fixture(params=[1, 3])
def late(monkeypatch, request):
    """Runs, asked for, whose numbers come so many steps late."""
    return lambda: monkeypatch.setattr(loop, "behind", lambda device: request.param)


@pytest.fixture
def fused(monkeypatch):
    """The kind of optimizer that a GPU gets: it leaves a step out by itself."""
    if FUSED is None:
        pytest.skip("torch has a fused AdamW on CPUs since 2.4")

    def make(self, groups):
        return torch.optim.AdamW(groups, **self.arguments(), fused=True)

    monkeypatch.setattr(AdamW, "make", make)


class Order(Watcher):
    def __init__(self):
        self.seen = []

    def measured(self, progress):
        self.seen.append(("measured", progress.step, progress.loss))

    def stepped(self, progress):
        self.seen.append(("stepped", progress.step))


def test_a_run_whose_numbers_come_late_writes_the_same(trained, tmp_path, late):  # noqa: F811
    values = {**LIVELY, "output__save_every_n_steps": 3, "output__save_state": True,
              "network__scale_weight_norms": 0.01, "training__max_train_steps": 11}  # fmt: skip
    at_once = trained("a", **values)
    late()
    order = Order()
    after = trained("b", watchers=[order], **values)
    assert same(at_once, after)
    assert lines(at_once) == lines(after)
    assert any(line["max_norm/keys_scaled"] for line in lines(after))
    assert [n[1:] for n in order.seen if n[0] == "measured"] == [
        (line["step"], line["loss"]) for line in lines(after)
    ]
    assert order.seen.index(("stepped", 2)) < [n[:2] for n in order.seen].index(("measured", 2))
    before, now = (State.read(tmp_path / name / "x-step00000006-state").plain for name in "ab")
    assert before["progress"] == now["progress"]


@pytest.mark.parametrize("step", [3, 6])
def test_a_resumed_run_whose_numbers_come_late_is_the_one_that_never_stopped(
    trained,  # noqa: F811
    tmp_path,
    late,
    step,
):
    late()
    whole = trained("a", output__save_every_n_steps=3, output__save_state=True, **LIVELY)
    on = trained("b", place__resume=tmp_path / "a" / f"x-step{step:08d}-state", **LIVELY)
    assert same(whole, on)
    assert lines(whole)[step:] == lines(on)


def failing(steps: set[int]) -> FailingHost:
    """Whose gradient is not finite in these steps."""
    calls = []

    def when(t):
        if torch.is_grad_enabled():
            calls.append(1)
        return torch.tensor([len(calls) in steps])

    return FailingHost("gradient", when)


def test_a_bad_step_found_late_has_changed_nothing(trained, fused, late, caplog):  # noqa: F811
    caplog.set_level(logging.WARNING)
    at_once = trained("a", host=failing({2, 5}), training__max_train_steps=9)
    assert [r.getMessage()[:17] for r in caplog.records if "is skipped" in r.getMessage()] == [
        "step 2 is skipped", "step 5 is skipped"]  # fmt: skip
    late()
    after = trained("b", host=failing({2, 5}), training__max_train_steps=9)
    assert same(at_once, after)
    assert lines(at_once) == lines(after)
    told = [r.getMessage() for r in caplog.records if "is skipped" in r.getMessage()]
    assert told[:2] == told[2:]
    assert "NaN" not in json.dumps(lines(after))


def test_an_optimizer_that_cannot_leave_a_step_out_is_not_asked_to_make_it(trained, late):  # noqa: F811
    at_once = trained("a", host=failing({2, 5}), training__max_train_steps=9)
    late()
    assert same(at_once, trained("b", host=failing({2, 5}), training__max_train_steps=9))


def test_a_run_that_ends_early_has_a_line_for_every_step_it_made(trained, fused, late, tmp_path):  # noqa: F811
    late()
    with pytest.raises(Ruined):
        trained("a", host=failing({2, 3, 4}), training__max_train_steps=30)
    (state,) = (tmp_path / "a").glob("x-step*-state")
    metrics = (tmp_path / "a" / "x-run" / "metrics.jsonl").read_text().splitlines()
    step = State.read(state).plain["progress"]["step"]
    assert step in (5, 7)
    assert [json.loads(line)["step"] for line in metrics] == list(range(1, step + 1))


class Asked(TorchDispatchMode):
    """Notes what Python asks of a tensor: on a GPU it would have to wait for the answer."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(word in str(func) for word in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.")):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"scale_weight_norms": 0.01}])
def test_nothing_is_asked_of_a_tensor_within_a_step(fused, options):
    lent = Tiny()
    network = Network(Lora(**options), lent.layers())
    progress, lr = Progress(steps=10, steps_per_epoch=10), Constant(learning_rate=1e-3)
    with network.attached():
        course = Denoise(min_snr_gamma=5.0).begin(lent, network)
        learner = Learner.new(network, course, optimizer=AdamW(), lr=lr, progress=progress)

        def step() -> loop._Step:
            batch = Batch(torch.randn(2, 4, 8, 8), ["a", "b"], None, [0, 1], ["", ""], torch.ones(2))
            training = loop.Training(seed=0)
            return loop._Step(learner, lent, Group([batch], 2), training, Team())

        step().run(float)
        before = [p.detach().clone() for p in learner.parameters]
        made = step()
        with Asked() as asked:
            made.run(float)
        assert asked.found == []
        assert made.judged() is None
    assert any(not torch.equal(p, b) for p, b in zip(learner.parameters, before, strict=True))
