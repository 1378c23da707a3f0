"""A run's files."""

import json

import pytest
import torch

from lora_train.errors import Mistake
from lora_train.run.store import RunStore, State, Unwritable, optimizer_state, restore_optimizer, whole


def half(path, error):
    with whole(path) as part:
        part.write_text("half")
        raise error


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with pytest.raises(RuntimeError):
        half(path, RuntimeError())
    assert list(path.parent.iterdir()) == []
    with whole(path) as part:
        part.write_text("all")
        assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_optimizer_comes_back_bit_for_bit_and_goes_on_the_same(tmp_path):
    def grown():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(
            [{"params": [net.weight], "name": "a"}, {"params": [net.bias], "lr": 0.5}], lr=0.1
        )

    def step(net, optimizer):
        net(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    net, optimizer = grown()
    step(net, optimizer)
    tensors, plain = optimizer_state(optimizer)
    whole_state = {
        "optimizer": plain, "progress": {"step": 1, "images": 1}, "samples_per_epoch": 1, "job": {},
        "values": {},
    }  # fmt: skip
    State({**tensors, "w": net.weight, "b": net.bias}, whole_state).write(tmp_path / "x-state")
    step(net, optimizer)

    other, fresh = grown()
    state = State.read(tmp_path / "x-state")
    with torch.no_grad():
        other.weight.copy_(state.tensors["w"]), other.bias.copy_(state.tensors["b"])
    restore_optimizer(fresh, state.tensors, state.plain["optimizer"])
    step(other, fresh)
    assert torch.equal(net.weight, other.weight)
    assert torch.equal(net.bias, other.bias)


def test_what_is_no_state_is_named(tmp_path):
    with pytest.raises(Mistake, match="expected a state folder"):
        State.read(tmp_path)
    (tmp_path / "state.safetensors").write_bytes(b"nothing")
    with pytest.raises(Mistake, match="cannot be read"):
        State.read(tmp_path)


def test_a_state_of_a_newer_version_is_refused(tmp_path):
    State({"a": torch.zeros(1)}, {"schema": 99}).write(tmp_path)
    with pytest.raises(Mistake, match="newer version"):
        State.read(tmp_path)


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before", encoding="utf-8")
    with pytest.raises(Unwritable, match=r"a\.txt: cannot be written .No space"):
        half(path, OSError(28, "No space left on device"))
    assert [p.read_text(encoding="utf-8") for p in tmp_path.iterdir()] == ["before"]


def test_metrics_are_cut_back_to_a_step_and_a_torn_line_goes(tmp_path):
    store = RunStore(tmp_path, "x")
    store.records.mkdir()
    lines = [json.dumps({"step": n}) + "\n" for n in range(1, 6)]
    store.metrics.write_text("".join(lines) + '{"step": 6, "lo', encoding="utf-8")
    store.cut_metrics(3)
    assert store.metrics.read_text(encoding="utf-8") == "".join(lines[:3])
