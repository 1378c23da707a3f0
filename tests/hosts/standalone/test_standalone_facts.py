"""What a model is and predicts, by all that says so: settings beside it, words in it, the person, a trial."""

from __future__ import annotations

import dataclasses
import json
import logging
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.noise import Schedule
from lora_train.prompts import Prompt

diffusers = pytest.importorskip("diffusers")
from lora_train.hosts.standalone.host import StandaloneHost  # noqa: E402
from lora_train.hosts.standalone.load import hollow  # noqa: E402
from lora_train.hosts.standalone.loan import Loan  # noqa: E402
from lora_train.hosts.standalone.sample import scheduler  # noqa: E402
from lora_train.models.facts import USUAL, Facts, of_file, of_folder  # noqa: E402
from lora_train.models.files import find  # noqa: E402
from lora_train.weights import open_weights  # noqa: E402
from tests.hosts import tiny_checkpoints  # noqa: E402
from tests.hosts.standalone.families import borrowed  # noqa: E402

UNET, FIRST = "model.diffusion_model.", "input_blocks.0.0.weight"


@pytest.fixture(scope="module")
def tensors(small):
    return {arch: load_file(path) for arch, path in small.items()}


@pytest.fixture
def write(tmp_path, small, tensors):
    """write("sdxl", more, without="…", metadata=…): a changed checkpoint, with or without its .yaml."""

    def write(arch, more=None, *, without=(), metadata=None, beside=True):
        kept = {key: t for key, t in tensors[arch].items() if not key.startswith(tuple(without) or "\0")}
        save_file(kept | (more or {}), tmp_path / "a.safetensors", metadata)
        if beside:
            (tmp_path / "a.yaml").write_bytes(small[arch].with_suffix(".yaml").read_bytes())
        return tmp_path / "a.safetensors"

    yield write
    for path in tmp_path.rglob("*.*"):
        path.unlink()  # 70 megabytes each


def shapes(tmp_path, names, metadata=None):
    """An open file of empty tensors of these names."""
    save_file({name: torch.zeros(0) for name in names} or {"x": torch.zeros(1)}, tmp_path / "b.safetensors",
              metadata)  # fmt: skip
    return open_weights(tmp_path / "b.safetensors")


# ── facts ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_yaml_beside_a_file_is_read(small):
    facts = find(small["sd2"]).facts
    assert facts == Facts("sd2", head_width=8, text_activation="gelu", prediction="v")
    assert facts.by == "its .yaml says"
    facts = find(small["sdxl"]).facts
    assert facts == Facts("sdxl", head_width=8, text_heads=facts.text_heads, prediction="epsilon",
                          text_activation=facts.text_activation, scale=0.13025,
                          empty_is_zero=True)  # fmt: skip


@pytest.mark.parametrize(("scaling", "prediction"), [("EpsScaling", "epsilon"), ("VScaling", "v")])
def test_sdxls_yaml_names_a_kind_of_scaling(small, tmp_path, scaling, prediction):
    settings = json.loads(small["sdxl"].with_suffix(".yaml").read_text())
    settings["model"]["params"]["denoiser_config"]["params"]["scaling_config"]["target"] = f"a.b.{scaling}"
    settings["model"]["params"]["scale_factor"] = 0.2
    weights = shapes(tmp_path, ["v_pred"])  # before which a .yaml goes
    (tmp_path / "b.yaml").write_text(json.dumps(settings))
    facts = of_file(weights, "sdxl")
    assert (facts.prediction, facts.by, facts.scale) == (prediction, "its .yaml says", 0.2)
    settings["model"]["params"]["denoiser_config"]["params"]["scaling_config"]["target"] = "a.EDMScaling"
    (tmp_path / "b.yaml").write_text(json.dumps(settings))
    with pytest.raises(Mistake, match=r"b\.yaml: expected a checkpoint's settings"):
        of_file(weights, "sdxl")


