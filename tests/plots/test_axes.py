"""Values along an axis."""

import pytest

from lora_train.errors import Mistake
from lora_train.plots.axes import listed, named, numbers, words


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0, 0.5-1.0:0.25", [0, 0.5, 0.75, 1.0]),
        ("1", [1.0]),
        ("-1,0.5", [-1.0, 0.5]),
        ("-1-1:1", [-1, 0, 1]),
        ("0-0.3:0.1", [0, 0.1, 0.2, 0.3]),  # in binary 3 * 0.1 is above 0.3
    ],
)
def test_spans_include_their_last_value(text, values):
    assert numbers(text) == values


@pytest.mark.parametrize(
    "text", ["", "a", "1,", "1-0:0.5", "0-1:0", "0-1", "0-1000:0.001", "0-1:1e-320", "0-1e999:1"]
)
def test_what_is_no_number_is_refused(text):
    with pytest.raises(Mistake, match="expected"):
        numbers(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('"a, b.safetensors", c', ["a, b.safetensors", "c"]),
        ('C:\\x\\a.s; "d; e"\nf', ["C:\\x\\a.s", "d; e", "f"]),
        ('"say ""a, b""",c', ['say "a, b"', "c"]),
        ('a "b", c', ['a "b"', "c"]),  # quotes within a value are letters
        ('"a" and b, c', ['"a" and b', "c"]),
        ('"a, b', ['"a', "b"]),  # one that is never closed, too
        (" , ;", []),
    ],
)
def test_a_value_with_commas_stands_in_quotes(text, values):
    assert named(text) == values
    assert named(listed(values)) == values


def test_prompts_keep_their_commas_and_quotes():
    assert words('a "big" cat, sitting; a dog') == ['a "big" cat, sitting', "a dog"]
    assert words('"a cat; asleep"; a dog') == ["a cat; asleep", "a dog"]
