"""Models on disk: every layout gives the same model, and everything else is refused by its name."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train import names
from lora_train.errors import Mistake
from lora_train.host import Model

pytest.importorskip("diffusers")
yaml = pytest.importorskip("yaml")
from lora_train.hosts.standalone.host import StandaloneHost  # noqa: E402
from lora_train.hosts.standalone.load import hollow  # noqa: E402
from lora_train.models.facts import Facts  # noqa: E402
from lora_train.models.files import find  # noqa: E402

T = torch.tensor([321])


@pytest.fixture(scope="module")
def checkpoint(reference):
    return load_file(reference / "tiny_sd1.safetensors")


@pytest.fixture(scope="module")
def config(reference):
    return yaml.safe_load((reference / "tiny_sd1.yaml").read_text())


@pytest.fixture
def write(tmp_path, reference, config):
    """write("a.safetensors", tensors): a checkpoint with the reference's .yaml beside it."""

    def write(name: str, tensors, settings=None) -> pathlib.Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        torch.save(tensors, path) if path.suffix == ".ckpt" else save_file(tensors, path)
        text = {"version": str(reference / "tiny_sd1_clip")}
        config["model"]["params"]["cond_stage_config"]["params"] = text
        path.with_suffix(".yaml").write_text(yaml.safe_dump(settings or config))
        return path

    yield write
    for path in tmp_path.rglob("*.*"):
        path.unlink()  # 70 megabytes each


def seen(path, vae=None):
    """What a model makes of a latent, a caption and a picture."""
    with StandaloneHost().borrow(Model(path, vae), device="cpu", precision="no") as lent, torch.no_grad():
        latent = lent.encode_images(torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32))
        return lent.denoise(latent, T, lent.encode(["a cat"])), latent, lent.decode(latent)


@pytest.fixture(scope="module")
def usual(reference):
    return seen(reference / "tiny_sd1.safetensors")


def close(a, b, tolerance=1e-5):
    return all(torch.allclose(x, y, rtol=tolerance, atol=tolerance) for x, y in zip(a, b, strict=True))


def test_a_ckpt_is_the_same_model(write, checkpoint, usual):
    assert close(seen(write("a.ckpt", {"state_dict": checkpoint, "global_step": 7})), usual)


def test_a_checkpoint_without_text_model_in_its_names_is_the_same_model(write, checkpoint, usual):
    short = {key.replace("r.text_model.", "r."): value for key, value in checkpoint.items()}
    assert close(seen(write("a.safetensors", short)), usual)


def test_a_checkpoint_in_half_precision_is_nearly_the_same_model(write, checkpoint, usual):
    half = {k: v.half() if v.is_floating_point() else v for k, v in checkpoint.items()}
    assert close(seen(write("a.safetensors", half)), usual, 0.02)


