"""Stages: one run after the other, each from the adapter of the one before."""

import importlib.util
import json

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.job import declared
from lora_train.options import train_runs, train_values
from lora_train.stages import staged

TOML = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, ("tomllib", "tomli"))),
    reason="reading TOML on Python 3.10 needs tomli, which the WebUI has not",
)
STAGES = """
network_dim = 2
network_alpha = 1
optimizer_type = "Adafactor"
"optimizer.relative_step" = false
learning_rate = 1e-2
seed = 3
save_precision = "fp16"
max_train_steps = 4

[[stages]]

[[stages]]
optimizer_type = "AdamW"
learning_rate = 1e-4
lr_scheduler = "cosine"
max_train_steps = 3
"""


@pytest.fixture
def made(tmp_path, trained):
    """made(folder, *words, stop=…): the runs of STAGES on the light host."""

    def made(folder: str, *words: str, text: str = STAGES, stop: dict | None = None) -> list:
        file = tmp_path / f"{folder}.toml"
        file.write_text(text, encoding="utf-8")
        out = ["--output_dir", str(tmp_path / folder), "--output_name", "x"]
        runs, _ = train_runs(["--config_file", str(file), *out, *words], declared())
        ended = []
        for values in runs:
            name = str(values["output.output_name"])
            ended.append(
                trained(
                    folder,
                    stop=(stop or {}).get(name),
                    **{p.replace(".", "__"): v for p, v in values.items()},
                )
            )
            if ended[-1].progress.stopped:
                break
        return ended

    return made


def metadata(file) -> dict:
    with safe_open(file, "pt") as f:
        return f.metadata()


def same(a, b) -> bool:
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(x[key].equal(y[key]) for key in x)


@TOML
def test_each_stage_begins_with_the_adapter_of_the_one_before(tmp_path, made, trained):
    pytest.importorskip("transformers")
    first, last = made("a")
    assert (first.file.name, last.file.name) == ("x-stage1.safetensors", "x.safetensors")
    alone = trained(
        "b", network__dim=2, network__alpha=1, network__weights=first.file, training__seed=3,
        training__max_train_steps=3, lr__learning_rate=1e-4, lr__kind="cosine",
        output__save_precision="fp16")  # fmt: skip
    assert same(alone.file, last.file)
    assert not same(first.file, last.file)
    said, before = metadata(last.file), metadata(first.file)
    assert json.loads(said["lora_train_before"]) == [json.loads(before["lora_train_job"])]
    assert json.loads(said["lora_train_before"])[0]["optimizer.kind"] == "adafactor"
    assert json.loads(said["lora_train_job"])["optimizer.kind"] == "adamw"
    assert "lora_train_before" not in before


@TOML
@pytest.mark.parametrize("stop", [{"x-stage1": 2}, {"x": 2}])
def test_a_stage_is_gone_on_from(made, stop):
    pytest.importorskip("transformers")
    whole = made("a")
    part = made("b", stop=stop)
    assert len(part) == (1 if "x-stage1" in stop else 2)
    resumed = made("b", "--resume", str(part[-1].state))
    assert len(resumed) == 3 - len(part)
    assert same(resumed[-1].file, whole[-1].file)


USUAL = {"network.dim": 2, "output.output_name": "x"}


def test_only_the_last_ends_as_a_checkpoint():
    runs = staged({**USUAL, "output.save_checkpoint": True}, [{}, {}])
    assert [run["output.save_checkpoint"] for run in runs] == [False, True]


def test_what_belongs_to_another_kind_is_left_out():
    values = {
        **USUAL,
        "optimizer.kind": "adafactor",
        "optimizer.relative_step": False,
        "lr.learning_rate": 1e-3,
    }
    first, last = staged(values, [{}, {"optimizer.kind": "adamw"}])
    assert first["optimizer.relative_step"] is False
    assert "optimizer.relative_step" not in last
    assert last["lr.learning_rate"] == 1e-3


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{}, {"network.weights": "a"}], "stages.1.network.weights: is the stage before it; leave it out"),
        ([{"output.output_name": "y"}], "stages.0.output.output_name: is the job's; leave it out"),
        ([{}, {"network.dim": 0}], "stages.1: network.dim = 0: expected 1 to"),
        ([{}, {"optimizer.kind": "adamw", "optimizer.d_coef": 1}], "stages.1: optimizer.d_coef belongs to"),
    ],
)
def test_what_a_stage_cannot_be_is_refused(stages, said):
    with pytest.raises(Mistake) as caught:
        staged(USUAL, stages)
    assert str(caught.value).startswith(said)


@TOML
def test_a_name_that_there_is_not_is_refused_with_its_stage(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text(STAGES + "optimiser_type = 'AdamW'\n", encoding="utf-8")
    with pytest.raises(Mistake, match=r"c.toml: stages.1: optimiser_type: no such setting; did you mean opt"):
        train_values(["--config_file", str(file)], declared())


@TOML
def test_a_state_of_another_job_is_refused(tmp_path, made, trained):
    other = trained("other", stop=2, output__output_name="other")
    with pytest.raises(Mistake, match=r"is of other; expected a state of x-stage1, x"):
        made("a", "--resume", str(other.state))
