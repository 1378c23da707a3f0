"""The grammar of sample prompts: formats of sd-scripts' `line_to_prompt_dict`."""

from __future__ import annotations

import json

import pytest

from lora_train.errors import Mistake
from lora_train.prompts import SAMPLERS, Prompt, defaults, parse_prompt, read_prompts


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


# ── names of samplers, LoRAs ────────────────────────────────────────────────────────────────────────────────


def test_all_samplers_of_sd_scripts_are_known():
    names = "ddim pndm lms euler euler_a heun dpm_2 dpm_2_a dpmsolver dpmsolver++ dpmsingle k_lms k_euler"
    for name in [*names.split(), "k_euler_a", "k_dpm_2", "k_dpm_2_a"]:
        assert parse_prompt(f"a cat --ss {name}").sample_sampler == SAMPLERS[name]
    assert len(set(SAMPLERS.values())) == 11


def test_a_lora_that_cannot_be_read_is_said_with_its_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a <lora:x:0.5>\na <lora:x:big>\n", encoding="utf-8")
    with pytest.raises(Mistake, match=r"prompts\.txt, line 2: <lora:x:big>: big is no strength"):
        read_prompts(path)
    assert parse_prompt("a <lora:x:0.5> --d 1").prompt == "a <lora:x:0.5>"


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────

TABLE = """
prompt = "a cat"
negative_prompt = "blurry"
width = 260
height = 32
seed = 7
sample_steps = 5000
scale = 5.5
sample_sampler = "k_euler_a"
guidance_scale = 3.5
controlnet_image = "x.png"
cfg_trunc_ratio = 0.2
renorm_cfg = 1.0
flow_shift = "2"
"""
READ = Prompt("a cat", "blurry", 256, 64, 7, 1000, 5.5, "euler_a")


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_every_name_of_a_table_is_read(tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert read_prompts(written(tmp_path / "p.toml", "[prompt]" + TABLE)) == [READ]
    assert "guidance_scale, controlnet_image, cfg_trunc_ratio, renorm_cfg, flow_shift" in caplog.text
    assert read_prompts(written(tmp_path / "q.toml", "[[prompt.subset]]" + TABLE)) == [READ]


def test_what_stands_in_a_subset_goes_over_what_is_for_all(tmp_path):
    subsets = "[[prompt.subset]]\nprompt = 'a'\n[[prompt.subset]]\nprompt = 'b'\nseed = 2"
    text = f"[prompt]\nscale = 3\nseed = 1\n{subsets}"
    found = read_prompts(written(tmp_path / "p.toml", text), "euler")
    assert found == [
        Prompt("a", scale=3.0, seed=1, sample_sampler="euler"),
        Prompt("b", scale=3.0, seed=2, sample_sampler="euler"),
    ]


def test_json_holds_lines_and_tables(tmp_path):
    entries = ["a cat --d 1 --ss heun", {"prompt": "a dog", "seed": None, "width": 128.0, "enum": 3}]
    found = read_prompts(written(tmp_path / "p.json", json.dumps(entries)))
    assert found == [Prompt("a cat", seed=1, sample_sampler="heun"), Prompt("a dog", width=128)]


@pytest.mark.parametrize(
    ("ending", "text", "complaint"),
    [
        ("json", "[", r"p\.json: not JSON"),
        ("json", "{}", r"p\.json: expected a list of prompts"),
        ("json", "[]", r"p\.json: no prompt in it"),
        ("json", "[5]", r"p\.json, prompt 1: 5: expected a line, or a table"),
        ("json", '["a", {"prompts": "a"}]', r"prompt 2: prompts: no such name; did you mean prompt\?"),
        ("json", '[{"prompt": "a", "zz": 1}]', r"zz: no such name; known: prompt, width"),
        ("json", '[{"prompt": 5}]', r"prompt = 5: expected text"),
        ("json", '[{"prompt": "a", "width": "wide"}]', r"width = wide: expected a whole number"),
        ("json", '[{"prompt": "a", "seed": 1.5}]', r"seed = 1\.5: expected a whole number"),
        ("json", '[{"prompt": "a", "seed": true}]', r"seed = .*: expected a whole number"),
        ("json", '[{"prompt": "a", "scale": NaN}]', r"scale = .*: expected 0 or more"),
        ("json", '[{"prompt": "a", "width": Infinity}]', r"width = .*: expected a whole number"),
        ("json", '[{"prompt": "a", "sample_sampler": "x"}]', r"x: no such sampler"),
        ("toml", "prompt = 'a'", r"expected tables, \[prompt\] and \[\[prompt\.subset\]\]"),
        ("toml", "[prompts]\nprompt = 'a'", r"prompts: expected \[prompt\]"),
        ("toml", "", r"no prompt in it"),
        ("toml", "[prompt]\nwith = 5\nprompt = 'a'", r"\[prompt\]: with: no such name; did you mean width\?"),
        ("toml", "[prompt]\nsubset = [1]", r"expected tables"),
        (
            "toml",
            "[[prompt.subset]]\nprompt = 'a'\nseed = 'x'",
            r"prompt\.subset 1: seed = x: expected a whole",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path, ending, text, complaint):
    with pytest.raises(Mistake, match=complaint):
        read_prompts(written(tmp_path / f"p.{ending}", text))


def test_all_bad_entries_are_named_at_once(tmp_path):
    path = written(tmp_path / "p.json", '[{"a": 1}, "fine", "x --w y", {"prompt": "b", "seed": "c"}]')
    with pytest.raises(Mistake) as e:
        read_prompts(path)
    assert [line.split(": ")[0] for line in str(e.value).splitlines()] == [
        f"{path}, prompt {n}" for n in (1, 3, 4)
    ]


# ── where nobody says ───────────────────────────────────────────────────────────────────────────────────────


def test_by_default_trigger_and_two_captions_are_drawn():
    found = defaults("sks", ["a cat", "", "a cat", "sks", "a (big) dog", "a fox"], (520, 60))
    assert found == [
        Prompt("sks", width=520, height=64, seed=1),
        Prompt("a cat", width=520, height=64, seed=2),
        Prompt(r"a \(big\) dog", width=520, height=64, seed=3),
    ]
    assert [p.prompt for p in defaults(None, ["a (big:1.2) dog"], (64, 64), weighted=True)] == [
        "a (big:1.2) dog"
    ]


def test_there_is_always_something_to_draw():
    assert defaults(None, [""], (64, 64)) == [Prompt("", width=64, height=64, seed=1)]
