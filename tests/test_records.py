"""What was written by any version is read by all later ones: one file of each version lies in schemas/."""

import json
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train import records
from lora_train.errors import Mistake
from lora_train.job import assemble, declared, written
from lora_train.options import train_values
from lora_train.run import store
from lora_train.run.session import run
from lora_train.run.store import State
from tests.run.conftest import pictures, trained  # noqa: F401 (fixtures)
from tests.tiny import TinyHost

SCHEMAS = pathlib.Path(__file__).with_name("schemas")


def asked(file, *words):
    return train_values(["--config_file", str(file), *words], declared())[0]


def test_a_file_of_every_version_is_kept():
    for kind in ("job", "preset"):
        kept = [
            json.loads(p.read_text(encoding="utf-8"))["schema"]
            for p in sorted(SCHEMAS.glob(f"{kind}-*.json"))
        ]
        assert kept == list(range(1, records.SCHEMA + 1))
    states = [State.read(p).plain["schema"] for p in sorted(SCHEMAS.glob("state-*"))]
    assert states == list(range(1, store.SCHEMA + 1))


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("job-*.json")), ids=lambda p: p.stem)
def test_a_job_of_any_version_is_read_whole(file):
    kept = json.loads(file.read_text(encoding="utf-8"))["values"]
    values = written(*assemble(asked(file)))
    assert len(kept) > 100
    assert {path: values[path] for path in kept} == kept


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("preset-*.json")), ids=lambda p: p.stem)
def test_a_preset_of_any_version_is_read_and_the_command_line_goes_before_it(file):
    job, output, place = assemble(asked(file, "--network_dim", "3"))
    assert (job.network.dim, job.network.alpha, job.objective.min_snr_gamma) == (3, 8.0, 5.0)
    assert (job.lr.learning_rate, output.save_precision, place.gradient_checkpointing) == (2e-4, "bf16", True)


@pytest.mark.parametrize("folder", sorted(SCHEMAS.glob("state-*")), ids=lambda p: p.name)
def test_a_state_of_any_version_goes_on(trained, folder, tmp_path):  # noqa: F811
    state = shutil.copytree(folder, tmp_path / "kept-state")
    now = {"network__dim": 2, "network__train_unet_only": True, "place__resume": state}
    done = trained("on", training__max_train_steps=4, **now)
    assert (done.progress.first, done.progress.step) == (2, 4)
    assert all(tensor.isfinite().all() for tensor in load_file(done.file).values())


def test_a_setting_that_a_state_knows_nothing_of_is_as_if_it_were_not_there(trained):  # noqa: F811
    """Versions add settings; a state that was saved before goes on."""
    done = trained("a", output__save_state_on_train_end=True)
    state = State.read(done.state)
    del state.plain["job"]["objective.noise_offset"]
    State(state.tensors, state.plain).write(done.state)
    trained("b", place__resume=done.state, training__max_train_steps=9)
    with pytest.raises(Mistake, match=r"objective.noise_offset = 0.1: the state was saved with 0"):
        trained("c", place__resume=done.state, training__max_train_steps=9, objective__noise_offset=0.1)


def test_the_job_that_a_run_writes_repeats_it(trained, tmp_path):  # noqa: F811
    first = trained("a", network__dim=2, data__flip_aug=True)
    values = asked(tmp_path / "a" / "x-run" / "job.json")
    values["output.output_dir"] = str(tmp_path / "b")
    again = run(*assemble(values), TinyHost())
    one, two = load_file(first.file), load_file(again.file)
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"schema": 99, "values": {}}', "schema = 99: written by a newer version.* update lora-train"),
        ('{"schema": 0, "values": {}}', "schema = 0: expected a whole number from 1"),
        ('{"schema": "1", "values": {}}', "schema = '?1'?: expected a whole number from 1"),
        ('{"schema": true, "values": {}}', "schema = true: expected a whole number from 1"),
        ('{"schema": 1}', "values: expected"),
        ('{"schema": 1, "values": [1]}', "values: expected"),
        ('{"schema": 1, "values": {"network.dimm": 4}}', "network.dimm: no such setting; did you mean"),
        ("[1, 2]", "expected settings"),
        ("{", "not JSON: .*line 1"),
        ('{"schema": 1, "values": ' + "[" * 100_000, "not JSON"),
        (b"\xff\xfe{\x00", "expected UTF-8"),
        ('{"LoRA": "Standard", "network_dim": 8}', "expected a job or preset of lora-train.*kohya_ss"),
        (None, "expected a JSON file"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_job_is_named(tmp_path, text, complaint):
    file = tmp_path / "x.json"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Mistake, match=f"x.json: .*{complaint}"):
        asked(file)


@pytest.mark.parametrize("schema", ["2", "x"])
def test_a_saved_file_with_the_job_of_a_newer_version_is_refused(tmp_path, schema):
    key = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {
        f"{key}.lora_down.weight": torch.zeros(1, 2, 1, 1),
        f"{key}.lora_up.weight": torch.zeros(2, 1, 1, 1),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"lora_train_job": "{}", "lora_train_schema": schema})
    with pytest.raises(Mistake, match="schema"):
        train_values(["--from", str(tmp_path / "a.safetensors")], declared())
