"""Steps that are not finite: named, skipped, and in the end the last good state is saved."""

import contextlib
import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from lora_train.adapters.lora import Lora, LoraAdapter
from lora_train.adapters.network import Network
from lora_train.data.batches import Batch
from lora_train.errors import Mistake
from lora_train.host import Cond
from lora_train.objectives import OBJECTIVES
from lora_train.run.store import State
from lora_train.train.finite import Ruined, cause
from tests.run.conftest import pictures, trained  # noqa: F401 (fixtures)
from tests.run.test_session import lines
from tests.tiny import Tiny, TinyHost


class Failing(Tiny):
    """Fails in one of the ways a model can, for `when` of the calls' timesteps."""

    how, when = "prediction", staticmethod(lambda t: t > 500)

    def denoise(self, x_t, t, cond):
        out = super().denoise(x_t, t, cond)
        if not self.when(t).any():
            return out
        if self.how == "prediction":
            return out * float("nan")
        if self.how == "gradient" and out.requires_grad:
            out.register_hook(lambda grad: grad * float("inf"))
        return out

    def encode(self, captions):
        cond = super().encode(captions)
        if self.how == "cond" and any("dog" in caption for caption in captions):
            return Cond(cond.context * float("nan"))
        return cond


class FailingHost(TinyHost):
    def __init__(self, how, when=lambda t: t > 500):
        super().__init__()
        self.how, self.when = how, when

    @contextlib.contextmanager
    def borrow(self, model, *, device, precision, waiting=None):
        lent = Failing()
        lent.how, lent.when = self.how, self.when
        yield lent


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            "prediction",
            r"prediction of 2_things/\w\.png at timestep (5[0-9]{2}|[6-9][0-9]{2}): .*mixed_precision",
        ),
        ("gradient", r"gradient of 2_things/\w\.png: lower the learning rate"),
        ("cond", r"cond of 2_things/b\.png at timestep \d+: the text encoder fails"),
    ],
)
def test_three_bad_steps_in_twenty_end_the_run_with_the_last_good_state(trained, tmp_path, how, said):  # noqa: F811
    values = {"network__train_unet_only": how == "cond", "training__max_train_steps": 40}
    with pytest.raises(Ruined, match=said) as e:
        trained("a", host=FailingHost(how), **values)
    assert str(e.value).startswith("3 of the last 20 steps were not finite, the last: ")
    (file,) = (tmp_path / "a").glob("x-step*.safetensors")
    assert all(t.isfinite().all() for t in load_file(file).values())
    state = State.read(next((tmp_path / "a").glob("x-step*-state")))
    assert f"step{state.plain['progress']['step']:08d}" in file.stem
    assert not (tmp_path / "a" / "x.safetensors").exists()


def test_a_bad_step_now_and_then_is_skipped_and_told(trained, caplog):  # noqa: F811
    caplog.set_level(logging.WARNING)
    calls = []

    def seldom(t):
        calls.append(t)
        return torch.tensor([len(calls) % 25 == 5])

    rare = trained("a", host=FailingHost("gradient", seldom), training__max_train_steps=60)
    told = [r.getMessage() for r in caplog.records if "is skipped" in r.getMessage()]
    assert len(told) == 3
    assert told[0].startswith("step 5 is skipped: gradient of 2_things/")
    assert rare.progress.step == 60
    assert all(t.isfinite().all() for t in load_file(rare.file).values())
    assert len(lines(rare)) == 60
    assert "NaN" not in json.dumps(lines(rare))


def test_a_skipped_step_changes_nothing_but_the_position(trained, tmp_path):  # noqa: F811
    """All steps but the first are bad: the file is that of one step."""
    calls = []

    def later(t):
        calls.append(t)
        return torch.tensor([len(calls) > 1])

    with pytest.raises(Ruined, match="what was learned up to step 4 is saved"):
        trained("a", host=FailingHost("gradient", later), training__max_train_steps=30)
    one = trained("b", training__max_train_steps=1)
    found, wanted = load_file(tmp_path / "a" / "x-step00000004.safetensors"), load_file(one.file)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_the_cause_is_the_first_station_that_fails():
    lent = Tiny()
    network = Network(Lora(dim=2), lent.layers())
    course = OBJECTIVES["denoise"]().begin(lent, network)

    class Learner:
        parameters = [*network.parameters()]

    learner = Learner()
    learner.course, learner.network = course, network
    latents = torch.randn(2, 4, 8, 8)
    latents[1, 0, 0, 0] = float("inf")
    batch = Batch(latents, ["a", "b"], None, [0, 1], ["one.png", "two.png"])

    def losses(b):
        return course.losses(lent, b, [torch.Generator().manual_seed(i) for i in b.ordinals])

    assert cause(learner, lent, [batch], losses, 3).startswith("latent of two.png at timestep ")
    whole = Batch(latents.nan_to_num(0, 0, 0), ["a", "b"], None, [0, 1], ["one.png", "two.png"])
    assert cause(learner, lent, [whole], losses, 3) is None
    with torch.no_grad(), network.attached():
        learner.parameters[0].fill_(float("nan"))
        assert cause(learner, lent, [whole], losses, 3).startswith(
            "adapter's prediction of one.png at timestep"
        )


def test_a_rate_that_runs_away_is_told_as_the_adapters_own_doing(trained):  # noqa: F811
    with pytest.raises(Ruined, match="adapter's prediction of .*: without the adapter it is finite; lower"):
        trained("a", lr__learning_rate=100.0, optimizer__weight_decay=0.0, training__max_grad_norm=0,
                network__alpha=1e6, training__max_train_steps=300, lr__kind="constant")  # fmt: skip


def test_adapters_that_change_nothing_by_step_fifty_are_told(trained, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setattr(LoraAdapter, "norm", lambda self: torch.zeros(()))
    with pytest.raises(Mistake, match=r"after 50 steps none of the \d+ adapters has changed anything"):
        trained("a", training__max_train_steps=60)
    norm = [torch.zeros(()), torch.ones(())]
    monkeypatch.setattr(LoraAdapter, "norm", lambda self: norm["attn" in self.layer.path])
    caplog.set_level(logging.WARNING)
    trained("b", training__max_train_steps=60)
    (line,) = [r.getMessage() for r in caplog.records if "have changed nothing" in r.getMessage()]
    assert "after 50 steps" in line
