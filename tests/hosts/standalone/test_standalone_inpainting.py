"""Models made for inpainting: found, lent and drawn with, in all three architectures."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from lora_train.errors import Mistake
from lora_train.prompts import Prompt
from tests.hosts import tiny_checkpoints
from tests.hosts.contract import Contract, T, latents

pytest.importorskip("diffusers")
from lora_train.models.files import find  # noqa: E402
from tests.hosts.standalone.families import borrowed  # noqa: E402

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
ARCHS = ("sd1", "sd2", "sdxl")


def widened(path, to, channels: int, scale: float):
    """A checkpoint whose denoiser takes more channels, those beyond the latent's with numbers drawn anew."""
    tensors = load_file(path)
    first = tensors[FIRST]
    shape = (len(first), channels - 4, *first.shape[2:])
    more = scale * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    tensors[FIRST] = torch.cat([first, more.to(first)], 1)
    save_file(tensors, to)
    config = path.with_suffix(".yaml")
    if config.is_file():
        to.with_suffix(".yaml").write_bytes(config.read_bytes())
        for folder in path.parent.glob("*clip*"):
            with contextlib.suppress(FileExistsError):
                (to.parent / folder.name).symlink_to(folder)
    return to


@pytest.fixture(scope="module")
def plain(small):
    return {"sd1": tiny_checkpoints.DEMO / "demo.safetensors", **small}


@pytest.fixture(scope="module")
def made(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inpainting")

    def made(arch, channels=9, scale=0.1):
        return widened(plain[arch], folder / f"{arch}-{channels}-{scale}.safetensors", channels, scale)

    return made


@pytest.fixture(scope="module", params=ARCHS)
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def lent(made, arch):
    with borrowed(made(arch)) as lent:
        yield lent


@pytest.mark.parametrize("arch", ["sd1"], indirect=True, scope="module")
class TestContract(Contract):
    @pytest.fixture
    def lent(self, lent, arch):
        self.arch = arch
        return lent


def seen(lent, cond) -> torch.Tensor:
    """What comes out of the denoiser's first layer."""
    found = []
    first = lent.slots["unet"].use().conv_in
    handle = first.register_forward_hook(lambda m, x, out: found.append(out))
    try:
        with torch.no_grad():
            lent.denoise(latents(), T, cond)
    finally:
        handle.remove()
    return found[0]


def by_hand(lent, hole, left) -> torch.Tensor:
    """The first layer in three parts: of the noisy latent, of the hole, of the latent of what is left."""
    first = lent.slots["unet"].use().conv_in
    parts = zip((latents(), hole, left), first.weight.split([4, 1, 4], 1), strict=True)
    return sum(functional.conv2d(x, w, padding=1) for x, w in parts) + first.bias.view(1, -1, 1, 1)


def test_the_denoiser_sees_the_hole_and_then_what_is_left(lent):
    assert lent.inpaints
    inpaint = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(9))
    cond = lent.encode(["a cat", "a dog"])
    expected = by_hand(lent, inpaint[:, :1], inpaint[:, 1:])
    torch.testing.assert_close(seen(lent, cond.around(inpaint)), expected, rtol=1e-5, atol=1e-5)


def test_unless_told_a_whole_picture_is_painted_into_grey(lent):
    grey = lent.encode_images(torch.zeros(1, 3, 64, 64)).expand(2, -1, -1, -1)
    expected = by_hand(lent, torch.ones(2, 1, 8, 8), grey)
    torch.testing.assert_close(seen(lent, lent.encode(["a", "b"])), expected, rtol=1e-5, atol=1e-5)


def test_what_it_sees_beside_the_noise_decides_what_it_predicts(lent):
    cond = lent.encode(["a cat", "a dog"])
    with torch.no_grad():
        whole = lent.denoise(latents(), T, cond)
        part = lent.denoise(latents(), T, cond.around(torch.zeros(2, 5, 8, 8)))
    assert whole.shape == part.shape == (2, 4, 8, 8)
    assert not torch.allclose(whole, part, atol=1e-3)


def test_blind_to_it_the_model_is_the_plain_one(made, plain, arch):
    drawn = []
    for path in (plain[arch], made(arch, scale=0.0)):
        with borrowed(path) as lent, torch.no_grad():
            drawn.append(lent.denoise(latents(), T, lent.encode(["a cat", "a dog"])))
            drawn.append(torch.from_numpy(np.asarray(lent.sample(Prompt("a cat", "", 64, 64, 5, 2))).copy()))
            assert lent.facts.arch == arch
    torch.testing.assert_close(drawn[0], drawn[2], rtol=1e-4, atol=1e-4)
    assert (drawn[1].int() - drawn[3].int()).abs().max() <= 1


def test_a_diffusers_folder_of_one_is_the_same_model(lent, arch, tmp_path):
    if arch != "sd1":
        pytest.skip("the folders of the others differ in nothing that matters here")
    from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline
    from transformers import CLIPTokenizer

    from lora_train.hosts.standalone.tokens import VOCABULARY

    modules = {
        name: lent.slots[part].use()
        for name, part in (("unet", "unet"), ("vae", "vae"), ("text_encoder", "te1"))
    }
    StableDiffusionInpaintPipeline(
        **modules, tokenizer=CLIPTokenizer.from_pretrained(VOCABULARY), scheduler=DDIMScheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False).save_pretrained(
        tmp_path)  # fmt: skip
    with borrowed(tmp_path) as other, torch.no_grad():
        assert other.inpaints
        ours, theirs = (x.denoise(latents(), T, x.encode(["a cat", "a dog"])) for x in (lent, other))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("channels", [5, 8])
def test_models_for_edits_or_with_depth_are_refused(made, channels):
    with pytest.raises(Mistake, match="is a checkpoint for editing or with depth"):
        find(made("sd1", channels))
