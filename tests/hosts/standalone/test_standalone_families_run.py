"""Training SD 2.x and SDXL from the command line on, and their files in other hands."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_train.cli import main
from lora_train.prompts import Prompt
from lora_train.run.draw import Worn
from tests.hosts import tiny_loras

pytest.importorskip("diffusers")
from lora_train.hosts.standalone.loan import Loan  # noqa: E402
from tests.hosts.standalone.families import ARCHS, borrowed, pipeline  # noqa: E402
from tests.hosts.standalone.test_standalone_families import PREDICTIONS, drawn, from_diffusers  # noqa: E402
from tests.hosts.standalone.test_standalone_sample import THEIRS  # noqa: E402

SIDES = {"tall": (72, 144), "wide": (150, 70)}  # of the pictures
UNUSED = {
    "sd2": ("lora_te_text_model_encoder_layers_9_",),
    "sdxl": ("lora_te1_text_model_encoder_layers_1_",),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("pictures") / "1_thing"
    folder.mkdir()
    for name, (width, height) in SIDES.items():
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name} cat, " * 12, encoding="utf-8")
    return folder.parent


@pytest.fixture(scope="module")
def train(small, pictures, tmp_path_factory):
    """train("sdxl", "--flag", …): a run of two steps through the command line -> its file."""

    def train(arch: str, *words: object, into: pathlib.Path | None = None) -> pathlib.Path:
        out = into or tmp_path_factory.mktemp("out")
        usual = {
            "pretrained_model_name_or_path": small[arch], "train_data_dir": pictures, "output_dir": out,
            "output_name": "x", "resolution": 96, "network_dim": 2, "learning_rate": 0.02, "seed": 3,
            "max_train_steps": 2, "mixed_precision": "no", "device": "cpu", "save_precision": "float",
        }  # fmt: skip
        flags = [text for name, value in usual.items() for text in (f"--{name}", str(value))]
        flags += ["--enable_bucket", "--min_bucket_reso", "64", "--max_bucket_reso", "128"]
        assert main(["train", *flags, *map(str, words)]) == 0
        return out / "x.safetensors"

    return train


@pytest.fixture(scope="module", params=ARCHS)
def arch(request):
    return request.param


@pytest.fixture(scope="module")
def file(train, arch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in every test: those that compare files with this one want the same bits
    made = train(arch)
    torch.set_num_threads(threads)
    return made


def said(path) -> dict[str, str]:
    with safe_open(path, "pt") as f:
        return f.metadata()


def same(a: pathlib.Path, b: pathlib.Path) -> bool:
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)


# ── the file ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_files_keys_are_kohyas(file, arch):
    expected = {key for key in tiny_loras.layers(arch) if not key.startswith(UNUSED[arch])}
    tensors = load_file(file)
    assert {key.partition(".")[0] for key in tensors} == expected
    for key, (out, read) in tiny_loras.layers(arch).items():
        if key in expected:
            assert tensors[f"{key}.lora_down.weight"].shape == (2, read)
            assert tensors[f"{key}.lora_up.weight"].shape == (out, 2)
            assert tensors[f"{key}.alpha"].shape == ()


def test_every_layer_learns(file):
    still = {key for key, t in load_file(file).items() if key.endswith("lora_up.weight") and not t.any()}
    assert still == set()


def test_a_file_says_what_it_was_trained_on(file, arch):
    expected = {
        "sd2": ("True", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "v"),
        "sdxl": ("False", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora", "epsilon"),
    }
    keys = ("ss_v2", "ss_base_model_version", "modelspec.architecture", "modelspec.prediction_type")
    assert tuple(said(file)[key] for key in keys) == expected[arch]


def test_diffusers_draws_the_same_picture_from_our_file(small, file, arch, tmp_path):
    """With the denoiser and all text encoders. What two steps learn is little, so it is made more."""
    pytest.importorskip("peft")
    tensors = {k: t * 16 if k.endswith("up.weight") else t for k, t in load_file(file).items()}
    save_file(tensors, tmp_path / "x.safetensors", said(file))
    prompt = Prompt("a cat, sitting", "blurry", 64, 64, 5, 4, 7.5, "ddim")
    with borrowed(small[arch]) as lent:
        bare = drawn(lent, prompt)
        with Worn(lent, [tmp_path / "x.safetensors"]).at([1.0]):
            ours = drawn(lent, prompt)
    theirs = pipeline(small[arch], arch, THEIRS["ddim"](prediction_type=PREDICTIONS[arch]))
    theirs.load_lora_weights(tmp_path, weight_name="x.safetensors")
    texts = [getattr(theirs, name) for name in ("text_encoder", "text_encoder_2") if hasattr(theirs, name)]
    assert all(hasattr(model, "peft_config") for model in (theirs.unet, *texts))
    expected = from_diffusers(theirs, arch, prompt, negative_prompt="blurry")
    assert abs(ours - expected).max() <= 2
    assert abs(ours - bare).mean() > 5  # or the comparison would say nothing


def test_a_file_of_kohyas_goes_on(train, arch, tmp_path):
    """Which has the layers too that nothing comes through."""
    kohyas = tiny_loras.write(tmp_path / "k.safetensors", arch)
    more = load_file(train(arch, "--network_weights", kohyas, "--dim_from_weights", "--max_train_steps", 1))
    before = load_file(kohyas)
    assert set(more) - set(before) == set()
    moved = [key for key in more if not torch.equal(more[key], before[key].float())]
    assert all(not key.startswith(UNUSED[arch]) for key in moved)
    assert len(moved) > 100


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_resumed_run_that_computes_activations_again_is_the_same_to_the_bit(train, file, arch, tmp_path):
    train(arch, "--max_train_steps", 1, "--save_state", into=tmp_path)
    again = ["--gradient_checkpointing", "--resume", tmp_path / "x-state"]
    assert same(train(arch, *again, into=tmp_path), file)


def test_conds_on_disk_change_no_bit(train, tmp_path, monkeypatch):
    only = ["--network_train_unet_only", "--cache_text_encoder_outputs_to_disk"]
    plain = train("sdxl", *only[:1])
    assert same(train("sdxl", *only, into=tmp_path), plain)
    found = [load_file(path) for path in tmp_path.rglob("*.safetensors")]
    assert len([tensors for tensors in found if "context" in tensors and "vector" in tensors]) == len(SIDES)
    monkeypatch.setattr(Loan, "encode", None)  # they are read from there
    assert same(train("sdxl", *only, into=tmp_path), plain)


def test_each_text_encoder_has_a_rate_of_its_own(train):
    slow = train("sdxl", "--text_encoder_lr", "0.02", "1e-9")
    moved = {"lora_te1": 0.0, "lora_te2": 0.0}
    for key, tensor in load_file(slow).items():
        if key.endswith("up.weight") and key[:8] in moved:
            moved[key[:8]] = max(moved[key[:8]], tensor.abs().max().item())
    assert said(slow)["ss_text_encoder_lr"] == "[0.02, 1e-09]"
    assert moved["lora_te1"] > 1e-3
    assert 0 < moved["lora_te2"] < 1e-7


def test_the_denoiser_is_told_the_sizes_of_each_picture(train, monkeypatch):
    """The picture's own, where it is cut once it is resized, and the bucket's."""
    told = set()
    denoise = Loan.denoise

    def noted(lent, x_t, t, cond):
        told.update(tuple(map(int, row)) for row in cond.sizes.tolist())
        return denoise(lent, x_t, t, cond)

    monkeypatch.setattr(Loan, "denoise", noted)
    train("sdxl", "--network_train_unet_only")
    assert told == {(144, 72, 0, 0, 128, 64), (70, 150, 0, 4, 64, 128)}
