"""What tools report is there in Japanese: lines of tools that were run, on small files."""

from __future__ import annotations

import itertools
import pathlib
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_said import PLACE, ROW, pattern, plain

from lora_train.knobs import build
from lora_train.tools import TOOLS
from lora_train.ui.page import ROOT
from tests.tools import saved

FILE = ROOT / "javascript" / "lora_train_1_words_told.js"
TABLE = [(plain(en), plain(ja)) for en, ja in ROW.findall(FILE.read_text(encoding="utf-8"))]
KNOWN = [pattern(english) for english, _ in TABLE]


def reported(tool: str, **values: object) -> list[str]:
    return [*build(TOOLS[tool], values).run().lines]


def runs(folder: pathlib.Path):
    """Lines of each tool that says something in lines alone."""
    lora, full, dora = (saved.file(folder, kind) for kind in ("lora", "full", "dora"))
    sdxl = saved.file(folder, "lora", "sdxl", dim=2)
    base = saved.checkpoint("sd1")
    odd = folder / "odd.safetensors"
    save_file({**load_file(lora), "other.weight": torch.zeros(2)}, odd)
    new = (folder / f"{n}.safetensors" for n in itertools.count())
    tuned = next(new)
    lines = reported("merge", models=[lora], sd_model=base, save_to=tuned, te_ratios="0.5")
    yield lines + reported("merge", models=[odd, full], sd_model=base, save_to=next(new))
    yield reported("merge", models=[lora, full], save_to=next(new), new_rank=2)
    yield reported("merge", models=[lora, lora], save_to=next(new), method="additive")
    yield reported("extract", model_org=base, model_tuned=tuned, save_to=next(new), dim=2)
    yield reported("resize", model=odd, save_to=next(new), new_rank=1, verbose=True)
    yield reported("convert", model=odd, save_to=next(new), to="diffusers", only="unet", alphas="factors")
    yield reported("convert", model=full, save_to=next(new), to="lora", rank=2)
    yield reported("convert", model=lora, save_to=next(new), to="lora")
    yield reported("convert", model=dora, save_to=next(new), to="lora", rank=2, base=base)
    yield reported("convert", model=sdxl, save_to=next(new), unit=1)
    yield reported("convert-model", model=base, save_to=folder / "model")
    small = next(new)
    yield reported("dehydrate", model_org=base, model_tuned=tuned, save_to=small)
    yield reported("rehydrate", model_org=base, difference=small, save_to=next(new))
    bare = next(new)
    save_file(load_file(lora), bare)
    yield reported("metadata", model=bare)


def there(line: str) -> bool:
    """As the page looks: the whole, or what stands behind a path."""
    ends = [0, *(match.end() for match in re.finditer(": ", line))]
    return any(known.fullmatch(line[at:]) for at in ends for known in KNOWN)


def test_every_line_that_tools_report(tmp_path):
    lines = [line for found in runs(tmp_path) for line in found]
    assert len(lines) > 40
    lost = [line for line in lines if not there(line)]
    assert not lost, lost


def test_rows_have_the_same_places_and_hide_no_other():
    rows = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line.startswith('        ["')]
    assert len(rows) == len(TABLE) == len({english for english, _ in TABLE})
    for i, (english, japanese) in enumerate(TABLE):
        assert {*PLACE.findall(japanese)} == {*PLACE.findall(english)}, english
        sample = PLACE.sub("7", english)
        assert next(k for k, known in enumerate(KNOWN) if known.fullmatch(sample)) == i, english


@pytest.mark.parametrize("line", ["/a b/c.safetensors: 3 layers, rank 2 to 8 and 1 not as a LoRA", "exact"])
def test_numbers_and_names_stay(line):
    assert there(line)
