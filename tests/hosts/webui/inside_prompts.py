"""Block weights and steps in the real WebUI's prompts, and our axes in its X/Y/Z plot; run in its process,
with our extension loaded as any other (see test_webui.py)."""

import contextlib
import pathlib
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import save
from lora_train.adapters.network import Network
from lora_train.blocks import BLOCKS, BlockWeights
from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost
from lora_train.knobs import build, settings
from lora_train.names import path_of
from lora_train.prompts import Prompt
from lora_train.run.draw import Wardrobe
from tests.hosts.webui.inside import arch, picture

EACH = BlockWeights(tuple(round(0.35 * i % 1.7 - 0.3, 2) for i in range(len(BLOCKS))))
WEIGHTS = str(EACH)
KINDS = [kind for kind in FAMILIES if kind not in ("oft", "boft")]  # a turn's strength is not linear there
LARGE = {"dim": 2, "alpha": 2.0, "conv_dim": 2, "preset": "full", "factor": 4}


def folder() -> pathlib.Path:
    from modules import shared

    made = pathlib.Path(shared.cmd_opts.lora_dir)
    made.mkdir(exist_ok=True)
    return made


def made(kind: str, name: str, seed: int = 1, **values: object) -> pathlib.Path:
    """A file of random numbers for the loaded model, as the WebUI reads it."""
    known = {s.path for s in settings(FAMILIES[kind])}
    large = {k: v for k, v in {**LARGE, **values}.items() if k in known}
    if "preset" in large and kind not in ("ia3", "full", "glora"):
        large.pop("preset")
    with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
        network = Network(build(FAMILIES[kind], large), lent.layers())
        rng = torch.Generator().manual_seed(seed)
        by = 0.003 if kind == "full" else 0.03
        for parameter in network.parameters():
            parameter.data.add_(torch.randn(parameter.shape, generator=rng) * by)
        save(network, folder() / f"{name}.safetensors", metadata={}, dtype=torch.float32)
    return folder() / f"{name}.safetensors"


@pytest.fixture(scope="module", autouse=True)
def style():
    """A LoCon, and what it is with its layers scaled by hand."""
    import networks

    file = made("lora", "style")
    tensors = load_file(file)
    for key in tensors:
        module, _, rest = key.partition(".")
        if rest == "lora_up.weight":
            tensors[key] = tensors[key] * EACH.strength(*path_of(module, arch()))
    save_file(tensors, file.with_stem("baked"))
    made("lora", "eyes", 2)
    networks.list_available_networks()


def drawn(tags: str = "", **others: object) -> np.ndarray:
    return np.asarray(picture(f"a cat{tags}", **others), int)


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return abs(a - b).max() <= 1


def test_our_extension_is_there():
    import network
    from modules import extra_networks, scripts

    assert "activate" in vars(extra_networks.extra_network_registry["lora"])
    assert hasattr(network.NetworkModule.multiplier, "__wrapped__")
    (found,) = [s for s in scripts.scripts_data if s.path.endswith("xyz_grid.py")]
    assert sum(option.label.startswith("[LoRA] ") for option in found.module.axis_options) == 7


@pytest.mark.parametrize("how", ["txt2img", "batch", "hires", "functional"])
def test_blocks_are_weighed_as_in_a_file_baked_so(how):
    from modules import shared

    others = {
        "batch": {"n_iter": 2, "batch_size": 2},
        "hires": {"enable_hr": True, "hr_scale": 2, "denoising_strength": 0.7, "hr_upscaler": "Latent"},
    }.get(how, {})
    bare, plain = drawn(**others), drawn("<lora:style:0.7:1.2>", **others)
    shared.opts.data["lora_functional"] = how == "functional"
    try:
        baked = drawn("<lora:baked:0.7:1.2>", **others)
        found = drawn(f"<lora:style:0.7:1.2:lbw={WEIGHTS}>", **others)
        with_another = drawn(f"<lora:style:0.7:1.2:lbw={WEIGHTS}><lora:eyes:0.4>", **others)
        assert close(with_another, drawn("<lora:eyes:0.4><lora:baked:0.7:1.2>", **others))
    finally:
        shared.opts.data["lora_functional"] = False
    assert not close(baked, plain)
    assert close(found, baked), abs(found - baked).max()
    assert (drawn("<lora:style:0.7:1.2>", **others) == plain).all()
    assert (drawn(**others) == bare).all()


