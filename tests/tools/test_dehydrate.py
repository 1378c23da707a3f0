"""Checkpoints as differences: the very file comes back, whatever its tensors are, and from its base alone."""

from __future__ import annotations

import hashlib
import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.cli import main
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.tools.dehydrate import Dehydrate, Rehydrate
from lora_train.tools.opened import Opened
from lora_train.tools.packed import pack, unpack
from tests.hosts.tiny_checkpoints import DEMO

BASE = DEMO / "demo.safetensors"


@pytest.fixture(scope="module")
def tuned(tmp_path_factory) -> pathlib.Path:
    """A fine-tune of the demo's denoiser, with other things that files have."""
    rng = torch.Generator().manual_seed(1)
    tensors = load_file(BASE)
    for name, value in tensors.items():
        if name.startswith("model.diffusion_model.") and value.ndim > 1:
            tensors[name] = (value.float() + 1e-3 * torch.randn(value.shape, generator=rng)).to(value)
    tensors["odd"] = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    tensors["scalar"] = torch.tensor(7)
    tensors["flags"] = torch.tensor([True, False])
    tensors["empty"] = torch.zeros(0, 3)
    path = tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
    save_file(tensors, path, {"mine": "é"})
    return path


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
def test_packed_bits_come_back(dtype, monkeypatch):
    rng = torch.Generator().manual_seed(2)
    bits = torch.randint(-(2**62), 2**62, (77,), generator=rng).view(torch.uint8)
    other = torch.randint(-(2**62), 2**62, (77,), generator=rng).view(torch.uint8)
    if dtype == torch.bool:
        value, beside = bits > 127, other > 127
    else:
        value, beside = bits.view(dtype), other.view(dtype)  # every pattern, NaN and infinity among them
    monkeypatch.setattr("lora_train.tools.packed.PIECE", 50)
    for near in (None, beside, value):
        data = pack(value, near)
        made = unpack(data, near, value.numel())
        assert torch.equal(made.view(torch.uint8), value.view(torch.uint8))
        for cut in (data[:-1], data[:5], b"", b"\7" + data[1:]):
            with pytest.raises(ValueError, match="packed"):
                unpack(cut, near, value.numel())
        with pytest.raises(ValueError, match="packed"):
            unpack(data, near, value.numel() - 1)


def test_the_very_file_comes_back_and_is_stored_smaller(tuned, tmp_path, capsys):
    small, again = tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    words = ["--model_org", str(BASE), "--save_to"]
    assert main(["dehydrate", *words, str(small), "--model_tuned", str(tuned), "--json"]) == 0
    assert main(["rehydrate", *words, str(again), "--difference", str(small)]) == 0
    assert again.read_bytes() == tuned.read_bytes()
    assert small.stat().st_size < 0.75 * tuned.stat().st_size
    assert '"equal": ' in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.safetensors", "small.safetensors"]


def test_a_checkpoint_in_another_precision_comes_back(tuned, tmp_path):
    half = tmp_path / "half.safetensors"
    save_file({k: v.bfloat16() if v.is_floating_point() else v for k, v in load_file(BASE).items()}, half)
    small, again = tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    report = build(Dehydrate, {"model_org": BASE, "model_tuned": half, "save_to": small}).run()
    assert report.facts["equal"] == report.facts["tensors"]  # the cast says all of it
    assert small.stat().st_size < half.stat().st_size / 20
    build(Rehydrate, {"model_org": BASE, "difference": small, "save_to": again}).run()
    assert again.read_bytes() == half.read_bytes()


