"""Merging LoRA files into one: the sum of what they add, and what is near it."""

from __future__ import annotations

import json
import math
import pathlib
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import load, network_of
from lora_train.adapters.layer import Layer
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.tools.combine import How, _dropped, _mixed
from lora_train.tools.convert import Convert
from lora_train.tools.merge import Merge
from lora_train.tools.opened import Opened
from tests.tools import saved
from tests.tools.test_extract import as_sd_scripts

REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
there = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference artefacts are not there")
TWO = [str(REFERENCE / name / f"{name}.safetensors") for name in ("lora8a", "lora8b")]


def joined(to: pathlib.Path, *files: pathlib.Path | str, **values: object):
    given = {"models": [*map(str, files)], "save_to": str(to), "save_precision": "float", **values}
    return build(Merge, given).run()


def deltas(path: pathlib.Path | str) -> dict[str, Tensor]:
    """By hand, of a plain LoRA."""
    held, found = load_file(path), {}
    for key in held:
        if key.endswith("lora_up.weight"):
            own = key.partition(".")[0]
            down = held[f"{own}.lora_down.weight"].flatten(1)
            found[own] = held[f"{own}.alpha"] / len(down) * held[key].flatten(1) @ down
    return found


def close(found: Tensor, wanted: Tensor, by: float = 1e-5) -> None:
    assert (found - wanted).abs().max() <= by * wanted.abs().max()


@there
def test_a_concatenation_is_exactly_the_sum(tmp_path):
    joined(tmp_path / "x.safetensors", *TWO, ratios=[0.6, 0.4], concat=True)
    ours, (a, b) = deltas(tmp_path / "x.safetensors"), map(deltas, TWO)
    assert ours.keys() == a.keys() == b.keys()
    for key, found in ours.items():
        close(found, 0.6 * a[key] + 0.4 * b[key], 1e-6)
    ranks = {len(v) for k, v in load_file(tmp_path / "x.safetensors").items() if k.endswith("down.weight")}
    assert ranks == {16}
    theirs = deltas(REFERENCE / "merge_lora_concat" / "out.safetensors")
    off = [float((theirs[k] - ours[k]).norm() / ours[k].norm()) for k in ours]
    assert 0.6 < np.median(off) < 0.8  # their ratios are squared, and the alpha is that of half the rank


@there
def test_a_narrow_sum_is_the_reference_before_it_clamps(tmp_path):
    """Its factors, clamped as sd-scripts does, are sd-scripts' file; ours are nearer to the sum."""
    report = joined(tmp_path / "x.safetensors", *TWO, ratios=[0.6, 0.4], new_rank=8)
    ours, (a, b) = deltas(tmp_path / "x.safetensors"), map(deltas, TWO)
    theirs = deltas(REFERENCE / "svd_merge_lora" / "out.safetensors")
    lost = norm = 0.0
    for key, found in ours.items():
        wanted = 0.6 * a[key] + 0.4 * b[key]
        u, s, vh = torch.linalg.svd(wanted.double(), full_matrices=False)
        close(found.double(), (u[:, :8] * s[:8]) @ vh[:8])
        lost, norm = lost + float(s[8:].square().sum()), norm + float(s.square().sum())
        assert (found - wanted).norm() < (theirs[key] - wanted).norm()
    assert report.facts["error"] == pytest.approx(math.sqrt(lost / norm), rel=1e-4)
    held = load_file(REFERENCE / "svd_merge_lora" / "out.safetensors")
    for key, wanted in theirs.items():
        found = as_sd_scripts(0.6 * a[key] + 0.4 * b[key], held, key)
        assert (found - wanted).abs().max() <= 1e-5


