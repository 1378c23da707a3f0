"""What holds for every family of adapters."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import load, network_of, save
from lora_train.adapters.layer import Layer
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.knobs import build, settings
from lora_train.train.recompute import recomputed
from tests.tiny import Tiny

CAPTIONS = ["a cat", "two dogs"]
LARGE = {"dim": 4, "alpha": 2.0, "conv_dim": 2, "conv_alpha": 3.0}
WHOLE = ("ia3", "oft", "boft", "full")  # families that take convolutions by a preset
WEIGHED = ("ia3", "glora")  # whose adapters add what depends on the layer's weight
families = pytest.mark.parametrize("family", FAMILIES)


def made(family: str, **values):
    """A family with as many of the values as it has settings for."""
    known = {s.path for s in settings(FAMILIES[family])}
    large = {**LARGE, **({"preset": "full"} if family in WHOLE else {})}
    return build(FAMILIES[family], {k: v for k, v in {**large, **values}.items() if k in known})


def able(family: str, **drops) -> dict[str, float]:
    """Of dropouts those that the family has: between LoHa's and LoKr's factors are no values to drop."""
    known = {s.path for s in settings(FAMILIES[family])}
    lacking = ("dropout",) if family in ("loha", "lokr") else ()
    return {k: v for k, v in drops.items() if k in known and k not in lacking}


def stirred(network: Network, by: float = 0.1) -> Network:
    """As after some training: every parameter moved."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
    return network


def seen(lent: Tiny) -> torch.Tensor:
    """What the model makes of fixed inputs, through both parts."""
    rng = torch.Generator().manual_seed(7)
    x = torch.randn(2, 4, 8, 8, generator=rng)
    return lent.denoise(x, torch.tensor([17, 801]), lent.encode(CAPTIONS))


def inputs(layer: Layer) -> torch.Tensor:
    inn = layer.shape[1]
    return torch.randn(2, inn, 6, 6) if layer.kernel else torch.randn(2, 5, inn)


@families
def test_a_fresh_adapter_changes_nothing(family):
    lent = Tiny()
    before = seen(lent)
    with Network(made(family), lent.layers()).attached():
        assert torch.equal(seen(lent), before)


@families
def test_delta_is_what_forward_adds(family):
    network = stirred(Network(made(family), Tiny().layers())).eval()
    assert {len(layer.kernel) for layer in network.layers.values()} == ({0} if family == "glora" else {0, 2})
    for key, layer in network.layers.items():
        x, adapter = inputs(layer), network.adapters[key]
        bias = 0 if layer.bias is None else layer.bias.view(-1, *[1] * len(layer.kernel))
        with torch.no_grad():
            ours = adapter(x, layer.module(x))
            more = 0 if adapter.bias() is None else layer.along(adapter.bias(), ours.ndim)
            theirs = layer.op(x, layer.weight() + adapter.delta()) + bias + more
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6 * float(theirs.abs().max()), msg=key)


@families
@pytest.mark.parametrize("strength", [1.0, -0.3])
def test_merged_does_what_attached_does(family, strength):
    lent = Tiny()
    network = stirred(Network(made(family), lent.layers())).eval()
    network.strength = strength
    plain = seen(lent)
    with network.attached():
        attached = seen(lent)
        with network.merged():
            merged = seen(lent)
        with torch.no_grad(), network.off():
            assert torch.equal(seen(lent), plain)
    assert not torch.allclose(attached, plain, atol=1e-3)
    torch.testing.assert_close(merged, attached, rtol=1e-5, atol=1e-5)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_after_merging_the_weights_are_what_they_were(family, dtype):
    lent = Tiny(dtype=dtype)
    network = stirred(Network(made(family), lent.layers()))
    before = {key: layer.weight().clone() for key, layer in network.layers.items()}
    with contextlib.suppress(KeyboardInterrupt), network.merged():
        assert not any(torch.equal(layer.weight(), before[key]) for key, layer in network.layers.items())
        raise KeyboardInterrupt
    assert all(torch.equal(layer.weight(), before[key]) for key, layer in network.layers.items())


def trace(lent: Tiny) -> list[object]:
    """All that could be left on the host."""
    return [
        (
            path, type(module), list(module.state_dict()), sorted(vars(module)), dict(module._forward_hooks),
            dict(module._forward_pre_hooks), dict(module._backward_hooks), module.training,
            [(p.requires_grad, p.grad, p.data_ptr()) for p in module.parameters(recurse=False)],
        )
        for net in lent.parts.values()
        for path, module in net.named_modules()
    ]  # fmt: skip


@families
def test_detaching_leaves_no_trace(family):
    lent = Tiny()
    before, weights = trace(lent), copy.deepcopy([net.state_dict() for net in lent.parts.values()])
    network = stirred(Network(made(family), lent.layers()))
    with contextlib.suppress(KeyboardInterrupt), network.attached():
        seen(lent).sum().backward()
        raise KeyboardInterrupt
    assert trace(lent) == before
    for net, old in zip(lent.parts.values(), weights, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in net.state_dict().items())


