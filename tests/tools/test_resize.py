"""Resizing: sd-scripts' own numbers, and what singular values say must be lost."""

from __future__ import annotations

import json
import math
import pathlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_train.adapters import FAMILIES
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.tooling import command
from lora_train.tools.base import Base
from lora_train.tools.convert import Convert
from lora_train.tools.recipe import Recipe, sides
from lora_train.tools.resize import Resize, Source
from tests.tools import saved

REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
there = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference artefacts are not there")


def resized(model: pathlib.Path | str, to: pathlib.Path, **values: object):
    return build(Resize, {"model": str(model), "save_to": to, **values}).run()


def read(path: pathlib.Path) -> dict[str, tuple[Tensor, Tensor, float]]:
    """Module -> up, down, alpha; in kohya's keys, by hand."""
    tensors = load_file(path)
    ends = ("lora_up.weight", "lora_down.weight")
    return {
        key.partition(".")[0]: (
            *(tensors[f"{key.partition('.')[0]}.{end}"].flatten(1) for end in ends),
            tensors[f"{key.partition('.')[0]}.alpha"].item(),
        )
        for key in tensors if key.endswith(ends[0])
    }  # fmt: skip


def product(up: Tensor, down: Tensor, alpha: float) -> Tensor:
    return alpha / len(down) * up @ down


@there
def test_it_is_what_sd_scripts_made(tmp_path):
    """Ranks and alphas of every layer, and what they add."""
    resized(
        REFERENCE / "locon16" / "locon16.safetensors", tmp_path / "out.safetensors", new_rank=16,
        dynamic_method="sv_fro", dynamic_param=0.9,
    )  # fmt: skip
    ours = read(tmp_path / "out.safetensors")
    theirs = read(REFERENCE / "resize_sv_fro" / "out.safetensors")
    assert {k: (len(d), a) for k, (_, d, a) in ours.items()} == {
        k: (len(d), pytest.approx(a)) for k, (_, d, a) in theirs.items()
    }
    for key, own in ours.items():
        torch.testing.assert_close(product(*own), product(*theirs[key]), rtol=1e-5, atol=1e-5)


def counted(values: Tensor, method: str, param: float) -> int:
    """The rank that sd-scripts keeps, of all min(out, in) singular values, as its text says it."""
    if method == "sv_ratio":
        index = int((values > values[0] / param).sum())
    elif method == "sv_cumulative":
        index = int((values.cumsum(0) / values.sum() < param).sum()) + 1
    else:
        index = int((values.square().cumsum(0) / values.square().sum() < param**2).sum()) + 1
    return max(1, min(index, len(values) - 1)) + 1


@pytest.mark.parametrize(
    ("method", "param"), [("sv_ratio", 2.0), ("sv_ratio", 5.0), ("sv_cumulative", 0.6), ("sv_fro", 0.8)]
)
def test_ranks_are_counted_as_sd_scripts_does(method, param, tmp_path):
    old = saved.file(tmp_path, "lora", dim=12, conv_dim=8)
    resized(old, tmp_path / "new.safetensors", new_rank=9, new_conv_rank=5, dynamic_method=method,
            dynamic_param=param)  # fmt: skip
    before, after, tensors = read(old), read(tmp_path / "new.safetensors"), load_file(old)
    assert before.keys() == after.keys()
    for key, (up, down, alpha) in before.items():
        values = torch.linalg.svdvals(up.double() @ down.double())
        cap = 5 if tensors[f"{key}.lora_down.weight"].ndim == 4 else 9
        assert len(after[key][1]) == min(counted(values, method, param), cap), key
        assert after[key][2] == pytest.approx(alpha / len(down) * len(after[key][1]))


