"""SD 2.x and SDXL: against the contract, and against diffusers' own models and pipelines."""

from __future__ import annotations

import contextlib
import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.errors import Mistake
from lora_train.host import Cond
from lora_train.prompts import Prompt
from tests.hosts import standin
from tests.hosts.contract import Contract, T, latents, pixels

pytest.importorskip("diffusers")
from tests.hosts.standalone.families import ARCHS, borrowed, pipeline  # noqa: E402
from tests.hosts.standalone.test_standalone_sample import BETAS, THEIRS  # noqa: E402

PREDICTIONS = {"sd2": "v_prediction", "sdxl": "epsilon"}


@pytest.fixture(scope="module")
def lents(small):
    with contextlib.ExitStack() as stack:
        yield {arch: stack.enter_context(borrowed(path)) for arch, path in small.items()}


@pytest.fixture(scope="module", params=ARCHS)
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def lent(lents, arch):
    return lents[arch]


@pytest.fixture(scope="module")
def theirs(small, arch):
    import diffusers

    noise = diffusers.EulerDiscreteScheduler(prediction_type=PREDICTIONS[arch], **BETAS)
    return pipeline(small[arch], arch, noise)


class TestContract(Contract):
    @pytest.fixture
    def lent(self, lents, arch):
        self.arch = arch
        return lents[arch]


# ── what the text encoders make of texts ────────────────────────────────────────────────────────────────────


def context(theirs, arch, *prompts):
    """What diffusers' pipeline makes of them: [B, 77, D] and [B, V]."""
    with torch.no_grad():
        made = theirs.encode_prompt([*prompts], device="cpu", num_images_per_prompt=1,
                                    do_classifier_free_guidance=False)  # fmt: skip
    return (made[0], made[2]) if arch == "sdxl" else (made[0], None)


def close(a, b, tolerance=2e-5):
    if a is None or b is None:
        assert a is b
    else:
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_captions_and_prompts_are_read_as_diffusers_reads_them(lent, theirs, arch):
    texts = ("a cat, sitting", "", "dog " * 75)
    with torch.no_grad():
        found, prompts = lent.encode(texts), lent.encode_prompts(*texts)
    expected, vector = context(theirs, arch, *texts)
    for cond in (found, prompts):
        close(cond.context, expected)
        close(cond.vector, vector)


def test_long_captions_go_through_in_chunks_and_the_vector_is_of_the_first(small, arch, lent, theirs):
    """`get_input_ids` and `get_hidden_states_sdxl` of sd-scripts, written down again: what is behind a
    chunk's end is "!", and the vector is that of the first."""
    long, first = "cat " * 100, "cat " * 75
    with borrowed(small[arch], max_token_length=150) as wide, torch.no_grad():
        found = wide.encode([long, "a dog"])
    assert found.context.shape[1] == 152
    start, vector = context(theirs, arch, first, "a dog")
    rest, _ = context(theirs, arch, "cat " * 25, "")
    close(found.context[:, :76], start[:, :76])
    close(found.context[:, 76:], rest[:, 1:])
    close(found.vector, vector)


def test_emphasis_leaves_the_vector_alone(lents):
    with torch.no_grad():
        plain, loud = (lents["sdxl"].encode([c], weighted=True) for c in ("a cat", "a (cat:1.5)"))
    assert torch.equal(plain.vector, loud.vector)
    assert not torch.equal(plain.context, loud.context)


def test_each_text_encoder_keeps_its_own_mean_under_emphasis(lents):
    """As in the WebUI, where each is a module of its own and multiplies before they are joined."""
    with torch.no_grad():
        plain = lents["sdxl"].encode_prompts("a cat").context
        loud = lents["sdxl"].encode_prompts("a (cat:1.5)").context
    for part in (slice(0, 64), slice(64, None)):
        close(loud[..., part].mean(), plain[..., part].mean(), 1e-4)
        assert not torch.equal(loud[..., part], plain[..., part])


# ── what the denoiser is told ───────────────────────────────────────────────────────────────────────────────


