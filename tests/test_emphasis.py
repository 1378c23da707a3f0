"""What people type in the WebUI, against the examples of its own documentation and by hand."""

from __future__ import annotations

import pytest

from lora_train.emphasis import BREAK, Named, literal, loras, pieces


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("normal text", [("normal text", 1.0)]),
        ("an (important) word", [("an ", 1.0), ("important", 1.1), (" word", 1.0)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1.0)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("((x))", [("x", 1.1 * 1.1)]),
        ("[x]", [("x", 1 / 1.1)]),
        ("(x:1.2)", [("x", 1.2)]),
        ("(x: -.5 )", [("x", -0.5)]),
        ("[x:1.2]", [("x:1.2", 1 / 1.1)]),
        ("x:1.2) )", [("x:1.2) )", 1.0)]),
        ("(x:1.2.3)", [("x:1.2.3)", 1.1)]),
        (r"a \\ b\c", [("a \\ bc", 1.0)]),
        ("", [("", 1.0)]),
        ("()", [("", 1.0)]),
    ],
)
def test_brackets_are_weights(text, read):
    assert pieces(text) == [(words, pytest.approx(weight)) for words, weight in read]


def test_brackets_within_brackets_multiply():
    read = pieces("a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).")
    assert [text for text, _ in read] == ["a ", "house", " ", "on", " a ", "hill", ", sun, ", "sky", "."]
    weights = [1, 1.1**2 * 1.3, 1.1, 1, 1.1, 0.55, 1.1, 1.1**4, 1.1]
    assert [weight for _, weight in read] == pytest.approx(weights)


def test_break_stands_by_itself_and_takes_the_blanks_around_it():
    assert pieces("a cat BREAK\n a dog") == [("a cat", 1.0), BREAK, ("a dog", 1.0)]
    assert pieces("BREAK BREAK") == [("", 1.0), BREAK, ("", 1.0), BREAK, ("", 1.0)]
    assert pieces("BREAKFAST") == [("BREAKFAST", 1.0)]


@pytest.mark.parametrize("text", ["miku (vocaloid)", r"miku \(vocaloid\)", "[a", "a:1.2)", "\\", "(a:1.3)"])
def test_what_is_made_literal_is_read_as_it_stands(text):
    assert pieces(literal(text)) == [(text, 1.0)]


@pytest.mark.parametrize(
    ("tag", "named"),
    [
        ("<lora:a>", Named("a", 1, 1)),
        ("<lora:a:0.5>", Named("a", 0.5, 0.5)),
        ("<lora:a:0.5:1.2>", Named("a", 0.5, 1.2)),
        ("<lora:a:te=0.2>", Named("a", 0.2, 0.2)),
        ("<lora:a:unet=0.2>", Named("a", 1, 0.2)),
        ("<lora:a:0.5:te=0:unet=-1>", Named("a", 0, -1)),
        ("<lyco:my style v1.2:.5>", Named("my style v1.2", 0.5, 0.5)),
        ("<lora:a:1:0.5:lbw=1,0,R>", Named("a", 1, 0.5, "1,0,R")),
        ("<lora:a:0.5:OUTALL>", Named("a", 0.5, 0.5, "OUTALL")),
        ("<lora:a:0.5:1,0,X+0.1:2>", Named("a", 0.5, 0.5, "1,0,X+0.1", x=2)),
        ("<lora:a:0.5:OUTALL:ATTNDEEPOFF>", Named("a", 0.5, 0.5, "OUTALL", "ATTNDEEPOFF")),
        ("<lora:a:1:1:ATTNDEEPOFF>", Named("a", 1, 1, lbwe="ATTNDEEPOFF")),
        ("<lora:a:w= MIDD :unet=2:x=.5>", Named("a", 1, 2, "MIDD", x=0.5)),
        ("<lora:a:1:1:lbw=ALL|IN05-OUT05:attn:0:start=5>", Named("a", lbw="ALL|IN05-OUT05:attn:0", start=5)),
        ("<lora:a:1:ALL|IN05:attn:0,OUT00::2|:x:1:3>", Named("a", lbw="ALL|IN05:attn:0,OUT00::2|:x:1", x=3)),
        ("<lora:a:1:lbw=ALL|ATTNDEEPOFF:x=2>", Named("a", lbw="ALL|ATTNDEEPOFF", x=2)),
        ("<lora:a:1:ALL|ATTNDEEPOFF:2>", Named("a", lbw="ALL|ATTNDEEPOFF", x=2)),
        ("<lora:a:1:start=5:stop=20>", Named("a", start=5, stop=20)),
        ("<lora:a:1:step=5-20>", Named("a", start=5, stop=20)),
        ("<lora:a:1:step=-20>", Named("a", stop=20)),
        ("<lora:x=1:0.5>", Named("x=1", 0.5, 0.5)),
    ],
)
def test_loras_are_taken_out_of_the_text(tag, named):
    assert loras(f"a cat{tag}, big") == ("a cat, big", [named])


def test_several_loras_come_in_their_order():
    text, named = loras("<lora:b:1>a <lora:a:2><lora:b:3> c <3 <:> <x:y>")
    assert text == "a  c <3 <:> <x:y>"
    assert [(one.name, one.te) for one in named] == [("b", 1), ("a", 2), ("b", 3)]


@pytest.mark.parametrize(
    ("tag", "complaint"),
    [
        ("<lora:a:strong>", "<lora:a:strong>: strong is no strength; expected a number such as 0.8"),
        ("<lora:a:nan>", "nan.*is no strength"),
        ("<lora:a:1:inf>", "inf.*is no strength"),
        ("<lora::1>", "expected a file's name"),
        ("<lora:a:1:1:8>", "a fourth value is not in this version"),
        ("<lora:a:dyn=8>", "a fourth value is not in this version"),
        ("<lora:a:1:start=soon>", "soon is no step; expected start=5"),
        ("<lora:a:1:step=5-x>", "x is no step"),
        ("<lora:a:1:x=much>", "much is no strength"),
        ("<hypernet:a:1>", "hypernetworks are not in this version"),
    ],
)
def test_what_cannot_be_named_is_refused(tag, complaint):
    with pytest.raises(ValueError, match=complaint):
        loras(tag)


def test_when_a_lora_acts_is_lora_block_weights_rule():
    """Its own words: nothing until sampling_step > start - 2, and nothing from sampling_step > stop - 2."""
    for start in range(6):
        for stop in (None, *range(6)):
            named = Named("a", start=start, stop=stop)
            acts = [step > start - 2 and not (stop is not None and step > stop - 2) for step in range(10)]
            assert [named.acts(step) for step in range(10)] == acts
            assert named.timed == (acts != [True] * 10)
