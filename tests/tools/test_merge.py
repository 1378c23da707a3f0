"""Merging into a checkpoint: each weight becomes what the WebUI would have made of it."""

from __future__ import annotations

import functools
import json
import pathlib
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import save
from lora_train.blocks import BlockWeights
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.models.whole import put
from lora_train.tooling import command
from lora_train.tools.base import Base
from lora_train.tools.extract import Extract
from lora_train.tools.inspect import Inspect
from lora_train.tools.merge import Merge
from lora_train.tools.models import ConvertModel
from tests.hosts.tiny_checkpoints import DEMO
from tests.tools import saved
from tests.webui_formulas import added

LEADS = {  # how a part's keys in a checkpoint begin -> how the WebUI calls its layers
    "model.diffusion_model.": "diffusion_model_",
    "cond_stage_model.": "",
    "conditioner.embedders.": "",
}
THIRDS = ("q_proj", "k_proj", "v_proj")


@functools.cache
def tensors(arch: str) -> dict[str, Tensor]:
    return load_file(saved.checkpoint(arch))


def hosted(arch: str, tensor: str) -> dict[str, tuple[str, slice]]:
    """What the WebUI calls a layer -> the key of its weight or bias in a checkpoint, and rows of it."""
    found = {}
    for key, value in tensors(arch).items():
        lead = next((lead for lead in LEADS if key.startswith(lead)), None)
        match = re.fullmatch(rf"(.+)[._]{tensor}", key)
        if lead is None or not match or not value.ndim:
            continue
        name = (LEADS[lead] + match[1].removeprefix(lead)).replace(".", "_")
        if name.endswith("_in_proj"):
            rows = len(value) // 3
            for i, third in enumerate(THIRDS):
                found[f"{name.removesuffix('in_proj')}{third}"] = key, slice(i * rows, (i + 1) * rows)
        else:
            found[name] = key, slice(None)
    return found


def expected(arch: str, files: list[tuple[pathlib.Path, float]]) -> dict[str, Tensor]:
    """The checkpoint with what the WebUI makes of files, by formulas of its own, in float32."""
    made = {key: value.float().clone() for key, value in tensors(arch).items()}
    weights, biases = hosted(arch, "weight"), hosted(arch, "bias")
    there = {name: tensors(arch)[key][rows].float() for name, (key, rows) in weights.items()}
    for path, strength in files:
        gains = added(load_file(path), arch, there)
        assert gains
        for name, (weight, bias) in gains.items():
            key, rows = weights[name]
            made[key][rows] += strength * weight
            if bias is not None:
                key, rows = biases[name]
                made[key][rows] += strength * bias
    return made


def merged(to: pathlib.Path, arch: str, *files: pathlib.Path, **values: object) -> dict[str, Tensor]:
    given = {"sd_model": str(saved.checkpoint(arch)), "save_precision": "float", **values}
    build(Merge, {"models": [*map(str, files)], "save_to": str(to), **given}).run()
    return load_file(to)


def check(found: dict[str, Tensor], wanted: dict[str, Tensor], arch: str) -> None:
    before = tensors(arch)
    assert found.keys() == before.keys()
    for key, value in wanted.items():
        if torch.equal(value, before[key].float()):
            assert torch.equal(found[key].float(), value), key
        else:
            largest = float((value - before[key].float()).abs().max())
            torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5 * largest, msg=key)


@pytest.mark.parametrize("family", [*FAMILIES, *saved.VARIANTS])
def test_a_weight_gains_what_the_webui_adds(family, tmp_path):
    file = saved.file(tmp_path, family)
    check(
        merged(tmp_path / "made.safetensors", "sd1", file, ratios="0.5"),
        expected("sd1", [(file, 0.5)]),
        "sd1",
    )


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
@pytest.mark.parametrize("family", ["lora", "full", "oft"])
def test_fused_attention_and_second_encoders_are_changed_in_their_place(family, arch, tmp_path):
    file = saved.file(tmp_path, family, arch)
    check(merged(tmp_path / "made.safetensors", arch, file), expected(arch, [(file, 1.0)]), arch)


