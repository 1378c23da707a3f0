"""Converting: every spelling and back without a change, and plain LoRA that does what other families do."""

from __future__ import annotations

import json
import math
import pathlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import entries
from lora_train.blocks import BlockWeights
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.tooling import command
from lora_train.tools.convert import Convert
from lora_train.tools.dialects import DIALECTS
from lora_train.tools.opened import Opened
from tests.tools import saved
from tests.webui_formulas import added

no_card = pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
ALL = [*FAMILIES, *saved.VARIANTS]


def converted(model: pathlib.Path, to: pathlib.Path, *words: str, **values: object):
    return build(Convert, {"model": model, "save_to": to, "to": words, **values}).run()


def equal(first: pathlib.Path, second: pathlib.Path) -> None:
    """Keys, tensors and precisions."""
    one, two = load_file(first), load_file(second)
    assert one.keys() == two.keys()
    for key, tensor in one.items():
        assert tensor.dtype == two[key].dtype, key
        assert torch.equal(tensor, two[key]), key


def same(before: dict, after: dict, times: float = 1.0, tol: float = 1e-5) -> None:
    """What two files add."""
    assert before.keys() == after.keys()
    for key, matrix in before.items():
        wanted = times * matrix
        off = float((after[key] - wanted).abs().max())
        assert off <= tol * float(wanted.abs().max()) + 1e-9, (key, off)


@pytest.mark.parametrize("arch", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("spelling", DIALECTS)
def test_there_and_back_is_the_same(spelling, arch, tmp_path):
    """Of an alpha that is no power of two as well, which stands beside the tensors."""
    old = saved.file(tmp_path, "lora", arch, conv_dim=None, alpha=2.0 if spelling == "processors" else 3.0)
    if spelling == "processors":
        if arch == "sdxl":
            pytest.skip("such files have one text encoder")
        tensors = {k: t for k, t in load_file(old).items() if "attn" in k}
        save_file(tensors, old, {"ss_base_model_version": saved.VERSIONS[arch]})
    there = tmp_path / ("folder" if spelling == "peft" else "there.safetensors")
    more = {"alphas": "metadata"} if spelling == "diffusers" else {}
    converted(old, there, spelling, **more)
    converted(there, tmp_path / "back.safetensors", "kohya")
    equal(old, tmp_path / "back.safetensors")


@pytest.mark.parametrize("family", ALL)
def test_other_families_are_spelled_there_and_back(family, tmp_path):
    old = path = saved.file(tmp_path, family)
    for spelling in ("kohya_ldm", "lycoris", "comfy", "kohya"):
        path = converted(path, tmp_path / f"{spelling}.safetensors", spelling).files[0]
        unet = [key for key in load_file(path) if key in load_file(old) and "unet" in key]
        assert bool(unet) == (spelling == "kohya")
    equal(old, path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0, 3.0])
def test_alpha_in_the_factors_comes_out_again(dtype, alpha, tmp_path):
    """In float32 an alpha that is no power of two rounds, and it is said by how much."""
    old = saved.file(tmp_path, "lora", dim=4, alpha=alpha, conv_alpha=alpha)
    tensors = {k: t.to(dtype) for k, t in load_file(old).items()}
    small = next(k for k in tensors if k.endswith("lora_up.weight"))
    tensors[small] = tensors[small] * 2**-14 if dtype == torch.float16 else tensors[small]
    save_file(tensors, old)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    report = converted(old, there, "diffusers")
    converted(there, back)
    if dtype == torch.float32 and alpha == 3.0:
        assert 0 < report.facts["rounded"] < 1e-6
        same(saved.matrices(old), saved.matrices(back), tol=1e-6)
    else:
        assert report.facts["rounded"] == 0
        equal(old, back)


def by_hand(path: pathlib.Path) -> list[torch.Tensor]:
    """Products of a diffusers file's factors, as a reader takes them that knows no alpha."""
    found = load_file(path)
    return [found[k.replace("lora_A", "lora_B")].flatten(1).float() @ t.flatten(1).float()
            for k, t in sorted(found.items()) if "lora_A" in k]  # fmt: skip


