"""Block weights as prompts have them."""

from __future__ import annotations

import random

import pytest

from lora_train.blocks import BLOCKS, LISTS, PRESETS, BlockWeights, Element
from lora_train.spelling import Book

BOOK = Book()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_those_that_trainings_have(name):
    assert BOOK.weights(name.lower()) == BlockWeights.parse(name)


@pytest.mark.parametrize("count", LISTS)
def test_lists_name_their_blocks(count):
    read = BOOK.weights(",".join(str(i / 10) for i in range(count)))
    expected = {block: i / 10 for i, block in enumerate(LISTS[count])}
    assert read.values == tuple(expected.get(block, 0.0) for block in BLOCKS)


def test_x_stands_for_a_number():
    text = "X, X+0.1, x-.25, 0.5," + "0," * 7 + "1"
    assert BOOK.weights(text).values[0] == 1
    given = BOOK.weights(text, x=0.5).values
    assert [given[BLOCKS.index(block)] for block in LISTS[12][:4]] == pytest.approx([0.5, 0.6, 0.25, 0.5])


def test_random_values_are_drawn_anew_and_from_a_seed():
    text = ",".join(["R", "U"] * 13)
    first, again = (BOOK.weights(text, draw=random.Random(7)) for _ in range(2))
    assert first == again != BOOK.weights(text, draw=random.Random(8))
    assert BOOK.weights(text) != BOOK.weights(text)
    rng = random.Random(1)
    drawn = [BOOK.weights(text, draw=rng).values for _ in range(200)]
    rs, us = ([v for values in drawn for v in values[i::2]] for i in (0, 1))
    assert 0 <= min(rs) < 0.02 < 0.98 < max(rs) <= 1
    assert -0.5 <= min(us) < -0.47 < 1.47 < max(us) <= 1.5
    assert all(v == round(v, 3) for v in rs + us)


def test_elements_are_named_or_written_out():
    deep = Element("IN05-OUT05", "attn", 0.0)
    assert BOOK.weights("ALL", "attndeepoff").elements == (deep,)
    assert BOOK.weights("ALL|IN05-OUT05:attn:0").elements == (deep,)
    assert [e.words for e in BOOK.weights("ALL", "ATTNDEEPOFF+PROJDEEPOFF").elements] == ["attn", "proj"]


def test_a_persons_presets_stand_in_two_files(tmp_path):
    """In the form of lora-block-weight's, with its comments and several elements an entry."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    (one / "lbwpresets.txt").write_text(
        "HALF:" + ",".join(["0.5"] * 17) + "\n#x:1\nAll:0,0 # no\n\nbad line\n"
    )
    (two / "lbwpresets.txt").write_text("half:" + ",".join(["0.25"] * 12) + "\nRAND:" + ",".join(["R"] * 12))
    (two / "elempresets.txt").write_text(
        "A:IN05-OUT05:attn:0,OUT00::2\n\nB:BASE:mlp:0.5\nM00:NOT attn ff:-1\n\n\n#C:::1\n"
    )
    assert Book.read([tmp_path / "none"]) == BOOK
    book = Book.read([one, two])
    assert book.weights("HALF").values[0] == 0.25
    assert book.weights("ALL") == BlockWeights()
    assert book.weights("rand", draw=random.Random(1)).values[0] == round(random.Random(1).random(), 3)
    assert list(map(str, book.weights("ALL", "A+B").elements)) == [
        "IN05-OUT05:attn:0", "OUT00::2", "BASE:mlp:0.5", "M00:NOT attn ff:-1",
    ]  # fmt: skip
    assert "C" not in book.elements


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("MIDDLE", "MIDDLE: expected 12, 17, 20 or 26 values, or one of NONE, INS|.*OUTALL"),
        ("1,2,3", "expected 12, 17, 20 or 26 values, or one of NONE"),
        ("1," * 11 + "half", "half: expected a number, R, U, X"),
        ("1," * 11 + "inf", "expected 12, 17, 20 or 26 numbers"),
        ("1," * 60 + "1", "61 values are for Flux"),
        ("ALL|NONESUCH", "NONESUCH: expected BLOCKS:WORDS:RATIO"),
    ],
)
def test_what_is_no_list_is_refused(text, complaint):
    with pytest.raises(ValueError, match=complaint):
        BOOK.weights(text)