@there
def test_the_additive_way_is_sd_scripts_formula(tmp_path):
    """down = sum ratio sqrt(alpha / first alpha) down, and up of its absolute value."""
    changed = load_file(TWO[1])
    save_file(
        {k: v * 4 if k.endswith("alpha") else v for k, v in changed.items()}, tmp_path / "b.safetensors"
    )
    files = [TWO[0], tmp_path / "b.safetensors"]
    joined(tmp_path / "x.safetensors", *files, ratios=[0.6, -0.4], method="additive")
    found, (a, b) = load_file(tmp_path / "x.safetensors"), map(load_file, files)
    assert found.keys() == a.keys()
    for key, value in found.items():
        own, _, name = key.partition(".")
        root = math.sqrt(float(b[f"{own}.alpha"]) / float(a[f"{own}.alpha"]))
        by = {"lora_down.weight": -0.4 * root, "lora_up.weight": 0.4 * root, "alpha": 0.0}[name]
        torch.testing.assert_close(value, (1.0 if name == "alpha" else 0.6) * a[key] + by * b[key])
    for other, said in (("lora_dim4", "rank 4, and the file before it 8"), ("lokr_dim4_f4", "no plain LoRA")):
        path = REFERENCE / other / f"{other}.safetensors"
        with pytest.raises(Mistake, match=said):
            joined(tmp_path / "y.safetensors", TWO[0], path, method="additive")


@pytest.mark.parametrize("family", [*FAMILIES, *saved.VARIANTS])
def test_every_family_adds_up_exactly(family, tmp_path):
    """With a LoRA of other layers and another rank beside it."""
    first, second = saved.file(tmp_path, family), saved.file(tmp_path, "lora", dim=3, preset="attn-mlp")
    joined(tmp_path / "x.safetensors", first, second, ratios=[0.5, -2], base=str(saved.checkpoint("sd1")))
    a, b, ours = (saved.matrices(path) for path in (first, second, tmp_path / "x.safetensors"))
    assert ours.keys() == a.keys() | b.keys()
    for key, found in ours.items():
        close(found, 0.5 * a.get(key, torch.zeros(())) - 2 * b.get(key, torch.zeros(())))
    before, after = saved.biases(first), saved.biases(tmp_path / "x.safetensors")
    for key, bias in before.items():
        if bias is not None:
            torch.testing.assert_close(after[key], 0.5 * bias)


