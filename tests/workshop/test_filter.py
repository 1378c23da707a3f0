"""The filter line, held against what a person would pick."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.workshop import filter as filters
from lora_train.workshop.captions import Captions
from lora_train.workshop.opened import Opened

CAPTIONS = {
    "cat.png": "1cat, long hair, Sitting, red_bow",
    "dog.png": "dog, long hair, smile_(happy), >_<",
    "both.png": r"1cat, dog, hatsune miku \(vocaloid\), re:zero",
    "told.png": "A cat sits on the mat, which is red.",
    "wide one.png": "",
    "bare.png": None,
}
SIZES = {"wide one.png": (96, 32), "both.png": (64, 64), "bare.png": (32, 48)}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for name, text in CAPTIONS.items():
        Image.new("RGB", SIZES.get(name, (32, 32))).save(folder / name)
        if text is not None:
            (folder / name).with_suffix(".txt").write_text(text, encoding="utf-8")
    return Opened(folder)


def found(opened, line):
    holds = filters.read(line)
    return {entry.name.rpartition(".")[0] for entry in opened if holds(opened, entry)}


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("", {"cat", "dog", "both", "told", "wide one", "bare"}),
        ("1cat", {"cat", "both"}),
        ("1CAT AND dog", {"both"}),
        ("1cat dog", {"both"}),
        ("1cat -dog", {"cat"}),
        ("1cat NOT dog", {"cat"}),
        ("-(1cat OR dog) is:captioned", {"told"}),
        ('"long hair" -1cat', {"dog"}),
        ("long_hair", {"cat", "dog"}),
        ('"red bow"', {"cat"}),
        ("1cat OR dog -smile*", {"cat", "both"}),
        ("(1cat OR dog) -smile*", {"cat", "both"}),
        ("1cat OR dog, long_hair", {"cat", "dog"}),
        ("*hair", {"cat", "dog"}),
        ("hair", set()),
        ("cat", {"told"}),  # a word of a sentence; the others have only the tag 1cat
        ("ca", set()),
        ('"the mat"', {"told"}),
        ("hatsune_miku_(vocaloid)", {"both"}),
        ("smile_(happy)", {"dog"}),
        ("re:zero", {"both"}),
        ('">_<"', {"dog"}),
        (r'"hatsune miku \\(vocaloid\\)"', {"both"}),  # as the page quotes it
        (r'text:"miku \("', {"both"}),
        (r'-"say \"cat\"" text:miku', {"both"}),
        ("text:hair", {"cat", "dog"}),
        ('text:"SITS ON"', {"told"}),
        (r"/^1cat,\s/", {"cat", "both"}),
        ("-/cat|dog/ name:*", {"wide one", "bare"}),
        ("name:wide", {"wide one"}),
        ('name:"wide one.*"', {"wide one"}),
        ("name:b*.png", {"both", "bare"}),
        ("is:uncaptioned", {"bare"}),
        ("is:empty", {"wide one"}),
        ("-is:captioned", {"wide one", "bare"}),
        ("width>64", {"wide one"}),
        ("width >= 64 height<64", {"wide one"}),
        ("ratio>2", {"wide one"}),
        ("ratio<1", {"bare"}),
        ("pixels=4096", {"both"}),
        ("tags>3", {"cat", "dog", "both"}),
        ("tags=0", {"wide one", "bare"}),
        ("tokens=11", {"cat", "dog", "told"}),
        ("tokens>=17", {"both"}),
        ("bucket:832x256", {"wide one"}),  # 1024x256 and 768x320 are further from 3:1
        ("-bucket:512x512 -is:empty", {"bare"}),
    ],
)
def test_a_line_means_what_it_says(opened, line, names):
    assert found(opened, line) == names


def test_and_or_not_are_those_of_sets(opened):
    words = ["1cat", "dog", "long_hair", "is:captioned", "width>40"]
    for a in words:
        for b in words:
            one, other, every = found(opened, a), found(opened, b), found(opened, "")
            assert found(opened, f"{a} {b}") == one & other
            assert found(opened, f"{a} OR {b}") == one | other
            assert found(opened, f"{a} -{b}") == one - other
            assert found(opened, f"NOT ({a}, {b})") == every - (one & other)
            assert found(opened, f"-{a} OR -{b}") == every - (one & other)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cat AND", "at its end: expected something behind it"),
        ("cat OR OR dog", "at letter 8, OR"),
        ("(cat dog", "at letter 1, (: expected a ) that closes it"),
        ("cat) dog", "at letter 4, ): expected a ( before it"),
        ("cat ()", "a word in it"),
        ('cat "long hair', 'at letter 5, "long hair: expected a second "'),
        ("/[/ cat", "at letter 1, [: expected a regular expression"),
        ("/cat dog", "a second / that closes it"),
        ("is:tagged", "captioned, empty or uncaptioned"),
        ("widht<5", "at letter 1, widht<5: expected width"),
        ("width<wide", "expected a number, such as width>2"),
        ("bucket:512", "bucket:512x768"),
        ("nmae:cat", "name:, or the tag in quotes"),
        ("text:", "something behind text:"),
        ("problem:blured", "at letter 1, problem:blured: expected a kind of problem; did you mean blurred?"),
    ],
)
def test_what_cannot_be_read_is_shown_its_place(line, said):
    with pytest.raises(Mistake, match=re.escape(said)):
        filters.read(line)


def test_a_command_looks_for_problems_itself(tmp_path, capsys):
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    Image.effect_noise((600, 600), 50).convert("RGB").save(tmp_path / "b.png")
    for words in (["--only", "problem:tiny"], ["--only", "-problem:tiny"]):
        command(["captions", str(tmp_path), "--set", "x", "--dry_run", *words])
    assert capsys.readouterr().out.splitlines() == [
        "1 caption of 1 would be changed", "  a.png: (none) -> x",
        "1 caption of 1 would be changed", "  b.png: (none) -> x"]  # fmt: skip


def test_a_problem_is_one_of_the_last_report(opened):
    with pytest.raises(Mistake, match="a report of the folder first"):
        found(opened, "problem:blurred")
    opened.judge({"cat.png": {"blurred", "tiny"}, "dog.png": {"tiny"}})
    assert found(opened, "problem:blurred") == {"cat"}
    assert found(opened, "problem:tiny -problem:blurred") == {"dog"}


@pytest.mark.parametrize(
    "line",
    ["(" * 3000 + "cat" + ")" * 3000, "-" * 3000 + "cat", "NOT " * 3000 + "cat", "/a{99999999999}/",
     "/" + "(" * 3000 + ")" * 3000 + "/", "bucket:" + "9" * 5000 + "x1"],
    ids=range(6),
)  # fmt: skip
def test_what_no_reader_bears_is_said(line):
    with pytest.raises(Mistake, match="only = "):
        filters.read(line)


@pytest.mark.parametrize("ending", [".png", "JPG", "", "./../../evil.txt", "a\\b", "x\0"])
def test_captions_are_no_pictures_and_lie_beside_them(opened, ending):
    with pytest.raises(Mistake, match="caption_extension"):
        build(
            Captions, {"folder": opened.folder, "caption_extension": ending, "set": "x", "follow_links": True}
        )


def test_a_folder_opened_anew_is_another_version(opened, tmp_path):
    assert Opened(opened.folder).version != Opened(opened.folder).version


def test_links_to_another_drive(opened, tmp_path, monkeypatch):
    """Where Windows finds nothing that the two have in common."""
    (tmp_path / "link.png").symlink_to(opened.folder / "cat.png")

    def apart(paths):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("os.path.commonpath", apart)
    assert Opened(tmp_path).outside == ["link.png"]
