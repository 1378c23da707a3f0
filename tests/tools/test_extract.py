"""Extracting: what was merged into a checkpoint comes out again, and singular values say how near."""

from __future__ import annotations

import json
import math
import pathlib
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_train.adapters import FAMILIES
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.tooling import command
from lora_train.tools import fitted
from lora_train.tools.base import Base
from lora_train.tools.extract import Extract, kept, quantile
from lora_train.tools.merge import Merge
from lora_train.tools.opened import Opened
from lora_train.tools.singular import of_factors, of_matrix
from tests.tools import saved

REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
there = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference artefacts are not there")


def tuned(folder: pathlib.Path, file: pathlib.Path, arch: str = "sd1") -> pathlib.Path:
    """A checkpoint in float32 with a file merged into it."""
    path = folder / "tuned.safetensors"
    build(Merge, {"models": [str(file)], "sd_model": str(saved.checkpoint(arch)), "save_to": str(path),
                  "save_precision": "float", "overwrite": True}).run()  # fmt: skip
    return path


def extracted(to: pathlib.Path, path: pathlib.Path, arch: str = "sd1", **values: object):
    given = {"model_org": str(saved.checkpoint(arch)), "model_tuned": str(path), "save_to": str(to),
             "save_precision": "float", "overwrite": True, **values}  # fmt: skip
    return build(Extract, given).run()


def differences(path: pathlib.Path, arch: str = "sd1") -> dict[str, Tensor]:
    """Of all weights that differ, from the checkpoint's own file."""
    there, here = saved.base(arch), Base(path)
    found = {key: (here.weight(key) - there.weight(key)).flatten(1) for key in there.weights
             if len(there.shapes[key]) > 1}  # fmt: skip
    return {key: value for key, value in found.items() if value.any()}


@pytest.mark.parametrize("family", [*FAMILIES, *saved.VARIANTS])
def test_what_was_merged_comes_out_again(family, tmp_path):
    """Whole where the rank is enough for it."""
    file = saved.file(tmp_path, family)
    path = tuned(tmp_path, file)
    report = extracted(tmp_path / "x.safetensors", path, dim=4096, conv_dim=4096, norms=True)
    wanted, found = saved.matrices(file), saved.matrices(tmp_path / "x.safetensors")
    assert found.keys() == {key for key, value in wanted.items() if value.any()}
    for key, value in found.items():
        assert float((value - wanted[key]).norm() / wanted[key].norm()) < 1e-4
    assert report.facts["error"] < 1e-4


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_fused_attention_and_second_encoders_come_out(arch, tmp_path):
    file = saved.file(tmp_path, "lora", arch)
    extracted(tmp_path / "x.safetensors", tuned(tmp_path, file, arch), arch, dim=4, conv_dim=4)
    wanted, found = saved.matrices(file, arch), saved.matrices(tmp_path / "x.safetensors", arch)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        assert float((value - wanted[key]).norm() / wanted[key].norm()) < 1e-4


@pytest.mark.parametrize("part", ["unet", "te"])
def test_one_part_alone(part, tmp_path):
    path = tuned(tmp_path, saved.file(tmp_path, "lora"))
    extracted(tmp_path / "x.safetensors", path, only=part)
    assert {key.startswith("unet.") for key in saved.matrices(tmp_path / "x.safetensors")} == {part == "unet"}


def test_equal_text_encoders_are_left_out(tmp_path):
    file = saved.file(tmp_path, "lora")
    unet = {k: v for k, v in load_file(file).items() if k.startswith("lora_unet")}
    save_file(unet, tmp_path / "unet.safetensors")
    path = tuned(tmp_path, tmp_path / "unet.safetensors")
    report = extracted(tmp_path / "x.safetensors", path)
    assert report.facts["text_encoders_equal"]
    assert all(key.startswith("unet.") for key in saved.matrices(tmp_path / "x.safetensors"))
    path = tuned(tmp_path, file)
    assert not extracted(tmp_path / "x.safetensors", path).facts["text_encoders_equal"]
    largest = max(float(v.abs().max()) for k, v in differences(path).items() if k.startswith("te"))
    assert not extracted(tmp_path / "x.safetensors", path, min_diff=largest * 0.99).facts[
        "text_encoders_equal"
    ]
    assert extracted(tmp_path / "x.safetensors", path, min_diff=largest).facts["text_encoders_equal"]