@pytest.mark.parametrize(
    ("arch", "names", "metadata", "prediction", "by"),
    [
        ("sd1", [], None, "epsilon", "is usual"),
        ("sd2", [], None, None, "is usual"),
        ("sdxl", [], None, "epsilon", "is usual"),
        ("sdxl", ["v_pred"], None, "v", "its entry v_pred says"),
        ("sd2", [], {"modelspec.prediction_type": "v"}, "v", "its metadata say"),
        ("sd2", [], {"modelspec.prediction_type": "epsilon"}, "epsilon", "its metadata say"),
        ("sd2", [], {"modelspec.prediction_type": "flow"}, None, "is usual"),
        ("sd1", ["v_pred"], {"modelspec.prediction_type": "epsilon"}, "v", "its entry v_pred says"),
    ],
)
def test_a_file_may_say_what_it_predicts(tmp_path, arch, names, metadata, prediction, by):
    facts = of_file(shapes(tmp_path, names, metadata), arch)
    assert (facts.prediction, facts.by) == (prediction, by)
    assert facts == Facts(**{**vars(USUAL[arch]), "prediction": prediction})


def test_without_a_yaml_the_familys_standard_holds(small, tmp_path):
    """Heads of 64 channels; the small ones have no 64 to divide by."""
    for arch, path in small.items():
        link = tmp_path / f"{arch}.safetensors"
        link.symlink_to(path)
        assert find(link).facts == USUAL[arch]
        with pytest.raises(Mistake, match="0 heads for 32 channels"):
            hollow(find(link))


# ── the real models ─────────────────────────────────────────────────────────────────────────────────────────

REAL = {  # what `tiny_checkpoints` has small
    "sd2": {"CHANNELS": 320, "TOWER": 1024, "LAYERS": 24, "CONTEXT": {"sd2": 1024}},
    "sdxl": {
        "CHANNELS": 320, "TOWER": 1280, "LAYERS": 32, "CONTEXT": {"sdxl": 2048}, "VECTOR": {"sdxl": 2816},
        "LEVELS": {"sdxl": ((1, 2, 4), (0, 2, 10))}},
}  # fmt: skip
COUNTS = {  # of parameters, as known; SDXL's first text encoder is CLIP-L's 123 060 480 without a layer
    "sd2": {"unet": 865_910_724, "te1": 340_387_840},
    "sdxl": {"unet": 2_567_463_684, "te1": 123_060_480 - 7_087_872, "te2": 694_659_840},
}
LAYERS = {"sd2": {"unet": 192, "te1": 138}, "sdxl": {"unet": 722, "te1": 66, "te2": 192}}  # of kohya's LoRA


def clip_l():
    """Names and shapes of SDXL's first text encoder."""
    yield "embeddings.token_embedding.weight", (49408, 768)
    yield "embeddings.position_embedding.weight", (77, 768)
    for name in ("weight", "bias"):
        yield f"final_layer_norm.{name}", (768,)
    shapes = {"self_attn.q_proj": (768, 768), "self_attn.k_proj": (768, 768), "self_attn.v_proj": (768, 768),
              "self_attn.out_proj": (768, 768), "mlp.fc1": (3072, 768), "mlp.fc2": (768, 3072),
              "layer_norm1": (768,), "layer_norm2": (768,)}  # fmt: skip
    for i in range(12):
        for name, shape in shapes.items():
            yield f"encoder.layers.{i}.{name}.weight", shape
            yield f"encoder.layers.{i}.{name}.bias", shape[:1]


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_the_real_models_are_built_whole_from_their_names_and_shapes(tensors, monkeypatch, tmp_path, arch):
    for name, value in REAL[arch].items():
        monkeypatch.setattr(tiny_checkpoints, name, value)
    shapes = {k: tuple(t.shape) for k, t in tensors[arch].items() if k.startswith("first_stage_model.")}
    shapes |= {UNET + name: shape for name, shape in tiny_checkpoints.unet(arch)}
    shapes |= {tiny_checkpoints.TEXT[arch] + name: shape for name, shape in tiny_checkpoints.tower()}
    if arch == "sdxl":
        lead = "conditioner.embedders.0.transformer.text_model."
        shapes |= {lead + name: shape for name, shape in clip_l()}
    path = tmp_path / "real.safetensors"
    path.touch()
    weights = types.SimpleNamespace(path=path, shapes=shapes, metadata={})
    monkeypatch.setattr("lora_train.models.files.open_weights", lambda path: weights)
    made = hollow(find(path))
    counts = {part: sum(p.numel() for p in model.parameters()) for part, model in made.items()}
    assert {part: counts[part] for part in COUNTS[arch]} == COUNTS[arch]
    heads = {m.heads for m in made["unet"].modules() if type(m).__name__ == "Attention"}
    assert heads == {count for count in (5, 10, 20) if arch == "sd2" or count > 5}
    assert made["te1"].config.num_attention_heads == {"sd2": 16, "sdxl": 12}[arch]
    places = ("transformer_blocks", "attentions.", "encoder.layers.")
    linear = {
        part: sum(isinstance(m, torch.nn.Linear) and any(place in path for place in places)
                  for path, m in made[part].named_modules())
        for part in LAYERS[arch]}  # fmt: skip
    assert linear == LAYERS[arch]


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────