def test_several_files_each_change_the_weight_as_it_was(tmp_path):
    files = [saved.file(tmp_path, family) for family in ("dora", "lokr", "oft")]
    found = merged(tmp_path / "made.safetensors", "sd1", *files, ratios="0.5 -0.25 1")
    check(found, expected("sd1", [*zip(files, (0.5, -0.25, 1.0), strict=True)]), "sd1")


@pytest.mark.parametrize("family", ["vera", "tied", "mora"])
def test_the_files_that_training_goes_on_from_merge_as_those_for_the_webui(family, tmp_path):
    plain, native = tmp_path / "plain.safetensors", tmp_path / "native.safetensors"
    save(saved.network(family), plain, metadata={}, dtype=torch.float32, native=native)
    first, second = (
        merged(tmp_path / "made.safetensors", "sd1", file, overwrite=True) for file in (plain, native)
    )
    check(second, first, "sd1")


def test_strengths_are_of_parts_and_blocks(tmp_path):
    file = saved.file(tmp_path, "lora")
    whole = merged(tmp_path / "a.safetensors", "sd1", file)
    part = merged(
        tmp_path / "b.safetensors", "sd1", file, ratios=[2], te_ratios=[0.25], unet_ratios=[0.5],
        lbws=["MIDD"])  # fmt: skip
    before, weights = tensors("sd1"), BlockWeights.parse("MIDD")
    texts = expected_parts = 0
    for key, value in whole.items():
        gain = value - before[key].float()
        if not gain.any():
            continue
        unet = key.startswith("model.diffusion_model.")
        path = key.removeprefix("model.diffusion_model.")
        by = weights.strength("unet", path) if unet else 0.5  # BASE is 1, times 2, times 0.25
        texts, expected_parts = texts + (not unet), expected_parts + (unet and by > 0)
        torch.testing.assert_close(part[key] - before[key].float(), by * gain, rtol=1e-3, atol=2e-6)
    assert texts
    assert expected_parts


def test_precision_is_kept_and_may_be_chosen(tmp_path):
    file = saved.file(tmp_path, "lora")
    kept = merged(tmp_path / "a.safetensors", "sd1", file, save_precision="")
    assert {k: v.dtype for k, v in kept.items()} == {k: v.dtype for k, v in tensors("sd1").items()}
    wanted = expected("sd1", [(file, 1.0)])
    for key, value in kept.items():  # half precision has a digit less than the sums differ in
        torch.testing.assert_close(value, wanted[key].to(value), rtol=1e-3, atol=1e-6)
    rough = merged(tmp_path / "b.safetensors", "sd1", file, precision="bf16", save_precision="bf16")
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    gain = wanted[key] - tensors("sd1")[key].float()
    torch.testing.assert_close(
        rough[key], tensors("sd1")[key].bfloat16() + gain.bfloat16(), rtol=2**-7, atol=1e-5
    )