def test_another_base_and_damage_are_refused_and_nothing_is_written(tuned, tmp_path):
    small, again = tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    build(Dehydrate, {"model_org": BASE, "model_tuned": tuned, "save_to": small}).run()
    values = {"model_org": BASE, "difference": small, "save_to": again}
    with pytest.raises(Mistake, match="expected demo.safetensors"):
        build(Rehydrate, {**values, "model_org": tuned}).run()
    with pytest.raises(Mistake, match="no such file"):
        build(Rehydrate, {**values, "model_org": tmp_path / "none.safetensors"}).run()
    _relabelled(small, tmp_path / "newer.safetensors", lora_train_difference="9")
    with pytest.raises(Mistake, match="made by a newer version"):
        build(Rehydrate, {**values, "difference": tmp_path / "newer.safetensors"}).run()
    data = bytearray(small.read_bytes())
    for at in (len(data) - 1000, len(data) // 2):
        data[at] ^= 255
    (tmp_path / "bad.safetensors").write_bytes(data)
    with pytest.raises(Mistake, match="is damaged"):
        build(Rehydrate, {**values, "difference": tmp_path / "bad.safetensors"}).run()
    with pytest.raises(Mistake, match="is there already"):
        build(Rehydrate, {**values, "save_to": small}).run()
    with pytest.raises(Mistake, match="made by|that dehydrate made"):
        build(Rehydrate, {**values, "difference": tuned}).run()
    longer = tmp_path / "longer.safetensors"
    longer.write_bytes(tuned.read_bytes() + b"more")
    with pytest.raises(Mistake, match="belong to no tensor"):
        build(Dehydrate, {"model_org": BASE, "model_tuned": longer, "save_to": again}).run()
    assert not again.exists()
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".safetensors"]


@pytest.mark.parametrize(
    "row",
    [
        {"dtype": "F4", "shape": [4]},
        {"dtype": "F32", "shape": "x"},
        {"shape": [4]},
        {"dtype": "F32", "shape": [None]},
    ],
)
def test_a_header_that_is_none_is_said(row, tmp_path):
    """Of a file that says all else right; and one that does not say what should come of it."""
    head = json.dumps({"a": {**row, "data_offsets": [0, 16]}}).encode()
    head = torch.tensor([*len(head).to_bytes(8, "little"), *head], dtype=torch.uint8)
    stored = torch.tensor([*pack(head, None)], dtype=torch.uint8)
    texts = {
        "lora_train_difference": "1",
        "lora_train_base_hash": hashlib.sha256(BASE.read_bytes()).hexdigest(),
    }
    values = {
        "model_org": BASE,
        "save_to": tmp_path / "again.safetensors",
        "difference": tmp_path / "a.safetensors",
    }
    for more in ({"lora_train_hash": "0" * 64}, {}):
        save_file({"header": stored}, tmp_path / "a.safetensors", {**texts, **more})
        with pytest.raises(Mistake, match="is damaged"):
            build(Rehydrate, values).run()
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def _relabelled(path, to, **texts) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        save_file(load_file(path), to, {**file.metadata(), **texts})


def test_at_a_rank_it_is_a_lora_that_knows_its_base(tmp_path):
    rng = torch.Generator().manual_seed(3)
    tensors = load_file(BASE)
    name = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
    out, inn = tensors[name].shape
    more = torch.randn(out, 2, generator=rng) @ torch.randn(2, inn, generator=rng) * 0.01
    wanted = {**tensors, name: tensors[name].float() + more}
    wanted = {k: v.float() if v.is_floating_point() else v for k, v in wanted.items()}
    save_file(wanted, tmp_path / "tuned.safetensors")
    small, again = tmp_path / "small.safetensors", tmp_path / "again.safetensors"
    build(Dehydrate, {"model_org": BASE, "model_tuned": tmp_path / "tuned.safetensors", "rank": 2,
                      "save_to": small}).run()  # fmt: skip
    key = "unet.middle_block.1.transformer_blocks.0.attn1.to_q"
    torch.testing.assert_close(Opened(small).change(key).matrix(), more, rtol=1e-2, atol=1e-4)
    build(Rehydrate, {"model_org": BASE, "difference": small, "save_to": again}).run()
    torch.testing.assert_close(load_file(again)[name].float(), wanted[name], rtol=1e-2, atol=1e-3)
    with pytest.raises(Mistake, match="expected demo.safetensors"):
        build(Rehydrate, {"model_org": tmp_path / "tuned.safetensors", "difference": small,
                          "save_to": tmp_path / "x.safetensors"}).run()  # fmt: skip
