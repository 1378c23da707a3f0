"""What the text encoder reads: chunks, weights, and where a caption is cut."""

from __future__ import annotations

import pytest
import torch

from lora_train.host import Model

pytest.importorskip("diffusers")
from lora_train.hosts.standalone.host import StandaloneHost  # noqa: E402
from lora_train.hosts.standalone.tokens import CHUNK, Tokens  # noqa: E402


@pytest.fixture(scope="module")
def tokens():
    return Tokens()


@pytest.fixture(scope="module")
def weighted():
    return Tokens(weighted=True)


@pytest.fixture(scope="module")
def lent(reference):
    model = Model(reference / "tiny_sd1.safetensors", weighted_captions=True)
    with StandaloneHost().borrow(model, device="cpu", precision="no") as lent, torch.no_grad():
        yield lent


def lengths(chunks, end: int) -> list[int]:
    """Tokens of each chunk that are not there to fill it up."""
    assert all(len(chunk.ids) == len(chunk.weights) == CHUNK for chunk in chunks)
    return [sum(token != end for token in chunk.ids) for chunk in chunks]


# ── counting and cutting ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a photo of a cat", 5), ("cat " * 100, 100)])
def test_tokens_are_counted(tokens, text, count):
    assert tokens.count(text) == count


@pytest.mark.parametrize(
    "text", ["cat, dog, " * 40, "cat,dog," * 40, "cat\n" * 90, "(cat:1.2), " * 40, "é " * 99]
)
def test_a_text_is_cut_where_the_limit_is(tokens, weighted, text):
    for reader in (tokens, weighted):
        read, lost = reader.cut(text, CHUNK)
        assert read + lost == text
        if reader.count(text) <= CHUNK:
            assert lost == ""
        else:
            assert CHUNK - 8 <= reader.count(read) <= CHUNK
            assert reader.count(read + lost[:9]) > CHUNK - 8
            assert lost.strip()


def test_what_is_cut_is_what_the_text_encoder_does_not_read(tokens):
    text = ", ".join(f"tag number {i}" for i in range(60))
    read, _ = tokens.cut(text, CHUNK)
    assert tokens.caption(text, CHUNK)[0].ids[: tokens.count(read)] == tokens.ids(read)


def test_emphasis_takes_no_tokens_where_it_is_read(tokens, weighted):
    assert tokens.count("(cat:1.2), [dog]") > weighted.count("(cat:1.2), [dog]") == 3
    assert weighted.count(r"cat \(big\)") == weighted.count("cat") + 3
    assert weighted.count("a BREAK cat") == CHUNK + 1
    assert tokens.count("a BREAK cat") == 3


# ── captions ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_caption_fills_the_chunks_it_is_given(weighted):
    chunks = weighted.caption("(cat:1.5) " * 100, 225)
    assert lengths(chunks, weighted.end) == [75, 25, 0]
    assert chunks[0].weights == [1.5] * 75
    assert chunks[1].weights == [1.5] * 25 + [1.0] * 50
    assert lengths(weighted.caption("cat " * 100, 75), weighted.end) == [75]


def test_a_break_fills_up_a_captions_chunk(weighted):
    assert lengths(weighted.caption("a cat BREAK dog", 150), weighted.end) == [2, 1]
    assert lengths(weighted.caption("a cat BREAK dog", 75), weighted.end) == [2]


def test_weights_multiply_what_comes_of_their_tokens_and_nothing_else(lent):
    plain = lent.encode(["a big red cat"]).context
    loud = lent.encode(["a (big red:1.5) cat"]).context
    factors = torch.ones(77)
    factors[2:4] = 1.5  # behind the start and "a"
    assert torch.equal(loud, plain * factors[:, None])
    assert loud.mean() != plain.mean()  # as in sd-scripts, where it is not restored


def test_weights_reach_every_chunk_of_a_long_caption(reference):
    model = Model(reference / "tiny_sd1.safetensors", weighted_captions=True, max_token_length=150)
    with StandaloneHost().borrow(model, device="cpu", precision="no") as lent, torch.no_grad():
        plain = lent.encode(["cat " * 100]).context
        loud = lent.encode(["cat " * 80 + "(" + "cat " * 10 + ":0.5)" + " cat" * 10]).context
        assert plain.shape[1] == 152
        assert lent.cut("cat " * 151) == ("cat " * 149 + "cat", " cat ")
    factors = torch.ones(152)
    factors[81:91] = 0.5
    assert torch.equal(loud, plain * factors[:, None])


def test_brackets_are_text_unless_they_are_asked_for(lent):
    asked = lent.encode(["a (cat:1.2)"]).context
    assert torch.equal(lent.encode(["a (cat:1.2)"], weighted=True).context, asked)
    text = lent.encode(["a (cat:1.2)"], weighted=False).context
    assert not torch.equal(text, asked)
    assert torch.equal(text, lent.encode([r"a \(cat:1.2\)"]).context)
    assert torch.equal(lent.encode(["a cat"], weighted=False).context, lent.encode(["a cat"]).context)


# ── prompts ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_prompt_takes_as_many_chunks_as_it_needs_and_the_negative_as_many(tokens, lent):
    short, long = tokens.prompts("blurry", "cat " * 160)
    assert lengths(short, tokens.end) == [1, 0, 0]
    assert lengths(long, tokens.end) == [75, 75, 10]
    assert lent.encode_prompts("blurry", "cat " * 160).context.shape[:2] == (2, 3 * 77)


def test_words_behind_the_last_comma_move_to_the_next_chunk_together(tokens):
    """The WebUI's usual 20 tokens of "prompt word wrap"."""
    (wrapped,) = tokens.prompts("cat " * 64 + ", " + "dog " * 20)
    assert lengths(wrapped, tokens.end) == [65, 20]
    (far,) = tokens.prompts("cat " * 50 + ", " + "dog " * 30)
    assert lengths(far, tokens.end) == [75, 6]
    (comma,) = tokens.prompts("cat " * 75 + ", dog")
    assert lengths(comma, tokens.end) == [75, 2]


def test_breaks_of_a_prompt(tokens):
    (chunks,) = tokens.prompts("a BREAK b c BREAK")
    assert lengths(chunks, tokens.end) == [1, 2]
    (chunks,) = tokens.prompts("BREAK a")
    assert lengths(chunks, tokens.end) == [0, 1]


def test_a_plain_prompt_is_what_captions_are(lent):
    assert torch.equal(lent.encode_prompts("a cat").context, lent.encode(["a cat"]).context)


def test_emphasis_keeps_the_mean_of_its_chunk(lent):
    """The WebUI's "Original" emphasis: weights times hidden states, start and end too, then the mean."""
    text = "a (cat:1.4), " * 25
    plain = lent.encode_prompts(text.replace("(", "").replace(":1.4)", "")).context.unflatten(1, (-1, 77))
    loud = lent.encode_prompts("x", text).context[1:].unflatten(1, (-1, 77))
    torch.testing.assert_close(loud.mean((2, 3)), plain.mean((2, 3)), rtol=1e-4, atol=1e-6)
    ratio = (loud / plain).median(-1).values[0, 0]
    assert ratio[2] / ratio[1] == pytest.approx(1.4, rel=1e-4)
    assert ratio[0] == pytest.approx(ratio[1].item(), rel=1e-4)
