"""A start from the layer's own principal parts: learned as the paper has it, saved as a plain LoRA."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.func import functional_call

from lora_train.adapters.file import entries, network_of
from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.knobs import build
from tests.test_laws import inputs, seen, stirred
from tests.tiny import Tiny

PISSA = Lora(dim=3, alpha=2.0, conv_dim=2, init="pissa")


def test_a_fresh_one_changes_nothing_and_learns_with_both_factors():
    lent = Tiny()
    before, network = seen(lent), Network(PISSA, lent.layers())
    with network.attached():
        now = seen(lent)
        assert torch.equal(now, before)
        now.sum().backward()
    assert network.silent() == []
    assert all(a.up.grad.any() and a.down.grad.any() for a in network.adapters.values())


@pytest.mark.parametrize("alpha", [3.0, 1.0])
def test_steps_are_those_of_the_paper(alpha):
    """W = residual + s B A with the frozen residual written out, trained by SGD beside ours."""
    torch.manual_seed(0)
    module = nn.Linear(10, 7).requires_grad_(False)
    layer = Layer.of("unet", "middle_block.1.proj_in", module)
    adapter, scale = Lora(dim=3, alpha=alpha, init="pissa").make(layer), alpha / 3
    u, s, vh = torch.linalg.svd(module.weight)
    b = nn.Parameter(u[:, :3] * (s[:3] / scale).sqrt())
    a = nn.Parameter((s[:3] / scale).sqrt()[:, None] * vh[:3])
    residual = (module.weight - scale * b @ a).detach()
    optimizers = [torch.optim.SGD(params, lr=0.01) for params in (adapter.parameters(), [a, b])]
    for _ in range(20):
        x, target = torch.randn(5, 10), torch.randn(5, 7)
        ours = adapter(x, module(x))
        theirs = F.linear(x, residual + scale * b @ a, module.bias)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        for guess in (ours, theirs):
            (guess - target).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    expected = residual + scale * b @ a - module.weight
    torch.testing.assert_close(adapter.delta(), expected, rtol=1e-3, atol=1e-5)
    assert adapter.delta().norm() > 0.03


def test_its_file_is_a_plain_lora_of_twice_the_dim():
    lent = Tiny()
    network = stirred(Network(PISSA, lent.layers()))
    tensors = entries(network)
    assert {name.split(".", 1)[1] for name in tensors} == {"lora_down.weight", "lora_up.weight", "alpha"}
    again = network_of(tensors, lent.layers())
    for key, adapter in again.adapters.items():
        first = network.adapters[key]
        assert adapter.rank == 2 * first.rank
        torch.testing.assert_close(adapter.delta(), first.delta(), rtol=1e-5, atol=1e-6)
        x = inputs(network.layers[key])
        base = network.layers[key].module(x)
        torch.testing.assert_close(first(x, base), adapter(x, base), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(first.norm(), first.delta().norm().detach(), rtol=1e-3, atol=1e-6)
    record = PISSA.record()
    assert (record["ss_network_dim"], record["ss_network_alpha"]) == (6, 4.0)


def test_its_metadata_says_what_is_in_the_file_beside_it():
    said = Lora(init="pissa", dim=3, conv_dim=2, train_norm=True, module_dropout=0.1).record()
    args = json.loads(said["ss_network_args"])
    assert said["ss_network_module"] == "lycoris.kohya"
    assert (args["train_norm"], args["module_dropout"]) == ("True", "0.1")
    assert "conv_dim" not in args  # the file's is twice that


def test_a_layer_smaller_than_the_rank_has_fewer_parts():
    layer = next(x for x in Tiny().layers() if x.path == "input_blocks.3.0.op")
    adapter = Lora(conv_dim=20, init="pissa").make(layer)
    assert torch.linalg.matrix_rank(adapter.first_up.flatten(1)) == 8
    x = inputs(layer)
    assert torch.equal(adapter(x, layer.module(x)), layer.module(x))


@pytest.mark.parametrize("path", ["input_blocks.1.1.proj_in", "input_blocks.3.0.op"])
def test_its_gradients_are_those_of_finite_differences(path):
    layer = next(x for x in Tiny(dtype=torch.float64).layers() if x.path == path)
    adapter = stirred(PISSA.make(layer).double(), 0.3)

    def run(x, base, up, down):
        return functional_call(adapter, {"up": up, "down": down}, (x, base))

    x = inputs(layer)[:1].double()
    points = [t.detach().requires_grad_() for t in (x, layer.module(x), adapter.up, adapter.down)]
    assert torch.autograd.gradcheck(run, points, fast_mode=True)


def test_of_a_dropped_rank_both_halves_are():
    layer = next(x for x in Tiny().layers() if x.path.endswith("ff.net.2"))
    adapter = stirred(Lora(dim=4, rank_dropout=0.5, init="pissa").make(layer))
    x = inputs(layer)
    added = adapter(x, torch.zeros(*x.shape[:-1], layer.shape[0])).detach()
    with torch.no_grad():
        first, then = adapter.inner.chunk(2)
        b, c = adapter.outer.chunk(2, 1)
        each = adapter.scale * (torch.einsum("bsi,ri,or->bsor", x, first, b)
                                + torch.einsum("bsi,ri,or->bsor", x, then, c))  # fmt: skip
    for one, ranks in zip(added, each, strict=True):
        weights = torch.linalg.lstsq(ranks.reshape(-1, 4), one.reshape(-1)).solution
        assert all(min(abs(w), abs(w - 2)) < 1e-3 for w in weights.tolist())


@pytest.mark.parametrize("beside", [{"use_tucker": True}, {"use_scalar": True}, {"scale_weight_norms": 1.0},
                                    {"weights": "a.safetensors"}])  # fmt: skip
def test_what_does_not_go_with_it_is_refused(beside):
    with pytest.raises(Mistake, match=f"init = pissa: cannot go with {next(iter(beside))}, "):
        build(Lora, {"init": "pissa", **beside})
    with pytest.raises(Mistake, match="loraplus_lr_ratio = 16"):
        build(Lora, {"init": "pissa", "loraplus_lr_ratio": 16})
