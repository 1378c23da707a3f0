"""The running mean of the adapters: what is saved and sampled, and what training goes on with."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from lora_train.run.store import State

HOW = {
    "ema__decay": 0.6,
    "ema__update_step_interval": 2,
    "network__conv_dim": 2,
    "network__rank_dropout": 0.2,
}


def test_the_file_holds_the_mean_of_what_was_trained(trained, tmp_path):
    """Out of the weights of every step, which the same run without a mean has saved; `up` starts at 0."""
    own = {name: value for name, value in HOW.items() if not name.startswith("ema")}
    trained("raw", output__save_every_n_steps=1, **own)
    raw = [load_file(tmp_path / "raw" / f"x-step{n:08d}.safetensors") for n in range(1, 8)]
    raw.append(load_file(tmp_path / "raw" / "x.safetensors"))
    found = load_file(trained("mean", ema__warmup=False, **HOW).file)
    ups = [name for name in found if name.endswith("lora_up.weight")]
    assert ups
    for name in ups:
        truth = sum(0.4 * 0.6**i * step[name].double() for i, step in enumerate(raw[7::-2]))
        torch.testing.assert_close(found[name].double(), truth, rtol=1e-5, atol=1e-9)


def test_training_goes_on_with_the_weights_themselves(trained):
    """Also where a file is saved and a sample is drawn between two steps."""
    own = {name: value for name, value in HOW.items() if not name.startswith("ema")}
    states = []
    for folder, how in (("raw", own), ("mean", HOW)):
        done = trained(folder, output__save_state_on_train_end=True, output__save_every_n_steps=3,
                       output__sample_every_n_steps=3, **how)  # fmt: skip
        states.append(State.read(done.state).tensors)
    raw, mean = states
    assert {name for name in mean if name.startswith("ema.")}
    assert raw.keys() == {name for name in mean if not name.startswith("ema.")}
    assert all(torch.equal(tensor, mean[name]) for name, tensor in raw.items())


def test_the_mean_goes_on_from_a_state(trained):
    whole = load_file(trained("whole", **HOW).file)
    stopped = trained("halves", stop=3, output__save_state=True, **HOW)
    again = load_file(trained("halves", place__resume=stopped.state, **HOW).file)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
