"""Where a run begins, what of it stops early, and rates that follow the batch."""

import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from lora_train.errors import Mistake


def weights(outcome, lead: str = "") -> dict:
    return {key: value for key, value in load_file(outcome.file).items() if key.startswith(lead)}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)


def rates(tmp_path, folder: str, name: str) -> list[float]:
    lines = (tmp_path / folder / "x-run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


@pytest.mark.parametrize(("stop", "kind"), [(3, "adamw"), (0.375, "lion")])
def test_text_encoders_learn_up_to_a_step(tmp_path, trained, stop, kind):
    if kind == "lion":
        pytest.importorskip("lion_pytorch")
    short = trained("a", training__max_train_steps=3, optimizer__kind=kind)
    long = trained("b", training__stop_text_encoder_training=stop, optimizer__kind=kind)
    whole = trained("c", optimizer__kind=kind)
    assert weights(long, "lora_te_")
    assert equal(weights(long, "lora_te_"), weights(short, "lora_te_"))
    assert not equal(weights(long, "lora_te_"), weights(whole, "lora_te_"))
    assert not equal(weights(long, "lora_unet_"), weights(short, "lora_unet_"))
    assert rates(tmp_path, "b", "lr/te1") == [0.01] * 3 + [0.0] * 5


@pytest.mark.parametrize("stop", [2, 5])
def test_a_run_whose_text_encoder_stopped_is_gone_on_from(trained, caplog, stop):
    early = {"training__stop_text_encoder_training": 4, "optimizer__weight_decay": 0.1}
    whole = trained("a", **early)
    part = trained("b", stop=stop, **early)
    caplog.clear()
    resumed = trained("b", place__resume=part.state, **early)
    assert equal(weights(resumed), weights(whole))
    assert "no gradient" not in caplog.text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"training__stop_text_encoder_training": 0}, "expected more than 0; .* network.train_unet_only"),
        ({"training__stop_text_encoder_training": 5, "network__train_unet_only": True}, "does not train"),
        ({"training__stop_text_encoder_training": 5, "network__train_text_encoder_only": True}, "nothing el"),
        ({"training__initial_step": 8}, "initial_step = 8: expected to begin before the run ends, at step 8"),
        ({"training__initial_epoch": 3}, "initial_epoch = 3: expected to begin before the run ends, at step"),
    ],
)
def test_what_cannot_be_is_refused(trained, values, said):
    with pytest.raises(Mistake, match=said):
        trained("a", **values)


PLAIN = {
    "optimizer__kind": "custom",
    "optimizer__optimizer_class": "torch.optim.SGD",
    "lr__kind": "linear",
}  # which remembers nothing


def test_a_run_begins_at_a_step_as_if_those_before_had_been_made(tmp_path, trained):
    whole = trained("a", **PLAIN, output__save_every_n_steps=3)
    begun = tmp_path / "a" / "x-step00000003.safetensors"
    later = trained("b", **PLAIN, network__weights=begun, training__initial_step=3)
    assert equal(weights(later), weights(whole))
    lines = [(tmp_path / name / "x-run" / "metrics.jsonl").read_text().splitlines() for name in "ab"]
    first, second = ([json.loads(line) for line in each] for each in lines)
    assert [line["step"] for line in second] == [4, 5, 6, 7, 8]
    assert [line["loss"] for line in second] == [line["loss"] for line in first[3:]]
    assert second[0]["average"] == second[0]["loss"]


def test_an_epoch_to_begin_with_is_the_step_it_begins_at(trained):
    by_step, by_epoch = (
        trained(name, training__max_train_epochs=2, **PLAIN, **{f"training__initial_{name}": value})
        for name, value in (("step", 6), ("epoch", 2))
    )
    assert equal(weights(by_step), weights(by_epoch))
    both = trained("both", training__max_train_epochs=2, **PLAIN, training__initial_step=6,
                   training__initial_epoch=1)  # fmt: skip
    assert equal(weights(by_step), weights(both))


def test_a_state_knows_its_own_step(trained):
    begun = {"training__initial_step": 2}
    whole = trained("a", **begun)
    part = trained("b", stop=5, **begun)
    assert equal(weights(trained("b", place__resume=part.state, **begun)), weights(whole))


def test_rates_follow_the_batch(trained):
    many = {"data__batch_size": 2, "training__gradient_accumulation_steps": 2, "lr__text_encoder_lr": 0.001}
    scaled = trained("a", **many, lr__scale_lr=True)
    given = trained("b", **{**many, "lr__learning_rate": 0.04, "lr__text_encoder_lr": 0.004})
    assert equal(weights(scaled), weights(given))
    with safe_open(scaled.file, "pt") as file:
        said = file.metadata()
    assert (said["ss_learning_rate"], said["ss_text_encoder_lr"]) == ("0.04", "0.004")
    assert json.loads(said["lora_train_job"])["lr.scale_lr"] is False


def test_a_scaled_run_is_gone_on_from(trained):
    asked = {"lr__scale_lr": True, "training__gradient_accumulation_steps": 2}
    whole, part = trained("a", **asked), trained("b", **asked, stop=3)
    assert equal(weights(trained("b", **asked, place__resume=part.state)), weights(whole))
