"""lbw=, start=, stop= and step= in the WebUI's own prompts, on the stand-in."""

import random
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.adapters.file import save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.blocks import BlockWeights, Element
from lora_train.host import Model
from lora_train.hosts.webui import blockwise, late
from lora_train.hosts.webui.host import WebuiHost
from lora_train.names import path_of
from lora_train.spelling import Book

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin.world import world  # noqa: E402

WEIGHTS = "0.5,0,2,-1," + ",".join(["1"] * 13)  # of 17: BASE, IN01, IN02, IN04


def lora(path, seed):
    """A file for the loaded model, of random numbers."""
    with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
        network = Network(Lora(dim=2, conv_dim=2), lent.layers())
    rng = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.08, generator=rng)
    save(network, path, metadata={}, dtype=torch.float32)


def bake(file, name, weights):
    """Another file, whose layers are scaled by hand."""
    tensors = load_file(file)
    for key in tensors:
        module, _, kind = key.partition(".")
        if kind == "lora_up.weight":
            tensors[key] *= weights.strength(*path_of(module, "sd1"))
    save_file(tensors, file.with_stem(name))


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui")) as made:
        lora(made.loras / "style.safetensors", 1)
        lora(made.loras / "eyes.safetensors", 2)
        bake(made.loras / "style.safetensors", "baked", BlockWeights.parse(WEIGHTS))
        late.started(None, None)
        late.started(None, None)  # as after Reload UI
        made.script_callbacks.on_cfg_denoiser(late.stepped)
        yield made


def drawn(webui, tags="", **others):
    return np.asarray(webui.picture(f"a cat{tags}", **others), int)


def close(a, b):
    return abs(a - b).max() <= 1


def test_blocks_are_weighed_as_in_a_file_baked_so(webui):
    bare, plain = drawn(webui), drawn(webui, "<lora:style:0.7:1.2>")
    baked = drawn(webui, "<lora:baked:0.7:1.2>")
    assert not close(bare, plain)
    assert not close(plain, baked)
    (webui.folder / "lora_train").mkdir(exist_ok=True)
    (webui.folder / "lora_train" / "lbwpresets.txt").write_text(f"MINE:{WEIGHTS}\n")
    for tag in (f":0.7:1.2:lbw={WEIGHTS}", f":te=0.7:unet=1.2:w={WEIGHTS}", ":0.7:1.2:lbw=mine",
                ":0.7:mine:unet=1.2"):  # fmt: skip
        found = drawn(webui, f"<lora:style{tag}>")
        assert close(found, baked), tag
        assert (drawn(webui, f"<lora:style{tag}>") == found).all()
    assert (drawn(webui, "<lora:style:0.7:1.2>") == plain).all()
    assert (drawn(webui) == bare).all()


def test_several_loras_have_each_their_own(webui):
    both = drawn(webui, "<lora:eyes:0.5><lora:baked:0.7>")
    assert close(drawn(webui, f"<lora:eyes:0.5><lora:style:0.7:lbw={WEIGHTS}>"), both)
    ins, outs = "1," * 13 + "0," * 12 + "0", "0," * 13 + "1," * 12 + "1"
    halves = drawn(webui, f"<lora:style:0.5:lbw={ins}><lora:style:0.5:lbw={outs}>")
    once = drawn(webui, "<lora:style:0.5:lbw=" + ",".join(["1"] * 26) + ">")
    assert close(halves, once)
    assert close(once, drawn(webui, "<lora:style:0.5>"))


def test_all_blocks_off_is_the_bare_picture_but_for_what_is_in_no_block(webui):
    off = drawn(webui, "<lora:style:1:lbw=NONE:lbwe=NOTHING>")
    assert not close(off, drawn(webui))  # a preset that there is not is said, and the LoRA is on
    assert (off == drawn(webui, "<lora:style:1>")).all()
    (webui.folder / "lora_train").mkdir(exist_ok=True)
    (webui.folder / "lora_train" / "elempresets.txt").write_text("NOTHING:::0\n")
    assert (drawn(webui, "<lora:style:1:lbw=NONE:lbwe=NOTHING>") == drawn(webui)).all()


def test_what_cannot_be_read_is_told_below_the_picture(webui):
    processing = webui.processing
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt="a cat<lora:style:1:lbw=1,2>", seed=5, steps=1, width=64, height=64
    )
    processing.process_images(p)
    assert p.comments == [
        "<lora:style:1:lbw=1,2>: expected 12, 17, 20 or 26 values, or one of "
        + ", ".join([*Book.read([webui.folder / "lora_train"]).presets])
        + " (without effect in this picture)"
    ]


def by_hand(webui, acting, **others):
    """The UNet's strength set before each call, by one's own count."""
    networks, calls = sys.modules["networks"], iter(acting)

    def act(_):
        for net in networks.loaded_networks:
            net.unet_multiplier = float(next(calls))

    webui.script_callbacks.on_cfg_denoiser(act)
    try:
        return drawn(webui, "<lora:style:1>", **others)
    finally:
        webui.script_callbacks.remove_callbacks_for_function(act)