def ranks_of(values: Tensor, mode: str, number: float) -> int:
    """LyCORIS' rules, and the share of the norm, from all singular values."""
    s = values.double()
    if mode == "fro":
        whole = s.square().sum().sqrt()
        return next(
            k for k in range(1, len(s) + 1) if s[:k].square().sum().sqrt() >= number * whole * (1 - 1e-6)
        )
    counts = {
        "threshold": (s > number).sum(), "ratio": (s > s.max() * number).sum(),
        "quantile": (s.cumsum(0) < number * s.sum()).sum(),
    }  # fmt: skip
    return max(1, int(counts[mode]))


@pytest.mark.parametrize(
    ("mode", "number"), [("threshold", 0.05), ("ratio", 0.3), ("quantile", 0.6), ("fro", 0.9)]
)
def test_ranks_follow_singular_values(mode, number, tmp_path):
    path = tuned(tmp_path, saved.file(tmp_path, "lokr"))
    report = extracted(
        tmp_path / "x.safetensors", path, mode=mode, **{f"linear_{mode}": number, f"conv_{mode}": number}
    )
    lost = norm = 0.0
    for key, value in differences(path).items():
        s = torch.linalg.svdvals(value.double())
        rank = ranks_of(s, mode, number)
        if rank * sum(value.shape) > value.numel():
            assert key not in report.facts["ranks"]  # whole is smaller
            rank = len(s)
        else:
            assert report.facts["ranks"][key] == rank, key
        lost, norm = lost + float(s[rank:].square().sum()), norm + float(s.square().sum())
    assert report.facts["ranks"]
    assert report.facts["error"] == pytest.approx(math.sqrt(lost / norm), rel=1e-3)
    most = extracted(tmp_path / "x.safetensors", path, mode=mode, dim=2, **{f"linear_{mode}": number})
    assert max(most.facts["ranks"].values()) <= 2


def test_what_is_kept_of_known_values_is_what_all_would_say():
    """Found at random, the largest values are those that all of them begin with."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(900, 400)).Q for _ in range(2))
    s = torch.logspace(0, -4, 400)
    matrix = (u * s) @ v.t()
    found, every = of_matrix(matrix, 40), of_matrix(matrix)
    torch.testing.assert_close(found.values[:40], every.values[:40], rtol=2e-3, atol=0)
    torch.testing.assert_close(found.values[:30], every.values[:30], rtol=1e-4, atol=0)
    up, down = found.cut(30)
    assert float((matrix - up @ down).norm()) == pytest.approx(float(s[30:].norm()), rel=1e-4)
    assert found.missing(30) == pytest.approx(float(s[30:].norm()), rel=1e-3)
    assert kept(found, "ratio", 0.6) == kept(every, "ratio", 0.6)
    assert kept(found, "fro", 0.7) == kept(every, "fro", 0.7) < 40
    thin = of_factors(torch.randn(50, 7), torch.randn(7, 60))
    assert len(thin.values) == 7
    assert thin.missing(7) == 0


@there
def test_it_is_sd_scripts_file_with_its_clamp(tmp_path):
    """And nearer without it. The reference was made from locon16 merged at 0.8."""
    base, path = REFERENCE / "tiny_sd1.safetensors", tmp_path / "tuned.safetensors"
    build(Merge, {"models": [str(REFERENCE / "locon16" / "locon16.safetensors")], "sd_model": str(base),
                  "ratios": [0.8], "save_to": str(path)}).run()  # fmt: skip
    given = {"dim": 8, "conv_dim": 4, "model_org": str(base)}
    files = {"clamped": 0.99, "ours": 1.0}
    for name, clamp in files.items():
        extracted(tmp_path / f"{name}.safetensors", path, clamp_quantile=clamp, **given)
    clamped, ours = (load_file(tmp_path / f"{name}.safetensors") for name in files)
    theirs, before, merged = load_file(REFERENCE / "extract" / "out.safetensors"), Base(base), Base(path)
    assert clamped.keys() == ours.keys() == theirs.keys()
    assert {k: v.shape for k, v in clamped.items()} == {k: v.shape for k, v in theirs.items()}
    places = Opened(REFERENCE / "extract" / "out.safetensors").layers
    for key, held in [*places.items()][::4]:
        own = next(iter(held.names.values())).partition(".")[0]
        wanted = (merged.weight(key) - before.weight(key)).flatten(1)
        for made in (clamped, theirs):
            assert (product(made, own) - as_sd_scripts(wanted, made, own)).abs().max() <= 1e-5
        assert float((product(ours, own) - wanted).norm()) <= float((product(theirs, own) - wanted).norm())


def as_sd_scripts(wanted: Tensor, made: dict[str, Tensor], own: str) -> Tensor:
    """Factors clamped at a quantile, which depends on the vectors' signs: those that a file has."""
    rank = len(made[f"{own}.lora_down.weight"])
    u, s, vh = torch.linalg.svd(wanted, full_matrices=False)
    sign = (u[:, :rank] * made[f"{own}.lora_up.weight"].flatten(1)).sum(0).sign()
    u, vh = u[:, :rank] * s[:rank] * sign, vh[:rank] * sign[:, None]
    high = torch.quantile(torch.cat([u.flatten(), vh.flatten()]), 0.99)
    return u.clamp(-high, high) @ vh.clamp(-high, high)