@families
def test_a_network_holds_none_of_the_hosts_modules(family):
    lent = Tiny()
    network = Network(made(family), lent.layers())
    theirs = {id(m) for net in lent.parts.values() for m in net.modules()}
    assert not theirs & {id(m) for m in network.modules()}
    assert all(p.requires_grad and p.dtype is torch.float32 for p in network.parameters())
    assert sum(map(len, network.parts().values())) == len(list(network.parameters()))
    assert list(network.parts()) == ["te1", "unet"]


@families
def test_attaching_twice_is_an_error_and_two_networks_are_not(family):
    lent = Tiny()
    first, second = (stirred(Network(made(family), lent.layers())).eval() for _ in range(2))
    with first.attached(), pytest.raises(RuntimeError, match="attached already"), first.attached():
        pass
    if family in WEIGHED:  # each sees the weight without the other
        return
    with first.merged(), second.attached():
        expected = seen(lent)
    with first.attached(), second.attached():
        torch.testing.assert_close(seen(lent), expected, rtol=1e-5, atol=1e-5)


@families
def test_a_saved_network_does_the_same_again(family, tmp_path):
    lent = Tiny()
    network = stirred(Network(made(family), lent.layers())).eval()
    with network.attached():
        expected = seen(lent)
    file, native = tmp_path / "a.safetensors", tmp_path / "native.safetensors"
    save(network, file, metadata={"ss_seed": "1"}, dtype=torch.float32, native=native)
    tensors, metadata = load(native if native.exists() else file)
    assert metadata["ss_seed"] == "1"
    with network_of(tensors, lent.layers()).eval().attached():
        assert torch.equal(seen(lent), expected)


@families
def test_gradients_are_those_of_finite_differences(family):
    for layer in Tiny(dtype=torch.float64).layers():
        adapter = made(family).make(layer)
        if adapter is None or layer.path.partition(".")[0] not in ("input_blocks", "encoder"):
            continue
        adapter = stirred(adapter.double()).eval()
        names, values = zip(*adapter.named_parameters(), strict=True)

        def run(x, base, *values, adapter=adapter, names=names):
            return functional_call(adapter, dict(zip(names, values, strict=True)), (x, base))

        x = inputs(layer)[:1].double()
        base = layer.module(x).detach()
        points = [t.detach().requires_grad_() for t in (x, base, *values)]
        assert torch.autograd.gradcheck(run, points, fast_mode=True), layer.key


@families
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_adapted_in_it(family, dtype):
    half, whole = Tiny(dtype=dtype), Tiny()
    try:
        seen(half)
    except RuntimeError as e:  # torch < 2.2
        pytest.skip(f"no {dtype} on this CPU: {e}")
    state = stirred(Network(made(family), whole.layers())).state_dict()
    results = []
    for lent in (half, whole):
        network = Network(made(family), lent.layers()).eval()
        network.load_state_dict(state)
        with network.attached():
            result = seen(lent)
        result.float().square().mean().backward()
        assert all(p.grad.dtype is torch.float32 for p in network.parameters())
        results.append(result)
    assert results[0].dtype is dtype
    torch.testing.assert_close(results[0].float(), results[1], rtol=0.1, atol=0.1)


