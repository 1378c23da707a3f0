"""A person's presets of block weights, kept in the file that prompts read."""

from __future__ import annotations

import pytest

from lora_train.blocks import BLOCKS, PRESETS, BlockWeights
from lora_train.errors import Mistake
from lora_train.run.blockbook import BlockBook
from lora_train.spelling import Book

SEVENTEEN = ",".join(["0.5"] * 17)


def test_what_is_kept_is_what_prompts_read(tmp_path):
    book = BlockBook(tmp_path / "loras")
    book.write("mine", ", ".join(["1", "0"] * 6))
    book.write("HALF", SEVENTEEN)
    assert Book.read([tmp_path / "loras"]).weights("Mine") == BlockWeights.parse(",".join(["1", "0"] * 6))
    rows = {row["name"]: row for row in book.list()["presets"]}
    assert list(rows) == [*PRESETS, "MINE", "HALF"]
    assert [*rows["HALF"]["weights"]] == [*BlockWeights.parse(SEVENTEEN).values]
    assert len(book.list()["blocks"]) == len(BLOCKS) == len(rows["ALL"]["weights"])
    assert (rows["MINE"]["builtin"], rows["ALL"]["builtin"]) == (False, True)


def test_other_lines_stay(tmp_path):
    file = tmp_path / "lbwpresets.txt"
    file.write_text(f"#mine:0\n\nMINE:{SEVENTEEN}\nodd\nmine:{SEVENTEEN}\nRAND:" + ",".join(["R"] * 12))
    book = BlockBook(tmp_path)
    assert {row["name"]: row["weights"] for row in book.list()["presets"]}["RAND"] is None
    book.write("Mine", "0," * 11 + "1")
    assert file.read_text() == "#mine:0\n\nMine:" + "0," * 11 + "1\nodd\nRAND:" + ",".join(["R"] * 12) + "\n"
    book.remove("mine")
    assert file.read_text() == "#mine:0\n\nodd\nRAND:" + ",".join(["R"] * 12) + "\n"
    with pytest.raises(LookupError):
        book.remove("mine")


@pytest.mark.parametrize(("name", "text"), [("a:b", SEVENTEEN), ("", SEVENTEEN), ("a", "1,2"), ("a", "ALL"),
                                             ("a", "x y," * 17), ("#", SEVENTEEN)])  # fmt: skip
def test_what_is_no_preset_is_refused_and_nothing_written(tmp_path, name, text):
    with pytest.raises(Mistake, match="expected"):
        BlockBook(tmp_path).write(name, text)
    assert not list(tmp_path.iterdir())