def test_a_folder_of_diffusers_becomes_a_folder(tmp_path):
    """Of parts under diffusers' names; what is no weight of them is copied."""
    source, found = tmp_path / "source", Base(saved.checkpoint("sd1")).found
    for part, name in (("unet", "unet"), ("te1", "text_encoder"), ("vae", "vae")):
        there = found.parts[part]
        stored = {name: at.of(dict(there.weights.read([at.key]))[at.key]) for name, at in there.keys.items()}
        (source / name).mkdir(parents=True)
        stem = "model" if part == "te1" else "diffusion_pytorch_model"
        save_file({k: v.contiguous() for k, v in stored.items()}, source / name / f"{stem}.safetensors")
        (source / name / "config.json").write_text("{}", encoding="utf-8")
    (source / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    (source / "beside.safetensors").write_bytes(b"x")
    file = saved.file(tmp_path, "lokr")
    wanted = merged(tmp_path / "one.safetensors", "sd1", file)
    report = build(Merge, {"models": [str(file)], "sd_model": str(source), "save_to": str(tmp_path / "made"),
                           "save_precision": "float"}).run()  # fmt: skip
    assert report.facts["changed"]
    there = sorted(
        p.relative_to(source).as_posix() for p in source.rglob("*.*") if p.name != "beside.safetensors"
    )
    assert (
        sorted(p.relative_to(tmp_path / "made").as_posix() for p in (tmp_path / "made").rglob("*.*")) == there
    )
    made = Base(tmp_path / "made")
    whole = Base(tmp_path / "one.safetensors")
    assert all(torch.equal(made.weight(key), whole.weight(key)) for key in whole.weights)
    assert len(wanted) > len(whole.weights)
    given = {"save_precision": "float", "dim": 4096, "save_to": str(tmp_path / "x.safetensors")}
    models = {"model_org": str(source), "model_tuned": str(tmp_path / "one.safetensors")}
    report = build(Extract, {**given, **models}).run()  # of a folder and a file
    assert report.facts["error"] < 1e-5
    found, there = saved.matrices(tmp_path / "x.safetensors"), saved.matrices(file)
    assert found.keys() == {
        key for key in there if not key.endswith(("in_layers.2", ".op", "skip_connection"))
    }


def test_only_a_models_folder_is_replaced(tmp_path):
    """A home folder would be gone with all that is in it; and folders beside it of a like name stay."""
    source, file = tmp_path / "source", saved.file(tmp_path, "lora")
    build(ConvertModel, {"model": str(saved.checkpoint("sd1")), "save_to": str(source)}).run()
    for name in ("home", "source.old", "source.before"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("mine")
    (tmp_path / "one").write_text("mine")
    given = {"models": [str(file)], "sd_model": str(source), "overwrite": True}
    for to, said in (("home", "folder of something else"), ("one", "is a file"), ("source/in", "own folder"),
                     (".", "folder of something else")):  # fmt: skip
        with pytest.raises(Mistake, match=said):
            build(Merge, {**given, "save_to": str(tmp_path / to)}).run()
    (source / "stray.txt").write_text("of before")
    before = Base(source).weight("unet.middle_block.1.proj_in")
    build(Merge, {**given, "save_to": str(source)}).run()
    assert not torch.equal(before, Base(source).weight("unet.middle_block.1.proj_in"))
    build(
        ConvertModel, {"model": str(saved.checkpoint("sd1")), "save_to": str(source), "overwrite": True}
    ).run()
    assert torch.equal(before, Base(source).weight("unet.middle_block.1.proj_in"))
    assert all((tmp_path / name / "mine.txt").exists() for name in ("home", "source.old", "source.before"))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "home", "lora_sd1.safetensors", "one", "source", "source.before", "source.old"]  # fmt: skip


def test_a_folder_that_cannot_be_replaced_is_as_it_was(tmp_path, monkeypatch):
    made, there = tmp_path / "made", tmp_path / "there"
    there.mkdir()
    (there / "mine.txt").write_text("mine")
    with pytest.raises(OSError):  # noqa: PT011 (there is none to put there)
        put(made, there)
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert (there / "mine.txt").exists()


def test_what_goes_in_is_told(tmp_path, capsys):
    file = saved.file(tmp_path, "lora")
    held = load_file(file)
    held["lora_unet_nowhere.lora_up.weight"] = torch.ones(2, 1)
    held["bundle_emb.word.emb_params"] = torch.ones(1, 64)
    save_file(held, file)
    words = ["--sd_model", str(saved.checkpoint("sd1")), "--models", str(file), "--ratios", "-0.5"]
    assert command("merge")([*words, "--save_to", str(tmp_path / "made.safetensors"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["files"][0]
    assert (row["unmatched"], row["embeddings"]) == (["lora_unet_nowhere"], ["word"])
    assert row["layers"] == len(saved.keys("sd1"))
    assert row["unet"] == -0.5


def test_a_layer_that_no_caption_comes_through_is_no_fault(tmp_path):
    """sd-scripts' files have the last one of SDXL's first text encoder, which never learns."""
    held = load_file(saved.file(tmp_path, "lora", "sdxl"))
    known = [key for key in saved.base("sdxl").weights if key.startswith("te1.encoder")]
    last = 1 + max(int(key.split(".")[3]) for key in known)
    out, inn = saved.base("sdxl").shapes[f"te1.encoder.layers.{last - 1}.mlp.fc1"]
    own = f"lora_te1_text_model_encoder_layers_{last}_mlp_fc1"
    held.update({f"{own}.lora_up.weight": torch.zeros(out, 1), f"{own}.lora_down.weight": torch.ones(1, inn)})
    save_file(held, tmp_path / "a.safetensors")
    given = {"models": [str(tmp_path / "a.safetensors")], "sd_model": str(saved.checkpoint("sdxl"))}
    report = build(Merge, {**given, "save_to": str(tmp_path / "x.safetensors")}).run()
    row = report.facts["files"][0]
    assert (row["unmatched"], row["idle"]) == ([], [f"te1.encoder.layers.{last}.mlp.fc1"])
    assert any("no caption comes through" in line for line in report.lines)
    seen = {"model": str(tmp_path / "a.safetensors"), "base": str(saved.checkpoint("sdxl"))}
    rows = build(Inspect, seen).run().facts["layers"]
    idle = [row for row in rows if row["share"] is None]
    assert [(row["key"], row["zero"], row["fault"]) for row in idle] == [
        (f"te1.encoder.layers.{last}.mlp.fc1", True, "")]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"models": []}, "models: expected LoRA files"),
        ({"ratios": [1, 2]}, "ratios: expected one for each of the 1 models; got 2"),
        ({"lbws": ["NONSENSE"]}, "lbws = NONSENSE: expected"),
        ({"save_to": None}, "save_to: expected"),
        ({"save_to": "x.ckpt"}, "save_to = x.ckpt: expected a name that ends with .safetensors"),
        ({"new_rank": 4}, "new_rank: expected none beside sd_model"),
        ({"base": "a.safetensors"}, "base: expected none beside sd_model"),
        ({"method": "svd", "sd_model": None}, "new_rank: expected a rank for method svd"),
        ({"concat": True, "new_rank": 4, "sd_model": None}, "new_rank: expected none with concat"),
    ],
)
def test_what_cannot_be_is_said_before_a_file_is_read(values, said, tmp_path):
    usual = {
        "models": ["no.safetensors"],
        "sd_model": "no.safetensors",
        "save_to": str(tmp_path / "x.safetensors"),
    }
    with pytest.raises(Mistake, match=re.escape(said)):
        build(Merge, {**usual, **values})


