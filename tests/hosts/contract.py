"""What every host's Lent has to do: derive from Contract and give it a `lent` fixture."""

from __future__ import annotations

import contextlib

import pytest
import torch
from PIL import ImageChops

from lora_train import names
from lora_train.prompts import Prompt
from lora_train.train.recompute import recomputed

T = torch.tensor([17, 801])


def latents(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def pixels(batch: int = 2, height: int = 64, width: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(3)) * 2 - 1


def draws(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@contextlib.contextmanager
def scaled(layers):
    """A trained factor on every layer's output, as an adapter would be. -> {key: parameter}"""
    factors = {layer.key: torch.nn.Parameter(torch.ones(())) for layer in layers}
    handles = [
        layer.module.register_forward_hook(lambda _m, _x, out, f=factors[layer.key]: out * f.to(out))
        for layer in layers
    ]
    try:
        yield factors
    finally:
        for handle in handles:
            handle.remove()


def gradients(lent, blocks=()):
    layers = lent.layers()
    with scaled(layers) as factors, recomputed(blocks):
        lent.denoise(latents(), T, lent.encode(["a cat", "a dog"])).float().square().mean().backward()
    return {key: factor.grad for key, factor in factors.items()}


def modules(lent) -> dict[int, torch.nn.Module]:
    return {id(layer.module): layer.module for layer in lent.layers()}


class Contract:
    """The tests; `lent` is a small model on the CPU in float32."""

    arch = "sd1"  # one of names.ARCHS

    @pytest.fixture
    def lent(self):
        raise NotImplementedError

    def test_a_prediction_has_the_latents_shape(self, lent):
        cond = lent.encode(["a cat", "a dog"])
        assert cond.context.shape[:2] == (2, 77)
        assert lent.denoise(latents(), T, cond).shape == (2, 4, 8, 8)

    def test_a_sample_of_a_batch_does_not_know_the_others(self, lent):
        cond = lent.encode(["a cat", "a dog"])
        with torch.no_grad():
            both = lent.denoise(latents(), T, cond)
            one = lent.denoise(latents()[1:], T[1:], lent.encode(["a dog"]))
        torch.testing.assert_close(both[1:], one, rtol=1e-4, atol=1e-4)

    def test_pictures_become_scaled_latents(self, lent):
        mean = lent.encode_images(pixels(1, 64, 128))
        assert mean.shape == (1, 4, 8, 16)
        assert mean.dtype == torch.float32
        assert not mean.requires_grad

    def test_a_picture_is_drawn_from_its_own_generator(self, lent):
        both = lent.encode_images(pixels(), draws(1, 2))
        alone = lent.encode_images(pixels()[1:], draws(2))
        torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)
        assert not torch.equal(both, lent.encode_images(pixels()))
        assert torch.equal(both, lent.encode_images(pixels(), draws(1, 2)))

    def test_the_model_is_frozen_and_keeps_quiet(self, lent):
        for module in modules(lent).values():
            assert not module.training
            assert not any(p.requires_grad for p in module.parameters())

    def test_every_layer_has_a_key_of_its_own_in_a_file(self, lent):
        layers, arch = lent.layers(), self.arch
        keys = {names.file_key(layer.part, layer.path, arch): (layer.part, layer.path) for layer in layers}
        assert len(keys) == len(layers)
        assert {key: names.path_of(key, arch) for key in keys} == keys
        assert {layer.part for layer in layers} == {"unet", *names.ARCHS[arch].texts}
        assert {layer.arch for layer in layers} == {arch}

    def test_the_layers_shapes_are_their_weights(self, lent):
        for layer in lent.layers():
            assert layer.weight().shape == layer.shape
            assert not layer.weight().is_meta

    def test_gradients_reach_what_is_hooked_on_every_layer(self, lent):
        assert [key for key, gradient in gradients(lent).items() if gradient is None] == []

    def test_computing_activations_again_gives_the_same_gradients(self, lent):
        plain, again = gradients(lent), gradients(lent, lent.checkpoint_blocks())
        assert len(lent.checkpoint_blocks()) >= 20
        for key, gradient in plain.items():
            torch.testing.assert_close(again[key], gradient, msg=key)

    def test_hooks_come_off_without_a_trace(self, lent):
        def seen():
            return {
                i: (type(m), sorted(vars(m)), list(m.state_dict()), len(m._forward_hooks))
                for i, m in modules(lent).items()
            }

        lent.encode(["a cat"])
        before = seen()
        gradients(lent, lent.checkpoint_blocks())
        assert seen() == before
        assert all(p.grad is None for m in modules(lent).values() for p in m.parameters())

    def test_a_parked_part_comes_back_the_same(self, lent):
        first = lent.encode(["a cat"]).context, lent.encode_images(pixels(1))
        with scaled(lent.layers()) as factors:
            for part in ("vae", "text"):
                lent.park(part)
                lent.park(part)
            cond = lent.encode(["a cat"])
            cond.context.sum().backward()
            for part in names.ARCHS[self.arch].texts:  # hooks stayed
                assert any(factors[key].grad is not None for key in factors if key.startswith(part))
        assert torch.equal(first[0], cond.context)
        assert torch.equal(first[1], lent.encode_images(pixels(1)))

    def test_a_prompt_with_a_seed_is_the_same_picture_again(self, lent):
        prompt = Prompt("a cat", width=64, height=128, seed=5, sample_steps=2, sample_sampler="euler_a")
        first, again = lent.sample(prompt), lent.sample(prompt)
        assert first.size == (64, 128)
        assert first.tobytes() == again.tobytes()

    def test_what_a_host_does_draws_nothing_from_the_global_generator(self, lent):
        before = torch.get_rng_state()
        lent.sample(Prompt("a cat", width=64, height=64, sample_steps=1, sample_sampler="euler_a"))
        lent.encode_images(pixels(1), draws(1))
        lent.encode(["a cat"])
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.is_grad_enabled()

    def test_tokens_are_counted_without_start_and_end(self, lent):
        assert lent.tokens("a photo of a cat") == 5
        assert lent.tokens("") == 0
        assert lent.tokens("cat " * 100) == 100

    def test_a_caption_is_cut_where_it_is_no_longer_read(self, lent):
        assert lent.cut("a cat") == ("a cat", "")
        read, lost = lent.cut("cat " * 100)
        assert read + lost == "cat " * 100
        assert (lent.tokens(read), lent.tokens(lost)) == (75, 25)

    def test_emphasis_changes_a_caption_only_where_it_is_read(self, lent):
        with torch.no_grad():
            plain, loud, text = (
                lent.encode([caption], weighted=weighted).context
                for caption, weighted in (("a cat", True), ("a (cat:1.5)", True), ("a (cat:1.5)", False))
            )
            assert torch.equal(plain, lent.encode(["a cat"], weighted=False).context)
        assert (loud != plain).any(2).nonzero().tolist() == [[0, 2]]
        assert not torch.equal(text, loud)

    def test_a_word_is_read_as_the_vectors_it_is_given(self, lent):
        with torch.no_grad():
            plain, meant = lent.encode(["a cat"]), lent.encode(["a red big dog"])
            with lent.spoken("cat", lambda: lent.vectors("red big dog")):
                read, other = lent.encode(["a cat"]), lent.encode(["a dog"])
                assert (lent.tokens("a cat"), lent.tokens("a dog")) == (4, 2)
                with lent.spoken("cat", None):
                    assert torch.equal(lent.encode(["a cat"]).context, plain.context)
            assert torch.equal(other.context, lent.encode(["a dog"]).context)
            assert torch.equal(lent.encode(["a cat"]).context, plain.context)
        assert torch.equal(read.context, meant.context)
        if meant.vector is not None:
            assert torch.equal(read.vector, meant.vector)

    def test_a_learned_word_is_in_samples(self, lent):
        def drawn(text):
            return lent.sample(Prompt(text, width=64, height=64, seed=5, sample_steps=2, scale=12))

        def apart(one, other):
            return max(high for _, high in ImageChops.difference(one, other).getextrema())

        with lent.spoken("cat", lambda: lent.vectors("dog")):
            read = drawn("a cat")
        plain, meant = drawn("a cat"), drawn("a dog")
        assert apart(read, meant) <= 1 < apart(plain, meant)  # one: of a sum in another order

    def test_gradients_come_back_to_a_words_vectors_and_leave_the_table(self, lent):
        began = lent.vectors("dog")
        v = {part: torch.nn.Parameter(x.clone()) for part, x in began.items()}

        def summed():
            cond = lent.encode(["a cat", "cat, cat"])
            told = [cond.context] if cond.vector is None else [cond.context, cond.vector]
            rng = torch.Generator().manual_seed(1)
            return sum((x.double() * torch.randn(x.shape, generator=rng)).sum() for x in told)

        with lent.spoken("cat", lambda: v):
            summed().backward()
            for x in v.values():
                ahead, step = torch.nn.functional.normalize(x.grad, dim=-1), 2e-3 * float(x.detach().norm())
                with torch.no_grad():
                    x += step * ahead
                    above = summed()
                    x -= 2 * step * ahead
                    rise = (above - summed()) / (2 * step)
                    x += step * ahead
                assert rise.item() == pytest.approx(x.grad.norm().item(), rel=2e-2)
        assert {part: x.tolist() for part, x in lent.vectors("dog").items()} == {
            part: x.tolist() for part, x in began.items()
        }

    def test_an_autoencoder_has_an_id(self, lent):
        assert lent.vae_id == lent.vae_id != ""

    def test_the_schedule_is_stable_diffusions(self, lent):
        assert len(lent.schedule) == 1000
        assert lent.schedule.alphas_cumprod[-1].item() == pytest.approx(0.00466, rel=1e-3)
