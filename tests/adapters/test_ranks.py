"""What is particular to families near LoRA: what is frozen, drawn, shared, cut off or made of a square."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

from lora_train.adapters import FAMILIES
from lora_train.adapters.export import readable
from lora_train.adapters.file import begun, load, network_of, save
from lora_train.adapters.layer import Layer
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.adapters.vera import shared
from lora_train.errors import Mistake
from lora_train.knobs import build
from tests.test_laws import LARGE, made, seen, stirred
from tests.tiny import Tiny


def layer(path: str) -> Layer:
    return next(one for one in Tiny().layers() if one.path == path)


def said(family) -> dict[str, str]:
    return {name: str(value) for name, value in family.record().items()}


def linear(out: int, inn: int) -> Layer:
    return Layer.of("unet", "middle_block.1.proj_in", nn.Linear(inn, out).requires_grad_(False))


# ── lora_fa ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_lora_fa_learns_with_one_factor_as_lora_does_with_it():
    """The same step as LoRA's on `up`, and none on `down`."""
    one = linear(6, 8)
    frozen, plain = made("lora_fa").make(one), made("lora").make(one)
    plain.load_state_dict(frozen.state_dict(), strict=False)
    x = torch.randn(3, 8)
    for adapter in (frozen, plain):
        adapter(x, one.module(x)).square().sum().backward()
    assert [name for name, _ in frozen.named_parameters()] == ["up"]
    assert torch.equal(frozen.up.grad, plain.up.grad)
    assert torch.equal(frozen.down, plain.down)


# ── dylora ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_dylora_trains_the_block_that_is_drawn_with_those_before_it():
    one, x = linear(6, 8), torch.randn(3, 8)
    adapter = stirred(build(FAMILIES["dylora"], {"dim": 6, "alpha": 3, "unit": 2}).make(one))
    seen_lasts = set()
    for _ in range(40):
        adapter.zero_grad()
        added = adapter(x, torch.zeros(3, 6))
        added.square().sum().backward()
        learns = [rank for rank in range(6) if adapter.up.grad[:, rank].any()]
        assert learns == [rank for rank in range(6) if adapter.down.grad[rank].any()]
        assert len(learns) == 2
        assert learns[0] % 2 == 0
        last = learns[1] + 1
        up, down = adapter.up[:, :last].detach(), adapter.down[:last].detach()
        expected = 3 / 6 * math.sqrt(6 / last) * x @ down.t() @ up.t()  # sd-scripts' scale
        torch.testing.assert_close(added.detach(), expected)
        seen_lasts.add(last)
    assert seen_lasts == {2, 4, 6}


def test_dylora_at_a_rank_is_saved_as_what_was_trained_at_it(tmp_path):
    layers = Tiny().layers()
    network = stirred(Network(build(FAMILIES["dylora"], {"dim": 6, "alpha": 3, "unit": 2}), layers))
    save(network, tmp_path / "a.safetensors", metadata=said(network.family), dtype=torch.float32, rank=5)
    tensors, texts = load(tmp_path / "a.safetensors")
    assert (texts["ss_network_module"], texts["ss_network_dim"]) == ("networks.lora", "4")
    assert json.loads(json.loads(texts["lora_train_export"])["arguments"])["unit"] == "2"
    for key, adapter in network_of(tensors, layers).adapters.items():
        first = network.adapters[key]
        up, down = first.up.detach()[:, :4].flatten(1), first.down.detach()[:4].flatten(1)
        expected = 3 / 6 * math.sqrt(6 / 4) * (up @ down)
        torch.testing.assert_close(adapter.delta().detach().flatten(1), expected)
    whole = readable(network, 8)
    assert all(len(form["lora_down.weight"]) == 6 for form in whole.forms)
    assert readable(network) is None


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"dim": 5, "unit": 2}, "dim = 5: expected a multiple of unit, 2"),
        ({"dim": 4, "conv_dim": 3, "unit": 2}, "conv_dim = 3: expected a multiple of unit, 2"),
        ({"dim": 4, "unit": 2, "block_dims": [4] * 24 + [5]}, "block_dims = 5: expected a multiple"),
    ],
)
def test_dylora_is_cut_into_whole_blocks(values, complaint):
    with pytest.raises(Mistake, match=complaint):
        build(FAMILIES["dylora"], values)


