"""Names against diffusers' own converters and against files that sd-scripts wrote."""

from __future__ import annotations

import pathlib

import pytest

from lora_train import names

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors")
REFERENCE = pathlib.Path(__file__).parents[2] / "shared" / "reference"
TINY = REFERENCE / "tiny_sd1.safetensors"
needs_reference = pytest.mark.skipif(not TINY.exists(), reason="../shared/reference is not on this machine")


@pytest.fixture(scope="module")
def checkpoint():
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    return load_file(TINY)


def keys(path: pathlib.Path) -> list[str]:
    with safetensors.safe_open(path, "pt") as file:
        return list(file.keys())


@needs_reference
def test_the_denoiser_is_named_as_diffusers_names_it(checkpoint):
    single = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = {"layers_per_block": 2, "class_embed_type": None, "addition_embed_type": None}
    theirs = single.convert_ldm_unet_checkpoint(dict(checkpoint), config)
    ours = names.to_diffusers(checkpoint)["unet"]
    assert ours.keys() == theirs.keys()
    assert len(ours) == 686
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@needs_reference
def test_the_autoencoder_is_named_and_shaped_as_diffusers_does(checkpoint):
    single = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    theirs = single.convert_ldm_vae_checkpoint(dict(checkpoint), config)
    ours = names.to_diffusers(checkpoint)["vae"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@needs_reference
def test_there_and_back_gives_the_same_file(checkpoint):
    parts = names.to_diffusers(checkpoint)
    back = names.to_ldm(parts["unet"], parts["vae"], parts["te1"])
    buffers = {"alphas_cumprod", "betas", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod"}
    assert back.keys() == checkpoint.keys() - buffers
    assert all(torch.equal(back[key], checkpoint[key]) for key in back)
    assert all(back[key].dtype == checkpoint[key].dtype for key in back)


@needs_reference
def test_position_ids_are_made_where_the_text_encoder_keeps_none(checkpoint):
    parts = names.to_diffusers(checkpoint)
    del parts["te1"]["embeddings.position_ids"]
    text = {f"text_model.{name}": value.half() for name, value in parts["te1"].items()}
    back = names.to_ldm(parts["unet"], parts["vae"], text)
    key = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    assert back.keys() < checkpoint.keys()
    assert torch.equal(back[key], checkpoint[key])


@needs_reference
def test_a_checkpoint_without_text_model_in_its_names_splits_the_same(checkpoint):
    short = {key.replace("r.text_model.", "r."): value for key, value in checkpoint.items()}
    assert short.keys() != checkpoint.keys()
    assert names.split(short)["te1"].keys() == names.split(checkpoint)["te1"].keys()


@needs_reference
@pytest.mark.parametrize("run", ["lora_dim4", "locon_dim4_conv2", "loha_dim4", "lokr_dim4_f4"])
def test_every_key_that_reference_trainers_write_has_a_path_and_comes_back(run):
    written = {key.split(".")[0] for key in keys(REFERENCE / run / f"{run}.safetensors")}
    found = {key: names.path_of(key) for key in written}
    assert None not in found.values()
    assert all(names.file_key(*path) == key for key, path in found.items())
    assert len(set(found.values())) == len(written)


@needs_reference
def test_the_paths_in_files_are_layers_of_the_checkpoint():
    parts = names.split(dict.fromkeys(keys(TINY)))
    for key in keys(REFERENCE / "locon_dim4_conv2" / "locon_dim4_conv2.safetensors"):
        part, path = names.path_of(key.split(".")[0])
        assert f"{path}.weight" in parts[part]


@needs_reference
def test_each_tensor_of_the_denoiser_goes_there_and_back_alone():
    for name in names.split(dict.fromkeys(keys(TINY)))["unet"]:
        assert names.unet_to_ldm(names.unet_to_diffusers(name)) == name
        module = name.rpartition(".")[0]
        assert names.unet_to_ldm(names.unet_to_diffusers(module)) == module
        assert names.path_of(names.file_key("unet", module)) == ("unet", module)


def test_an_autoencoder_of_diffusers_0_14_is_read():
    stem = "encoder.mid_block.attentions.0."
    new = [names.vae_to_diffusers(names.vae_to_ldm(stem + name)) for name in ("query", "proj_attn.weight")]
    assert new == [stem + "to_q", stem + "to_out.0.weight"]


def test_the_decoder_counts_its_levels_from_the_other_end():
    assert names.vae_to_diffusers("decoder.up.2.block.0.conv1", 3) == "decoder.up_blocks.0.resnets.0.conv1"
    assert names.vae_to_ldm("decoder.up_blocks.0.upsamplers.0.conv", 3) == "decoder.up.2.upsample.conv"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("lora_unet_input_blocks_4_1_proj_in", ("unet", "input_blocks.4.1.proj_in")),
        ("lora_te1_text_model_encoder_layers_11_mlp_fc1", ("te1", "encoder.layers.11.mlp.fc1")),
        ("lora_te2_text_model_encoder_layers_11_mlp_fc1", None),
        ("lora_unet_double_blocks_0_img_attn_qkv", None),
    ],
)
def test_other_spellings_are_read_and_other_models_are_not(key, path):
    assert names.path_of(key) == path


