"""What the report says on the page is there in Japanese."""

from __future__ import annotations

import json
import re

from lora_train.ui.page import ROOT
from lora_train.workshop.kinds import KINDS

TEXT = (ROOT / "javascript" / "lora_train_1_words_said_report.js").read_text(encoding="utf-8")
STRING = r'"((?:[^"\\]|\\.)*)"'


def rows(text: str, form: str) -> list[tuple[str, str]]:
    return [
        (json.loads(f'"{english}"'), json.loads(f'"{japanese}"'))
        for english, japanese in re.findall(form, text, re.MULTILINE)
    ]


SAID = rows(TEXT, rf"^\s+\[{STRING}, {STRING}\],$")


def test_every_kind_of_problem():
    known = [re.compile(re.sub(r"\\\{\w+\\\}", r"([\\d.]+)", re.escape(english))) for english, _ in SAID]
    said = [text for kind in KINDS.values() for text in (kind.title, kind.text)]
    assert not [text for text in said if not any(k.fullmatch(text) for k in known)]
    assert not [k.pattern for k in known if not any(map(k.fullmatch, said))]  # none that is said no more
    for english, japanese in SAID:
        assert {*re.findall(r"\{\w+\}", english)} == {*re.findall(r"\{\w+\}", japanese)}