def changed(name, *shape):
    return {UNET + name: torch.zeros(*shape)}


REFUSED = {
    "edits": ("sdxl", changed(FIRST, 32, 8, 3, 3), (), "is a checkpoint for editing or with depth"),
    "with depth": ("sd2", changed(FIRST, 32, 5, 3, 3), (), "is a checkpoint for editing or with depth"),
    "unCLIP": (
        "sd2", {"embedder.model.ln_final.weight": torch.zeros(4)}, (), "an SD 2.x checkpoint for unCLIP"),
    "the refiner": (
        "sdxl", {"conditioner.embedders.0.model.ln_final.weight": torch.zeros(4)},
        ("conditioner.embedders.",), "is SDXL's refiner, not its base model"),
    "SSD-1B": ("sdxl", None, (f"{UNET}middle_block.1.",), "is SDXL with blocks taken out, as SSD-1B and"),
    "Segmind Vega": (
        "sdxl", None, (f"{UNET}output_blocks.1.1.transformer_blocks.2.",), "is SDXL with blocks taken out"),
    "SDXL without its second text encoder": (
        "sdxl", None, ("conditioner.embedders.1.",), "has no second text encoder"),
    "SDXL without its first text encoder": (
        "sdxl", None, ("conditioner.embedders.0.",), "has no text encoder"),
    "SD 2.x without an autoencoder": ("sd2", None, ("first_stage_model.",), "has no autoencoder"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_trained_is_refused_with_a_sentence(write, kind):
    arch, more, without, said = REFUSED[kind]
    with pytest.raises(Mistake, match="^model.pretrained_model_name_or_path = ") as e:
        find(write(arch, more, without=without))
    assert said in str(e.value)
    assert "expected an SD 1.x, SD 2.x or SDXL checkpoint" in str(e.value)


def test_a_denoiser_of_another_architecture_than_the_texts_is_refused(write):
    name = "input_blocks.1.1.proj_in.weight"
    with pytest.raises(Mistake, match="its denoiser and its text encoder are of two architectures; expected"):
        find(write("sd2", changed(name, 32, 32, 1, 1)))


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("text_projection", (256, 128), "reads texts 256 wide, and here they are 128"),
        ("transformer.resblocks.3.attn.in_proj_weight", (768, 128),
         "in_proj_weight is 256x128, expected 256x256"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(write, key, shape, said):
    with pytest.raises(Mistake, match=said):
        hollow(find(write("sdxl", {f"conditioner.embedders.1.model.{key}": torch.zeros(*shape)})))


@pytest.mark.parametrize("arch", ["sd2", "sdxl"])
def test_clip_skip_is_refused_before_the_start_and_at_it(small, arch):
    said = "was made with the last but one layer, which is always taken; leave it empty"
    with (
        pytest.raises(Mistake, match=rf"model\.clip_skip = 2: .* {said}"),
        borrowed(small[arch], clip_skip=2),
    ):
        pass
    job = assemble({"model.pretrained_model_name_or_path": small[arch], "data.train_data_dir": "p",
                    "model.clip_skip": 1})  # fmt: skip
    lines = StandaloneHost().refusals(*job)
    assert len(lines) == 1
    assert said in lines[0]


def test_a_second_text_encoders_rate_is_refused_where_there_is_none(small, reference):
    def lines(path):
        values = {"model.pretrained_model_name_or_path": path, "data.train_data_dir": "p"}
        return StandaloneHost().refusals(*assemble(values | {"lr.text_encoder_lr2": 1e-5}))

    assert lines(small["sdxl"]) == []
    for path, said in ((small["sd2"], "SD 2.x"), (reference / "tiny_sd1.safetensors", "SD 1.x")):
        assert lines(path) == [f"lr.text_encoder_lr2 = 1e-05: {said} has one text encoder; leave it empty"]


def test_it_is_refused_for_a_model_that_the_webui_has_not_loaded_yet(small, tmp_path):
    from lora_train.hosts.webui.host import _of_file

    job = assemble({"data.train_data_dir": "p", "lr.text_encoder_lr2": 1e-5})[0]
    assert _of_file(job, small["sdxl"]) == []
    assert "SD 2.x has one text encoder" in _of_file(job, small["sd2"])[0]
    (tmp_path / "odd.safetensors").write_bytes(b"odd")
    assert _of_file(job, tmp_path / "odd.safetensors") == []


# ── whom to believe ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arch", "told", "prediction", "line"),
    [
        ("sd2", None, "v", "The model is SD 2.x and predicts v, as its .yaml says."),
        (
            "sd2",
            False,
            "epsilon",
            "The model is SD 2.x and predicts noise, as model.v_parameterization says.",
        ),
        ("sdxl", None, "epsilon", "The model is SDXL and predicts noise, as its .yaml says."),
        ("sdxl", True, "v", "The model is SDXL and predicts v, as model.v_parameterization says."),
    ],
)
def test_a_persons_word_goes_before_the_files_and_what_is_taken_is_said(
    small, caplog, arch, told, prediction, line
):
    with caplog.at_level(logging.INFO), borrowed(small[arch], v_parameterization=told) as lent:
        assert lent.schedule.prediction == lent.origin.prediction == lent.facts.prediction == prediction
    assert line in caplog.text


def silent(*paths):
    """A model of which nobody says what it predicts."""
    found = find(*paths)
    return dataclasses.replace(found, facts=dataclasses.replace(found.facts, prediction=None))


@pytest.mark.parametrize(("sign", "prediction"), [(1, "epsilon"), (-1, "v")])
def test_an_sd2_of_which_nobody_says_it_is_tried(small, monkeypatch, caplog, sign, prediction):
    """Of nothing but noise the two differ in sign: noise is x itself, and v = sqrt(a) n - sqrt(1 - a) x_0 is
    about -x_0, which the model takes to be like x."""
    monkeypatch.setattr("lora_train.hosts.standalone.host.find", silent)
    monkeypatch.setattr(Loan, "denoise", lambda lent, x, t, cond: sign * 3 * x)
    with caplog.at_level(logging.INFO), borrowed(small["sd2"]) as lent:
        assert lent.schedule.prediction == lent.origin.prediction == prediction
        assert not lent.slots["unet"].here
    assert f"predicts {'v' if prediction == 'v' else 'noise'}, as a trial of it shows." in caplog.text


def test_a_trial_leaves_the_denoiser_as_it_was(small, monkeypatch):
    monkeypatch.setattr("lora_train.hosts.standalone.host.find", silent)
    with borrowed(small["sd2"]) as lent:
        assert lent.schedule.prediction in ("v", "epsilon")
        assert not any(slot.here for slot in lent.slots.values())


# ── schedules that end in noise ─────────────────────────────────────────────────────────────────────────────


def test_a_schedule_ends_in_noise_as_in_the_paper():
    """arXiv:2305.08891, algorithm 1: by betas there, in closed form here."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    expected = torch.cumprod(1 - diffusers.schedulers.scheduling_ddim.rescale_zero_terminal_snr(betas), 0)
    plain = Schedule.scaled_linear(prediction="v")
    found = plain.ending_in_noise()
    torch.testing.assert_close(found.alphas_cumprod.double(), expected, rtol=1e-4, atol=1e-7)
    assert found.alphas_cumprod[-1] == 0
    assert found.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0].item())
    assert found.prediction == "v"
    x, n, t = torch.randn(1, 4), torch.randn(1, 4), torch.tensor([999])
    assert torch.equal(found.noisy(x, n, t), n)
    assert torch.equal(found.target(x, n, t), -x)


def test_a_file_that_asks_for_it_is_trained_and_drawn_so(write, caplog):
    path = write("sdxl", {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)})
    with caplog.at_level(logging.INFO), borrowed(path, v_parameterization=True) as lent:
        assert lent.schedule.alphas_cumprod[-1] == 0
        assert "no signal is left (zero terminal SNR)" in caplog.text
        picture = np.asarray(lent.sample(Prompt("a cat", "", 64, 64, 5, 3, 5.0, "euler")))
        assert picture.std() > 5
    with borrowed(path) as lent:  # its .yaml says that it predicts noise
        assert lent.schedule.alphas_cumprod[-1] > 0
        assert "noise cannot be predicted" in caplog.text


def test_a_persons_word_goes_before_the_files_here_too(write, small, caplog):
    path = write("sdxl", {"ztsnr": torch.zeros(0)})
    with borrowed(path, v_parameterization=True, zero_terminal_snr=False) as lent:
        assert not lent.schedule.last_is_noise
        assert not lent.origin.last_is_noise
    with borrowed(small["sd2"], zero_terminal_snr=True) as lent:
        assert lent.schedule.last_is_noise
        assert lent.origin.last_is_noise
    with caplog.at_level(logging.WARNING), borrowed(small["sdxl"], zero_terminal_snr=True) as lent:
        assert lent.schedule.last_is_noise
        assert np.asarray(lent.sample(Prompt("a cat", "", 64, 64, 5, 3, 5.0, "euler"))).std() > 5
    assert "who predicts noise learns nothing" in caplog.text


LIKE_NOISE = "scale_v_pred_loss_like_noise_pred"


@pytest.mark.parametrize(
    ("arch", "values", "names"),
    [
        ("sdxl", {"model.zero_terminal_snr": True, "objective.min_snr_gamma": 5}, ["min_snr_gamma"]),
        ("sdxl", {"objective.min_snr_gamma": 5}, []),
        ("sdxl", {f"objective.{LIKE_NOISE}": True}, [LIKE_NOISE]),
        ("sd2", {"model.zero_terminal_snr": True, "objective.min_snr_gamma": 5}, []),
        ("sd2", {"objective.v_pred_like_loss": 1}, ["v_pred_like_loss"]),
        ("sd2", {"objective.v_pred_like_loss": 1, "model.v_parameterization": False}, []),
    ],
)
def test_a_loss_that_is_undefined_for_the_model_is_refused_before_it_is_loaded(small, arch, values, names):
    job = assemble({"model.pretrained_model_name_or_path": small[arch], "data.train_data_dir": "p", **values})
    lines = StandaloneHost().refusals(*job)
    assert [line.partition(":")[0] for line in lines] == [f"objective.{name}" for name in names]


@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpm++_2m"])
def test_schedulers_of_such_a_model_are_diffusers_own(sampler):
    schedule = Schedule.scaled_linear(prediction="v").ending_in_noise()
    ours = scheduler(sampler, USUAL["sdxl"], schedule)
    config = {name: value for name, value in ours.config.items() if not name.startswith("_")}
    theirs = type(ours)(**config | {"trained_betas": None, "rescale_betas_zero_snr": True})
    x, ends = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for steps in (ours, theirs):
        steps.set_timesteps(6)
        now = x * steps.init_noise_sigma
        for t in steps.timesteps:
            now = steps.step((steps.scale_model_input(now, t) * 0.3).tanh(), t, now).prev_sample
        ends.append(now)
    torch.testing.assert_close(*ends, rtol=2e-3, atol=2e-3)


def test_a_folder_may_ask_for_it_too(tmp_path):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    noise = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(noise))
    facts = of_folder(tmp_path, "sdxl")
    assert (facts.prediction, facts.last_is_noise, facts.empty_is_zero) == ("v", True, True)
