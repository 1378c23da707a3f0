"""What diffusers and PEFT make of the files that we write for them, and we of theirs."""

from __future__ import annotations

import copy
import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")

from lora_train.knobs import build  # noqa: E402
from lora_train.names import text_path, unet_to_ldm  # noqa: E402
from lora_train.tools.base import Base  # noqa: E402
from lora_train.tools.convert import Convert  # noqa: E402
from lora_train.tools.opened import Opened  # noqa: E402
from tests.hosts.standalone.test_standalone_sample import pipeline  # noqa: F401, E402

REFERENCE = pathlib.Path(__file__).parents[3] / "shared" / "reference"
FILE = REFERENCE / "locon_dim4_conv2" / "locon_dim4_conv2.safetensors"
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the reference artefacts are not there")


@pytest.fixture(scope="module")
def reference():
    return REFERENCE


def weights(pipe) -> dict[str, Tensor]:
    """Key of a layer -> a copy of its weight."""
    found = {}
    for part, model in (("unet", pipe.unet), ("te1", pipe.text_encoder)):
        for name, tensor in model.state_dict().items():
            path = name.replace(".base_layer", "").removesuffix(".weight")
            if name.endswith(".weight") and "lora_" not in name:
                found[f"{part}.{unet_to_ldm(path) if part == 'unet' else text_path(path)}"] = tensor.clone()
    return found


def agree(gained: dict[str, Tensor], path: pathlib.Path, part: str = "") -> None:
    """Each layer gained what the file adds to it, and no other layer anything."""
    file = Opened(path)
    for key, more in gained.items():
        if not key.startswith(part):
            continue
        wanted = file.change(key).matrix().view_as(more) if key in file.layers else torch.zeros_like(more)
        assert float((more - wanted).abs().max()) <= 2e-7 + 1e-5 * float(wanted.abs().max()), key


@pytest.fixture(scope="module")
def some(tmp_path_factory) -> pathlib.Path:
    """Every seventh layer of the file: their loaders take long for each."""
    tensors = load_file(FILE)
    kept = {*sorted({key.partition(".")[0] for key in tensors})[::7]}
    path = tmp_path_factory.mktemp("some") / "some.safetensors"
    save_file({key: tensor for key, tensor in tensors.items() if key.partition(".")[0] in kept}, path)
    return path


def converted(path: pathlib.Path, to: pathlib.Path, *words: str, **values: object) -> pathlib.Path:
    build(Convert, {"model": path, "save_to": to, "to": words, **values}).run()
    return to


@pytest.mark.parametrize("alphas", ["factors", "metadata"])
def test_diffusers_reads_what_we_write_for_it(pipeline, some, alphas, tmp_path):  # noqa: F811
    path = converted(some, tmp_path / "new.safetensors", "diffusers", alphas=alphas)
    before = weights(pipeline)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    try:
        pipeline.fuse_lora()
        after = weights(pipeline)
    finally:
        pipeline.unfuse_lora()
        pipeline.unload_lora_weights()
    gained = {key: after[key] - tensor for key, tensor in before.items()}
    assert any(key.startswith("te1") and more.any() for key, more in gained.items())
    agree(gained, some)


def test_peft_reads_what_we_write_for_it(pipeline, some, tmp_path):  # noqa: F811
    folder = converted(some, tmp_path / "new", "peft")
    before = weights(pipeline)
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(pipeline.unet), folder / "unet")
    merged = wrapped.merge_and_unload()
    after = {
        f"unet.{unet_to_ldm(name.removesuffix('.weight'))}": tensor
        for name, tensor in merged.state_dict().items()
        if name.endswith(".weight")
    }
    agree({key: after[key] - before[key] for key in after}, some, "unet.")


@pytest.mark.parametrize("told", [True, False])
def test_we_read_what_diffusers_writes(pipeline, told, tmp_path):  # noqa: F811
    """With alphas in its metadata, and without them, as before 0.34."""
    parts = {"unet": (copy.deepcopy(pipeline.unet), ["to_q", "to_out.0", "conv1", "proj_in"]),
             "text_encoder": (copy.deepcopy(pipeline.text_encoder), ["q_proj", "fc1"])}  # fmt: skip
    before = weights(pipeline)
    alpha = 6 if told else 4
    said = {}
    for part, (model, layers) in parts.items():
        config = peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=layers, init_lora_weights=False)
        model.add_adapter(config)
        said[f"{part}_lora_layers"] = peft.get_peft_model_state_dict(model, adapter_name="default")
        if told:
            said[f"{part}_lora_adapter_metadata"] = model.peft_config["default"].to_dict()
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, **said)
    found = {}
    for part, (model, _) in parts.items():
        for name, module in model.named_modules():
            if hasattr(module, "get_delta_weight"):
                own = "unet" if part == "unet" else "te1"
                path = unet_to_ldm(name) if own == "unet" else text_path(name)
                found[f"{own}.{path}"] = module.get_delta_weight("default").detach()
    assert {"unet", "te1"} == {key.partition(".")[0] for key in found}
    agree({key: found.get(key, torch.zeros_like(t)) for key, t in before.items()}, tmp_path)


@pytest.mark.parametrize("dora", [False, True])
def test_we_read_what_peft_writes(pipeline, dora, tmp_path):  # noqa: F811
    """Ranks and alphas of their own, rsLoRA, magnitudes of linear layers and of convolutions; and spell it
    back."""
    before = weights(pipeline)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, rank_pattern={"attn1.to_q": 2}, alpha_pattern={"conv1": 3}, use_rslora=True,
        use_dora=dora, init_lora_weights=False,
        target_modules=r"down_blocks\.[01]\..*\.(to_q|to_out\.0|conv1|proj_in)",
    )  # fmt: skip
    model = peft.get_peft_model(copy.deepcopy(pipeline.unet), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.mul_(1.2 if "magnitude" in name else 0.3)
    model.save_pretrained(tmp_path / "unet")
    merged = {
        f"unet.{unet_to_ldm(name.removesuffix('.weight'))}": tensor
        for name, tensor in model.merge_and_unload().state_dict().items()
        if name.endswith(".weight")
    }
    base = Base(REFERENCE / "tiny_sd1.safetensors")
    for path in (tmp_path, _there(tmp_path, tmp_path / "again")):
        file = Opened(path)
        for key, tensor in merged.items():
            more = tensor - before[key]
            found = file.change(key, base if dora else None).matrix() if key in file.layers else more * 0
            off = float((found.view_as(more) - more).abs().max())
            assert off <= 1e-6 + 2e-5 * float(more.abs().max()), (key, off)


def _there(path: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    """To kohya's spelling, and from it to PEFT's."""
    build(Convert, {"model": path, "save_to": to.with_suffix(".safetensors")}).run()
    build(Convert, {"model": to.with_suffix(".safetensors"), "save_to": to, "to": ("peft",)}).run()
    return to
