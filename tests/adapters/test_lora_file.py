"""Files: what is written, what is read, and what is refused with which words."""

from __future__ import annotations

import hashlib
import json
import pathlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import begun, entries, load, network_of, restore, save
from lora_train.adapters.lokr import factorization
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from tests.tiny import Tiny


@pytest.fixture
def layers():
    return Tiny().layers()


@pytest.fixture
def saved(layers, tmp_path):
    """saved(family) -> a file of a network of it, with something in it."""

    def write(family: Lora, name: str = "a", dtype: torch.dtype = torch.float32) -> pathlib.Path:
        network = Network(family, layers)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        path = tmp_path / f"{name}.safetensors"
        save(network, path, metadata={"ss_network_dim": str(family.dim)}, dtype=dtype)
        return path

    return write


def deltas(network: Network) -> dict[str, torch.Tensor]:
    return {key: adapter.delta().detach() for key, adapter in network.adapters.items()}


def header(path: pathlib.Path) -> tuple[dict, bytes]:
    """The header, and all that follows it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_has_sd_scripts_keys_shapes_and_hashes(saved, dtype):
    path = saved(Lora(dim=3, alpha=2, conv_dim=2), dtype=dtype)
    tensors = load_file(path)
    key = "lora_unet_down_blocks_0_downsamplers_0_conv"
    assert {n: tuple(t.shape) for n, t in tensors.items() if n.startswith(key)} == {
        f"{key}.lora_down.weight": (2, 8, 3, 3),
        f"{key}.lora_up.weight": (8, 2, 1, 1),
        f"{key}.alpha": (),
    }
    assert tensors["lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"].shape == (3, 16, 1, 1)
    assert tensors["lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"].shape == (3, 12)
    assert {t.dtype for t in tensors.values()} == {dtype}
    head, body = header(path)
    texts = head["__metadata__"]
    assert texts["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert texts["modelspec.hash_sha256"] == "0x" + texts["sshs_model_hash"]
    assert texts["sshs_legacy_hash"] == "e3b0c442"  # of nothing: a file below 1 MB
    assert texts["ss_network_dim"] == "3"


def test_equal_networks_give_equal_files(layers, tmp_path):
    network = Network(Lora(), layers)
    for name in ("a", "b"):
        save(network, tmp_path / name, metadata={"ss_seed": "1"}, dtype=torch.float16)
    assert header(tmp_path / "a") == header(tmp_path / "b")


def test_nothing_is_left_where_nothing_can_be_written(layers, tmp_path):
    network, blocked = Network(Lora(), layers), tmp_path / "folder"
    blocked.write_text("not a folder")
    with pytest.raises(Mistake, match="cannot be written"):
        save(network, blocked / "a.safetensors", metadata={}, dtype=torch.float16)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_said_and_leaves_the_old_file(saved, layers, tmp_path):
    path = saved(Lora())
    before = path.read_bytes()
    (tmp_path / "a.safetensors.part").symlink_to("/dev/full")
    with pytest.raises(Mistake, match=r"a\.safetensors: cannot be written \(No space left"):
        save(Network(Lora(), layers), path, metadata={}, dtype=torch.float16)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["model.diffusion_model.out.2.weight"], "a whole checkpoint"),
        (["first_stage_model.decoder.conv_in.weight"], r"an autoencoder \(VAE\)"),
        (["encoder.conv_in.weight", "decoder.up.0.block.0.conv1.weight"], r"an autoencoder \(VAE\)"),
        (["decoder.up_blocks.0.resnets.0.conv1.weight"], r"an autoencoder \(VAE\)"),
        (["down_blocks.0.resnets.0.conv1.weight"], "a bare UNet"),
        (["text_model.encoder.layers.0.mlp.fc1.weight"], "a text encoder"),
        (["emb_params"], "a textual inversion embedding"),
        (["network.unet_input.down", "optimizer.0.exp_avg"], "the state of a run"),
        (["lora_unet_conv_in.oft_diag"], "an OFT of LyCORIS before"),
        (["lora_unet_conv_in.a1.weight", "lora_unet_conv_in.bm.weight"], "a GLoRA with Tucker"),
        (["transformer.blocks.0.attn.to_q.lora_A.weight"], "a LoRA for another model"),
        (["lora_unet_double_blocks_0_img_mlp_0.lora_down.weight"], "a LoRA for another model"),
        (["some.weight"], "a file with keys like some.weight"),
    ],
)
def test_what_is_no_lora_is_called_what_it_is(tmp_path, names, kind):
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "x.safetensors")
    expected = "x.safetensors: expected a LoRA for SD 1.x, SD 2.x, SDXL"
    with pytest.raises(Mistake, match=f"{expected}; this is {kind}"):
        load(tmp_path / "x.safetensors")


def test_files_that_are_none_of_all_that(tmp_path):
    with pytest.raises(Mistake, match="no such file"):
        load(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0half")
    with pytest.raises(Mistake, match="is cut short; download or copy it again|is not a .safetensors file"):
        load(tmp_path / "a.safetensors")
    (tmp_path / "a.ckpt").write_bytes(b"")
    with pytest.raises(Mistake, match="opening a pickle can run code"):
        load(tmp_path / "a.ckpt")


def test_layers_of_another_model_are_named(layers, tmp_path):
    sdxl = "lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q.lora_down.weight"
    with pytest.raises(Mistake, match="not made for SD 1.x: 1 of 1 entries .lora_unet_input_blocks_7"):
        network_of({sdxl: torch.zeros(4, 4)}, layers)
    absent = "lora_unet_down_blocks_2_attentions_0_proj_in"  # of SD 1.x, but not of the tiny model
    tensors = {f"{absent}.lora_down.weight": torch.zeros(4, 8), f"{absent}.lora_up.weight": torch.zeros(8, 4)}
    with pytest.raises(Mistake, match="b: made for another model: 1 of 1 entries .unet.input_blocks.7"):
        network_of(tensors, layers, name="b")


def test_a_layer_of_another_shape_is_named(layers, saved):
    tensors = load_file(saved(Lora()))
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight"
    with pytest.raises(Mistake, match=r"attn2\.to_k is for a layer of 16 x 1024 values, not 16 x 12"):
        network_of({**tensors, name: torch.zeros(4, 1024)}, layers)
    with pytest.raises(Mistake, match=r"attn2\.to_k has factors of dims 2 and 4"):
        network_of({**tensors, name: torch.zeros(2, 12)}, layers)
    with pytest.raises(Mistake, match=r"attn2\.to_k has alpha, lora_up\.weight; expected"):
        network_of({k: v for k, v in tensors.items() if k != name}, layers)


def test_every_layer_has_the_rank_and_alpha_of_the_file(layers, saved):
    file = saved(Lora(dim=8, alpha=2, conv_dim=3, conv_alpha=5))
    network = network_of(load(file)[0], layers)
    assert {(a.rank, a.alpha) for a in network.adapters.values()} == {(8, 2.0), (3, 5.0)}
    assert all(torch.equal(t, load_file(file)[name]) for name, t in entries(network).items())


def test_without_alpha_it_is_the_rank(layers, saved):
    tensors = {k: v for k, v in load(saved(Lora(dim=8)))[0].items() if not k.endswith(".alpha")}
    assert {a.alpha for a in network_of(tensors, layers).adapters.values()} == {8.0}


def test_names_of_other_spellings_are_read(layers, saved):
    """lora_te1_ of SDXL trainers, and LDM's names of the denoiser, as the WebUI reads them."""
    tensors = load(saved(Lora()))[0]
    others = {"lora_te_": "lora_te1_", "lora_unet_mid_block_attentions_0": "lora_unet_middle_block_1"}
    spelled = tensors
    for ours, theirs in others.items():
        spelled = {name.replace(ours, theirs): tensor for name, tensor in spelled.items()}
    assert spelled.keys() != tensors.keys()
    assert entries(network_of(spelled, layers)).keys() == tensors.keys()


