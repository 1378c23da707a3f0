"""The standalone host against the contract, against sd-scripts' records, and on its own."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.host import Cond, Model
from tests.hosts.contract import Contract, draws, latents, pixels

pytest.importorskip("diffusers")
from lora_train.hosts.standalone.host import StandaloneHost  # noqa: E402


def borrowed(path, precision="no", **settings):
    return StandaloneHost().borrow(Model(path, **settings), device="cpu", precision=precision)


def ids(lent, captions) -> torch.Tensor:
    """[B, chunks, 77]: what the text encoder is given."""
    rows = [lent.words.caption(caption, lent.model.max_token_length) for caption in captions]
    start, end = lent.words.start, lent.words.end
    return torch.tensor([[[start, *chunk.ids, end] for chunk in row] for row in rows])


@pytest.fixture(scope="module")
def tiny(reference):
    return reference / "tiny_sd1.safetensors"


@pytest.fixture(scope="module")
def shared(tiny):
    with borrowed(tiny) as lent:
        yield lent


class TestContract(Contract):
    @pytest.fixture
    def lent(self, shared):
        return shared


def test_the_first_loss_is_that_of_the_reference_trainer(reference, shared):
    """Before the first step a LoRA changes nothing, so this is the bare model's."""
    tape = load_file(reference / "lora_dim4" / "tape.safetensors")
    at = {name: tape[f"step0000/{name}"] for name in ("latents", "noise", "noisy", "timesteps", "input_ids")}
    caption = json.loads((reference / "lora_dim4" / "run.json").read_text())["steps"][0]["captions"]
    with torch.no_grad():
        cond = shared.encode([caption] if isinstance(caption, str) else caption)
        guess = shared.denoise(at["noisy"], at["timesteps"], cond)
    assert torch.equal(shared.schedule.noisy(at["latents"], at["noise"], at["timesteps"]), at["noisy"])
    loss = (guess - at["noise"]).square().mean().item()
    assert loss == pytest.approx(tape["step0000/loss"].item(), rel=1e-6)


def test_captions_become_the_reference_trainers_tokens(reference, shared):
    tape = load_file(reference / "lora_dim4" / "tape.safetensors")
    for i, step in enumerate(json.loads((reference / "lora_dim4" / "run.json").read_text())["steps"]):
        assert torch.equal(ids(shared, step["captions"]), tape[f"step{i:04d}/input_ids"])