@pytest.mark.parametrize("family", [*FAMILIES, *saved.VARIANTS])
def test_what_is_lost_is_the_norm_of_the_smaller_singular_values(family, tmp_path):
    """Eckart and Young, for every family through what it adds; norms stay as they are."""
    old, rank = saved.file(tmp_path, family), 3
    report = resized(old, tmp_path / "new.safetensors", new_rank=rank, base=saved.checkpoint("sd1"))
    before, after = saved.matrices(old), saved.matrices(tmp_path / "new.safetensors")
    assert before.keys() == after.keys()
    lost = total = 0.0
    for key, matrix in before.items():
        if matrix.ndim == 1:
            assert torch.equal(after[key], matrix)
            continue
        values = torch.linalg.svdvals(matrix.double())
        wanted = values[rank:].norm()
        if report.facts["layers"].get(key) is None:  # it has a bias of its own, and stays as it is
            torch.testing.assert_close(after[key], matrix, rtol=1e-6, atol=1e-7)
            continue
        off = (after[key] - matrix).double().norm()
        torch.testing.assert_close(off, wanted, rtol=2e-4, atol=2e-5 * float(values.norm()), msg=key)
        lost, total = lost + float(off) ** 2, total + float(values.square().sum())
    if total:
        assert report.facts["kept"] == pytest.approx(math.sqrt(1 - lost / total), abs=1e-4)


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
@pytest.mark.parametrize("family", ["lora", "lokr", "dora"])
def test_other_models_layers(arch, family, tmp_path):
    """At a rank that takes all of it, nothing changes."""
    old = saved.file(tmp_path, family, arch)
    resized(old, tmp_path / "new.safetensors", new_rank=512, base=saved.checkpoint(arch))
    before, after = saved.matrices(old, arch), saved.matrices(tmp_path / "new.safetensors", arch)
    assert before.keys() == after.keys()
    for key, matrix in before.items():
        torch.testing.assert_close(after[key], matrix, rtol=1e-4, atol=1e-5 * float(matrix.abs().max()))


def scored(path: pathlib.Path, base: Base) -> dict[str, Tensor]:
    """Singular values over the norm of the checkpoint's layer, as log10; by hand."""
    found = {}
    for key, matrix in saved.matrices(path).items():
        found[key] = torch.linalg.svdvals(matrix.double()).log10() - base.weight(key).double().norm().log10()
    return found


def test_a_recipe_keeps_the_ranks_above_its_line(tmp_path):
    old = saved.file(tmp_path, "lora", dim=12, conv_dim=8)
    scores = scored(old, saved.base("sd1"))
    line = float(torch.cat([s[:8] for s in scores.values()]).median())
    resized(
        old,
        tmp_path / "new.safetensors",
        base=saved.checkpoint("sd1"),
        recipe=f"fro_ckpt=1,thr={line + 1e-4}",
    )
    after = {k: len(d) for k, (_, d, _) in read(tmp_path / "new.safetensors").items()}
    wanted = [int((s > line + 1e-4).sum()) for s in scores.values()]
    assert sorted(after.values()) == sorted(n for n in wanted if n)
    assert 0 < sum(wanted) < sum(map(len, scores.values()))


def test_a_recipe_of_a_size_stays_below_it_by_less_than_a_rank(tmp_path):
    old, size = saved.file(tmp_path, "lora", dim=12, conv_dim=8), 0.05
    resized(old, tmp_path / "new.safetensors", recipe=f"spn_lora=1,params=0.2,size={size}")
    made = read(tmp_path / "new.safetensors")
    bytes_ = sum(4 * (up.numel() + down.numel()) for up, down, _ in made.values())
    largest = max(4 * (len(up) + down.shape[1]) for up, down, _ in read(old).values())
    assert size * 2**20 - largest < bytes_ <= size * 2**20


def test_a_recipe_rescales_what_it_keeps(tmp_path):
    old = saved.file(tmp_path, "lora")
    resized(old, tmp_path / "new.safetensors", recipe="spn_lora=1,thr=-6,rescale=-0.5")
    after = saved.matrices(tmp_path / "new.safetensors")
    for key, matrix in saved.matrices(old).items():
        torch.testing.assert_close(after[key], -0.5 * matrix, rtol=1e-4, atol=1e-6)


