"""ReLoRA: what was learned stays, fresh adapters start, and stopping in between changes nothing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.export import readable
from lora_train.adapters.file import begun, entries, network_of, save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.names import file_key
from lora_train.train.lr import Cosine
from lora_train.train.optim import OPTIMIZERS
from lora_train.train.relora import Jagged, Relora, prune, prune_codes, restart
from tests.test_laws import made, seen, stirred
from tests.tiny import Tiny
from tests.webui_formulas import delta

GROWING = [kind for kind, family in FAMILIES.items() if not family.linear]
RESTARTABLE = ("adamw", "lion", "sgdnesterov", "ademamix", "tiger", "came", "muon")
HOW = {"relora__steps": 3, "relora__warmup_steps": 1, "network__conv_dim": 2}


def grown(kind: str, times: int = 2) -> tuple[Tiny, Network, dict[str, torch.Tensor]]:
    """A model, a network that has kept `times` adapters, and what all of each layer's have added."""
    lent = Tiny()
    network = Network(made(kind), lent.layers())
    optimizer = torch.optim.AdamW(network.parameters())
    total = {key: torch.zeros(layer.shape) for key, layer in network.layers.items()}
    for step in range(times + 1):
        stirred(network, 0.3)
        for key, adapter in network.adapters.items():
            total[key] += adapter.delta().detach()
        if step < times:
            restart(network, optimizer, 0.9, 1, step)
    return lent, network.eval(), total


@pytest.mark.parametrize("kind", GROWING)
def test_what_was_learned_stays_and_adds_up(kind, tmp_path):
    """In the forward, merged, in the WebUI's file by its formulas, and in the network's own read again."""
    lent, network, total = grown(kind)
    for key, whole in total.items():
        torch.testing.assert_close(network.delta(key).detach(), whole, rtol=1e-4, atol=1e-5)
    plain = seen(lent)
    with network.attached():
        attached = seen(lent)
        with network.merged():
            torch.testing.assert_close(seen(lent), attached, rtol=1e-4, atol=1e-4)
        with torch.no_grad(), network.off():
            assert torch.equal(seen(lent), plain)
        network.strength = 0.0
        torch.testing.assert_close(seen(lent), plain)
        network.strength = 1.0
    file, native = tmp_path / "a.safetensors", tmp_path / "a.native.safetensors"
    save(network, file, metadata={}, dtype=torch.float32, native=native)
    tensors = load_file(file)
    for key, layer in network.layers.items():
        lead = file_key(layer.part, layer.path, layer.arch) + "."
        own = {name[len(lead) :]: t for name, t in tensors.items() if name.startswith(lead)}
        torch.testing.assert_close(delta(own, layer.weight())[0], total[key], rtol=1e-4, atol=1e-5, msg=key)
    again = network_of(load_file(native), lent.layers()).eval()
    with again.attached():
        torch.testing.assert_close(seen(lent), attached, rtol=1e-4, atol=1e-5)
    family = build(FAMILIES[kind], {"weights": native, "dim_from_weights": True})
    for key in begun(family, lent.layers()).layers:
        torch.testing.assert_close(again.delta(key), network.delta(key))


