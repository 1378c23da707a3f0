"""A LoRA file of ours does in diffusers what it does here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import save
from lora_train.adapters.network import Network
from lora_train.prompts import Prompt
from lora_train.run.draw import Worn
from tests.hosts.standalone.test_standalone_sample import drawn, lents, pipeline, theirs  # noqa: F401

PROMPT = Prompt("a cat, sitting", "blurry", 64, 128, 5, 6, 7.5, "euler")


@pytest.fixture
def lora(lents, tmp_path):  # noqa: F811
    """A file whose adapters change every layer they can, as much as a trained one does."""
    torch.manual_seed(3)
    network = Network(
        FAMILIES["lora"](dim=4, alpha=2.0, conv_dim=2, conv_alpha=1.0), lents["epsilon"].layers()
    )
    with torch.no_grad():
        for adapter in network.adapters.values():
            for parameter in adapter.parameters():
                parameter.normal_(0, 0.1)
    save(
        network,
        tmp_path / "x.safetensors",
        metadata={"ss_network_module": "networks.lora"},
        dtype=torch.float32,
    )
    return tmp_path / "x.safetensors"


def test_diffusers_draws_the_same_picture_from_our_file(lents, pipeline, lora):  # noqa: F811
    pytest.importorskip("peft")
    bare = drawn(lents["epsilon"], PROMPT)
    with Worn(lents["epsilon"], [lora]).at([1.0]):
        ours = drawn(lents["epsilon"], PROMPT)
    pipeline.load_lora_weights(lora.parent, weight_name=lora.name)
    try:
        other = theirs(pipeline, PROMPT)
    finally:
        pipeline.unload_lora_weights()
    assert np.abs(ours - other).max() <= 2
    assert np.abs(ours - bare).mean() > 5  # or the comparison would say nothing


def test_at_strength_nought_it_is_the_bare_models_picture(lents, lora):  # noqa: F811
    lent = lents["epsilon"]
    bare = drawn(lent, PROMPT)
    worn = Worn(lent, [lora, lora])
    with worn.at([0.0, 0.0]):
        assert (drawn(lent, PROMPT) == bare).all()
    with worn.at([0.5, 0.5]):
        halves = drawn(lent, PROMPT)
    with worn.at([1.0, 0.0]):
        assert np.abs(drawn(lent, PROMPT) - halves).max() <= 2
    assert (drawn(lent, PROMPT) == bare).all()
