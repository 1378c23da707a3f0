"""Values along an axis."""

import pytest

from lora_train.errors import Mistake
from lora_train.plots.axes import numbers


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
