"""Trigger words: read as CLIP reads them, and what is said of them."""

import pytest

from lora_train.run import trigger


@pytest.mark.parametrize(
    "text",
    ["okara", "sks person", "Hello World 123 it's", "a_b-c!! (x:1.2)", "don't", "1girl", "snow-white", "a,b"],
)  # fmt: skip
def test_pieces_are_those_of_the_usual_tokenizer(text):
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.importorskip("ftfy", reason="without ftfy its older versions read punctuation otherwise")
    theirs = transformers.CLIPTokenizer.from_pretrained(str(trigger.CLIP), local_files_only=True)
    ours = [trigger.vocabulary()[piece] for piece in trigger.clip(text)]
    assert ours == theirs(text, add_special_tokens=False).input_ids


def test_tokens_are_counted_and_cut_between_words():
    counter = trigger.Counter()
    assert counter.count("a cat, okara") == 5
    assert counter.cut("a cat, okara", 4) == ("a cat,", " okara")
    assert counter.cut("a cat", 9) == ("a cat", "")


def test_letters_of_any_writing_are_told_apart():
    assert trigger.clip("café")[-1] == "café</w>"
    assert "".join(trigger.pieces("日本", trigger.clip))


@pytest.mark.parametrize("word", trigger.FREE)
def test_free_words_are_one_piece(word):
    assert trigger.clip(word) == [word + trigger.END]


def test_a_common_word_is_warned_of():
    found = trigger.look("dog")
    assert found["tokens"] == ["dog"]
    assert "dog is a common word" in found["warnings"][0]
    assert "ink and style are common words, number 455, 1,332 of" in trigger.look("ink, style")["warnings"][0]
    for fine in ("ohwx", "ohwx woman", "okara, a fox", ""):
        assert not [text for text in trigger.look(fine)["warnings"] if "common" in text]


def test_what_is_odd_about_a_trigger_is_said():
    said = trigger.look("Okara (the, red)")["warnings"]
    assert any("small letters" in text for text in said)
    assert any("comma" in text for text in said)
    assert any("brackets" in text for text in said)
    assert any("of the 75 tokens" in text for text in trigger.look("xqzvjkwpqxzvkjqw")["warnings"])


def test_free_words_are_like_the_one_that_is_asked_for():
    assert trigger.look("arm")["free"][0] == "arum"
    assert len(trigger.look("")["free"]) == trigger.SHOWN
    assert "ohwx" not in trigger.look("ohwx")["free"]


def test_another_tokenizer_may_be_given():
    assert trigger.look("a b", str.split)["tokens"] == ["a", "b"]
