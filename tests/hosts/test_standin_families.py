"""The stand-in for the WebUI with small SD 2.x and SDXL models loaded."""

import pathlib

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts import tiny_loras  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402

REAL = pathlib.Path(__file__).parent / "standin" / "real"
FAMILIES = ("sd2", "sdxl")


@pytest.fixture(scope="module", params=FAMILIES)
def webui(request, tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui"), family=request.param) as made:
        tiny_loras.write(made.loras / f"tiny_{request.param}.safetensors", request.param)
        yield made


@pytest.mark.parametrize("drawn", ["plain", "long", "lora"])
def test_it_draws_as_the_webui_does(webui, drawn):
    """v1.10.1, 4 steps, seed 5; by its infotext one sees what was asked for. A file with every layer that
    kohya's have, for the UNet and all text encoders, is on one of them."""
    real = Image.open(REAL / webui.family / f"{drawn}.png")
    prompt, told = real.info["parameters"].rsplit("\n", 1)
    if f"Model hash: {webui.model.sd_checkpoint_info.shorthash}" not in told:
        pytest.skip("the demo checkpoint is another than the one whose autoencoder drew it")
    ours = webui.picture(prompt, sampler_name=told.split("Sampler: ")[1].split(",")[0])
    assert abs(np.asarray(ours).astype(int) - np.asarray(real).astype(int)).max() <= 1


def test_a_small_checkpoint_is_not_a_blank(webui):
    pictures = [webui.picture("a cat"), webui.picture("a dog"), webui.picture("a cat", seed=6)]
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert min(np.asarray(picture).std() for picture in pictures) > 10


def test_a_file_that_lacks_one_of_an_attentions_layers_leaves_it_alone(webui):
    """OpenCLIP holds queries, keys and values in one tensor: all four or none, as in v1.10.1."""
    lead = "lora_te2" if webui.family == "sdxl" else "lora_te"
    only = f"{lead}_text_model_encoder_layers_0_self_attn"
    whole = load_file(tiny_loras.write(webui.loras / "whole.safetensors", webui.family, only=only))
    save_file({k: v for k, v in whole.items() if "_v_proj" not in k}, webui.loras / "lacking.safetensors")
    bare, lacking, full = (
        webui.picture(f"a cat{lora}") for lora in ("", "<lora:lacking:1>", "<lora:whole:1>")
    )
    assert lacking.tobytes() == bare.tobytes() != full.tobytes()