# ── vera ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_vera_is_the_papers_formula_with_matrices_that_depend_on_the_seed_alone():
    one = layer("middle_block.1.proj_in")
    adapter = stirred(made("vera", projection_prng_key=7).make(one))
    out, inn = one.shape[:2]
    a = torch.stack([adapter.inner[i].flatten() / adapter.vera_d[i] for i in range(4)]).detach()
    b = (adapter.outer.flatten(1) / adapter.vera_b[:, None]).detach()
    d, v = torch.diag(adapter.vera_d), torch.diag(adapter.vera_b)
    torch.testing.assert_close(adapter.delta().flatten(1), 2 / 4 * v @ b @ d @ a)
    assert float(a.var()) == pytest.approx(2 / inn, rel=0.3)
    assert [name for name, _ in adapter.named_parameters()] == ["vera_b", "vera_d"]
    again = made("vera", projection_prng_key=7).make(one)
    assert torch.equal(again.inner.flatten(1)[0] / 0.1, a[0]) or torch.allclose(
        again.inner.flatten(1)[0] / 0.1, a[0]
    )
    other = made("vera", projection_prng_key=8).make(one)
    assert not torch.allclose(other.inner, again.inner)


def test_veras_matrices_are_one_for_all_widths():
    cpu = torch.device("cpu")
    small, large = shared(3, 5, 40, cpu), shared(3, 5, 700, cpu)
    assert torch.equal(large[:, :40], small)
    assert float(large.var()) == pytest.approx(1, rel=0.05)


def test_veras_file_knows_its_seed(tmp_path):
    layers, path = Tiny().layers(), tmp_path / "a.native.safetensors"
    network = stirred(Network(made("vera", projection_prng_key=2**31 + 12345), layers))
    save(network, tmp_path / "a.safetensors", metadata={}, dtype=torch.bfloat16, native=path)
    assert sum(t.numel() for t in load(path)[0].values()) < sum(
        t.numel() for t in load(tmp_path / "a.safetensors")[0].values()
    )
    again = network_of(load(path)[0], layers)
    assert {adapter.seed for adapter in again.adapters.values()} == {2**31 + 12345}
    for key, adapter in again.adapters.items():
        torch.testing.assert_close(adapter.delta(), network.adapters[key].delta(), rtol=0.05, atol=0.01)
    with pytest.raises(Mistake, match="was trained with projection_prng_key = 2147495993, not 0; set"):
        begun(made("vera", weights=path), layers)


# ── tied ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_of_one_shape_learn_their_factors_together():
    lent = Tiny()
    network = Network(made("tied"), lent.layers())
    groups = {}
    for key, adapter in network.adapters.items():
        groups.setdefault((network.layers[key].part, adapter.layer.shape, adapter.rank), []).append(adapter)
    assert max(map(len, groups.values())) > 3
    for (_, shape, rank), adapters in groups.items():
        assert len({id(adapter.pair) for adapter in adapters}) == 1
        pair = adapters[0].pair
        assert (pair.a.shape, pair.b.shape) == ((rank, math.prod(shape[1:])), (shape[0], rank))
    pairs = {id(adapter.pair) for adapter in network.adapters.values()}
    assert len(pairs) == len(groups)
    count = sum(p.numel() for p in network.parameters())
    vectors = sum(a.tied_u.numel() + a.tied_v.numel() for a in network.adapters.values())
    factors = sum(adapters[0].pair.a.numel() + adapters[0].pair.b.numel() for adapters in groups.values())
    assert count == vectors + factors
    assert sum(p.numel() for ps in network.parts().values() for p in ps) == count
    assert sum(p.numel() for pace in network.paces() for p in pace.parameters) == count
    assert sum(t.numel() for t in network.state_dict().values()) == count


