"""What the WebUI cannot read is saved as what it can: exact, or near with the error in the metadata."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_train.adapters.export import DIFF, readable
from lora_train.adapters.file import save
from lora_train.adapters.lora import Lora, LoraAdapter
from lora_train.adapters.network import Network
from lora_train.adapters.principal import narrowed, principal
from lora_train.adapters.thin import factors
from lora_train.names import file_key
from tests.test_laws import stirred
from tests.tiny import Tiny
from tests.webui_formulas import delta


class Strange(LoraAdapter):
    """A LoRA under names of its own, whose plain form is of twice its rank, or whole."""

    whole = False

    def tensors(self):
        return {f"strange_{name}": tensor for name, tensor in super().tensors().items()}

    def plain(self):
        if self.whole:
            return {DIFF: self.delta().detach()}
        up, down = self.up.detach().flatten(1), self.down.detach().flatten(1)
        return factors(
            torch.cat([up, up], 1) * self.scale / 2, torch.cat([down, down]), self.layer.shape, 2 * self.rank
        )


class Whole(Strange):
    whole = True


@dataclasses.dataclass(frozen=True)
class StrangeFamily(Lora):
    kind = Strange

    def make(self, layer):
        size = self.size(layer)
        return size and self.kind(layer, *size)


class WholeFamily(StrangeFamily):
    kind = Whole


def texts(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def off(network, tensors):
    """Share of each layer that a file's tensors miss, by the WebUI's formulas."""
    found = {}
    for key, layer in network.layers.items():
        lead = file_key(layer.part, layer.path, layer.arch) + "."
        own = {name[len(lead) :]: tensor for name, tensor in tensors.items() if name.startswith(lead)}
        there = network.adapters[key].delta().detach()
        found[key] = float((delta(own, layer.weight())[0] - there).norm() / there.norm())
    return found


@pytest.mark.parametrize("family", [StrangeFamily, WholeFamily])
def test_what_no_webui_reads_is_saved_as_what_it_reads(family, tmp_path):
    network = stirred(Network(family(dim=2, alpha=3, conv_dim=2), Tiny().layers()))
    path, native = tmp_path / "a.safetensors", tmp_path / "kept" / "a.native.safetensors"
    own = {"ss_network_module": "strange", "ss_network_args": '{"odd": "1"}', "ss_seed": "1"}
    save(network, path, metadata=own, dtype=torch.float32, native=native)
    assert max(off(network, load_file(path)).values()) < 1e-6
    assert all(".strange_" in name for name in load_file(native))
    assert texts(native).items() >= own.items()
    found = texts(path)
    assert found["ss_seed"] == "1"
    assert json.loads(found["lora_train_export"]) == {
        "from": "strange", "arguments": '{"odd": "1"}', "error": 0.0}  # fmt: skip
    if family is StrangeFamily:
        assert (found["ss_network_module"], found["ss_network_dim"]) == ("networks.lora", "4")
        assert "ss_network_args" not in found
    else:
        assert (found["ss_network_module"], found["ss_network_dim"]) == ("lycoris.kohya", "Dynamic")
        assert json.loads(found["ss_network_args"]) == {"algo": "full"}


def test_a_lora_larger_than_what_it_makes_is_saved_as_that():
    network = Network(StrangeFamily(dim=8), Tiny().layers())
    found = readable(network)
    for key, form in zip(network.layers, found.forms, strict=True):
        out, inn, *_ = network.layers[key].shape
        assert (DIFF in form) == (16 * (out + inn) > out * inn), key
    assert any(DIFF in form for form in found.forms)


def test_a_rank_that_is_asked_for_is_kept_and_its_error_said(tmp_path):
    network = stirred(Network(WholeFamily(dim=4, conv_dim=4), Tiny().layers()), 1.0)
    path = tmp_path / "a.safetensors"
    save(network, path, metadata={}, dtype=torch.float32, rank=2)
    tensors = load_file(path)
    assert {len(t) for name, t in tensors.items() if name.endswith("lora_down.weight")} == {2}
    best, all_of = {}, 0.0
    for key, adapter in network.adapters.items():
        values = torch.linalg.svdvals(adapter.delta().detach().flatten(1))
        best[key] = float(values[2:].norm() / values.norm())
        all_of += float(values.norm()) ** 2
    assert off(network, tensors) == pytest.approx(best, rel=1e-3, abs=1e-5)
    missing = sum((best[key] * float(a.norm())) ** 2 for key, a in network.adapters.items())
    said = json.loads(texts(path)["lora_train_export"])
    assert said["error"] == pytest.approx((missing / all_of) ** 0.5, rel=1e-2)
    assert said["largest"] == pytest.approx(max(best.values()), rel=1e-2)
    assert best[said["largest_in"]] == max(best.values())
    assert texts(path)["ss_network_dim"] == texts(path)["ss_network_alpha"].removesuffix(".0") == "2"


def test_a_rank_that_is_enough_changes_nothing():
    network = stirred(Network(StrangeFamily(dim=2, conv_dim=2), Tiny().layers()))
    asked, found = readable(network, 4), readable(network)
    assert {len(form["lora_down.weight"]) for form in asked.forms} == {4}
    assert asked.off[0] == 0
    assert max(off(network, asked.tensors).values()) < 1e-6
    assert found.off == (0, 0)


def test_what_the_webui_reads_is_saved_as_it_is(tmp_path):
    network = Network(Lora(), Tiny().layers())
    save(network, tmp_path / "a.safetensors", metadata={}, dtype=torch.float32, native=tmp_path / "b", rank=1)
    assert readable(network) is None
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("shape", [(300, 500), (500, 300), (40, 500)])
def test_principal_parts_are_the_nearest_of_their_rank(shape):
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = 0.97 ** torch.arange(min(shape))
    matrix = (u * values) @ vh
    up, down = principal(matrix, 8)
    assert (up.shape, down.shape) == ((shape[0], 8), (8, shape[1]))
    assert float((matrix - up @ down).norm()) == pytest.approx(float(values[8:].norm()), rel=1e-3)
    up, down = narrowed(u * values, vh, 8)
    assert float((matrix - up @ down).norm()) == pytest.approx(float(values[8:].norm()), rel=1e-3)
