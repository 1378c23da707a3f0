"""Checkpoints as folders and as files: against diffusers' own from_pretrained, and back without a change."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.models.files import find
from lora_train.tools.base import Base
from lora_train.tools.models import ConvertModel
from tests.hosts.tiny_checkpoints import DEMO, write

ARCHS = ("sd1", "sd2", "sdxl")
DROPPED = ("logit_scale", "position_ids", "resblocks.9.", "v_pred", "ztsnr")  # what no folder has


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(arch): (a checkpoint, the folder made of it, the file made of that)."""
    folder, done = tmp_path_factory.mktemp("models"), {}

    def made(arch: str) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
        if arch not in done:
            file = DEMO / "demo.safetensors" if arch == "sd1" else write(folder / f"{arch}.safetensors", arch)
            pipeline, again = folder / arch, folder / f"{arch}-again.safetensors"
            build(ConvertModel, {"model": file, "save_to": pipeline}).run()
            build(ConvertModel, {"model": pipeline, "save_to": again}).run()
            done[arch] = file, pipeline, again
        return done[arch]

    return made


@pytest.mark.parametrize("arch", ARCHS)
def test_there_and_back_is_the_same_file(made, arch):
    file, _, again = made(arch)
    first, last = load_file(file), load_file(again)
    kept = {key for key in first if not any(word in key for word in DROPPED) and "model_ema" not in key}
    assert kept <= last.keys()
    for key in kept:
        if not key.endswith("text_projection") or arch == "sdxl":
            assert torch.equal(first[key], last[key]), key
            assert first[key].dtype == last[key].dtype
    before, after = find(file).facts, find(again).facts
    assert (before.arch, before.prediction) == (after.arch, after.prediction)


@pytest.mark.parametrize("arch", ARCHS)
def test_our_hosts_read_all_three_alike(made, arch):
    file, pipeline, again = map(Base, made(arch))
    keys = file.weights.keys() - ({"te1.text_projection"} if arch == "sd2" else set())  # which nothing reads
    assert keys == pipeline.weights.keys()
    for key in keys:
        assert torch.equal(file.weight(key), pipeline.weight(key)), key
        assert torch.equal(file.weight(key), again.weight(key)), key
    ours, theirs = find(made(arch)[0]).facts, find(made(arch)[1]).facts
    for name in ("prediction", "scale", "start", "end", "steps", "empty_is_zero", "last_is_noise"):
        assert vars(ours)[name] == vars(theirs)[name], name


@pytest.mark.parametrize("arch", ARCHS)
def test_diffusers_loads_the_folder(made, arch):
    """Its own `from_pretrained`, of parts alone and of the whole; what it holds is what the file held."""
    diffusers = pytest.importorskip("diffusers")
    file, folder, _ = made(arch)
    kind = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    pipeline = vars(diffusers).get(kind) or getattr(diffusers, kind)
    pipe = pipeline.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32)
    found = find(file, idle=True)
    modules = {"unet": pipe.unet, "vae": pipe.vae, "te1": pipe.text_encoder}
    modules |= {"te2": pipe.text_encoder_2} if arch == "sdxl" else {}
    for part, module in modules.items():
        state = {k.removeprefix("text_model."): v for k, v in module.state_dict().items()}
        for name, at in found.parts[part].keys.items():
            if "position_ids" not in name and (part, name) != ("te1", "text_projection.weight"):
                [(_, stored)] = found.parts[part].weights.read([at.key])
                assert torch.equal(state[name].flatten(), at.of(stored).float().flatten()), name
        assert not [
            name for name in state if name not in found.parts[part].keys and "position_ids" not in name
        ]
    assert pipe.scheduler.config.prediction_type == {"v": "v_prediction"}.get(
        found.facts.prediction, "epsilon"
    )
    assert pipe.unet.config.sample_size == {"sd1": 64, "sd2": 96, "sdxl": 128}[arch]
    assert pipe.tokenizer("a cat").input_ids[:2] == [49406, 320]
    if arch == "sdxl":
        assert (pipe.tokenizer.pad_token_id, pipe.tokenizer_2.pad_token_id) == (49407, 0)
        assert pipe.config.force_zeros_for_empty_prompt


