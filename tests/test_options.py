"""What the command line's help looks like."""

import dataclasses
import pathlib
import re

import pytest

from lora_train.cli import COMMANDS, main
from lora_train.job import declared
from lora_train.knobs import knob, one_of, settings
from lora_train.options import train_parser, usual

EVERY = [s for s in declared() if ".N." not in s.path]


@pytest.fixture
def shown(capsys, monkeypatch):
    """shown("train"): its help, on a screen of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")

    def shown(*words: str) -> str:
        capsys.readouterr()
        assert main([*words, "--help"]) == 0
        return capsys.readouterr().out

    return shown


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_is_one_short_line(shown, command):
    first, blank, second, *_ = shown(command).splitlines()
    assert first.startswith(f"usage: lora-train {command} ")
    assert first.endswith("[options]")
    assert blank == ""
    assert second[0].isupper()


def test_the_commands_are_listed_with_what_they_do(shown):
    text = shown()
    for name, (_, does) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(does)}$", text, re.MULTILINE)


def test_no_line_of_the_help_is_wider_than_the_screen(shown):
    assert max(map(len, shown("train").splitlines())) <= 100


def test_the_help_of_train_has_every_group_and_setting_with_its_words(shown):
    text = shown("train")
    plain = " ".join(text.split())
    for s in EVERY:
        assert f"\n{s.group}:\n" in text
        assert f"--{s.path} " in plain
        assert all(f"--{name}, " in plain for name in s.aka)
        assert " ".join(s.help.split()) in plain
        if s.default is not None:
            assert f"[{usual(s)}]" in plain


def test_what_comes_after_an_option_is_a_short_word_or_the_choices(shown):
    heads = re.findall(r"^  (--.*)$", shown("train"), re.MULTILINE)
    after = {re.sub(r"--\S+ ?", "", head).partition("  ")[0] for head in heads}
    lists = {f"{word} [{word} ...]" for word in ("N", "X", "TEXT", "PATH")}
    plain = {"N", "X", "TEXT", "PATH", "NAME", "TOML", "FILE", "[true|false]", *lists}
    assert {word for word in after if not word.startswith("{")} <= plain
    assert all(re.fullmatch(r"\{[\w+.,-]+\}", word) for word in after - plain)


def test_foreign_options_are_taken_without_a_line_in_the_help(shown):
    assert "--xformers" not in shown("train")
    assert "--data.datasets" not in shown("train", "--data.datasets.0.resolution", "64")


@dataclasses.dataclass(frozen=True)
class Small:
    size: int = knob(4, "Size.", group="g", low=1, high=512)


@dataclasses.dataclass(frozen=True)
class Large(Small):
    more: float | None = knob(None, "More, 100% of it.", group="g", low=0)
    sides: tuple[int, ...] = knob((1, 2), "Sides.", group="g", high=10**9, low=1)


@dataclasses.dataclass(frozen=True)
class Root:
    part: Small = one_of({"small": Small, "large": Large}, "small", "Which.", group="g", aka="part_type")
    folder: pathlib.Path = knob(pathlib.Path("a"), "Where.", group="h")
    share: float = knob(0.0, "Share.", group="h", low=0, high=1)
    loud: bool = knob(True, "Loud.", group="h", aka=("loud", "noisy"))
    name: str = knob("aaaa", "Whose.", group="h", choices=tuple(letter * 12 for letter in "abcd"))


def test_bounds_kinds_and_defaults_stand_in_the_help():
    lines = train_parser(settings(Root)).format_help().splitlines()
    text = " ".join(" ".join(lines).split())
    for entry in (
        "--part_type, --part.kind {small,large} Which. [small]",
        "--size, --part.size N Size. 1 to 512. [4]",
        "--more, --part.more X More, 100% of it. 0 or more. Only for large.",
        "--sides, --part.sides N [N ...] Sides. 1 or more. Only for large. [1, 2]",
        "--folder PATH Where. [a]",
        "--share X Share. 0 to 1. [0]",
        "--loud, --noisy [true|false] Loud. [true]",
        "--name NAME Whose. aaaaaaaaaaaa, bbbbbbbbbbbb, cccccccccccc or dddddddddddd. [aaaa]",
    ):
        assert entry in text
