"""A run that ends as a whole checkpoint: loaded again, it is the model with what was learned on it."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

pytest.importorskip("diffusers")
from lora_train.cli import main  # noqa: E402
from lora_train.run.draw import Worn  # noqa: E402
from tests.hosts.standalone.families import borrowed  # noqa: E402
from tests.hosts.standalone.test_standalone_families_run import pictures, train  # noqa: E402, F401

NAME = "x-checkpoint.safetensors"
FULL = ("--network_module", "lycoris.kohya", "--network_args", "algo=full", "preset=full")
KINDS = {
    "full": (*FULL, "train_norm=True", "--learning_rate", "1e-3"),
    "lora": ("--network.kind", "lora", "--conv_dim", "2"),
}


def predictions(lent) -> list[torch.Tensor]:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        cond = lent.encode(["a tall cat", "ink, a dog"])
        guess = lent.denoise(x, torch.tensor([3, 900]), cond)
        return [cond.context, guess, *([cond.vector] if cond.vector is not None else [])]


@pytest.mark.parametrize(("arch", "kind"), [("sd2", "full"), ("sdxl", "full"), ("sdxl", "lora")])
def test_it_predicts_as_the_model_with_the_adapters(small, train, arch, kind):  # noqa: F811
    file = train(arch, *KINDS[kind], "--save_checkpoint")
    made = file.with_name(NAME)
    with borrowed(small[arch]) as lent:
        bare = predictions(lent)
        with Worn(lent, [file]).at([1.0]):
            worn = predictions(lent)
    with borrowed(made) as lent:
        whole = predictions(lent)
    for before, a, b in zip(bare, worn, whole, strict=True):
        assert (a - before).abs().max() > 1e-3
        assert (b - a).abs().max() < 1e-4 * max(1, a.abs().max())
    source, tensors = load_file(small[arch]), load_file(made)
    assert {key: value.shape for key, value in source.items()} == {k: v.shape for k, v in tensors.items()}
    vae = [key for key in source if key.startswith("first_stage_model.")]
    assert vae
    assert all(torch.equal(tensors[key], source[key].to(tensors[key])) for key in vae)
    with safe_open(small[arch], "pt") as before, safe_open(made, "pt") as after:
        assert {**(before.metadata() or {}), "format": "pt"} == after.metadata()
    beside = small[arch].with_suffix(".yaml")
    assert beside.exists() == made.with_suffix(".yaml").exists()


def test_it_is_in_half_precision_and_none_is_overwritten(small, train, tmp_path, capsys):  # noqa: F811
    words = (*FULL, "--save_checkpoint", "--save_precision", "fp16", "--network_train_unet_only")
    file = train("sd2", *words, into=tmp_path)
    made = file.with_name(NAME)
    floats = {v.dtype for v in load_file(made).values() if v.is_floating_point()}
    assert floats == {torch.float16}
    assert made.stat().st_mode == file.stat().st_mode
    before = made.stat().st_mtime_ns
    flags = ["--pretrained_model_name_or_path", str(small["sd2"]), "--train_data_dir", str(tmp_path)]
    flags += ["--output_dir", str(tmp_path), "--output_name", "x", "--save_checkpoint"]
    assert main(["train", *flags]) == 2
    assert "output.save_checkpoint: " in capsys.readouterr().err
    assert made.stat().st_mtime_ns == before