def test_going_on_starts_where_the_file_ends(layers, saved):
    first = saved(Lora(dim=8, alpha=2, conv_dim=3))
    expected = deltas(network_of(load(first)[0], layers))
    for family in (
        Lora(dim=8, alpha=2, conv_dim=3, weights=first),
        Lora(weights=first, dim_from_weights=True),
    ):
        again = deltas(begun(family, layers))
        assert again.keys() == expected.keys()
        assert all(torch.equal(again[key], expected[key]) for key in expected)


def test_another_alpha_than_the_files_changes_nothing_at_the_start(layers, saved):
    first = saved(Lora(dim=8, alpha=2))
    expected = deltas(network_of(load(first)[0], layers))
    again = begun(Lora(dim=8, alpha=6, weights=first), layers)
    assert {a.alpha for a in again.adapters.values()} == {6.0}
    for key, delta in deltas(again).items():
        torch.testing.assert_close(delta, expected[key])


def test_another_dim_than_the_files_is_refused(layers, saved):
    first = saved(Lora(dim=8))
    with pytest.raises(Mistake, match=r"a\.safetensors: \S+ has dim 8, not 4; set network\.dim_from_weights"):
        begun(Lora(dim=4, weights=first), layers)


def test_layers_that_would_get_lost_are_refused_and_new_ones_start_afresh(layers, saved):
    first = saved(Lora(conv_dim=2))
    with pytest.raises(
        Mistake, match=r"entries \(unet\.\S+, …\) are not in this network; set network\.dim_from"
    ):
        begun(Lora(weights=first), layers)
    plain = saved(Lora(), "b")
    network = begun(Lora(conv_dim=2, weights=plain), layers)
    fresh = {key for key, adapter in network.adapters.items() if not adapter.up.any()}
    assert fresh == network.adapters.keys() - network_of(load(plain)[0], layers).adapters.keys() != set()