def test_diffusers_files_are_right_for_who_knows_no_alpha(tmp_path):
    old = saved.file(tmp_path, "lora", dim=4, alpha=3.0)
    converted(old, tmp_path / "there.safetensors", "diffusers")
    norms = sorted(float(m.norm()) for m in by_hand(tmp_path / "there.safetensors"))
    wanted = sorted(float(m.norm()) for m in saved.matrices(old).values())
    assert norms == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("family", ALL)
def test_any_family_is_plain_lora_or_whole(family, tmp_path):
    """Exactly what it was; and at a rank, as near as that rank can be."""
    old, base = saved.file(tmp_path, family), saved.checkpoint("sd1")
    before, biases = saved.matrices(old), saved.biases(old)
    report = converted(old, tmp_path / "lora.safetensors", "lora", base=base)
    assert report.facts["error"] == 0
    same(before, saved.matrices(tmp_path / "lora.safetensors"))
    converted(old, tmp_path / "diff.safetensors", "diff", base=base)
    same(before, saved.matrices(tmp_path / "diff.safetensors"))
    for key, bias in saved.biases(tmp_path / "diff.safetensors").items():
        if biases[key] is not None:
            torch.testing.assert_close(bias, biases[key])
    report = converted(old, tmp_path / "cut.safetensors", "lora", rank=2, base=base)
    after = saved.matrices(tmp_path / "cut.safetensors")
    lost = total = 0.0
    for key, matrix in before.items():
        if matrix.ndim == 1 or biases[key] is not None:
            assert torch.allclose(matrix, after[key])
            continue
        off, best = (after[key] - matrix).norm(), torch.linalg.svdvals(matrix.double())[2:].norm()
        torch.testing.assert_close(off.double(), best, rtol=1e-3, atol=1e-5 * float(matrix.norm()))
        if float(best) > 1e-6 * float(matrix.norm()):
            lost, total = lost + float(best) ** 2, total + float(matrix.double().square().sum())
    if total:
        assert report.facts["error"] == pytest.approx(math.sqrt(lost / total), rel=0.05)


def test_what_is_of_low_rank_is_no_difference(tmp_path):
    for family in ("lora", "tucker", "vera"):
        old = saved.file(tmp_path, family)
        report = converted(old, tmp_path / f"{family}_plain.safetensors", "lora")
        assert not report.facts["whole"], family
        keys = load_file(tmp_path / f"{family}_plain.safetensors")
        assert {k.partition(".")[2] for k in keys} == {"lora_down.weight", "lora_up.weight", "alpha"}


@pytest.mark.parametrize("family", ALL)
def test_strengths_are_worked_in(family, tmp_path):
    """Each layer adds as much as its block, its part and all of it are told to."""
    old, base = saved.file(tmp_path, family), saved.checkpoint("sd1")
    blocks = BlockWeights.parse("0.5,0,0,1,1,1,1,0.25,1,1,1,1,1,1,1,1,1")  # 17: IN04 and BASE among them
    report = converted(old, tmp_path / "new.safetensors", base=base, strength=-2.0, te_strength=0.5,
                       lbw="0.5,0,0,1,1,1,1,0.25,1,1,1,1,1,1,1,1,1")  # fmt: skip
    before, after = saved.matrices(old), saved.matrices(tmp_path / "new.safetensors")
    dropped = set(report.facts["left_out"])
    assert after.keys() == before.keys() - dropped
    for key, matrix in before.items():
        part, _, path = key.partition(".")
        times = -2.0 * (0.5 if part == "te1" else 1.0) * blocks.strength(part, path)
        assert (times == 0) == (key in dropped), key
        if times:
            scale = float(matrix.abs().max())
            torch.testing.assert_close(after[key], times * matrix, rtol=1e-5, atol=2e-6 * scale, msg=key)