def test_several_recipes_write_a_file_each(tmp_path):
    old = saved.file(tmp_path, "lora")
    report = resized(
        old, tmp_path / "new.safetensors", recipe="spn_lora=1,thr=-1:fro_lora,params=1,size=0.01"
    )
    names = ["new_spnlora1_th-1.safetensors", "new_frolora0.5_params0.5_size0.01.safetensors"]
    assert [path.name for path in report.files] == names
    assert all((tmp_path / name).is_file() for name in names)


def test_files_are_merged_first(tmp_path):
    first, second = saved.file(tmp_path, "lora"), saved.file(tmp_path, "lokr")
    resized(f"{first}:0.7,{second}:-0.3", tmp_path / "new.safetensors", new_rank=512)
    one, two, after = (saved.matrices(path) for path in (first, second, tmp_path / "new.safetensors"))
    for key in one.keys() | two.keys():
        wanted = 0.7 * one.get(key, torch.tensor(0.0)) - 0.3 * two.get(key, torch.tensor(0.0))
        torch.testing.assert_close(after[key], wanted, rtol=1e-4, atol=1e-5)


def test_learned_words_come_along_and_what_is_lost_is_said(tmp_path):
    old = saved.file(tmp_path, "lora")
    word = {"bundle_emb.zwx.string_to_param.*": torch.ones(2, 4)}
    stray = {"lora_unet_nowhere.lora_down.weight": torch.ones(1, 4)}
    save_file({**load_file(old), **word, **stray}, tmp_path / "more.safetensors")
    report = resized(tmp_path / "more.safetensors", tmp_path / "new.safetensors")
    found = load_file(tmp_path / "new.safetensors")
    assert all(torch.equal(found[key], tensor) for key, tensor in word.items())
    assert report.facts["lost"] == [*stray]
    build(Convert, {"model": tmp_path / "more.safetensors", "save_to": tmp_path / "same.safetensors"}).run()
    assert load_file(tmp_path / "same.safetensors").keys() == load_file(tmp_path / "more.safetensors").keys()


def test_what_references_are_worth():
    """Two ranks of a layer whose numbers are known: the subspace's is what the weight does along them."""
    from lora_train.tools.singular import of_factors

    up, down = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), torch.eye(2, 4)
    found = of_factors(up, down)

    class Fixed:
        path = None
        weights = {"k": 0}  # noqa: RUF012

        def weight(self, key):
            return torch.tensor([[0.1, 0, 0, 0], [0, 0.01, 0, 0], [0, 0, 5.0, 0]])

    def of(text):
        return Recipe.parse(f"{text},thr=0").scores(found, "k", Fixed()).tolist()

    def near(*values):
        return pytest.approx([math.log10(v) for v in values], abs=1e-6)

    assert of("subspace") == near(3 / 0.1, 1 / 0.01)
    assert of("spn_lora") == near(1, 1 / 3)
    assert of("fro_lora") == near(3 / math.sqrt(10), 1 / math.sqrt(10))
    assert of("spn_ckpt") == near(3 / 5, 1 / 5)
    assert of("fro_ckpt") == near(3 / math.sqrt(25.0101), 1 / math.sqrt(25.0101))
    assert of("params=2,spn_lora=2") == near(3 / math.sqrt(21), 1 / math.sqrt(21))
    assert of("spn_lora,rescale=10") == near(10, 10 / 3)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dynamic_method": "sv_fro"}, "expected dynamic_param beside it"),
        ({"dynamic_param": 0.5}, "expected dynamic_method beside it"),
        ({"dynamic_method": "sv_fro", "dynamic_param": 1.5}, "above 0, and 1 at most"),
        ({"dynamic_method": "sv_ratio", "dynamic_param": 0.5}, "above 1"),
        ({"recipe": "fro_ckpt=1,thr=-3"}, "expected --base"),
        ({"recipe": "fro_lora=1,thr=-1", "new_rank": 2}, "expected no new_rank beside it"),
        ({"recipe": "fro_lora=1,thr=-1:fro_lora=1,thr=-1.001"}, "two would be written as frolora1_th-1"),
        ({"recipe": "fro_lora=1"}, "expected one of thr=SCORE and size=MIB"),
        ({"recipe": "thr=1"}, "expected something to compare with"),
        ({"recipe": "fro_lore=1,thr=1"}, "expected one of spn_ckpt"),
        ({"recipe": "fro_lora=1,thr=x"}, "expected a number"),
        ({"recipe": "fro_lora=1,fro_lora=2,thr=1"}, "stands twice"),
        (
            {"recipe": "fro_lora=1,thr=1", "dynamic_method": "sv_fro", "dynamic_param": 0.5},
            "no dynamic_method",
        ),
        ({"save_to": "new.pt"}, "ends with .safetensors"),
        pytest.param({"device": "cuda"}, "no such device", marks=no_card),
    ],
)
def test_settings_that_do_not_go_are_said(values, said, tmp_path):
    with pytest.raises(Mistake, match=said):
        resized(tmp_path / "old.safetensors", **{"to": tmp_path / "new.safetensors", **_to(values)})