@pytest.mark.parametrize(
    ("tag", "acting"),
    [
        ("start=3", [0, 0, 0, 1, 1, 1]),
        ("stop=3", [1, 1, 1, 0, 0, 0]),
        ("step=2-4", [0, 0, 1, 1, 0, 0]),
        ("start=1:stop=99", [1, 1, 1, 1, 1, 1]),
        ("stop=1", [0, 0, 0, 0, 0, 0]),
    ],
)
def test_the_unets_strength_is_switched_by_steps(webui, tag, acting):
    bare = drawn(webui, steps=6)
    found = drawn(webui, f"<lora:style:1:{tag}>", steps=6)
    assert close(found, by_hand(webui, acting, steps=6))
    assert (drawn(webui, f"<lora:style:1:{tag}>", steps=6) == found).all()  # from the first step again
    assert (drawn(webui, steps=6) == bare).all()


def test_steps_and_blocks_go_together(webui):
    whole = drawn(webui, f"<lora:style:1:lbw={WEIGHTS}:step=2-4>", steps=6)
    assert close(whole, drawn(webui, "<lora:baked:1:step=2-4>", steps=6))


def test_an_interrupted_picture_leaves_no_trace(webui):
    bare, plain = drawn(webui), drawn(webui, "<lora:style:1>")

    def stop(params):
        if params.sampling_step == 1:
            webui.shared.state.interrupted = True

    webui.script_callbacks.on_cfg_denoiser(stop)
    try:
        webui.picture(f"a cat<lora:style:1:lbw={WEIGHTS}:start=3>")
    finally:
        webui.script_callbacks.remove_callbacks_for_function(stop)
        webui.shared.state.interrupted = False
    assert (drawn(webui) == bare).all()
    assert (drawn(webui, "<lora:style:1>") == plain).all()


def test_a_run_takes_it_off_and_puts_it_on_again(webui):
    tag = f"<lora:style:1:lbw={WEIGHTS}>"
    bare, there = drawn(webui), drawn(webui, tag)
    with WebuiHost().borrow(Model(), device="auto", precision="no"):
        pass
    assert (drawn(webui, tag) == there).all()
    assert (drawn(webui) == bare).all()


def test_random_blocks_are_the_pictures_seeds(webui):
    text = ",".join(["R", "U"] * 13)
    bake(webui.loras / "style.safetensors", "random",
         Book().weights(text, draw=random.Random(9)))  # fmt: skip
    tag = f"<lora:style:1:lbw={text}>"
    other = drawn(webui, tag, seed=8)
    assert close(drawn(webui, tag, seed=9), drawn(webui, "<lora:random:1>", seed=9))
    assert (drawn(webui, tag, seed=8) == other).all()  # the text encoder's part is of this seed again


def test_it_stands_back_for_the_other_extension_and_says_so_once(webui, monkeypatch, caplog):
    script = types.SimpleNamespace(path="/x/scripts/lora_block_weight.py")
    reader = webui.extra_networks.ExtraNetworkLora()
    monkeypatch.setitem(webui.extra_networks.extra_network_registry, "lora", reader)
    monkeypatch.setattr(webui.scripts, "scripts_data", [script])
    late.started(None, None)
    late.started(None, None)
    assert "activate" not in vars(reader)
    assert [r.message for r in caplog.records if "block-weight" in r.message] == [
        "sd-webui-lora-block-weight is there: it reads lbw=, start=, stop= in prompts, not we."
    ]
    assert (drawn(webui, f"<lora:style:1:lbw={WEIGHTS}>") == drawn(webui, "<lora:style:1>")).all()


def test_where_it_cannot_be_done_it_is_said(webui, monkeypatch):
    monkeypatch.setattr(blockwise, "unsupported", lambda: "training inside Forge is not supported; use it")
    p = webui.processing.StableDiffusionProcessingTxt2Img(
        prompt="a cat<lora:style:1:stop=2>", seed=5, steps=1, width=64, height=64
    )
    webui.processing.process_images(p)
    assert p.comments[0].startswith("<lora:style>: lbw=, start= and stop= have no effect here; ")


def test_elements_are_for_names_of_layers(webui):
    bake(webui.loras / "style.safetensors", "noattn",
         BlockWeights(elements=(Element("NOT BASE", "attn", 0.0),)))  # fmt: skip
    assert close(drawn(webui, "<lora:style:1:lbw=ALL|NOATTN>"), drawn(webui, "<lora:style:1>"))  # is none
    (webui.folder / "lora_train").mkdir(exist_ok=True)
    (webui.folder / "lora_train" / "elempresets.txt").write_text("NOATTN:NOT BASE:attn:0\n")
    assert close(drawn(webui, "<lora:style:1:lbw=ALL|NOATTN>"), drawn(webui, "<lora:noattn:1>"))
    assert close(drawn(webui, "<lora:style:1:lbw=ALL|NOT BASE:attn:0>"), drawn(webui, "<lora:noattn:1>"))
