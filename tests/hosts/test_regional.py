"""The passes of LoRAs by region, on a UNet of one number and a WebUI of what they touch."""

import sys
import types

import pytest
import torch

from lora_train.blocks import BlockWeights
from lora_train.emphasis import Named
from lora_train.hosts.webui.blockwise import Weighed
from lora_train.hosts.webui.regional import Passes
from lora_train.hosts.webui.whose import Said, Wish


class Net:
    """Of strengths alone."""

    def __init__(self, name, te=1.0, unet=1.0, modules=()):
        self.mentioned_name, self.te_multiplier, self.unet_multiplier = name, te, unet
        self.modules = dict.fromkeys(modules)


class Unet(torch.nn.Module):
    """Answers what is on: a's strength + 10 b's, + 100 times its context's mean."""

    calls = 0

    def forward(self, x, timesteps=None, context=None):
        self.calls += 1
        on = {
            net.mentioned_name: float(net.unet_multiplier) for net in sys.modules["networks"].loaded_networks
        }
        assert len(x) == len(timesteps) == len(context)
        return torch.full_like(x, on["a"] + 10 * on["b"]) + 100 * context.mean((1, 2))[:, None, None, None]


@pytest.fixture
def webui(monkeypatch):
    """Whose prompts are encoded as the sum of what is on."""
    made = {name: types.ModuleType(name) for name in (
        "networks", "modules", "modules.script_callbacks", "modules.prompt_parser", "modules.processing",
        "modules.shared")}  # fmt: skip
    callbacks, nets = [], [Net("a"), Net("b", 0.5, 2.0)]
    made["networks"].loaded_networks = nets
    made["modules.script_callbacks"].on_cfg_denoiser = callbacks.append
    made["modules.script_callbacks"].remove_callbacks_for_function = callbacks.remove
    made["modules.prompt_parser"].reconstruct_multicond_batch = lambda cond, step: (None, cond)
    made["modules.prompt_parser"].reconstruct_cond_batch = lambda cond, step: cond
    made["modules.shared"].opts = types.SimpleNamespace(pad_cond_uncond_v0=False, pad_cond_uncond=False)

    def setup_conds(p):
        on = sum(float(net.te_multiplier) for net in nets)
        p.c, p.uc = torch.full((p.prompts, 2, 1), on), torch.full((1, 2, 1), on)

    class Processing:
        pass

    Processing.setup_conds = setup_conds
    made["modules.processing"].StableDiffusionProcessing = Processing
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(made[parent], child, module)
    return types.SimpleNamespace(nets=nets, callbacks=callbacks, unet=Unet())


def asked(webui, prompt, wish, *, pieces=False, fail=False):
    """A picture of one step and 2 by 4 latents: what the UNet answers to each prompt and the negative one.

    Args:
        pieces: row by row, as without batch_cond_uncond.
    """
    said = Said.read(prompt)
    p = types.SimpleNamespace(
        is_hr_pass=False, c=None, uc=None, cached_c=["mine"], cached_uc=["mine"], prompts=said.prompts,
        sd_model=types.SimpleNamespace(model=types.SimpleNamespace(diffusion_model=webui.unet)))  # fmt: skip
    p.get_conds = lambda: (p.c, p.uc)
    batch = types.SimpleNamespace(batch=[[0] * said.prompts])
    passes = Passes(p, types.SimpleNamespace(sampler_extra_args={"cond": batch}), wish, said)

    def sampling():
        (step,) = webui.callbacks
        step(types.SimpleNamespace(denoiser=types.SimpleNamespace(step=0)))
        x, t = torch.zeros(said.prompts + 1, 4, 2, 4), torch.zeros(said.prompts + 1)
        if fail:
            raise RuntimeError("on purpose")
        size = 1 if pieces else len(x)
        parts = [slice(i, i + size) for i in range(0, len(x), size)]
        return torch.cat([webui.unet(x[part], t[part], context=torch.zeros(len(x), 2, 1)[part])
                          for part in parts])  # fmt: skip

    before = [(net.te_multiplier, net.unet_multiplier) for net in webui.nets]
    try:
        return passes.sampled(sampling)
    finally:
        assert [(net.te_multiplier, net.unet_multiplier) for net in webui.nets] == before
        assert "forward" not in vars(webui.unet)
        assert not webui.callbacks
        assert (p.c, p.uc, p.cached_c) == (None, None, ["mine"])