def _to(values):
    return {("to" if name == "save_to" else name): value for name, value in values.items()}


def test_nothing_is_overwritten_unless_asked(tmp_path):
    old = saved.file(tmp_path, "lora")
    before = old.read_bytes()
    with pytest.raises(Mistake, match="is there already"):
        resized(old, old, new_rank=2)
    assert old.read_bytes() == before
    resized(old, old, new_rank=2, overwrite=True)
    assert {len(down) for _, down, _ in read(old).values()} == {2}
    assert [*tmp_path.iterdir()] == [old]


def test_damaged_files_are_refused(tmp_path):
    old = saved.file(tmp_path, "lora")
    tensors = load_file(old)
    key = next(k for k in tensors if k.endswith("lora_up.weight"))
    wrong = {
        "nan": ({**tensors, key: tensors[key] * math.nan}, "holds NaN"),
        "shape": ({**tensors, key: tensors[key][:, :1].clone()}, "do not fit together"),
    }
    for name, (found, said) in wrong.items():
        save_file(found, tmp_path / f"{name}.safetensors")
        with pytest.raises(Mistake, match=said):
            resized(tmp_path / f"{name}.safetensors", tmp_path / "new.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(old.read_bytes()[:-100])
    with pytest.raises(Mistake, match="is cut short"):
        resized(tmp_path / "cut.safetensors", tmp_path / "new.safetensors")
    with pytest.raises(Mistake, match="no such file"):
        resized(f"{old}:1,{tmp_path}/none.safetensors:1", tmp_path / "new.safetensors")
    with pytest.raises(Mistake, match="name the checkpoint"):
        resized(saved.file(tmp_path, "dora"), tmp_path / "new.safetensors")
    assert not (tmp_path / "new.safetensors").exists()


def test_the_command_says_what_it_did(tmp_path, capsys):
    old = saved.file(tmp_path, "lora")
    words = [str(old), "-r", "fro_lora=1,thr=-1", "--save_to", str(tmp_path / "new.safetensors"), "--json"]
    assert command("resize")(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert 0 < said["kept"] <= 1
    assert {own["rank"] for own in said["layers"].values()} <= {0, 1, 2, 3, 4}
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        texts = file.metadata()
    assert texts["ss_output_name"] == "lora"
    assert texts["ss_training_comment"].startswith("resized by frolora1_th-1")
    assert json.loads(texts["resize_params"])["threshold"] == -1
    assert len(texts["sshs_model_hash"]) == 64
    assert (
        command("resize")(
            [str(old), "--new_rank", "2", "--save_to", str(tmp_path / "b.safetensors"), "--verbose"]
        )
        == 0
    )
    assert "rank    2, " in capsys.readouterr().out
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert file.metadata()["ss_network_dim"] == "2"


def test_what_was_no_lora_is_not_held_in_memory_whole(tmp_path):
    """A recipe looks at all layers first; of a LoHa all their vectors are larger than the model."""
    source = Source(str(saved.file(tmp_path, "loha")), None, "cpu")
    for _, part in source.parts(lambda shape: None, lambda done, of: None):
        found = part.light.found
        assert found.left.numel() + found.right.numel() == 0
        assert torch.equal(found.values, part.found.values)
        assert sides(found) == sides(part.found)