def test_a_checkpoint_that_our_names_wrote_is_the_same_model(write, checkpoint, usual):
    parts = names.to_diffusers(checkpoint)
    assert close(seen(write("a.safetensors", names.to_ldm(parts["unet"], parts["vae"], parts["te1"]))), usual)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """The reference as diffusers' own save_pretrained writes it."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTokenizer

    from lora_train.hosts.standalone.tokens import VOCABULARY

    path = tmp_path_factory.mktemp("pipeline")
    model = Model(reference / "tiny_sd1.safetensors")
    with StandaloneHost().borrow(model, device="cpu", precision="no") as lent:
        StableDiffusionPipeline(
            **{
                name: lent.slots[part].use()
                for name, part in (("unet", "unet"), ("vae", "vae"), ("text_encoder", "te1"))
            },
            tokenizer=CLIPTokenizer.from_pretrained(VOCABULARY),
            scheduler=DDIMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                steps_offset=1,
                clip_sample=False,
                prediction_type="v_prediction",
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(path)
    return path


def test_a_diffusers_folder_is_the_same_model(folder, usual):
    facts = find(folder).facts
    assert facts == Facts(heads=8, text_heads=4, prediction="v")
    assert close(seen(folder), usual)


def test_a_diffusers_folder_of_another_kind_is_refused(folder, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(Mistake, match="is a FluxPipeline; expected an SD 1.x"):
        find(tmp_path)


def test_a_folder_without_an_index_is_refused_and_a_file_in_it_offered(tmp_path):
    with pytest.raises(Mistake, match="a folder without model_index.json; expected an SD 1.x"):
        find(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(Mistake, match="did you mean .*model.safetensors"):
        find(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(Mistake, match=r"unet: expected diffusion_pytorch_model\.safetensors in it"):
        find(tmp_path)


@pytest.mark.parametrize("spelling", ["ldm", "prefixed", "diffusers", "folder", "pipeline", "checkpoint"])
def test_another_autoencoder_takes_the_place_of_the_checkpoints(
    reference, checkpoint, usual, write, tmp_path, spelling
):
    changed = dict(checkpoint)
    changed["first_stage_model.post_quant_conv.bias"] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    ldm, prefix = names.split(changed)["vae"], names.PREFIXES["vae"]
    theirs = names.to_diffusers(changed)["vae"]
    made = {
        "ldm": ("a.safetensors", ldm | {"loss.logvar": torch.zeros(())}, "a.safetensors"),
        "prefixed": ("a.ckpt", {prefix + name: value for name, value in ldm.items()}, "a.ckpt"),
        "diffusers": ("a.safetensors", theirs, "a.safetensors"),
        "folder": ("diffusion_pytorch_model.safetensors", theirs, "."),
        "pipeline": ("vae/diffusion_pytorch_model.safetensors", theirs, "."),
        "checkpoint": ("a.safetensors", changed, "a.safetensors"),
    }
    name, tensors, path = made[spelling]
    write(name, tensors)
    now = seen(reference / "tiny_sd1.safetensors", tmp_path / path)
    assert close(now[:2], usual[:2])
    assert not torch.allclose(now[2], usual[2])


def test_what_is_no_autoencoder_is_refused(reference):
    lora = reference / "lora_dim4" / "lora_dim4.safetensors"
    with pytest.raises(
        Mistake, match=r"^model\.vae = .*: is a LoRA or another adapter; expected an autoencoder"
    ):
        find(reference / "tiny_sd1.safetensors", lora)
    with pytest.raises(Mistake, match=r"^model\.vae = none: no such file"):
        find(reference / "tiny_sd1.safetensors", pathlib.Path("none"))


def test_an_autoencoder_of_another_family_is_refused(reference, checkpoint, tmp_path):
    vae = names.split(checkpoint)["vae"]
    vae["decoder.conv_in.weight"] = torch.zeros(128, 16, 3, 3)
    save_file(vae, tmp_path / "a.safetensors")
    with pytest.raises(Mistake, match="latents of 16 channels, 8 times smaller; expected 4 and 8"):
        hollow(find(reference / "tiny_sd1.safetensors", tmp_path / "a.safetensors"))


def test_a_lora_is_not_a_checkpoint(reference):
    path = reference / "lora_dim4" / "lora_dim4.safetensors"
    with pytest.raises(Mistake) as e:
        find(path)
    assert str(e.value) == (
        f"model.pretrained_model_name_or_path = {path}: is a LoRA or another adapter; "
        "expected an SD 1.x, SD 2.x or SDXL checkpoint (.safetensors, .ckpt) or a diffusers folder of one"
    )


def test_an_unknown_file_is_refused_with_the_name_of_a_tensor(tmp_path):
    save_file({"some.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(Mistake, match="is unknown; its first tensor is some.weight"):
        find(tmp_path / "a.safetensors")
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(Mistake, match="is a file without tensors"):
        find(tmp_path / "a.safetensors")


def test_a_name_from_a_hub_is_not_downloaded():
    with pytest.raises(
        Mistake, match=r"^model\.pretrained.* = runwayml/sd: no such file or folder; models are not"
    ):
        find(pathlib.Path("runwayml/sd"))


@pytest.mark.parametrize(
    ("gone", "word"), [("cond_stage_model", "text encoder"), ("first_stage", "autoencoder")]
)
def test_a_checkpoint_without_a_part_is_refused(checkpoint, tmp_path, gone, word):
    left = {key: value for key, value in checkpoint.items() if not key.startswith(gone)}
    save_file(left, tmp_path / "a.safetensors")
    with pytest.raises(Mistake, match=f"has no {word}"):
        find(tmp_path / "a.safetensors")


def test_a_checkpoint_with_a_tensor_missing_is_refused(write, checkpoint):
    left = {k: v for k, v in checkpoint.items() if not k.endswith("input_blocks.4.0.in_layers.2.bias")}
    with pytest.raises(Mistake, match=r"the denoiser has no down_blocks\.1\.resnets\.0\.conv1\.bias"):
        hollow(find(write("a.safetensors", left)))


def test_a_checkpoint_with_a_tensor_of_another_shape_is_refused(write, checkpoint):
    key = "model.diffusion_model.input_blocks.4.0.in_layers.2.weight"
    with pytest.raises(Mistake, match=f"{key} is 64x32x1x1, expected 64x32x3x3"):
        hollow(find(write("a.safetensors", checkpoint | {key: torch.zeros(64, 32, 1, 1)})))


def test_a_checkpoint_with_a_layer_too_many_is_refused(write, checkpoint):
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.1.attn1.to_q.weight"
    with pytest.raises(Mistake, match="no such module in an SD 1.x denoiser"):
        find(write("a.safetensors", checkpoint | {key: torch.zeros(4, 4)}))


def test_a_vocabulary_too_small_is_refused(write, checkpoint):
    key = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    with pytest.raises(Mistake, match="1000 tokens; CLIP has 49408"):
        hollow(find(write("a.safetensors", checkpoint | {key: torch.zeros(1000, 64)})))


def test_the_yaml_beside_a_checkpoint_is_read(reference):
    assert find(reference / "tiny_sd1.safetensors").facts == Facts(heads=8, text_heads=4)


def test_without_a_yaml_the_familys_standard_holds(reference, tmp_path):
    (tmp_path / "a.safetensors").symlink_to(reference / "tiny_sd1.safetensors")
    found = find(tmp_path / "a.safetensors")
    assert found.facts == Facts()
    assert hollow(found)["te1"].config.num_attention_heads == 1  # 64 wide


def test_a_yaml_may_tell_more(write, checkpoint, config):
    params = json.loads(json.dumps(config["model"]["params"]))
    params |= {"parameterization": "v", "scale_factor": 0.2, "linear_end": 0.013, "cond_stage_config": {}}
    params["unet_config"]["params"] |= {"num_heads": -1, "num_head_channels": 16}
    found = find(write("a.safetensors", checkpoint, {"model": {"params": params}}))
    assert found.facts == Facts(head_width=16, prediction="v", scale=0.2, end=0.013)
    block = hollow(found)["unet"].down_blocks[1].attentions[0].transformer_blocks[0]
    assert block.attn1.heads == 4


@pytest.mark.parametrize(
    "content", ["model: [", "[]", "model: {}", "model: {params: {unet_config: 7}}", "\x00"]
)
def test_a_yaml_that_cannot_be_read_is_refused(write, checkpoint, content):
    path = write("a.safetensors", checkpoint)
    path.with_suffix(".yaml").write_text(content)
    with pytest.raises(Mistake, match=r"a\.yaml: expected a checkpoint's settings"):
        find(path)


def test_a_yaml_that_names_a_missing_folder_is_refused(write, checkpoint, config):
    params = config["model"]["params"] | {"cond_stage_config": {"params": {"version": "nowhere"}}}
    with pytest.raises(Mistake, match=r"nowhere.config\.json: expected"):
        find(write("a.safetensors", checkpoint, {"model": {"params": params}}))


def test_a_yaml_whose_heads_do_not_fit_is_refused(write, checkpoint, config):
    params = json.loads(json.dumps(config["model"]["params"]))
    params["unet_config"]["params"]["num_heads"] = 7
    with pytest.raises(Mistake, match="7 heads for 32 channels"):
        hollow(find(write("a.safetensors", checkpoint, {"model": {"params": params}})))


def test_widths_and_depths_are_read_from_the_tensors(tmp_path, checkpoint):
    """An autoencoder of one block a level, equal widths side by side, a text encoder of two layers."""
    import diffusers
    import transformers

    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 64),
        layers_per_block=1,
        latent_channels=4,
    )
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 128), cross_attention_dim=64, attention_head_dim=8
    )
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=49408, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=1
        )
    )
    path = tmp_path / "a.safetensors"
    save_file(names.to_ldm(unet.state_dict(), vae.state_dict(), text.state_dict()), path)
    with StandaloneHost().borrow(Model(path), device="cpu", precision="no") as lent, torch.no_grad():
        picture = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
        latent, cond = lent.encode_images(picture), lent.encode(["a cat"])
        assert torch.equal(latent, vae.encode(picture).latent_dist.mean * 0.18215)
        ids = lent.words.tokenizer(
            "a cat", padding="max_length", max_length=77, return_tensors="pt"
        ).input_ids
        assert torch.equal(cond.context, text(ids).last_hidden_state)
        assert torch.equal(lent.denoise(latent, T, cond), unet(latent, T, cond.context).sample)