BOTH = "x <lora:a:1><lora:b:0.5:2>"


@pytest.mark.parametrize("pieces", [False, True])
def test_each_region_is_of_its_own(webui, pieces):
    found = asked(webui, BOTH, Wish.read("columns 1,3"), pieces=pieces)
    assert found[:, 0, 0].tolist() == [[1, 20, 20, 20]] * 2
    assert webui.unet.calls == (4 if pieces else 2)
    found = asked(webui, BOTH, Wish.read("columns 1,1", "b; a", bare=True), pieces=pieces)
    assert found[:, 0, 0].tolist() == [[20, 20, 1, 1], [0, 0, 0, 0]]
    found = asked(webui, BOTH, Wish.read("columns 3,5", "a; "), pieces=pieces)
    assert found[0, 0, 0].tolist() == [21, 20.5, 20, 20]  # a border within a cell


@pytest.mark.parametrize("pieces", [False, True])
def test_each_and_prompt_is_of_its_own(webui, pieces):
    prompt = "x <lora:a:1> AND y <lora:b:0.5:2> AND z"
    found = asked(webui, prompt, Wish.read(by_prompt=True), pieces=pieces)
    assert found[:, 0, 0, 0].tolist() == [1, 20, 0, 0]
    found = asked(webui, prompt, Wish.read(), pieces=pieces)
    assert found[:, 0, 0, 0].tolist() == [21] * 4


def test_a_lora_that_stands_in_two_prompts_has_a_strength_in_each(webui):
    webui.nets[:] = [Net("a"), webui.nets[0], webui.nets[1]]
    webui.nets[1] = webui.nets[0]  # as the WebUI lists it
    found = asked(webui, "x <lora:a:0.6> AND y <lora:a:0.2>", Wish.read(by_prompt=True))
    assert torch.allclose(found[:, 0, 0, 0] - 20, torch.tensor([0.3, 0.1, 0.0]))  # the list adds it twice


def test_prompts_are_encoded_with_the_regions_loras(webui):
    for net in webui.nets:
        net.modules = {"transformer_text_model_encoder_layers_0": None}
    found = asked(webui, BOTH, Wish.read("columns 1,1"))
    assert found[:, 0, 0].tolist() == [[101, 101, 70, 70]] * 2
    found = asked(webui, "x <lora:a:1> AND y <lora:b:0.5:2>", Wish.read(by_prompt=True))
    assert found[:, 0, 0, 0].tolist() == [101, 70, 0]


def test_steps_and_blocks_stay_as_they_were(webui):
    """`stepped` of the block weights makes a tag rest; regions leave it so."""
    rest = Named("a", start=5)
    webui.nets[0].unet_multiplier = Weighed([(1.0, BlockWeights(), rest)], [False])
    assert asked(webui, BOTH, Wish.read("columns 1,1"))[0, 0, 0].tolist() == [0, 0, 20, 20]


def test_a_failure_leaves_no_trace(webui):
    with pytest.raises(RuntimeError, match="on purpose"):
        asked(webui, BOTH, Wish.read("columns 1,1"), fail=True)


def test_others_place_in_the_unet_is_kept_and_asked_for_all_rows(webui):
    seen, plain = [], webui.unet.forward

    def others(x, *rest, **named):
        seen.append(len(x))
        return plain(x, *rest, **named)

    webui.unet.forward = others
    said = Said.read("x <lora:a:1> AND y <lora:b:0.5:2>")
    p = types.SimpleNamespace(sd_model=types.SimpleNamespace(
        model=types.SimpleNamespace(diffusion_model=webui.unet)))  # fmt: skip
    batch = types.SimpleNamespace(batch=[[0, 1]])
    passes = Passes(
        p, types.SimpleNamespace(sampler_extra_args={"cond": batch}), Wish.read(by_prompt=True), said
    )

    def sampling():
        webui.callbacks[0](types.SimpleNamespace(denoiser=types.SimpleNamespace(step=0)))
        return webui.unet(torch.zeros(3, 4, 2, 4), torch.zeros(3), context=torch.zeros(3, 2, 1))

    assert passes.sampled(sampling)[:, 0, 0, 0].tolist() == [1, 20, 0]
    assert seen == [3, 3, 3]
    assert webui.unet.forward is others
