"""A network of several families, trained."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file

from lora_train.adapters.file import begun, network_of
from lora_train.adapters.layermap import LayerMap
from lora_train.adapters.lora import Lora
from tests.tiny import Tiny

MAP = {"module_algo_map": {"CrossAttention": {"algo": "lokr", "factor": 4},
                           "FeedForward": {"algo": "loha", "dim": 2},
                           "CLIPMLP": {"algo": "full"}}}  # fmt: skip
HOW = {"network__layer_map": json.dumps(MAP), "network__rank_dropout": 0.2, "network__dim": 3}


def test_it_goes_on_from_its_state_and_from_its_file(trained):
    whole = load_file(trained("whole", **HOW).file)
    stopped = trained("halves", stop=4, output__save_state=True, **HOW)
    again = load_file(trained("halves", place__resume=stopped.state, **HOW).file)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    marks = {name.rpartition(".")[2].partition("_")[0] for name in whole}
    assert {"hada", "lokr", "diff"} <= marks
    first = trained("first", **HOW)
    family = Lora(dim=3, layer_map=LayerMap.parse(json.dumps(MAP)), weights=first.file)
    network, alone = begun(family, Tiny().layers()), network_of(whole, Tiny().layers())
    for key, adapter in network.adapters.items():
        torch.testing.assert_close(adapter.delta(), alone.adapters[key].delta(), rtol=1e-5, atol=1e-8)