@families
def test_autocast_gives_the_dtype_it_gives_without_us(family):
    lent = Tiny()
    network = stirred(Network(made(family), lent.layers()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = seen(lent)
        with network.attached():
            adapted = seen(lent)
    adapted.float().sum().backward()
    assert adapted.dtype is plain.dtype
    assert not torch.equal(adapted, plain)
    assert network.silent() == []


@families
@pytest.mark.parametrize("drops", [{}, {"dropout": 0.3, "rank_dropout": 0.3, "module_dropout": 0.3}])
def test_checkpointing_gives_the_same_gradients(family, drops):
    lent, found = Tiny(), []
    network = stirred(Network(made(family, **able(family, **drops)), lent.layers()))
    for blocks in ([], lent.checkpoint_blocks()):
        network.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        with network.attached(), recomputed(blocks):
            seen(lent).square().mean().backward()
        found.append([None if p.grad is None else p.grad.clone() for p in network.parameters()])
    for plain, again in zip(*found, strict=True):
        assert (plain is None) == (again is None)
        if plain is not None:
            torch.testing.assert_close(again, plain)


@families
def test_a_layer_the_model_never_calls_is_found_out(family):
    """MultiheadAttention reads out_proj.weight without calling out_proj, so no hook runs there."""
    attention = nn.MultiheadAttention(8, 2, batch_first=True).requires_grad_(False)
    layer = Layer.of("te1", "encoder.layers.0.self_attn.out_proj", attention.out_proj)
    network = Network(made(family), [layer])
    with network.attached():
        x = torch.randn(1, 3, 8, requires_grad=True)
        attention(x, x, x)[0].sum().backward()
    assert network.silent() == [layer.key]


@families
def test_a_layer_whose_output_is_thrown_away_is_found_out(family):
    net = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).requires_grad_(False)
    paths = ["encoder.layers.0.mlp.fc1", "encoder.layers.0.mlp.fc2"]
    layers = [Layer.of("te1", path, m) for path, m in zip(paths, net, strict=True)]
    network = Network(made(family), layers)
    with network.attached():
        net[1](torch.randn(1, 8))
        net[0](torch.randn(1, 8)).sum().backward()
    assert network.silent() == [f"te1.{paths[1]}"]


@families
def test_nothing_is_silent_in_a_model_that_calls_all(family):
    lent = Tiny()
    network = Network(made(family), lent.layers())
    with network.attached():
        seen(lent).sum().backward()
    assert network.silent() == []


@families
def test_max_norm_shrinks_what_is_larger_and_only_that(family):
    if family in ("oft", "boft"):
        with pytest.raises(Mistake, match="scale_weight_norms = 1: a turn"):
            made(family, scale_weight_norms=1)
        return
    network = stirred(Network(made(family), Tiny().layers()), 1.0)
    before = {key: a.delta().detach() for key, a in network.adapters.items()}
    norms = sorted(float(d.norm()) for d in before.values())
    limit = sum(norms[len(norms) // 2 - 1 :][:2]) / 2  # between two, for one of them is a rounding away
    stats = network.max_norm(limit)
    for key, adapter in network.adapters.items():
        expected = before[key] * min(1, limit / float(before[key].norm()))
        torch.testing.assert_close(adapter.delta(), expected, rtol=1e-5, atol=1e-6)
    assert stats["max_norm/keys_scaled"] == sum(norm > limit for norm in norms)
    assert stats["max_norm/max_key_norm"] == pytest.approx(limit)
    assert stats["max_norm/average_key_norm"] == pytest.approx(sum(min(n, limit) for n in norms) / len(norms))


@families
@pytest.mark.parametrize("drop", ["dropout", "rank_dropout"])
@pytest.mark.parametrize("path", ["input_blocks.1.1.transformer_blocks.0.attn1.to_q", "input_blocks.3.0.op"])
def test_dropped_parts_are_made_up_for_on_average(family, drop, path):
    if not able(family, **{drop: 0.4}):
        with pytest.raises(Mistake, match=f"{drop}( = 0.4)?: "):
            build(FAMILIES[family], {drop: 0.4})
        return
    if (family == "glora" and path.endswith(".op")) or family == "dylora":
        return  # no convolutions; another rank each time
    layer = next(layer for layer in Tiny().layers() if layer.path == path)
    adapter = stirred(made(family, **{drop: 0.4}).make(layer))
    x = inputs(layer)[:1].expand(20000 if not layer.kernel else 4000, *[-1] * (inputs(layer).ndim - 1))
    base = layer.module(x)
    with torch.no_grad():
        mean = (adapter(x, base) - base).mean(0)
        expected = (adapter.eval()(x[:1], base[:1]) - base[:1])[0]
    torch.testing.assert_close(mean, expected, rtol=0, atol=0.1 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["loha", "lokr"])
def test_rank_dropout_of_products_drops_whole_outputs(family):
    layer = next(layer for layer in Tiny().layers() if layer.path.endswith("ff.net.2"))
    adapter = stirred(made(family, rank_dropout=0.5).make(layer))
    x = inputs(layer)
    base = torch.zeros(*x.shape[:-1], layer.shape[0])
    with torch.no_grad():
        found = adapter(x, base)
        whole = 2 * adapter.eval()(x, base)
    gone = (found == 0).all(1)  # [sample, output]
    assert all(0 < row.sum() < len(row) for row in gone)
    assert not torch.equal(gone[0], gone[1])
    torch.testing.assert_close(found, whole * ~gone[:, None])


def test_rank_dropout_drops_whole_ranks_of_a_sample():
    layer = next(layer for layer in Tiny().layers() if layer.path.endswith("ff.net.2"))
    adapter = stirred(made("lora", dim=8, alpha=8, rank_dropout=0.5).make(layer))
    x = inputs(layer)
    base = torch.zeros(*x.shape[:-1], layer.shape[0])
    for added in adapter(x, base).detach():
        factors = torch.linalg.lstsq(adapter.up, added.t()).solution  # [rank, S]: what came through each rank
        through = factors.abs().amax(1) > 1e-4
        assert 0 < through.sum() < 8
        whole = layer.op(x, adapter.down).detach() * 2
        assert any(torch.allclose(factors[through], w.t()[through], atol=1e-4) for w in whole)


@families
def test_module_dropout_leaves_out_as_often_as_asked(family):
    layer = next(layer for layer in Tiny().layers() if layer.path.endswith("ff.net.2"))
    adapter = stirred(made(family, module_dropout=0.25).make(layer))
    x = inputs(layer)
    base = layer.module(x)
    rested = sum(adapter(x, base) is base for _ in range(2000))
    assert rested == pytest.approx(500, abs=80)
    assert not any(adapter.eval()(x, base) is base for _ in range(20))
