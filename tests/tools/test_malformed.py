"""Files whose tensors do not belong together: said in a sentence, whatever the family is."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file, save_file

from lora_train.adapters import FAMILIES
from lora_train.errors import Mistake
from lora_train.tools.opened import Opened
from tests.tools import saved


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("based", [True, False])
@pytest.mark.parametrize("family", [*FAMILIES, *saved.VARIANTS])
def test_tensors_that_do_not_fit_are_said(family, based, tmp_path):
    """One is missing, has another number of axes, or other sides: each in turn. A change that is made all the
    same has the layer's shape."""
    tensors = load_file(saved.file(tmp_path, family))
    key = next(k for k in tensors if k.startswith("lora_unet")).partition(".")[0]
    own = {k: t for k, t in tensors.items() if k.startswith(f"{key}.")}
    ways = {
        "missing": lambda name: {k: t for k, t in own.items() if k != name},
        "flat": lambda name: {**own, name: own[name].flatten()},
        "deep": lambda name: {**own, name: own[name][None, None, None]},
        "scalar": lambda name: {**own, name: own[name].sum()},
        "empty": lambda name: {**own, name: own[name].flatten()[:0]},
        "longer": lambda name: {
            **own,
            name: own[name].repeat(*[2] * own[name].ndim) if own[name].ndim else own[name],
        },
    }
    refused = []
    for way, change in ways.items():
        for name in own:
            path = tmp_path / f"{way}.safetensors"
            save_file({k: t.clone().contiguous() for k, t in change(name).items()} or {"a": own[name]}, path)
            try:
                file = Opened(path)
                for layer in file.layers:
                    there = file.change(layer, saved.base("sd1") if based else None)
                    assert not based or there.shape == saved.base("sd1").shapes[layer]
            except Mistake as e:
                refused.append((str(e), str(path)))
    assert refused
    assert all(path in said for said, path in refused)


def test_shapes_below_zero_are_refused(tmp_path):
    """-2 times -3 is 6 as well."""
    row = {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}
    head = json.dumps({"lora_unet_conv_in.lora_down.weight": row}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(24))
    with pytest.raises(Mistake, match="does not fill its place"):
        Opened(tmp_path / "a.safetensors")