def test_one_part_is_kept(tmp_path):
    old = saved.file(tmp_path, "lora", "sdxl")
    parts = {}
    for only in ("unet", "te", "te1", "te2"):
        converted(old, tmp_path / f"{only}.safetensors", only=only)
        parts[only] = {held.part for held in Opened(tmp_path / f"{only}.safetensors").layers.values()}
    assert parts == {"unet": {"unet"}, "te": {"te1", "te2"}, "te1": {"te1"}, "te2": {"te2"}}
    every = load_file(old)
    found = load_file(tmp_path / "unet.safetensors")
    assert all(torch.equal(every[key], tensor) for key, tensor in found.items())


def test_open_clips_attention_stays_whole_where_some_of_it_is_taken_out(tmp_path):
    """The WebUI reads all four parts of one or none."""
    old = saved.file(tmp_path, "lora", "sdxl")
    converted(old, tmp_path / "new.safetensors", lbw="ALL|BASE:q_proj:0")
    after = Opened(tmp_path / "new.safetensors")
    q = [key for key in after.layers if "q_proj" in key]
    assert {held.part for key, held in after.layers.items() if key in q} == {"te2"}
    assert all(not after.change(key).matrix().any() for key in q)


def test_dylora_is_split_as_it_was_trained(tmp_path):
    native, source = saved.network("dylora", dim=4, conv_dim=4, unit=1), tmp_path / "whole.safetensors"
    save_file({k: t.clone() for k, t in entries(native).items()}, source)
    report = converted(source, tmp_path / "part.safetensors", unit=2)
    assert [path.name for path in report.files] == ["part-0002.safetensors"]
    found = Opened(report.files[0])
    for key, adapter in native.adapters.items():
        own = adapter.cut(2)
        up, down = own["lora_up.weight"].flatten(1), own["lora_down.weight"].flatten(1)
        wanted = own["alpha"] / len(down) * up @ down
        torch.testing.assert_close(found.change(key).matrix(), wanted.detach(), rtol=1e-5, atol=1e-7)


def test_metadata_stay_and_are_stripped(tmp_path):
    old = saved.file(tmp_path, "lora")
    converted(old, tmp_path / "new.safetensors", strip=False, save_precision="bf16")
    converted(old, tmp_path / "short.safetensors", strip=True)
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        texts = file.metadata()
        assert {file.get_tensor(k).dtype for k in file.keys() if "alpha" not in k} == {torch.bfloat16}  # noqa: SIM118
    assert texts["ss_output_name"] == "lora"
    with safe_open(tmp_path / "short.safetensors", "pt") as file:
        short = file.metadata()
    assert "ss_output_name" not in short
    assert short["ss_base_model_version"] == "sd_v1"
    assert texts["sshs_model_hash"] != short["sshs_model_hash"]


@pytest.mark.parametrize("spelling", ["peft", "diffusers", "processors"])
@pytest.mark.parametrize("family", ["loha", "tucker", "dora", "ia3", "full"])
def test_what_a_spelling_has_no_words_for_is_said(family, spelling, tmp_path):
    old = saved.file(tmp_path, family)
    to = tmp_path / ("new" if spelling == "peft" else "new.safetensors")
    with pytest.raises(Mistake, match=f"--to lora {spelling}"):
        converted(old, to, spelling)
    assert not to.exists()


def test_any_family_goes_to_peft_as_lora(tmp_path):
    old = saved.file(tmp_path, "loha")
    converted(old, tmp_path / "folder", "lora", "peft", rank=64)
    same(saved.matrices(old), saved.matrices(tmp_path / "folder"), tol=1e-4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"to": ("lora", "diff")}, "expected one of lora, diff"),
        ({"to": ("peft", "kohya")}, "expected one of kohya"),
        ({"to": ("peft",)}, "expected a folder's name"),
        ({"to": ("other",)}, "expected"),
        ({"rank": 4}, "expected --to lora beside it"),
        ({"unit": 4, "to": ("lora",)}, "DyLoRA is a LoRA"),
        ({"lbw": "1,2,3"}, "expected 12, 17, 20 or 26"),
        ({"strength": 0.0}, "nothing of it would be left"),
        ({"unit": 64}, "expected less than the file's rank"),
        ({"unit": 2, "strength": 0.5}, "strength: expected not beside unit"),
        ({"unit": 2, "strip": True}, "strip: expected not beside unit"),
        pytest.param({"device": "cuda"}, "no such device", marks=no_card),
    ],
)
def test_settings_that_do_not_go_are_said(values, said, tmp_path):
    old = saved.file(tmp_path, "lora")
    with pytest.raises(Mistake, match=said):
        build(Convert, {"model": old, "save_to": tmp_path / "new.safetensors", **values}).run()
    assert not (tmp_path / "new.safetensors").exists()


