"""Optimizers and schedules in whole runs: resuming, saving in between, what is written down of them."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.run.curve import Curve
from lora_train.run.store import State
from lora_train.train.optim import OPTIMIZERS

SHORT = {"training__max_train_steps": 6, "lr__learning_rate": None}
RUNS = {  # kind: what else is set
    "adamw8bit": {},
    "adafactor": {},
    "prodigy": {"lr__kind": "cosine", "lr__lr_warmup_steps": 2},
    "prodigyplusschedulefree": {},  # some of its means are of rows and columns
    "dadaptadanip": {},  # whose groups share a tensor
    "dadaptsgd": {},  # which makes one sum of all
    "adamwschedulefree": {"lr__kind": "constant_with_warmup", "lr__lr_warmup_steps": 2},
    "muon": {"lr__lr_scheduler_type": "StepLR", "lr__lr_scheduler_args": ["step_size=2"]},
    "custom": {"optimizer__optimizer_class": "NAdam", "lr__learning_rate": 0.01},
}


def chosen(kind: str) -> dict:
    one = OPTIMIZERS[kind](**({"optimizer_class": "NAdam"} if kind == "custom" else {})).on("cpu")
    if said := one.unready():
        pytest.skip(said[0])
    return {**SHORT, "optimizer__kind": kind, **RUNS.get(kind, {})}


def tensors(outcome) -> dict[str, torch.Tensor]:
    return load_file(outcome.file)


def texts(outcome) -> dict[str, str]:
    with safe_open(outcome.file, "pt") as file:
        return file.metadata()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_is_resumed_is_the_one_that_never_stopped(trained, tmp_path, kind):
    values = chosen(kind)
    whole = trained("a", **values, output__save_every_n_steps=3, output__save_state=True)
    on = trained("b", **values, place__resume=tmp_path / "a" / "x-step00000003-state")
    assert same(tensors(whole), tensors(on))
    alone = trained("c", **values)  # and what is saved in between changes nothing
    assert same(tensors(whole), tensors(alone))
    assert texts(whole)["ss_optimizer"] == texts(on)["ss_optimizer"] == texts(alone)["ss_optimizer"]


def test_8_bits_without_a_card_are_adamw_and_a_line_says_so(trained, caplog):
    caplog.set_level("INFO")
    eight = trained("a", **chosen("adamw8bit"))
    said = [r.getMessage() for r in caplog.records if "makes the same steps" in r.getMessage()]
    assert len(said) == 1
    plain = trained("b", **{**SHORT, "optimizer__kind": "adamw"})
    assert same(tensors(eight), tensors(plain))
    assert texts(eight)["ss_optimizer"] == "torch.optim.adamw.AdamW"


def test_a_schedule_free_file_is_the_average_and_its_state_is_not(trained, tmp_path):
    values = chosen("adamwschedulefree")
    outcome = trained("a", **values, output__save_state_on_train_end=True)
    state = State.read(outcome.state)
    y = state.tensors["network." + next(k[8:] for k in state.tensors if k.endswith("up"))]
    found = tensors(outcome)
    assert not any(t.shape == y.shape and torch.equal(t, y) for t in found.values())
    groups = state.plain["optimizer"]["groups"]
    assert all(group["train_mode"] for group in groups)


def test_the_rate_that_was_used_is_written_down(trained, tmp_path):
    outcome = trained("a", **chosen("prodigy"))
    told = texts(outcome)
    assert told["ss_learning_rate"] == "1.0"
    assert told["ss_optimizer"].startswith("prodigyopt.prodigy.Prodigy(")
    assert "d_coef=2.0" in told["ss_optimizer"]
    assert json.loads(told["lora_train_job"])["lr.learning_rate"] == 1.0
    lines = [json.loads(line) for line in (tmp_path / "a/x-run/metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["lr/d*lr/unet"] > 0
    assert "lr/d*lr/unet" in Curve.read(tmp_path / "a/x-run").columns
    assert "lr/unet" not in Curve.read(tmp_path / "a/x-run").columns


def test_no_rate_is_written_down_where_adafactor_chooses_it(trained):
    asked = {"lr__kind": "cosine", "lr__learning_rate": 1e-4, "lr__lr_warmup_steps": 2}
    told = texts(trained("a", **{**chosen("adafactor"), **asked}))
    assert (told["ss_learning_rate"], told["ss_unet_lr"]) == ("None", "None")
    assert (told["ss_lr_scheduler"], told["ss_lr_warmup_steps"]) == ("adafactor", "0")
    assert json.loads(told["lora_train_job"])["lr.learning_rate"] == 1e-4


def test_the_l1_penalty_adds_the_sign_to_the_gradient(trained):
    """One step of plain descent: what the penalty adds is lr * l1 * sign, in closed form."""
    values = {
        "optimizer__kind": "custom", "optimizer__optimizer_class": "SGD", "lr__learning_rate": 0.5,
        "training__max_train_steps": 1, "training__max_grad_norm": 0,
    }  # fmt: skip
    without, pulled = (
        tensors(trained("a", **values)),
        tensors(trained("b", **values, training__l1_penalty=0.01)),
    )
    downs = [key for key in without if key.endswith("lora_down.weight")]
    assert downs
    for key in downs:  # up is 0 at first, so the first gradient of down is 0: it is as it began
        assert torch.allclose(pulled[key], without[key] - 0.5 * 0.01 * without[key].sign(), atol=1e-7)
    for key in set(without) - set(downs):
        assert torch.equal(pulled[key], without[key])


def test_a_schedule_that_ends_before_the_run_is_refused_before_anything_is_written(trained, tmp_path):
    with pytest.raises(Mistake, match="it stops at step 4 of 6"):
        trained("a", **{**SHORT, "lr__lr_scheduler_type": "OneCycleLR", "lr__lr_scheduler_args": [
            "max_lr=0.1", "total_steps=3", "cycle_momentum=False"]})  # fmt: skip
    assert not list((tmp_path / "a").glob("**/*.safetensors"))
