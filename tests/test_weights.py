"""Files of weights: read tensor by tensor, refused with a reason."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lora_train.errors import Mistake
from lora_train.weights import DTYPES, content, hashes, open_weights


@pytest.fixture
def tensors():
    made = {str(d): torch.arange(6).view(2, 3).to(d) for d in DTYPES.values() if d is not torch.bool}
    return made | {
        "scalar": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
    }


def same(weights, tensors):
    found = dict(weights.read(tensors))
    return found.keys() == tensors.keys() and all(
        found[n].dtype == t.dtype and found[n].shape == t.shape and torch.equal(found[n].float(), t.float())
        for n, t in tensors.items()
    )


def test_every_type_of_tensor_is_read_as_it_was_written(tmp_path, tensors):
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    weights = open_weights(tmp_path / "a.safetensors")
    assert weights.shapes == {name: tuple(t.shape) for name, t in tensors.items()}
    assert same(weights, tensors)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_tensors_is_read(tmp_path, zipped):
    tensors = {"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.float16)}
    torch.save(
        {"epoch": 3, "state_dict": tensors}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped
    )
    assert same(open_weights(tmp_path / "a.ckpt"), tensors)


def test_what_lies_deeper_in_a_pickle_has_its_path(tmp_path):
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}, "name": "x"}, tmp_path / "a.pt")
    weights = open_weights(tmp_path / "a.pt")
    assert weights.shapes == {"string_to_param.*": (1, 768)}
    assert content(weights.shapes) == "an embedding (textual inversion)"


def test_safetensors_named_ckpt_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.ckpt")
    assert open_weights(tmp_path / "a.ckpt").shapes == {"a": (2,)}


def test_tensors_in_several_files_are_read_by_their_index(tmp_path):
    first, second = {"a": torch.ones(2), "c": torch.zeros(3)}, {"b": torch.full((2, 2), 7.0)}
    save_file(first, tmp_path / "x-1.safetensors")
    save_file(second, tmp_path / "x-2.safetensors")
    index = tmp_path / "x.safetensors.index.json"
    where = {"a": "x-1.safetensors", "b": "../x-2.safetensors", "c": "x-1.safetensors"}  # from there only
    index.write_text(json.dumps({"weight_map": where}))
    assert same(open_weights(index), first | second)
    assert [name for name, _ in open_weights(index).read(["b"])] == ["b"]
    index.write_text(json.dumps({"weight_map": where | {"d": "x-2.safetensors"}}))
    with pytest.raises(Mistake, match=r"index\.json: x-2\.safetensors has no d; download"):
        open_weights(index)
    (tmp_path / "x-2.safetensors").unlink()
    with pytest.raises(Mistake, match="x-2.safetensors: cannot be read"):
        open_weights(index)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": 7}', '{"weight_map": {"a": 7}}'])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "x.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(Mistake, match="is empty|expected an index of files of weights"):
        open_weights(path)


class Harmful:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": Harmful()}, tmp_path / "a.ckpt")
    with pytest.raises(Mistake, match="holds more than tensors"):
        open_weights(tmp_path / "a.ckpt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "start", "complaint"),
    [
        ("a.safetensors", b"", "is empty"),
        ("a.ckpt", b"", "is empty"),
        ("a.safetensors", b"hello", "is not a .safetensors file"),
        ("a.safetensors", b"PK\x03\x04" + b"0" * 50, "not a .safetensors file but a pickle"),
        ("a.safetensors", b"<!DOCTYPE html><html>", "but a web page"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("a.safetensors", (9).to_bytes(8, "little") + b'{"a": 12}', "is not a .safetensors file"),
        ("a.safetensors", (9).to_bytes(8, "little") + b'["a", 12]', "is not a .safetensors file"),
        ("a.safetensors", (900).to_bytes(8, "little") + b'{"a": {"dtype"', "is cut short"),
        ("a.ckpt", b"hello, this is text", "no file of tensors|damaged"),
        ("a.ckpt", b"PK\x03\x04" + b"0" * 50, "."),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path, name, start, complaint):
    (tmp_path / name).write_bytes(start)
    with pytest.raises(Mistake, match=complaint) as e:
        open_weights(tmp_path / name)
    assert str(e.value).startswith(str(tmp_path / name))


def test_a_file_cut_short_says_by_how_much(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(Mistake, match=rf"is cut short, {len(whole) - 7:,} of {len(whole):,} bytes"):
        open_weights(path)


def test_a_zip_cut_short_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"a": torch.ones(1000)}, path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(Mistake, match="damaged or cut short|holds more than tensors"):
        open_weights(path)


def test_a_tensor_that_does_not_fill_its_place_is_refused(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}'
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(Mistake, match="a does not fill its place"):
        list(open_weights(path).read(["a"]))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Mistake, match="cannot be read"):
        open_weights(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "a LoRA"),
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "a LoRA"),
        ("lora_unet_conv_in.hada_w1_a", "a LoRA"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "an SDXL checkpoint"),
        ("cond_stage_model.model.ln_final.bias", "an SD 2.x checkpoint"),
        ("model.diffusion_model.joint_blocks.0.x", "an SD 3 checkpoint"),
        ("double_blocks.0.img_attn.qkv.weight", "a Flux checkpoint"),
        ("emb_params", "an embedding"),
        ("control_model.input_blocks.0.0.weight", "a ControlNet"),
        ("first_stage_model.encoder.down.0.block.0.conv1.weight", "an autoencoder"),
        ("decoder.up_blocks.0.resnets.0.conv1.weight", "an autoencoder"),
        ("down_blocks.0.attentions.0.proj_in.weight", "a diffusers denoiser"),
        ("something.else", ""),
    ],
)
def test_a_files_content_is_told_by_its_names(name, kind):
    assert content({name: (4, 4)}).startswith(kind)
    assert kind or not content({name: (4, 4)})


@pytest.mark.parametrize(
    ("channels", "kind"),
    [(4, "an SD 1.x checkpoint"), (9, "an SD 1.x checkpoint for inpainting"), (8, "a checkpoint for edit")],
)
def test_a_denoiser_for_inpainting_is_told_by_its_input(channels, kind):
    shapes = {"model.diffusion_model.input_blocks.0.0.weight": (320, channels, 3, 3)}
    assert content(shapes).startswith(kind)


def test_a_small_files_old_hash_is_that_of_nothing(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hashes(tmp_path / "a") == (
        "e3b0c442",
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    )
