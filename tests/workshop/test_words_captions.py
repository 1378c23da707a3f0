"""What works on captions, names and balance say is there in Japanese."""

from __future__ import annotations

import json
import pathlib
import re

import pytest

from lora_train.knobs import settings
from lora_train.workshop import WORKS

JAVASCRIPT = pathlib.Path(__file__).resolve().parents[2] / "javascript"
ROW = re.compile(r'^ +"((?:[^"\\]|\\.)*)": "((?:[^"\\]|\\.)*)",$', re.MULTILINE)


@pytest.mark.parametrize("name", ["captions", "tags", "spelling", "rename", "repeats", "import", "export"])
def test_every_setting_is_explained_in_japanese(name):
    files = sorted(JAVASCRIPT.glob("lora_train_1_words*.js"))
    rows = [row for file in files for row in ROW.findall(file.read_text(encoding="utf-8"))]
    there = {json.loads(f'"{english}"'): json.loads(f'"{japanese}"') for english, japanese in rows}
    wanted = {WORKS[name].said(), *(setting.help for setting in settings(WORKS[name]))}
    assert not wanted - there.keys()
    assert all(re.search("[ぁ-んァ-ヶ一-龠]", there[text]) for text in wanted)
