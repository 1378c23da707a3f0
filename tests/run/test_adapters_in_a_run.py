"""Adapters during a run: samples without dropout, a word about those that learn nothing, and resuming."""

from __future__ import annotations

import contextlib
import logging

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import entries, network_of
from lora_train.host import Cond
from lora_train.knobs import settings
from tests.tiny import Tiny, TinyHost


class Lender(TinyHost):
    """Lends what it is given."""

    def __init__(self, lent: Tiny):
        super().__init__()
        self.lent = lent

    def borrow(self, model, *, device, precision, waiting=None):
        return contextlib.nullcontext(self.lent)


def test_samples_are_drawn_without_dropout(trained, tmp_path):
    class Twice(Tiny):
        def sample(self, prompt) -> Image.Image:
            first, again = super().sample(prompt), super().sample(prompt)
            assert first.tobytes() == again.tobytes()
            return first

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --d 1\n", encoding="utf-8")
    trained(
        "a",
        host=Lender(Twice()),
        network__dropout=0.5,
        network__rank_dropout=0.5,
        network__module_dropout=0.5,
        output__sample_prompts=prompts,
        output__sample_every_n_steps=4,
    )
    assert len(list((tmp_path / "a" / "sample").iterdir())) == 2


def test_layers_that_the_model_does_not_use_are_told_once(trained, caplog):
    class Short(Tiny):
        """Its text encoder stops a layer early, as with clip_skip."""

        def encode(self, captions) -> Cond:
            layers = self.parts["te1"].encoder.layers
            whole, layers._modules = layers._modules, dict(list(layers._modules.items())[:-1])
            try:
                return super().encode(captions)
            finally:
                layers._modules = whole

    with caplog.at_level(logging.WARNING):
        trained("a", host=Lender(Short()))
    told = [r.getMessage() for r in caplog.records if "got no gradient" in r.getMessage()]
    assert told == [
        "6 of 72 layers got no gradient, the first is te1.encoder.layers.1.self_attn.q_proj: "
        "the model does not use them as it is set up"
    ]
    caplog.clear()
    trained("b")
    assert "got no gradient" not in caplog.text


@pytest.mark.parametrize("outputs", [False, True])
def test_magnitudes_and_norms_go_on_from_a_state(trained, outputs):
    how = {"network__dora_wd": True, "network__wd_on_output": outputs, "network__train_norm": True,
           "network__module_dropout": 0.1}  # fmt: skip
    whole = load_file(trained("whole", **how).file)
    stopped = trained("halves", stop=4, output__save_state=True, **how)
    again = load_file(trained("halves", place__resume=stopped.state, **how).file)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    ends = {name.partition(".")[2] for name in whole}
    assert {"w_norm", "b_norm"} <= ends
    assert ("diff" if outputs else "dora_scale") in ends
    assert any(bool(tensor.any()) for name, tensor in whole.items() if name.endswith("w_norm"))


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_goes_on_from_its_state_and_draws_from_its_file(trained, tmp_path, kind):
    """To the bit, with what is left out by chance; and the file alone gives what was trained."""
    how = {"network__kind": kind, "network__conv_dim": 2, "network__rank_dropout": 0.2,
           "network__scale_weight_norms": 0.5, "network__module_dropout": 0.1}  # fmt: skip
    known = {f"network__{s.path}" for s in settings(FAMILIES[kind])} | {"network__kind"}
    how = {k: v for k, v in how.items() if k in known and not (kind.endswith("oft") and "norms" in k)}
    whole = load_file(trained("whole", **how).file)
    stopped = trained("halves", stop=4, output__save_state=True, **how)
    again = load_file(trained("halves", place__resume=stopped.state, **how).file)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    layers = Tiny().layers()
    assert entries(network_of(whole, layers)).keys() >= whole.keys()  # of a `diff` alone also the bias
    assert any(adapter.norm() > 0 for adapter in network_of(whole, layers).adapters.values())
    if "network__scale_weight_norms" in how:
        assert all(adapter.norm() < 0.5 * 1.0001 for adapter in network_of(whole, layers).adapters.values())