def test_in_img2img_too():
    from modules import call_queue, processing

    start = picture("a dog")

    def from_it(tags):
        p = processing.StableDiffusionProcessingImg2Img(
            init_images=[start], prompt=f"a cat{tags}", seed=5, steps=4, width=64, height=64,
            denoising_strength=0.8, sampler_name="Euler", scheduler="Automatic", do_not_save_samples=True,
            do_not_save_grid=True)  # fmt: skip
        with call_queue.queue_lock, contextlib.closing(p):
            return np.asarray(processing.process_images(p).images[0], int)

    bare = from_it("")
    assert close(from_it(f"<lora:style:1:lbw={WEIGHTS}>"), from_it("<lora:baked:1>"))
    assert close(from_it(f"<lora:style:1:lbw={WEIGHTS}:start=2>"), from_it("<lora:baked:1:start=2>"))
    assert not close(from_it("<lora:baked:1:start=2>"), from_it("<lora:baked:1>"))
    assert (from_it("") == bare).all()


@pytest.mark.parametrize("kind", [*KINDS, "dora"])
def test_every_family_is_weighed_as_in_our_own_pictures(kind):
    """Our adapters are on by hooks, each at its strength; the WebUI works them into its weights."""
    import networks

    made("lora" if kind == "dora" else kind, f"any-{kind}", dora_wd=kind == "dora")
    networks.list_available_networks()
    tag = f"<lora:any-{kind}:0.7:1.2:lbw={WEIGHTS}:step=1-4>"
    prompt = Prompt(
        f"a cat{tag}", width=64, height=64, seed=5, sample_steps=6, scale=7, sample_sampler="euler"
    )
    with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
        ours = np.asarray(Wardrobe(lent, [folder()]).sample(prompt), int)
    theirs = drawn(tag, steps=6, cfg_scale=7)
    assert close(ours, theirs), abs(ours - theirs).max()
    assert not close(theirs, drawn(f"<lora:any-{kind}:0.7:1.2>", steps=6, cfg_scale=7))


@pytest.mark.parametrize(
    ("sampler", "steps"),
    [("Euler", "start=3"), ("DDIM", "stop=3"), ("DPM++ 2M", "step=2-5"), ("Heun", "step=2-5"),
     ("DPM2 a", "start=3"), ("PLMS", "stop=3")],
)  # fmt: skip
def test_steps_are_those_of_lora_block_weight(sampler, steps):
    """Its own callback: at each call of the denoiser, by `sampling_step`."""
    from modules import script_callbacks

    first, _, last = steps.partition("=")[2].partition("-")
    start = int(first) if not steps.startswith("stop") else 0
    stop = int(last or first) if not steps.startswith("start") else None

    def theirs(params):
        on = params.sampling_step > start - 2 and not (stop and params.sampling_step > stop - 2)
        for net in sys.modules["networks"].loaded_networks:
            net.unet_multiplier = 1.0 if on else 0.0

    bare = drawn(sampler_name=sampler, steps=6)
    found = drawn(f"<lora:style:1:{steps}>", sampler_name=sampler, steps=6)
    script_callbacks.on_cfg_denoiser(theirs)
    try:
        expected = drawn("<lora:style:1>", sampler_name=sampler, steps=6)
    finally:
        script_callbacks.remove_callbacks_for_function(theirs)
    assert (found == expected).all()
    assert not close(found, drawn("<lora:style:1>", sampler_name=sampler, steps=6))
    assert (drawn(sampler_name=sampler, steps=6) == bare).all()


def with_scripts(prompt: str, **others: object):
    """As from the page, where a picture's infotext keeps what stood in brackets."""
    from modules import call_queue, processing, scripts

    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompt, seed=5, steps=6, width=64, height=64, sampler_name="Euler", scheduler="Automatic",
        do_not_save_samples=True, do_not_save_grid=True, **others)  # fmt: skip
    p.scripts, p.script_args = scripts.ScriptRunner(), []
    with call_queue.queue_lock, contextlib.closing(p):
        return processing.process_images(p)