@pytest.mark.parametrize("family", [*FAMILIES, *saved.VARIANTS])
def test_every_family_is_narrowed_as_near_as_can_be(family, tmp_path):
    first, second = saved.file(tmp_path, family), saved.file(tmp_path, "lora", dim=3)
    report = joined(tmp_path / "x.safetensors", first, second, new_rank=3, new_conv_rank=2,
                    base=str(saved.checkpoint("sd1")))  # fmt: skip
    a, b, ours = (saved.matrices(path) for path in (first, second, tmp_path / "x.safetensors"))
    lost = norm = 0.0
    for key, found in ours.items():
        wanted = a.get(key, torch.zeros(())) + b.get(key, torch.zeros(()))
        if wanted.ndim < 2:
            torch.testing.assert_close(found, wanted)
            continue
        rank = report.facts["ranks"][key]
        s = torch.linalg.svdvals(wanted.double())
        assert float((found - wanted).norm()) <= float(s[rank:].norm()) * 1.0001 + 1e-5 * float(s[0])
        assert rank == (2 if re.search(r"in_layers\.2|\.op", key) else 3)
        lost, norm = lost + float(s[rank:].square().sum()), norm + float(s.square().sum())
    assert report.facts["error"] == pytest.approx(math.sqrt(lost / norm), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_the_parts_of_fused_attention_stay_together(arch, tmp_path):
    """The WebUI changes OpenCLIP's attention only where a file has all four of its parts."""
    held = load_file(saved.file(tmp_path, "lora", arch))
    lead = {"sd2": "lora_te_", "sdxl": "lora_te2_"}[arch]
    own = f"{lead}text_model_encoder_layers_1_self_attn_"
    less = {k: v for k, v in held.items() if not k.startswith((f"{own}k_proj", f"{own}out"))}
    save_file(less, tmp_path / "a.safetensors", {"ss_base_model_version": saved.VERSIONS[arch]})
    joined(tmp_path / "x.safetensors", tmp_path / "a.safetensors", new_rank=2)
    found = load_file(tmp_path / "x.safetensors")
    assert not found[f"{own}k_proj.lora_up.weight"].any()
    assert {k.partition(".")[0] for k in found} >= {f"{own}{p}_proj" for p in ("q", "k", "v", "out")}


def test_half_precision_costs_no_small_factors(tmp_path):
    """An alpha far below the rank would make numbers that half precision has few digits for."""
    file = saved.file(tmp_path, "lora", alpha=0.001)
    joined(tmp_path / "x.safetensors", file, save_precision="fp16")
    wanted, found = saved.matrices(file), saved.matrices(tmp_path / "x.safetensors")
    for key, value in found.items():
        assert float((value - wanted[key]).norm() / wanted[key].norm()) < 1e-3


def numpy_ties(parts: list[np.ndarray], density: float) -> np.ndarray:
    """arXiv:2306.01708, algorithm 1, value by value."""
    trimmed = []
    for part in parts:
        order = np.argsort(-np.abs(part).ravel(), kind="stable")[: round(density * part.size)]
        kept = np.zeros(part.size)
        kept[order] = part.ravel()[order]
        trimmed.append(kept)
    made = np.zeros(parts[0].size)
    for i in range(made.size):
        column = [t[i] for t in trimmed]
        sign = np.sign(sum(column))
        agree = [v for v in column if v and np.sign(v) == sign]
        made[i] = sum(agree) / len(agree) if agree else 0
    return made.reshape(parts[0].shape)


def test_ties_is_the_papers_algorithm():
    torch.manual_seed(0)
    parts = [torch.randn(7, 9, dtype=torch.float64) for _ in range(3)]
    weights = (1.0, 0.5, -2.0)
    found = _mixed([*zip(parts, weights, strict=True)], How("ties", density=0.3), "unet.x")
    wanted = numpy_ties([p.numpy() * w for p, w in zip(parts, weights, strict=True)], 0.3)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12)


def test_dare_drops_and_makes_up_for_it():
    """Each value is 0 or 1/density of what it was; the mean over many draws is the sum; seeds repeat."""
    torch.manual_seed(0)
    part = torch.randn(20, 30)
    found = _dropped(part, 0.25, "0 0 unet.x")
    kept = found != 0
    torch.testing.assert_close(found[kept], part[kept] * 4)
    assert 0.15 < kept.float().mean() < 0.35
    how = [How("dare", density=0.5, seed=seed) for seed in range(400)]
    sums = torch.stack([_mixed([(part, 1.0), (part, 0.5)], h, "unet.x") for h in how])
    assert (sums.mean(0) - 1.5 * part).abs().max() < 0.3 * part.abs().max()
    assert torch.equal(_mixed([(part, 1.0)], how[3], "unet.x"), _mixed([(part, 1.0)], how[3], "unet.x"))
    assert not torch.equal(sums[0], sums[1])


@pytest.mark.parametrize("method", ["ties", "dare", "dare_ties"])
def test_mixtures_become_files(method, tmp_path):
    files = [saved.file(tmp_path, family) for family in ("lora", "loha")]
    joined(tmp_path / "a.safetensors", *files, method=method, density=0.5, seed=1)
    joined(tmp_path / "b.safetensors", *files, method=method, density=0.5, seed=1, new_rank=4)
    whole, narrow = (saved.matrices(tmp_path / f"{name}.safetensors") for name in "ab")
    for key, wanted in whole.items():
        s = torch.linalg.svdvals(wanted)
        assert float((narrow[key] - wanted).norm()) == pytest.approx(float(s[4:].norm()), rel=1e-2, abs=1e-4)