def test_nothing_is_left_of_what_fails(tmp_path):
    """Damaged files, another architecture, strengths of 0; and what was there before stays."""
    file, to = saved.file(tmp_path, "lora"), tmp_path / "made.safetensors"
    other = saved.file(tmp_path, "lora", "sdxl")
    broken, cut = tmp_path / "nan.safetensors", tmp_path / "cut.safetensors"
    held = load_file(file)
    key = next(key for key in held if key.endswith("lora_up.weight"))
    save_file({**held, key: held[key] * float("nan")}, broken)
    cut.write_bytes(file.read_bytes()[:-100])
    pickled = tmp_path / "code.pt"
    torch.save({"lora_unet_x": pathlib.PurePath("x")}, pickled)
    to.write_bytes(b"before")
    with pytest.raises(Mistake, match="is there already"):
        merged(to, "sd1", file)
    for bad, said in ((broken, "NaN"), (cut, "cut short"), (other, "SDXL"), (pickled, "run code"),
                      (DEMO / "demo.safetensors", "a whole checkpoint")):  # fmt: skip
        with pytest.raises(Mistake, match=said):
            merged(to, "sd1", bad, overwrite=True)
    with pytest.raises(Mistake, match="strength 0"):
        merged(to, "sd1", file, overwrite=True, ratios=[0])
    assert to.read_bytes() == b"before"
    assert not [*tmp_path.glob("*.part")]


def test_a_checkpoint_may_be_replaced_by_itself(tmp_path):
    file, own = saved.file(tmp_path, "lora"), tmp_path / "own.safetensors"
    shutil.copyfile(saved.checkpoint("sd1"), own)
    shutil.copyfile(saved.checkpoint("sd1").with_suffix(".yaml"), own.with_suffix(".yaml"))
    text = own.with_suffix(".yaml").read_text().replace("demo_clip", str(DEMO / "demo_clip"))
    own.with_suffix(".yaml").write_text(text)
    found = merged(own, "sd1", file, sd_model=str(own), overwrite=True)
    check(found, expected("sd1", [(file, 1.0)]), "sd1")
    assert own.with_suffix(".yaml").read_text() == text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_said(tmp_path):
    with pytest.raises(Mistake, match="device = cuda: torch finds no such device here"):
        merged(tmp_path / "x.safetensors", "sd1", saved.file(tmp_path, "lora"), device="cuda")
