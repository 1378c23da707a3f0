"""Variants of adapters during a run: what is learned beside the factors is kept and gone on from."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

VARIANTS = {
    "pissa": ("lora", {"init": "pissa", "rank_dropout": 0.2}),
    "tucker": ("lora", {"use_tucker": True, "use_scalar": True}),
    "loha": ("loha", {"use_scalar": True, "use_tucker": True}),
    "lokr": ("lokr", {"use_scalar": True, "decompose_both": True, "rs_lora": True}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_goes_on_from_its_state(trained, name):
    kind, how = VARIANTS[name]
    how = {"network__kind": kind, "network__conv_dim": 2, **{f"network__{k}": v for k, v in how.items()}}
    whole = load_file(trained("whole", **how).file)
    stopped = trained("halves", stop=4, output__save_state=True, **how)
    again = load_file(trained("halves", place__resume=stopped.state, **how).file)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
