"""What can vary along the side of a sheet, and how its values are written: "0, 0.5-1.0:0.25"."""

from __future__ import annotations

import math
import re

from lora_train.errors import Mistake

NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
SPAN = re.compile(rf"^({NUMBER})\s*-\s*({NUMBER})\s*:\s*({NUMBER})$")
MOST = 1000  # values of one axis; more is a slip of the hand


def numbers(text: str) -> list[float]:
    """Numbers and spans, separated by commas; a span is first-last:step and includes its last value.

    >>> numbers("0, 0.5-1.0:0.25")
    [0.0, 0.5, 0.75, 1.0]

    Raises:
        Mistake: something else stands there.
    """
    values: list[float] = []
    for word in (w.strip() for w in text.split(",")):
        span = SPAN.match(word)
        if span:
            values += _between(word, *map(float, span.groups()))
        elif re.fullmatch(NUMBER, word):
            values.append(float(word))
        else:
            raise Mistake(
                f"{word or text!r}: expected numbers such as 0, 0.5, 1 or a span such as 0.5-1.0:0.25"
            )
    return values


def _between(word: str, first: float, last: float, step: float) -> list[float]:
    if step <= 0 or last < first:
        raise Mistake(f"{word}: expected a span from a smaller to a larger number by a step above 0")
    count = math.floor((last - first) / step + 1e-9) + 1
    if count > MOST:
        raise Mistake(f"{word}: expected at most {MOST} values; this span has {count}")
    return [round(first + i * step, 10) for i in range(count)]