def test_the_gradient_of_what_is_shared_is_the_sum_over_its_layers():
    """Against finite differences of the whole model's loss."""
    lent = Tiny(dtype=torch.float64)
    network = stirred(Network(made("tied"), lent.layers()).double(), 0.3)
    pair = next(a.pair for a in network.adapters.values() if a.taken)

    def loss() -> torch.Tensor:
        rng = torch.Generator().manual_seed(7)
        x = torch.randn(1, 4, 8, 8, generator=rng).double()
        return lent.denoise(x, torch.tensor([17]), lent.encode(["a cat"])).square().sum()

    with network.attached():
        loss().backward()
        for parameter in (pair.a, pair.b):
            way = torch.randn_like(parameter)
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.add_(step * way)
                    values.append(float(loss()))
                    parameter.sub_(step * way)
            slope = (values[0] - values[1]) / 2e-6
            assert float((parameter.grad * way).sum()) == pytest.approx(slope, rel=1e-4)


def test_a_file_that_is_read_shares_again(tmp_path):
    layers, path = Tiny().layers(), tmp_path / "a.native.safetensors"
    network = stirred(Network(made("tied"), layers))
    save(network, tmp_path / "a.safetensors", metadata={}, dtype=torch.float32, native=path)
    for again in (network_of(load(path)[0], layers), begun(made("tied", weights=path), layers)):
        assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in network.parameters())
        for key, adapter in again.adapters.items():
            torch.testing.assert_close(adapter.delta(), network.adapters[key].delta())


def test_a_norm_that_is_too_large_is_shrunk_without_the_others():
    network = stirred(Network(made("tied"), Tiny().layers()), 1.0)
    block = "unet.input_blocks.1.1.transformer_blocks.0.attn1."
    first, second = (network.adapters[block + name] for name in ("to_q", "to_k"))
    assert first.pair is second.pair
    before = second.delta().clone()
    first.shrink(torch.tensor(0.5))
    assert torch.equal(second.delta(), before)


# ── mora ────────────────────────────────────────────────────────────────────────────────────────────────────


