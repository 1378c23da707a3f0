"""The stand-in for the WebUI with a model loaded that is made for inpainting."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost
from lora_train.hosts.webui.kinds import untrainable
from tests.hosts.contract import T, latents

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin import runs  # noqa: E402
from tests.hosts.standin.runs import learns  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402

pictures, train = runs.pictures, runs.train


@pytest.fixture(scope="module", params=["sd1"])
def webui(request, tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui"), family=request.param) as made:
        yield made


@pytest.fixture
def widened(webui):
    """The loaded model with nine channels: widened(8) makes it one of so many."""
    unet = webui.model.model.diffusion_model
    old, before = unet.input_blocks[0][0], unet.in_channels

    def widened(channels: int) -> nn.Module:
        torch.manual_seed(3)
        new = nn.Conv2d(channels, old.out_channels, 3, padding=1).to(old.weight).requires_grad_(False)
        new.weight.data[:, :4] = old.weight
        unet.input_blocks[0][0], unet.in_channels = new, channels
        return new

    widened(9)
    yield widened
    unet.input_blocks[0][0], unet.in_channels = old, before


def test_the_denoiser_sees_the_hole_and_then_what_is_left(webui, widened):
    inpaint = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(9))
    with WebuiHost().borrow(Model(), device="auto", precision="no") as lent, torch.no_grad():
        assert lent.inpaints
        cond, seen = lent.encode(["a cat", "a dog"]), []
        first = lent.unet.input_blocks[0][0]
        handle = first.register_forward_hook(lambda m, x, out: seen.append(out))
        lent.denoise(latents(), T, cond.around(inpaint))
        lent.denoise(latents(), T, cond)
        handle.remove()
        grey = lent.encode_images(torch.zeros(1, 3, 64, 64)).expand(2, -1, -1, -1)
        for found, beside in zip(seen, (inpaint, torch.cat([torch.ones(2, 1, 8, 8), grey], 1)), strict=True):
            parts = zip(
                (latents(), beside[:, :1], beside[:, 1:]), first.weight.split([4, 1, 4], 1), strict=True
            )
            by_hand = sum(functional.conv2d(x, w, padding=1) for x, w in parts)
            torch.testing.assert_close(found, by_hand + first.bias.view(1, -1, 1, 1), rtol=1e-4, atol=1e-4)


def test_a_run_learns(webui, widened, train):
    assert learns(load_file(train()))


def test_models_for_edits_are_refused(webui, widened):
    widened(8)
    assert "takes 8 channels, as those for edits" in untrainable(webui.model)
