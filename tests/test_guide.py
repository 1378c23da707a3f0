"""The guide to datasets says what the commands say, in both languages.

GUIDE=write pytest tests/test_guide.py puts what they say now under commands that have nothing under them.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import shutil
import sys

import pytest

from lora_train import tooling
from lora_train.data import health, measures
from lora_train.preparing import command
from lora_train.run.recipes import NEEDS
from lora_train.tools.tool import Report
from lora_train.workshop import WORKS
from lora_train.workshop.kinds import KINDS
from lora_train.workshop.report import Check
from lora_train.workshop.upscale import Upscale

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "demo"))
import guide as demo  # noqa: E402

GUIDES = ("dataset-guide.md", "dataset-guide.ja.md")
BLOCK = re.compile(r"^```(console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(lora-train dataset [^`]+)`")
LEFT_OUT = "…"  # lines of what a command says


def read(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def blocks(text, kind):
    return [block for found, block in BLOCK.findall(text) if found == kind]


def commands(text):
    """Words behind `lora-train dataset` of all that a reader may copy."""
    lines = [
        line for block in (*blocks(text, "console"), *blocks(text, "text")) for line in block.splitlines()
    ]
    found = [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?lora-train dataset ", line)]
    return [shlex.split(line)[2:] for line in [*found, *INLINE.findall(text)]]


def steps(block):
    """(command, what it is to say) of a block, in order."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return [*zip(parts[1::2], (part.splitlines() for part in parts[2::2]), strict=True)]


def says(line, capsys):
    capsys.readouterr()
    assert command(shlex.split(line)[2:]) == 0
    return capsys.readouterr().out.splitlines()


def holds(said, told):
    """Whether this was said, but for what is left out."""
    at, loose = 0, False
    for line in told:
        if line == LEFT_OUT:
            loose = True
            continue
        while loose and at < len(said) and said[at] != line:
            at += 1
        if at == len(said) or said[at] != line:
            return False
        at, loose = at + 1, False
    return loose or at == len(said)


@pytest.fixture
def practice(tmp_path, monkeypatch):
    demo.practice(tmp_path / "practice")
    monkeypatch.chdir(tmp_path / "practice")
    return tmp_path / "practice"


def test_the_commands_say_what_the_guide_says_they_say(practice, capsys):
    text = read(GUIDES[0])
    for block in blocks(text, "console"):
        fresh = block
        for line, told in steps(block):
            said = says(line, capsys)
            if os.environ.get("GUIDE") == "write" and not told:
                fresh = fresh.replace(f"$ {line}\n", "".join(f"{one}\n" for one in (f"$ {line}", *said)))
            else:
                assert holds(said, told), f"{line}\n" + "\n".join(said)
        text = text.replace(block, fresh)
    if os.environ.get("GUIDE") == "write":
        (ROOT / "docs" / GUIDES[0]).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("work", "package"), [("crop", "cv2"), ("tag", "efficientnet_lite_pytorch")])
def test_of_photographs_they_say_it_too(work, package, practice, capsys):
    pytest.importorskip(package)
    data = pathlib.Path(pytest.importorskip("skimage.data").__file__).parent
    (practice / "photos").mkdir()
    for name in demo.PHOTOGRAPHS:
        shutil.copy(data / name, practice / "photos")
    every = [step for block in blocks(read(GUIDES[0]), "text") for step in steps(block)]
    ((line, told),) = [step for step in every if step[0].startswith(f"lora-train dataset {work} photos")]
    assert holds(says(line, capsys), told)


def test_both_languages_show_the_same_commands_and_pictures():
    mine, other = map(read, GUIDES)
    assert blocks(mine, "console") == blocks(other, "console")
    assert blocks(mine, "text") == blocks(other, "text")
    assert sorted(INLINE.findall(mine)) == sorted(INLINE.findall(other))
    drawn = [sorted(re.findall(r"\]\((guide/.*?\.png)\)", text)) for text in (mine, other)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_can_be_given_and_every_work_is_there(name, practice):
    shutil.copytree(practice / "okara", practice / "photos")

    def unrun(tool, told):
        return Report((), {})

    found = commands(read(name))
    for work, *rest in found:
        assert work in WORKS
        tooling.use(WORKS[work], work, "", rest, unrun)
    assert {"check", "aside", "captions", "tags", "tag", "crop", "mask", "background", "regularise", "rename",
            "repeats", "undo"} <= {work for work, *_ in found}  # fmt: skip


@pytest.mark.parametrize("name", GUIDES)
def test_what_it_links_to_is_there(name):
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", read(name)):
        file = ROOT / "docs" / link
        assert file.exists(), link
        assert file.suffix != ".png" or file.stat().st_size < 200_000, link


@pytest.mark.parametrize("name", GUIDES)
def test_its_numbers_are_those_of_the_code(name):
    text = read(name)
    for goal in ("character", "style", "concept"):
        need = NEEDS[goal]
        row = next(line for line in text.splitlines() if line.startswith("|") and f"`{goal}`" in line)
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        flips = {True: ("on", "オン"), False: ("off", "オフ")}[need.flip]
        assert cells[1:5] == [str(need.dim), str(need.each), f"{need.least}–{need.most}", cells[4]]
        assert cells[4] in flips
    bounds = {
        "tiny": Check.least_side, "aspect": Check.most_aspect, "enlarged": health.ENLARGED,
        "cut": health.CUT * 100, "artefacts": measures.POOR, "few": Check.least_pictures,
        "long": Check.max_token_length,
    }  # fmt: skip
    for kind, bound in bounds.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| `{kind}`"))
        assert re.search(rf"(?<![\d.]){bound:g}(?![\d.])", row), row
    for kind in re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE):
        assert kind in KINDS or kind in NEEDS
    for kind in re.findall(r"problem:([a-z]+)", text):
        assert kind in KINDS
    assert f"{Upscale.most:g}" in next(line for line in text.splitlines() if "dataset upscale" in line)