def test_the_file_says_what_it_is(tmp_path):
    """The metadata that sd-scripts' tools write, what it is made from, and hashes of what is in it."""
    first, second = saved.file(tmp_path, "lora"), saved.file(tmp_path, "lokr")
    held = {**load_file(first), "bundle_emb.word.emb_params": torch.ones(2, 64)}
    save_file(held, tmp_path / "word.safetensors")
    report = joined(
        tmp_path / "x.safetensors", tmp_path / "word.safetensors", second, new_rank=4, new_conv_rank=2
    )
    assert report.facts["embeddings"] == ["word"]
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        texts = file.metadata()
        assert torch.equal(file.get_tensor("bundle_emb.word.emb_params"), torch.ones(2, 64))
    assert texts["ss_network_module"] == "networks.lora"
    assert (texts["ss_network_dim"], texts["ss_network_alpha"]) == ("4", "4.0")
    assert json.loads(texts["ss_network_args"]) == {"conv_dim": "2", "conv_alpha": "2.0"}
    assert (texts["ss_v2"], texts["ss_base_model_version"]) == ("False", "sd_v1")
    assert texts["modelspec.merged_from"] == "word, lokr"
    assert texts["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert texts["modelspec.hash_sha256"] == f"0x{texts['sshs_model_hash']}" != "0x" + "0" * 64
    assert texts["ss_training_comment"] == "merged by svd: word 1, lokr_sd1 1"


def test_attached_it_does_what_the_files_did(tmp_path):
    """Through the layers' own forward, not only by matrices."""
    files = [saved.file(tmp_path, family) for family in ("lora", "lokr")]
    joined(tmp_path / "x.safetensors", *files, ratios=[0.5, 1.5])
    own = saved.network("lora")
    layers: list[Layer] = [*own.layers.values()]
    networks = [network_of(load(path)[0], layers) for path in (*files, tmp_path / "x.safetensors")]
    for key, layer in own.layers.items():
        x = torch.randn(2, layer.shape[1], 8, 8) if layer.kernel else torch.randn(2, 5, layer.shape[1])
        with torch.no_grad():
            base = layer.module(x)
            a, b, both = (n.eval().adapters[key](x, base) - base for n in networks)
        close(both, 0.5 * a + 1.5 * b, 1e-4)


def test_what_cannot_be_joined_is_said(tmp_path):
    file, other, dora = (saved.file(tmp_path, *words) for words in (["lora"], ["lora", "sdxl"], ["dora"]))
    to = tmp_path / "x.safetensors"
    with pytest.raises(Mistake, match=r"is for SDXL, and .* for SD 1\.x"):
        joined(to, file, other)
    with pytest.raises(Mistake, match="name the checkpoint that it was made for"):
        joined(to, file, dora)
    with pytest.raises(Mistake, match="nothing is left"):
        joined(to, file, ratios=[0])
    with pytest.raises(Mistake, match="no such file"):
        joined(to, tmp_path / "nowhere.safetensors")
    held = load_file(file)
    key = next(key for key in held if key.endswith("to_q.lora_up.weight"))
    save_file({**held, key: held[key][:-1]}, tmp_path / "short.safetensors")
    with pytest.raises(Mistake, match="of another model than in the first file"):
        joined(to, file, tmp_path / "short.safetensors")
    build(Convert, {"model": file, "strength": -1, "save_to": tmp_path / "less.safetensors"}).run()
    with pytest.raises(Mistake, match="there is no root; take method concat"):
        joined(to, file, tmp_path / "less.safetensors", method="additive")
    assert not to.exists()
    joined(to, file, file)
    assert Opened(to).layers.keys() == Opened(file).layers.keys()
    before = to.read_bytes()
    joined(to, to, overwrite=True)  # onto itself
    assert saved.matrices(to).keys() == Opened(file).layers.keys()
    assert before