def test_a_prediction_is_that_of_diffusers_denoiser(lent, theirs, arch):
    sizes = torch.tensor([[64.0, 96.0, 3.0, 5.0, 64.0, 64.0], [640.0, 480.0, 0.0, 0.0, 64.0, 64.0]])
    x = latents()
    with torch.no_grad():
        cond = lent.encode(["a cat", "a dog"]).of(sizes)
        told = {"text_embeds": cond.vector, "time_ids": sizes} if arch == "sdxl" else None
        expected = theirs.unet(x, T, cond.context, added_cond_kwargs=told).sample
        close(lent.denoise(x, T, cond), expected, 1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_in_bf16_predictions_are_close(small, lents, arch):
    with borrowed(small[arch], "bf16") as lent, torch.no_grad():
        assert {layer.weight().dtype for layer in lent.layers()} == {torch.bfloat16}
        exact, rough = (o.denoise(latents(), T, o.encode(["a", "b"])).float() for o in (lents[arch], lent))
    assert (rough - exact).std() < 0.03 * exact.std()


def test_without_sizes_a_picture_is_whole_and_in_its_own_size(lents):
    lent, x = lents["sdxl"], latents()[..., :4]
    with torch.no_grad():
        cond = lent.encode(["a cat", "a dog"])
        whole = cond.of(torch.tensor([[64.0, 32.0, 0.0, 0.0, 64.0, 32.0]] * 2))
        assert torch.equal(lent.denoise(x, T, cond), lent.denoise(x, T, whole))


@pytest.mark.parametrize("place", range(6))
def test_each_size_changes_what_sdxl_predicts(lents, place):
    lent, sizes = lents["sdxl"], torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]] * 2)
    other = sizes.clone()
    other[:, place] += 32
    with torch.no_grad():
        cond = lent.encode(["a cat", "a dog"])
        a, b = (lent.denoise(latents(), T, cond.of(s)) for s in (sizes, other))
    assert not torch.allclose(a, b, atol=1e-4)


def test_sizes_mean_nothing_to_sd2(lents):
    cond = Cond(torch.zeros(2, 77, 256))
    assert cond.of(torch.ones(2, 6)).sizes is None
    assert lents["sd2"].encode(["a cat"]).vector is None


def test_the_autoencoder_is_diffusers_with_the_familys_scale(lent, theirs, arch):
    scale = {"sd2": 0.18215, "sdxl": 0.13025}[arch]
    with torch.no_grad():
        expected = theirs.vae.encode(pixels()).latent_dist.mean * scale
    close(lent.encode_images(pixels()), expected, 1e-4)


def test_latents_of_another_scale_are_not_taken_for_these(lents):
    """Both have the demo's autoencoder, to the bit."""
    assert lents["sd2"].vae_id != lents["sdxl"].vae_id


# ── layers ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_layers_that_conds_do_not_come_through_are_left_out(lents):
    def depth(arch, part):
        paths = [layer.path for layer in lents[arch].layers() if layer.part == part]
        return 1 + max(int(path.split(".")[2]) for path in paths)

    assert depth("sd2", "te1") == 9  # of 10, as sd-scripts has 23 of 24
    assert depth("sdxl", "te1") == 1  # of 2
    assert depth("sdxl", "te2") == 10  # the vector comes through the last