def test_the_folder_draws_what_the_file_draws(made, tmp_path):
    """Another file too, with what a single file does not say beside it."""
    pytest.importorskip("diffusers")
    file, folder, _ = made("sd1")
    report = build(ConvertModel, {"model": folder, "save_to": tmp_path / "again.safetensors"}).run()
    assert report.facts["unsaid"] == ["text encoder's heads"]
    shutil.copy(file.with_suffix(".yaml"), tmp_path / "again.yaml")
    shutil.copytree(file.parent / "demo_clip", tmp_path / "demo_clip")
    from lora_train.host import Model
    from lora_train.hosts.standalone.host import StandaloneHost
    from lora_train.prompts import parse_prompt

    drawn = []
    for path in (file, folder, tmp_path / "again.safetensors"):
        with StandaloneHost().borrow(Model(path), device="cpu", precision="no") as lent:
            drawn.append(lent.sample(parse_prompt("a cat --w 64 --h 64 --s 2 --d 1", "ddim")).tobytes())
    assert drawn[0] == drawn[1] == drawn[2]


def test_what_cannot_be_converted_is_said_and_nothing_is_left(made, tmp_path):
    file, folder, _ = made("sd1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    for values, complaint in (
        ({"model": file, "save_to": tmp_path / "x.safetensors"}, "expected a folder"),
        ({"model": folder, "save_to": tmp_path / "x"}, r"expected a \.safetensors file"),
        ({"model": file, "save_to": folder}, "is there already"),
        ({"model": file, "save_to": other, "overwrite": True}, "folder of something else"),
        ({"model": folder, "save_to": folder / "x.safetensors"}, "another place"),
        ({"model": tmp_path / "none.safetensors", "save_to": tmp_path / "y"}, "no such file"),
    ):
        with pytest.raises(Mistake, match=complaint):
            build(ConvertModel, values).run()
    assert [*tmp_path.iterdir()] == [other]
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(Mistake, match="cut short"):
        build(ConvertModel, {"model": cut, "save_to": tmp_path / "y"}).run()


def test_a_folder_is_replaced_whole_and_precision_is_chosen(made, tmp_path):
    file, _, _ = made("sd1")
    to = tmp_path / "folder"
    values = {"model": file, "save_to": to}
    build(ConvertModel, values).run()
    (to / "stray.txt").write_text("of before")
    build(ConvertModel, {**values, "overwrite": True, "save_precision": "bf16"}).run()
    assert not (to / "stray.txt").exists()
    assert {t.dtype for t in load_file(to / "unet" / "diffusion_pytorch_model.safetensors").values()} == {
        torch.bfloat16
    }
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_prediction_that_nobody_says_is_asked_for(tmp_path):
    file = write(tmp_path / "sd2.safetensors", "sd2")
    file.with_suffix(".yaml").unlink()
    with pytest.raises(Mistake, match="set v_parameterization"):
        build(ConvertModel, {"model": file, "save_to": tmp_path / "x"}).run()
    config = file.with_suffix(".yaml")
    write(tmp_path / "other.safetensors", "sd2")
    shutil.copy(tmp_path / "other.yaml", config)  # which says v
    build(ConvertModel, {"model": file, "save_to": tmp_path / "x", "v_parameterization": False}).run()
    assert find(tmp_path / "x").facts.prediction == "epsilon"


def test_an_sdxl_that_predicts_v_says_so_in_the_file(tmp_path):
    file = write(tmp_path / "v.safetensors", "sdxl", "v")
    save_file({**load_file(file), "ztsnr": torch.zeros(0), "model_ema.decay": torch.ones(1)}, file)
    report = build(ConvertModel, {"model": file, "save_to": tmp_path / "x"}).run()
    assert "model_ema.decay" in report.facts["left_out"]
    build(ConvertModel, {"model": tmp_path / "x", "save_to": tmp_path / "again.safetensors"}).run()
    for path in (tmp_path / "x", tmp_path / "again.safetensors"):
        facts = find(path).facts
        assert (facts.prediction, facts.last_is_noise) == ("v", True)