def product(held: dict[str, Tensor], own: str) -> Tensor:
    up, down = (held[f"{own}.lora_{side}.weight"].flatten(1) for side in ("up", "down"))
    return float(held[f"{own}.alpha"]) / len(down) * up @ down


def test_whole_differences_are_of_convolutions_too(tmp_path):
    file = saved.file(tmp_path, "lora")
    report = extracted(tmp_path / "x.safetensors", tuned(tmp_path, file), mode="full")
    there, found = saved.matrices(file), saved.matrices(tmp_path / "x.safetensors")
    assert found.keys() == there.keys()
    assert report.facts["error"] == 0
    for key, value in there.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_biases_and_norms_are_kept_where_asked(tmp_path):
    """A bias only with its whole weight, as the WebUI reads it."""
    path, lead = tuned(tmp_path, saved.file(tmp_path, "normed")), "model.diffusion_model."
    held = load_file(path)
    keys = [f"{saved.BLOCK}.ff.net.2", f"{saved.BLOCK}.attn1.to_out.0"]
    more = {key: torch.randn(len(held[f"{lead}{key}.bias"])) for key in keys}
    save_file({**held, **{f"{lead}{k}.bias": held[f"{lead}{k}.bias"] + v for k, v in more.items()}}, path)
    extracted(tmp_path / "x.safetensors", path, conv_dim=2, norms=True, biases=True)
    found = saved.biases(tmp_path / "x.safetensors")
    for key, value in more.items():
        torch.testing.assert_close(found[f"unet.{key}"], value, rtol=1e-4, atol=1e-5)
    norms = [key for key, value in saved.matrices(tmp_path / "x.safetensors").items() if value.ndim == 1]
    assert sorted(norms) == ["unet.input_blocks.4.0.in_layers.0", "unet.input_blocks.4.0.out_layers.0"]
    names = {key.partition(".")[2] for key in load_file(tmp_path / "x.safetensors")}
    assert names >= {"diff", "diff_b", "w_norm", "b_norm"}
    extracted(tmp_path / "x.safetensors", path)
    assert not {"diff", "w_norm"} & {k.partition(".")[2] for k in load_file(tmp_path / "x.safetensors")}


def test_a_lokr_is_the_nearest_kronecker_product():
    """Of its arranged matrix it is the largest singular value: what is missing are all others."""
    torch.manual_seed(0)
    weight = torch.randn(12, 20)
    made = fitted.lokr(weight, None, 4)
    w1, w2 = made["lokr_w1"], made["lokr_w2"]
    (a, c), (b, d) = w1.shape, w2.shape
    assert (a, b, c, d) == (3, 4, 4, 5)
    rows = [weight[i * b : (i + 1) * b, j * d : (j + 1) * d].flatten() for i in range(a) for j in range(c)]
    s = torch.linalg.svdvals(torch.stack(rows))
    assert float((weight - torch.kron(w1, w2)).norm()) == pytest.approx(float(s[1:].norm()), rel=1e-5)
    exact = torch.kron(torch.randn(3, 4), torch.randn(4, 2) @ torch.randn(2, 5))
    found = fitted.lokr(exact, 2, 4)
    again = torch.kron(found["lokr_w1"], found["lokr_w2_a"] @ found["lokr_w2_b"])
    torch.testing.assert_close(again, exact, rtol=1e-4, atol=1e-4)


def test_a_loha_is_nearer_than_a_lora_of_its_rank():
    """And every round of fitting is at least as near as the one before."""
    torch.manual_seed(0)
    for matrix in (
        torch.randn(40, 60),
        (torch.randn(40, 3) @ torch.randn(3, 60)) * (torch.randn(40, 3) @ torch.randn(3, 60)),
    ):
        made = fitted.loha(matrix, 3)
        found = (made["hada_w1_a"] @ made["hada_w1_b"]) * (made["hada_w2_a"] @ made["hada_w2_b"])
        s = torch.linalg.svdvals(matrix)
        assert float((matrix - found).norm()) < 0.95 * float(s[3:].norm())
    pair = fitted._starts(matrix, 3, 0)[1]
    far = [fitted._distance(matrix, fitted._fitted(matrix, pair, n)) for n in (0, 1, 3, 6)]
    assert far == sorted(far, reverse=True)