def test_nothing_is_overwritten_unless_asked(tmp_path):
    old = saved.file(tmp_path, "lora")
    for to, words in ((old, ()), (tmp_path / "folder", ("peft",))):
        if words:
            converted(old, to, *words)
        before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
        with pytest.raises(Mistake, match="is there already"):
            converted(old, to, *words)
        converted(old, to, *words, overwrite=True)
        assert before.keys() == {*tmp_path.rglob("*.safetensors")}
    assert {path.name for path in tmp_path.iterdir()} == {old.name, "folder"}


def test_damaged_files_are_refused(tmp_path):
    """Before anything is written, also where tensors are read only then."""
    old, new = saved.file(tmp_path, "lora"), tmp_path / "new.safetensors"
    tensors = load_file(old)
    key = [k for k in tensors if k.endswith("lora_up.weight")][-1]
    save_file({**tensors, key: tensors[key] * math.nan}, tmp_path / "nan.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(old.read_bytes()[:-100])
    (tmp_path / "huge.safetensors").write_bytes((2**60).to_bytes(8, "little") + old.read_bytes()[8:])
    torch.save({"a": Convert()}, tmp_path / "code.pt")
    said = {"nan.safetensors": "holds NaN", "cut.safetensors": "is cut short", "huge.safetensors": "is not a",
            "code.pt": "more than tensors"}  # fmt: skip
    for name, words in said.items():
        for to in ("kohya", "diffusers", "lora"):
            with pytest.raises(Mistake, match=words):
                converted(tmp_path / name, new, to)
    assert {path.name for path in tmp_path.iterdir()} == {old.name, *said}


def test_the_command_converts(tmp_path, capsys):
    old = saved.file(tmp_path, "lora")
    words = [str(old), "--to", "lora", "diffusers", "--save_to", str(tmp_path / "new.safetensors"), "--json"]
    assert command("convert")(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["spelling"] == "diffusers"
    assert said["layers"] == len(Opened(old).layers)


def webui(path: pathlib.Path) -> dict[str, torch.Tensor]:
    """What the stock WebUI adds to each layer, by its own formulas."""
    names = {key: _webui_name(key) for key in saved.base("sd1").shapes}
    weights = {name: saved.base("sd1").weight(key) for key, name in names.items() if key in _used()}
    return {name: weight for name, (weight, _) in added(load_file(path), "sd1", weights).items()}


def _used() -> set[str]:
    return {*saved.keys("sd1"), *saved.NORMS}


def _webui_name(key: str) -> str:
    part, _, path = key.partition(".")
    begin = "diffusion_model_" if part == "unet" else "transformer_text_model_"
    return begin + path.replace(".", "_")


@pytest.mark.parametrize("family", ALL)
def test_the_webui_makes_the_same_of_it(family, tmp_path):
    """Of strengths that are worked in, of plain LoRA and of whole differences."""
    old, base = saved.file(tmp_path, family), saved.checkpoint("sd1")
    before = webui(old)
    ways = {"lora": ({}, 1.0), "diff": ({}, 1.0), "kohya": ({"strength": -0.5}, -0.5)}
    for way, (values, times) in ways.items():
        after = webui(converted(old, tmp_path / f"{way}.safetensors", way, base=base, **values).files[0])
        assert after.keys() == before.keys()
        for name, gain in before.items():
            scale = float(gain.abs().max())
            torch.testing.assert_close(
                after[name], times * gain, rtol=1e-5, atol=1e-5 * scale, msg=f"{way} {name}"
            )