@pytest.mark.parametrize("how", [{}, {"dim_from_weights": True}])
def test_a_part_that_is_not_trained_is_left_out_with_a_word(layers, saved, caplog, how):
    network = begun(Lora(weights=saved(Lora()), train_unet_only=True, **how), layers)
    assert set(network.parts()) == {"unet"}
    assert "of the part that is not trained is left out" in caplog.text


def test_restoring_gives_the_same_tensors(layers, saved):
    tensors = load(saved(Lora()))[0]
    network = Network(Lora(), layers)
    restore(network, tensors)
    assert all(torch.equal(t, tensors[name]) for name, t in entries(network).items())


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_a_file_of_another_family_says_which(layers, tmp_path, kind):
    file = tmp_path / "other.safetensors"
    save(Network(FAMILIES[kind](), layers), file, metadata={}, dtype=torch.float32)
    with pytest.raises(Mistake, match=f"holds a {kind.title()}; set network.kind = {kind}"):
        begun(Lora(weights=file), layers)
    ours = entries(begun(FAMILIES[kind](weights=file, dim_from_weights=True), layers))
    assert all(torch.equal(ours[name], tensor) for name, tensor in load(file)[0].items())
    assert entries(network_of(load(file)[0], layers)).keys() == ours.keys()


def test_lokr_shares_channels_out_as_lycoris():
    """Its `factorization` (3.4.0), by the documented rule: near to a square, the smaller first."""
    assert [factorization(n, -1) for n in (127, 128, 250, 360, 512, 1024)] == [
        (1, 127), (8, 16), (10, 25), (18, 20), (16, 32), (32, 32)]  # fmt: skip
    assert [factorization(n, 4) for n in (127, 128, 250, 360, 512, 1024)] == [
        (1, 127), (4, 32), (2, 125), (4, 90), (4, 128), (4, 256)]  # fmt: skip