def test_the_infotext_draws_the_picture_again():
    whole = f"a cat<lora:style:0.7:1.2:lbw={WEIGHTS}:step=2-5>"
    first = with_scripts(whole).images[0]
    prompt, told = first.info["parameters"].rsplit("\nSteps:", 1)
    assert prompt == whole
    assert "Lora hashes" in told
    drawn("<lora:eyes:1>")
    assert picture(prompt, steps=6).tobytes() == first.tobytes()


def test_a_picture_that_fails_or_is_interrupted_leaves_no_trace():
    from modules import script_callbacks, shared

    bare, plain = drawn(), drawn("<lora:style:1>")

    def stop(params):
        if params.sampling_step == 1:
            shared.state.interrupted = True

    def fail(module, given):
        raise RuntimeError("on purpose")

    script_callbacks.on_cfg_denoiser(stop)
    try:
        picture(f"a cat<lora:style:1:lbw={WEIGHTS}:start=2>", steps=4)
    finally:
        script_callbacks.remove_callbacks_for_function(stop)
        shared.state.interrupted = False
    handle = shared.sd_model.model.diffusion_model.out.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            picture(f"a cat<lora:style:1:lbw={WEIGHTS}:start=2>")
    finally:
        handle.remove()
    assert (drawn() == bare).all()
    assert (drawn("<lora:style:1>") == plain).all()
    tag = f"<lora:style:1:lbw={WEIGHTS}>"
    there = drawn(tag)
    with WebuiHost().borrow(Model(), device="auto", precision="no"):
        pass  # as a run does: off, and on again
    assert (drawn(tag) == there).all()
    assert (drawn() == bare).all()


def test_the_built_in_grammar_is_what_it_was():
    plain = drawn("<lora:style:0.5:1.5>")
    assert (drawn("<lora:style:te=0.5:unet=1.5>") == plain).all()
    assert (drawn("<lora:style:0.5:1.5:2>") == plain).all()  # the whole of its rank
    assert (drawn("<lyco:style:0.5:1.5>") == plain).all()
    assert close(drawn(f"<lora:style:0.5:1.5:2:lbw={','.join(['1'] * 26)}>"), plain)


@pytest.fixture
def grids_are_not_saved():
    from modules import shared

    shared.opts.data["grid_save"] = False
    yield
    shared.opts.data.pop("grid_save")


def plotted(x: tuple[str, str], y: tuple[str, str], prompt: str):
    """The X/Y/Z plot's pictures and infotexts, as its button draws them."""
    from modules import call_queue, processing, scripts

    (found,) = [s for s in scripts.scripts_data if s.path.endswith("xyz_grid.py")]
    script = found.script_class()
    script.current_axis_options = [
        o for o in found.module.axis_options if type(o) is found.module.AxisOption or not o.is_img2img
    ]
    labels = [option.label for option in script.current_axis_options]
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompt, seed=5, steps=3, width=64, height=64, sampler_name="Euler", scheduler="Automatic",
        do_not_save_samples=True, do_not_save_grid=True)  # fmt: skip
    sides = [(labels.index(label), values, []) for label, values in (x, y, ("Nothing", ""))]
    with call_queue.queue_lock, contextlib.closing(p):
        p.scripts, p.script_args = scripts.ScriptRunner(), []
        made = script.run(p, *sides[0], *sides[1], *sides[2], True, True, False, False, False, False, False,
                          0, True)  # fmt: skip
    return made.images[1:], made.infotexts[1:]


@pytest.mark.usefixtures("grids_are_not_saved")
def test_our_axes_in_the_xyz_plot_draw_what_their_prompts_say():
    images, told = plotted(
        ("[LoRA] UNet strength", "0-1:0.5"), ("[LoRA] File", "style,eyes"), "a cat<lora:x:1>"
    )
    tags = [f"<lora:{name}:1:{unet}>" for name in ("style", "eyes") for unet in ("0", "0.5", "1")]
    assert [text.split("\n")[0] for text in told] == [f"a cat{tag}" for tag in tags]
    assert all((np.asarray(image, int) == drawn(tag)).all() for image, tag in zip(images, tags, strict=True))
    images, told = plotted(("[LoRA] Block weights", f'NONE; "{WEIGHTS}"'), ("[LoRA] Block ID", "IN04"),
                           "a cat<lora:style:1>")  # fmt: skip
    assert told[0].split("\n")[0].startswith("a cat<lora:style:1:lbw=0,0,0,0,0,1,0")