def matrices(out: int, inn: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """D and C, value by value."""
    c, d = torch.zeros(size, inn), torch.zeros(out, size)
    for i in range(inn):
        c[i % size, i] = 1
    for o in range(out):
        d[o, o % size] = 1
    return d, c


@pytest.mark.parametrize(("out", "inn"), [(12, 12), (20, 7), (7, 30), (64, 8)])
def test_mora_by_sharing_is_a_square_between_sums_and_copies(out, inn):
    one = linear(out, inn)
    adapter = stirred(build(FAMILIES["mora"], {"dim": 2, "alpha": 2}).make(one))
    size = len(adapter.matrix)
    assert size == min(round(math.sqrt((out + inn) * 2)), out, inn)
    d, c = matrices(out, inn, size)
    torch.testing.assert_close(adapter.delta(), d @ adapter.matrix @ c)


def rotation(size: int, place: int) -> torch.Tensor:
    """As complex numbers: the k-th, of halves, is turned by place * 10000^(-2k/size)."""
    half = size // 2
    found = torch.zeros(size, size)
    for k in range(half):
        angle = place * 10000 ** (-2 * k / size)
        found[k, k] = found[half + k, half + k] = math.cos(angle)
        found[k, half + k], found[half + k, k] = -math.sin(angle), math.sin(angle)
    return found


@pytest.mark.parametrize(("out", "inn"), [(12, 12), (30, 12), (12, 30), (64, 8), (8, 61)])
def test_mora_by_rotation_is_one_square_on_turned_pieces(out, inn):
    one = linear(out, inn)
    adapter = stirred(build(FAMILIES["mora"], {"dim": 1, "alpha": 1, "mora_type": "rotation"}).make(one))
    size = len(adapter.matrix)
    assert size % 2 == 0
    high, wide = math.ceil(out / size), math.ceil(inn / size)
    expected = torch.zeros(high * size, wide * size)
    for j in range(high):
        for i in range(wide):
            if (i - j) % min(high, wide) == 0:
                block = adapter.matrix.detach() @ rotation(size, i)
                expected[j * size : (j + 1) * size, i * size : (i + 1) * size] = block
    torch.testing.assert_close(adapter.delta().detach(), expected[:out, :inn], rtol=1e-5, atol=1e-6)
    x = torch.randn(5, inn)
    torch.testing.assert_close(
        adapter(x, torch.zeros(5, out)), x @ expected[:out, :inn].t(), rtol=1e-4, atol=1e-5
    )


def test_mora_has_about_as_many_values_as_lora_and_a_higher_rank():
    one = linear(48, 64)
    lora, square = made("lora").make(one), stirred(made("mora").make(one))
    counts = [sum(p.numel() for p in adapter.parameters()) for adapter in (lora, square)]
    assert counts[1] == pytest.approx(counts[0], rel=0.1)
    assert torch.linalg.matrix_rank(square.delta()) > 4 * lora.rank
    turned = stirred(made("mora", mora_type="rotation").make(one))
    assert torch.linalg.matrix_rank(turned.delta()) > 40


@pytest.mark.parametrize("how", ["sharing", "rotation"])
def test_moras_files_say_which_it_is(tmp_path, how):
    lent, path = Tiny(), tmp_path / "a.native.safetensors"
    network = stirred(Network(made("mora", mora_type=how), lent.layers()))
    file = tmp_path / "a.safetensors"
    save(network, file, metadata=said(network.family), dtype=torch.float32, native=path)
    names = {name.rpartition(".")[2] for name in load(file)[0]}
    assert names <= {"weight", "alpha", "diff"}
    assert ("weight" in names) == (how == "sharing")
    with network.attached():
        expected = seen(lent)
    for tensors in (load(path)[0], load(file)[0]):
        again = network_of(tensors, lent.layers())
        with again.attached():
            torch.testing.assert_close(seen(lent), expected, rtol=1e-4, atol=1e-4)


def test_what_rotation_has_not_is_not_dropped():
    with pytest.raises(Mistake, match="rank_dropout = 0.1: MoRA by rotation has no ranks to drop; expected"):
        build(FAMILIES["mora"], {"mora_type": "rotation", "rank_dropout": 0.1})


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────

KINDS = {
    "lora_fa": "networks.lora_fa", "dylora": "networks.dylora", "vera": "lora_train.vera",
    "tied": "lora_train.tied", "mora": "lora_train.mora"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_from_a_file_starts_where_it_ends(kind, tmp_path):
    layers, path, own = Tiny().layers(), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    network = stirred(Network(made(kind), layers))
    assert network.family.record()["ss_network_module"] == KINDS[kind]
    save(network, path, metadata={}, dtype=torch.float32, native=own)
    own = own if own.exists() else path
    for family in (made(kind, weights=own), made(kind, alpha=5.0, weights=own),
                   build(FAMILIES[kind], {"weights": own, "dim_from_weights": True})):  # fmt: skip
        again = begun(family, layers)
        assert again.adapters.keys() == network.adapters.keys()
        for key, adapter in again.adapters.items():
            torch.testing.assert_close(adapter.delta(), network.adapters[key].delta(), rtol=1e-4, atol=1e-6)
    with pytest.raises(Mistake, match=r"b?\.safetensors: \S+ (has|is) "):
        begun(made(kind, dim=8, weights=own), layers)


@pytest.mark.parametrize("kind", ["vera", "tied", "mora"])
def test_what_was_made_for_the_webui_is_not_mistaken_for_its_source(kind, tmp_path):
    layers, path = Tiny().layers(), tmp_path / "a.safetensors"
    family = build(FAMILIES[kind], {**LARGE, "dim": 1})
    save(stirred(Network(family, layers)), path, metadata=said(family), dtype=torch.float32)
    complaint = rf"was made from a {KINDS[kind]} for the WebUI; .*a\.native\.safetensors"
    with pytest.raises(Mistake, match=complaint):
        begun(build(FAMILIES[kind], {"weights": path}), layers)
    if kind != "mora":
        assert begun(Lora(weights=path, dim_from_weights=True), layers).adapters