def test_a_path_of_another_model_is_refused():
    with pytest.raises(KeyError, match="transformer_blocks.1"):
        names.unet_to_diffusers("input_blocks.4.1.transformer_blocks.1.attn1.to_q")


class TestSdxl:
    """Numbers and names are those of sd-scripts' SDXL files."""

    def test_the_layers_of_the_full_model(self):
        depths = {4: 2, 5: 2, 7: 10, 8: 10}
        attentions = [(f"input_blocks.{i}.1", d) for i, d in depths.items()] + [("middle_block.1", 10)]
        attentions += [(f"output_blocks.{i}.1", 10 if i < 3 else 2) for i in range(6)]
        inside = [f"{a}.{p}" for a in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0")]
        inside += ["ff.net.0.proj", "ff.net.2"]
        paths = [f"{a}.{p}" for a, _ in attentions for p in ("proj_in", "proj_out")]
        paths += [f"{a}.transformer_blocks.{i}.{p}" for a, d in attentions for i in range(d) for p in inside]
        assert len(paths) == 722
        resnets = [f"input_blocks.{i}.0" for i in (1, 2, 4, 5, 7, 8)] + ["middle_block.0", "middle_block.2"]
        resnets += [f"output_blocks.{i}.0" for i in range(9)]
        convs = [f"{r}.{p}" for r in resnets for p in ("in_layers.2", "emb_layers.1", "out_layers.3")]
        convs += [
            f"{r}.skip_connection"
            for r in resnets
            if r.endswith(("t_blocks.4.0", "t_blocks.7.0")) or r[0] == "o"
        ]
        convs += ["input_blocks.3.0.op", "input_blocks.6.0.op"]
        convs += ["output_blocks.2.2.conv", "output_blocks.5.2.conv"]
        assert len(paths + convs) == 788
        for path in paths + convs:
            key = names.file_key("unet", path, "sdxl")
            assert key == "lora_unet_" + path.replace(".", "_")
            assert names.path_of(key, "sdxl") == ("unet", path)
            spelled = names.unet_to_diffusers(path, "sdxl")
            assert names.unet_to_ldm(spelled, "sdxl") == path
            assert names.path_of("lora_unet_" + spelled.replace(".", "_"), "sdxl") == ("unet", path)

    def test_both_text_encoders(self):
        path = "encoder.layers.31.self_attn.out_proj"
        key = "lora_te2_text_model_encoder_layers_31_self_attn_out_proj"
        assert names.file_key("te2", path, "sdxl") == key
        assert names.path_of(key, "sdxl") == ("te2", path)
        assert names.path_of(key, "sd1") is None
        assert names.file_key("te1", path, "sdxl") == key.replace("te2", "te1")
        assert names.file_key("te1", path, "sd2") == key.replace("te2", "te")

    def test_a_level_without_attention_is_refused(self):
        with pytest.raises(KeyError, match="no such module in an SDXL denoiser"):
            names.unet_to_diffusers("input_blocks.1.1.proj_in", "sdxl")
        assert names.path_of("lora_unet_down_blocks_0_attentions_0_proj_in", "sdxl") is None


def test_open_clips_layers_in_the_words_of_hugging_face():
    found = {
        p: names.open_clip_path(f"transformer.resblocks.7.{p}") for p in ("attn.q_proj", "mlp.c_proj", "ln_2")
    }
    assert found == {
        "attn.q_proj": "encoder.layers.7.self_attn.q_proj",
        "mlp.c_proj": "encoder.layers.7.mlp.fc2",
        "ln_2": "encoder.layers.7.layer_norm2",
    }
    assert names.open_clip_path("transformer.resblocks.7.attn") is None
    assert names.open_clip_path("ln_final") is None