@pytest.mark.parametrize(("algo", "mark"), [("loha", "hada_w1_a"), ("lokr", "lokr_w1")])
def test_other_families_come_out(algo, mark, tmp_path):
    """A file that hosts read, which is as near as it says."""
    file = saved.file(tmp_path, algo)
    path = tuned(tmp_path, file)
    report = extracted(tmp_path / "x.safetensors", path, algo=algo, dim=4, conv_dim=2)
    assert any(key.endswith(mark) for key in load_file(tmp_path / "x.safetensors"))
    found, wanted = saved.matrices(tmp_path / "x.safetensors"), differences(path)
    lost = sum(float((found[key] - value).square().sum()) for key, value in wanted.items())
    norm = sum(float(value.square().sum()) for value in wanted.values())
    assert report.facts["error"] == pytest.approx(math.sqrt(lost / norm), rel=1e-3, abs=1e-5)
    assert report.facts["error"] < (0.02 if algo == "lokr" else 0.5)
    with safe_open(tmp_path / "x.safetensors", "pt") as held:
        assert json.loads(held.metadata()["ss_network_args"])["algo"] == algo


def test_a_share_of_a_seed_is_the_same_file(tmp_path, capsys):
    path = tuned(tmp_path, saved.file(tmp_path, "lora"))
    words = [
        "--model_org",
        str(saved.checkpoint("sd1")),
        "--model_tuned",
        str(path),
        "--linear_dim",
        "3",
        "--json",
    ]
    for name in "ab":
        assert command("extract")([*words, "--save_to", str(tmp_path / f"{name}.safetensors")]) == 0
    facts = json.loads(capsys.readouterr().out.partition("}\n{")[0] + "}")
    assert set(facts["ranks"].values()) == {3}
    assert "unet" in facts["kinds"]
    a, b = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert all(torch.equal(value, b[key]) for key, value in a.items())
    assert next(iter(a.values())).dtype == torch.float16  # as the first checkpoint's


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_org": None}, "model_org: expected a checkpoint"),
        ({"mode": "ratio"}, "linear_ratio: expected beside mode ratio"),
        ({"linear_ratio": 0.5}, "linear_ratio: expected not beside mode fixed; set mode = ratio"),
        ({"mode": "fro", "linear_fro": 2}, "linear_fro = 2: expected 0 to 1"),
        ({"mode": "fro", "linear_fro": 0.5, "algo": "loha"}, "mode = fro: expected fixed with algo loha"),
        ({"algo": "lokr", "clamp_quantile": 0.9}, "clamp_quantile = 0.9: expected 1"),
    ],
)
def test_what_cannot_be_is_said_before_a_file_is_read(values, said, tmp_path):
    usual = {"model_org": "a", "model_tuned": "b", "save_to": str(tmp_path / "x.safetensors")}
    with pytest.raises(Mistake, match=re.escape(said)):
        build(Extract, {**usual, **values})


def test_checkpoints_that_do_not_belong_together_are_refused(tmp_path):
    to, own = tmp_path / "x.safetensors", saved.checkpoint("sd1")
    with pytest.raises(Mistake, match="same weights"):
        extracted(to, own)
    with pytest.raises(Mistake, match="is SDXL, and .* is SD 1"):
        extracted(to, saved.checkpoint("sdxl"))
    with pytest.raises(Mistake, match="no such file"):
        extracted(to, tmp_path / "nowhere.safetensors")
    held, key = load_file(own), "model.diffusion_model.middle_block.1.proj_in.weight"
    for name, value, said in (
        ("nan", held[key] * float("nan"), "NaN"),
        ("short", held[key][:-1], "values, and"),
    ):
        save_file({**held, key: value.contiguous()}, tmp_path / f"{name}.safetensors")
        shutil.copyfile(own.with_suffix(".yaml"), tmp_path / f"{name}.yaml")
        text = (tmp_path / f"{name}.yaml").read_text().replace("demo_clip", str(own.parent / "demo_clip"))
        (tmp_path / f"{name}.yaml").write_text(text)
        with pytest.raises(Mistake, match=said):
            extracted(to, tmp_path / f"{name}.safetensors")
    assert not to.exists()


def test_a_quantile_is_torchs_of_more_values_than_torch_takes():
    values = torch.randn(1001, generator=torch.Generator().manual_seed(1))
    for share in (0.0, 0.3, 0.99, 0.9999, 1.0):
        assert quantile(values, share).item() == pytest.approx(torch.quantile(values, share).item(), abs=1e-4)
    assert quantile(torch.ones(2**24 + 2), 0.99).item() == 1