def test_sdxls_transformers_are_computed_again_block_by_block(lents):
    kinds = [type(block).__name__ for block in lents["sdxl"].checkpoint_blocks()]
    unet = lents["sdxl"].slots["unet"].module
    deep = [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    assert kinds.count("BasicTransformerBlock") == len(deep) == 2 * 5 + 3 * 5 + 3
    assert "Transformer2DModel" not in kinds


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────


def drawn(lent, prompt) -> np.ndarray:
    return np.asarray(lent.sample(prompt), dtype=int)


def from_diffusers(theirs, arch, prompt, **how) -> np.ndarray:
    theirs.scheduler = THEIRS[prompt.sample_sampler](prediction_type=PREDICTIONS[arch])
    picture = theirs(
        prompt.prompt, width=prompt.width, height=prompt.height, num_inference_steps=prompt.sample_steps,
        guidance_scale=prompt.scale, generator=torch.Generator().manual_seed(prompt.seed), **how)  # fmt: skip
    return np.asarray(picture.images[0], dtype=int)


@pytest.mark.parametrize("sampler", ["ddim", "euler_a", "dpm++_2m"])
def test_a_picture_is_that_of_diffusers_pipeline(lent, theirs, arch, sampler):
    prompt = Prompt("a cat, sitting", "blurry", 64, 128, 5, 4, 7.5, sampler)
    ours = drawn(lent, prompt)
    expected = from_diffusers(theirs, arch, prompt, negative_prompt="blurry")
    assert ours.shape == (128, 64, 3)
    assert expected.std() > 10  # a picture, not one colour
    assert abs(ours - expected).max() <= 1


def test_no_negative_prompt_is_zeros_in_sdxl_and_an_empty_text_in_sd2(lent, theirs, arch):
    """As in the WebUI, and where diffusers' pipeline is given none."""
    prompt = Prompt("a cat", "", 64, 64, 5, 3, 7.5, "euler")
    ours = drawn(lent, prompt)
    assert abs(ours - from_diffusers(theirs, arch, prompt)).max() <= 1
    written = from_diffusers(theirs, arch, prompt, negative_prompt=" ")
    assert (abs(ours - written).max() > 1) == (arch == "sdxl")


@pytest.mark.parametrize("name", ["plain", "long"])
def test_a_picture_is_that_of_the_webui(lent, arch, name):
    """v1.10.1's own, without a negative prompt; see tests/hosts/standin/real."""
    real = Image.open(pathlib.Path(standin.__file__).parent / "real" / arch / f"{name}.png")
    prompt, told = real.info["parameters"].rsplit("\n", 1)
    if f"Model hash: {lent.origin.new_hash[:10]}" not in told:
        pytest.skip("the demo checkpoint is another than the one whose autoencoder drew it")
    assert told.startswith("Steps: 4, Sampler: Euler, ")
    ours = drawn(lent, Prompt(prompt, "", 64, 64, 5, 4, 7.0, "euler"))
    assert abs(ours - np.asarray(real, dtype=int)).max() <= 1


# ── diffusers folders ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(theirs, arch, tmp_path_factory):
    path = tmp_path_factory.mktemp(arch)
    noise = THEIRS["ddim"](prediction_type=PREDICTIONS[arch])
    theirs.scheduler = noise
    theirs.save_pretrained(path)
    return path


def seen(lent):
    """What a model makes of a latent, a caption and a picture."""
    with torch.no_grad():
        latent = lent.encode_images(pixels(1))
        cond = lent.encode(["a cat"])
        return lent.denoise(latent, T[:1], cond), latent, cond.context, lent.decode(latent)


def test_a_folder_is_the_same_model_as_the_file(folder, lent, arch):
    with borrowed(folder) as other:
        assert other.arch == other.origin.arch == arch
        assert other.facts.prediction == lent.facts.prediction
        assert other.facts.by == "its scheduler's settings say"
        assert other.facts.scale == lent.facts.scale
        assert {layer.key for layer in other.layers()} == {layer.key for layer in lent.layers()}
        for a, b in zip(seen(other), seen(lent), strict=True):
            close(a, b, 1e-5)


def test_a_folder_of_several_files_is_the_same_model(folder, theirs, lent, arch, tmp_path):
    for path in folder.iterdir():
        if path.name != "unet":
            (tmp_path / path.name).symlink_to(path)
    theirs.unet.save_pretrained(tmp_path / "unet", max_shard_size="9MB")
    assert len([*(tmp_path / "unet").glob("*.safetensors")]) > 1
    with borrowed(tmp_path) as other:
        for a, b in zip(seen(other), seen(lent), strict=True):
            close(a, b, 1e-5)


def test_a_folder_says_whether_an_empty_prompt_is_zeros(folder, arch, tmp_path):
    index = json.loads((folder / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": False}
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with borrowed(tmp_path) as lent:
        assert not lent.facts.empty_is_zero


def test_a_folder_for_edits_is_refused(folder, arch, tmp_path):
    from safetensors.torch import load_file, save_file

    for path in folder.iterdir():
        if path.name != "unet":
            (tmp_path / path.name).symlink_to(path)
    tensors = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet").mkdir()
    save_file(tensors | {"conv_in.weight": torch.zeros(32, 8, 3, 3)},
              tmp_path / "unet" / "diffusion_pytorch_model.safetensors")  # fmt: skip
    with pytest.raises(Mistake, match="takes 8 channels, as for edits"), borrowed(tmp_path):
        pass