@pytest.mark.parametrize("kind", GROWING)
def test_a_fresh_adapter_changes_nothing_and_moments_are_pruned(kind):
    lent, network, _ = grown(kind, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    with network.train().attached():
        for _ in range(2):
            seen(lent).square().mean().backward()
            optimizer.step()
        network.eval()
        before = seen(lent)
        moments = {p: state["exp_avg"].clone() for p, state in optimizer.state.items()}
        restart(network, optimizer, 0.75, 1, 7)
        torch.testing.assert_close(seen(lent), before, rtol=1e-4, atol=1e-5)
    assert all(float(a.norm()) == 0 for a in network.adapters.values())
    for p, old in moments.items():
        new, keep = optimizer.state[p]["exp_avg"], p.numel() - round(0.75 * p.numel())
        assert int((new != 0).sum()) <= keep
        assert torch.equal(new[new != 0], old[new != 0])
        assert keep == 0 or float(new.abs().max()) == float(old.abs().max())
    other = Network(network.family, lent.layers())
    restart(other, torch.optim.AdamW(other.parameters()), 0.75, 1, 7)  # of seed and step alone
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_factors_grow_as_long_as_they_are_the_smaller_form():
    _, network, _ = grown("lora", 3)
    kinds = set()
    for key, layer in network.layers.items():
        before, (out, *rest) = network.before(key), layer.shape
        rank, count = network.adapters[key].rank, math.prod(rest)
        thin = all(n * rank * (out + count) < out * count for n in (1, 2, 3))
        assert (before.thin is not None) == thin, key
        if thin:
            assert before.kept_down.shape == (3 * rank, count)
        kinds.add(thin)
    assert kinds == {True, False}
    assert any("diff" in form for form in readable(network).forms)


def test_the_rate_rises_again_after_each_restart():
    lr, relora = Cosine(learning_rate=1.0), Relora(steps=10, warmup_steps=4)
    jagged = Jagged(relora, lr)
    for step in range(40):
        since = step % 10
        part = (since + 1) / 5 if step >= 10 and since < 4 else 1.0
        assert jagged.factor(step, 40) == pytest.approx(part * lr.factor(step, 40))
        assert jagged.at(step, 40, 0.5) == pytest.approx(part * lr.at(step, 40, 0.5))
    assert [step for step in range(1, 41) if relora.due(step, 40)] == [10, 20, 30]
    assert relora.restarts(40) == 3
    assert Relora().restarts(40) == 0
    assert not any(Relora().due(step, 40) for step in range(1, 41))


def test_pruning_keeps_the_largest():
    values = torch.tensor([[0.1, -3.0, 2.0], [-0.5, 0.0, 1.0]])
    prune(values, 0.5)
    assert values.tolist() == [[0, -3, 2], [0, 0, 1]]
    prune(values, 0.0)
    assert values.tolist() == [[0, -3, 2], [0, 0, 1]]
    prune(values, 1.0)
    assert not values.any()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("block", [256, 2048, None])
def test_moments_in_8_bits_are_pruned_as_those_they_stand_for(signed, block):
    torch.manual_seed(0)
    shape, low = (70, 70), -1.0 if signed else 0.0
    table = torch.linspace(low, 1, 256)
    table[table.abs().argmin()] = 0.0
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    scales = None if block is None else torch.rand(-(-codes.numel() // block)) + 0.1

    def meant() -> torch.Tensor:
        values = table[codes.long()].flatten()
        for i in range(0, 0 if block is None else len(values), block or 1):
            values[i : i + block] *= scales[i // block]
        return values

    before = meant()
    prune_codes(codes, table, scales, 0.9)
    after, kept = meant(), round(0.1 * 4900)
    assert int((after != 0).sum()) <= kept
    assert torch.equal(after[after != 0], before[after != 0])
    assert before[after == 0].abs().max() <= after[after != 0].abs().min()


def test_a_restart_finds_bitsandbytes_moments():
    network = Network(Lora(), Tiny().layers())
    parameters = [*network.parameters()]
    optimizer = torch.optim.SGD(parameters, 0.1)
    for p in parameters:
        optimizer.state[p] = {
            "state1": torch.full(p.shape, 200, dtype=torch.uint8), "qmap1": torch.linspace(-1, 1, 255),
            "absmax1": torch.ones(-(-p.numel() // 256)),
        }  # fmt: skip
    restart(network, optimizer, 1.0, 1, 7)
    assert all((optimizer.state[p]["state1"] == 127).all() for p in parameters)


@pytest.mark.parametrize("kind", [*RESTARTABLE])
def test_moments_of_every_optimizer_are_pruned(kind):
    """Whatever its library calls them: none of them keeps more of a matrix than is asked for."""
    optimizer = OPTIMIZERS[kind]()
    if optimizer.unready():
        pytest.skip(optimizer.unready()[0])
    network = Network(Lora(), Tiny().layers())
    parameters = [*network.parameters()]
    found = optimizer.make([{"params": parameters, "lr": 0.01}])
    for p in parameters:
        p.grad = torch.randn_like(p)
    found.step()
    restart(network, found, 0.75, 1, 7)
    for p in parameters:
        moments = [v for v in found.state[p].values() if torch.is_tensor(v) and v.shape == p.shape]
        assert moments
        assert all(int((m != 0).sum()) <= p.numel() - round(0.75 * p.numel()) for m in moments)


@pytest.mark.parametrize("kind", ["lora", "tied"])
def test_a_run_with_restarts_goes_on_from_its_state(trained, tmp_path, kind):
    """Before a restart, at one and after it, to the bit."""
    how = {**HOW, "network__kind": kind}
    whole = load_file(trained("whole", **how).file)
    for stop in (3, 5):
        stopped = trained(f"halves{stop}", stop=stop, output__save_state=True, **how)
        outcome = trained(f"halves{stop}", place__resume=stopped.state, **how)
        again = load_file(outcome.file)
        assert whole.keys() == again.keys()
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    native = tmp_path / "halves5" / "x-run" / "x.native.safetensors"
    network = network_of(load_file(native), Tiny().layers())
    assert len(network.kept) == len(network.adapters)
    assert {name.partition(".")[2] for name in entries(network)} >= {"kept_up", "kept_down"}


def test_what_was_made_for_the_webui_is_not_gone_on_from(trained):
    """Where some of it is whole differences, the way on is the native file."""
    file = trained("a", **{k: v for k, v in HOW.items() if "conv" not in k}).file
    for how in ({}, {"dim_from_weights": True}):
        with pytest.raises(Mistake, match=r"was made from a networks\.lora for the WebUI; take that itself"):
            begun(Lora(weights=file, **how), Tiny().layers())


def test_more_is_learned_than_one_adapter_of_the_rank_could(trained):
    file = trained("a", network__dim=1, **{k: v for k, v in HOW.items() if "conv" not in k}).file
    with safe_open(file, "pt") as opened:
        said = json.loads(opened.metadata()["lora_train_export"])
    assert said["error"] == 0.0
    network = network_of(load_file(file), Tiny().layers())
    ranks = {int(torch.linalg.matrix_rank(a.delta().detach().flatten(1), rtol=1e-5))
             for a in network.adapters.values()}  # fmt: skip
    assert max(ranks) == 3


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"relora.steps": 5, "relora.warmup_steps": 5}, "relora.warmup_steps = 5: expected fewer than"),
        ({"relora.steps": 20, "network.kind": "mora"}, "relora.steps = 20: expected nothing; a fresh"),
        ({"relora.steps": 20, "network.init": "pissa"}, "relora.steps = 20: expected nothing; a fresh"),
        ({"relora.steps": 20, "network.scale_weight_norms": 1},
         "relora.steps = 20: cannot go with network.scale_weight_norms, which would shrink only"),
        ({"relora.steps": 20, "ema.decay": 0.9}, "relora.steps = 20: cannot go with ema.decay"),
        ({"relora.steps": 20, "network.train_norm": True}, "relora.steps = 20: cannot go with network.tr"),
        ({"relora.steps": 20, "network.layer_map": '{"module_algo_map": {"CLIPMLP": {"algo": "full"}}}'},
         r"network.layer_map: module_algo_map.CLIPMLP: relora.steps = 20: expected nothing; a fresh"),
        ({"output.export_rank": 3, "network.kind": "dylora", "network.unit": 2, "network.dim": 4},
         "output.export_rank = 3: expected a multiple of network.unit, 2"),
    ],
)  # fmt: skip
def test_what_cannot_go_together_is_refused_before_anything_is_loaded(trained, values, complaint):
    with pytest.raises(Mistake, match=complaint):
        trained("a", **{path.replace(".", "__"): value for path, value in values.items()})


def test_optimizers_that_remember_the_start_are_refused(trained):
    pytest.importorskip("prodigyopt")
    with pytest.raises(Mistake, match="relora.steps = 3: Prodigy finds its rate from how far weights are"):
        trained("a", optimizer__kind="prodigy", lr__learning_rate=1.0, **HOW)


def test_its_settings_are_a_jobs():
    job, _, _ = assemble({"relora.steps": 5, "relora.warmup_steps": 2, "data.train_data_dir": "a",
                          "model.pretrained_model_name_or_path": "b"})  # fmt: skip
    assert job.relora == Relora(steps=5, warmup_steps=2)
    assert Lora().linear is False
