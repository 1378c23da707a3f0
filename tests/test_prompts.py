"""The grammar of sample prompts: formats of sd-scripts' `line_to_prompt_dict`."""

from __future__ import annotations

import pytest

from lora_train.errors import Mistake
from lora_train.prompts import Prompt, parse_prompt, read_prompts


def test_a_bare_line_has_the_defaults_of_sd_scripts():
    assert parse_prompt("a cat, sitting") == Prompt("a cat, sitting", "", 512, 512, None, 30, 7.5, "ddim")


def test_every_flag_is_read():
    line = "a cat --n blurry, low res --w 260 --h 32 --D 7 --s 5000 --l 5.5 --ss k_euler_a"
    assert parse_prompt(line) == Prompt("a cat", "blurry, low res", 256, 64, 7, 1000, 5.5, "euler_a")


def test_the_text_itself_is_never_a_flag():
    assert parse_prompt("s 5 cats --d 1") == Prompt("s 5 cats", seed=1)


def test_a_line_may_begin_with_a_flag_after_no_text():
    assert parse_prompt(" --d 1").prompt == "--d 1"  # no text before it: sd-scripts reads it the same
    assert parse_prompt("x --n ").negative_prompt == ""


def test_flags_of_other_models_are_taken_without_effect():
    assert parse_prompt("a cat --g 3.5 --fs 2") == Prompt("a cat")


def test_the_default_sampler_is_that_of_the_run():
    assert parse_prompt("a cat", "dpmsolver++").sample_sampler == "dpm++_2m"
    assert parse_prompt("a cat --ss euler", "ddim").sample_sampler == "euler"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a cat --seed 5", "--seed: no such flag; did you mean --d?"),
        ("a cat --zz 5", "--zz: no such flag; known: --w"),
        ("a cat --w big", "--w big: expected a whole number"),
        ("a cat --l nan", "--l nan: expected 0 or more"),
        ("a cat --d -1", "--d -1: expected 0 or more"),
        ("a cat --ss uni_pc", "uni_pc: no such sampler; known: ddim"),
    ],
)
def test_what_cannot_be_read_is_said(line, complaint):
    with pytest.raises(ValueError, match=complaint.replace("?", r"\?").replace("+", r"\+")):
        parse_prompt(line)


def test_a_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("\ufeff# two of them\n\na cat --d 1\r\n  a dog\n", encoding="utf-8")
    assert [p.prompt for p in read_prompts(path)] == ["a cat", "a dog"]


def test_every_bad_line_of_a_file_is_named(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat --q 1\na dog\na fox --w x\n", encoding="utf-8")
    with pytest.raises(Mistake) as e:
        read_prompts(path)
    assert [line.split(": ")[0] for line in str(e.value).splitlines()] == [
        f"{path}, line 1",
        f"{path}, line 3",
    ]


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe\x00"])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(Mistake, match=r"prompts\.txt: "):
        read_prompts(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Mistake, match="expected a text file of prompts"):
        read_prompts(tmp_path / "none.txt")