def test_latents_are_drawn_around_the_mean_as_the_reference_trainer_draws_them(reference, shared):
    """Its latents are draws from the posterior: minus our mean, over our deviation, they are plain noise."""
    from PIL import Image

    tape = load_file(reference / "lora_dim4" / "tape.safetensors")
    picture = Image.open(reference / "data" / "10_photos" / "hubble.png").convert("RGB")
    side = min(picture.size)
    left, top = ((size - side) // 2 for size in picture.size)
    square = picture.crop((left, top, left + side, top + side)).resize((256, 256), Image.Resampling.BOX)
    x = torch.tensor(list(square.tobytes()), dtype=torch.float32).view(1, 256, 256, 3).permute(0, 3, 1, 2)
    with torch.no_grad():
        posterior = shared.slots["vae"].use().encode(x / 127.5 - 1).latent_dist
    noise = (tape["step0000/latents"] / shared.facts.scale - posterior.mean) / posterior.std
    assert abs(noise.mean()) < 0.1
    assert noise.std().item() == pytest.approx(1, abs=0.1)


def test_a_long_caption_goes_through_in_chunks_as_in_sd_scripts(tiny):
    """`get_input_ids` and `get_hidden_states` of sd-scripts' train_util, written down again."""
    caption = "a photo of a cat, " * 30
    with borrowed(tiny, max_token_length=225) as lent, torch.no_grad():
        ids = lent.words.tokenizer(
            caption, padding="max_length", truncation=True, max_length=227, return_tensors="pt"
        )
        ids = ids.input_ids[0]
        rows = [torch.cat([ids[:1], ids[i : i + 75], ids[-1:]]) for i in range(1, 227 - 77 + 2, 75)]
        hidden = lent.slots["te1"].use()(torch.stack(rows)).last_hidden_state.reshape(1, -1, 64)
        parts = [hidden[:, :1], *(hidden[:, i : i + 75] for i in range(1, 225, 77)), hidden[:, -1:]]
        context = lent.encode(["", caption]).context
    assert context.shape == (2, 227, 64)
    torch.testing.assert_close(context[1:], torch.cat(parts, 1), rtol=1e-5, atol=1e-5)


def test_a_caption_beyond_the_limit_is_cut(shared):
    long = shared.encode(["cat " * 100]).context
    assert torch.equal(long, shared.encode(["cat " * 75]).context)


def test_clip_skip_is_the_text_encoder_with_fewer_layers(tiny):
    with borrowed(tiny, clip_skip=3) as lent, torch.no_grad():
        skipped = lent.encode(["a cat"]).context
        text = lent.slots["te1"].use()
        trunk = getattr(text, "text_model", text)
        trunk.encoder.layers = trunk.encoder.layers[:-2]
        assert torch.equal(text(ids(lent, ["a cat"])[0]).last_hidden_state, skipped)


def test_clip_skip_beyond_the_layers_is_refused(tiny):
    with (
        pytest.raises(Mistake, match=r"model\.clip_skip = 13: the text encoder has 12 layers"),
        borrowed(tiny, clip_skip=13),
    ):
        pass


@pytest.mark.parametrize(("told", "prediction"), [(None, "epsilon"), (True, "v"), (False, "epsilon")])
def test_the_prediction_can_be_told(tiny, told, prediction):
    with borrowed(tiny, v_parameterization=told) as lent:
        assert lent.schedule.prediction == lent.origin.prediction == prediction


def test_in_bf16_weights_are_half_as_large_and_predictions_close(tiny, shared):
    with borrowed(tiny, "bf16") as lent, torch.no_grad():
        assert {layer.weight().dtype for layer in lent.layers()} == {torch.bfloat16}
        exact = shared.denoise(latents(), torch.tensor([1, 999]), shared.encode(["a", "b"]))
        rough = lent.denoise(latents(), torch.tensor([1, 999]), lent.encode(["a", "b"])).float()
        assert (rough - exact).std() < 0.03 * exact.std()
        mean = shared.encode_images(pixels())
        assert (lent.encode_images(pixels()) - mean).std() < 0.05 * mean.std()
        assert lent.vae_id != shared.vae_id  # its latents are rounded otherwise


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_without_a_half_autoencoder_latents_are_those_of_float32(tiny, shared, precision):
    with borrowed(tiny, precision, no_half_vae=True) as lent:
        assert torch.equal(lent.encode_images(pixels()), shared.encode_images(pixels()))
        assert torch.equal(lent.decode(latents()), shared.decode(latents()))
        assert {layer.weight().dtype for layer in lent.layers()} != {torch.float32}
        assert lent.vae_id == shared.vae_id


def test_an_autoencoder_that_overflows_in_fp16_goes_on_in_fp32(tiny, caplog):
    with borrowed(tiny, "fp16") as lent:
        large = lent.encode_images(pixels(1, 16, 16) * 7e4, draws(1))  # infinite in fp16
        assert large.isfinite().all()
        assert "overflows" in caplog.text
        assert lent.slots["vae"].module.encoder.conv_in.weight.dtype == torch.float32


def test_weights_come_when_they_are_used_and_go_when_parked(tiny):
    with borrowed(tiny) as lent:
        assert not any(slot.here for slot in lent.slots.values())
        lent.encode(["a cat"])
        assert [part for part, slot in lent.slots.items() if slot.here] == ["te1"]
        lent.park("text")
        assert not lent.slots["te1"].here


def test_drawing_leaves_parked_parts_parked(tiny):
    from lora_train.prompts import Prompt

    with borrowed(tiny) as lent:
        lent.sample(Prompt("a cat", width=64, height=64, sample_steps=1))
        assert [part for part, slot in lent.slots.items() if slot.here] == ["unet"]


def test_the_origin_is_what_the_webui_knows_the_file_by(tiny, shared):
    import hashlib

    content = tiny.read_bytes()
    assert shared.origin.name == "tiny_sd1.safetensors"
    assert shared.origin.new_hash == hashlib.sha256(content).hexdigest()
    assert shared.origin.old_hash == hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]


def test_no_device_no_loan(tiny):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    loan = StandaloneHost().borrow(Model(tiny), device="cuda", precision="no")
    with pytest.raises(Mistake, match=r"place\.device = cuda"), loan:
        pass


def test_nothing_is_asked_of_a_network(tiny, monkeypatch):
    import socket

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with borrowed(tiny) as lent:
        assert isinstance(lent.encode(["a cat"]), Cond)
