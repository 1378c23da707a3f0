"""Captions are edited as it is said, whatever they are written like; and all of it can be undone."""

from __future__ import annotations

import json
import random
import re
import signal

import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.workshop import WORKS, words
from lora_train.workshop.captions import Captions
from lora_train.workshop.imported import Import
from lora_train.workshop.journal import Journal


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "my pictures é"


def make(folder, **captions):
    folder.mkdir(exist_ok=True)
    for name, text in captions.items():
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        if text is not None:
            (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def after(folder, **values):
    """{picture: caption} when it was run."""
    build(Captions, {"folder": folder, **values}).run()
    return {path.stem: path.read_bytes().decode() for path in folder.glob("*.txt")}


@pytest.mark.parametrize(
    ("values", "before", "caption"),
    [
        ({"set": "a dog"}, "cat", "a dog"),
        ({"clear": True}, "cat", ""),
        ({"regex": r"(\d)girls?", "regex_with": r"\1 girl"}, "1girl, 2girls", "1 girl, 2 girl"),
        ({"replace": "long_hair => short hair, cat ear => cat ears"}, "1girl, Long Hair, cat ear",
         "1girl, short hair, cat ears"),
        ({"replace": "very long hair => long hair"}, "long hair, very long hair, hat", "long hair, hat"),
        ({"replace": '"cat => cat ears, tail"'}, "1girl, cat", "1girl, cat ears, tail"),
        ({"replace": "cat =>"}, "1girl, cat", "1girl"),
        ({"replace": "girl => woman"}, "A girl, who smiles at another girl.",
         "A woman, who smiles at another woman."),
        ({"underscores": "to blanks"}, "long_hair, ^_^, red_bow", "long hair, ^_^, red bow"),
        ({"underscores": "from blanks"}, "long hair, a b", "long_hair, a b"),
        ({"remove": "*hair, Simple_Background"}, "long hair, hat,simple background", "hat"),
        ({"remove": "hat"}, "1girl,  hair", "1girl,  hair"),  # nothing to do: not even the blanks
        ({"remove": "cat"}, "A cat sits on the mat.", "A cat sits on the mat."),
        ({"add": "hat, red bow"}, "1girl, red_bow", "1girl, red_bow, hat"),
        ({"add": "hat", "first": True}, "1girl, hat", "hat, 1girl"),
        ({"add": "red bow"}, "A cat sits on the mat.", "A cat sits on the mat. red bow"),
        ({"dedupe": True}, "hat, Hat, red bow, red_bow", "hat, red bow"),
        ({"sort": "alphabet", "sort_from": 1}, "okara, c, a, B", "okara, a, B, c"),
        ({"sort": "alphabet"}, "A dog, which barks, and a cat.", "A dog, which barks, and a cat."),
        ({"trigger_word": "okara"}, "1girl, hat", "okara, 1girl, hat"),
        ({"trigger_word": "okara"}, "1girl, Okara, hat", "okara, 1girl, hat"),
        ({"trigger_word": "okara"}, "a photo of okara with a hat", "a photo of okara with a hat"),
        ({"trigger_word": "okara"}, "a photo of [trigger] with a hat", "a photo of [trigger] with a hat"),
        ({"trigger_word": "okara"}, "", "okara"),
        ({"trigger_word": "okara", "traits": "long hair, *eyes"}, "1girl, blue eyes, long_hair, hat",
         "okara, 1girl, hat"),
        ({"trigger_word": "okara", "traits": "long hair, *eyes", "strategy": "keep"},
         "1girl, blue eyes, long_hair, hat", "okara, blue eyes, long_hair, 1girl, hat"),
        ({"prepend": "a photo of"}, "a cat", "a photo of a cat"),
        ({"prepend": "a photo of"}, "a photo of a cat", "a photo of a cat"),
        ({"append": ", best quality"}, "a cat", "a cat, best quality"),
        ({"new_separator": "|"}, "a, b,c", "a| b| c"),
        ({"separator": "|", "add": "d"}, "a, b|c", "a, b| c| d"),
        ({"add": "x"}, "a, b\nc", "a, b, x\nc, x"),  # every line is a caption of its own
        ({"remove": "a", "add": "a"}, "a, b", "b, a"),  # in the order that is said
    ],
)  # fmt: skip
def test_a_caption_becomes(folder, values, before, caption):
    make(folder, a=before)
    assert after(folder, **values) == {"a": caption}
    if caption != before:
        Journal(folder).undo()
        assert (folder / "a.txt").read_text(encoding="utf-8") == before


@pytest.mark.parametrize("number", range(40))
def test_tags_obey_the_laws_of_sets(number):
    """Against sets, on captions that chance writes."""
    rng = random.Random(number)
    some = [rng.choice("abcdefgh") for _ in range(rng.randrange(9))]
    line, own = ", ".join(some), set(some)
    tags = rng.sample("abcdefghij", 3)
    assert set(words.told(words.put(line, tags))) == own | set(tags)
    assert set(words.told(words.without(line, [*map(words.like, tags)]))) == own - set(tags)
    assert words.told(words.once(line)) == [*dict.fromkeys(some)]
    assert words.told(words.ordered(line, words.plain, keep=2)) == some[:2] + sorted(some[2:])
    assert words.told(words.called(line, "x", [*map(words.like, tags)])) == (
        ["x"] + [t for t in some if t in tags] + [t for t in some if t not in tags])  # fmt: skip
    for act in (words.once, lambda line: words.put(line, tags), lambda line: words.called(line, "x")):
        assert act(act(line)) == act(line)


def test_frequency_is_the_folders(folder):
    make(folder, a="x, y, z", b="z, y", c="z")
    assert after(folder, sort="frequency", names=["a.png"])["a"] == "z, y, x"


def test_encodings_become_utf8_and_come_back(folder):
    texts = {"a": "été".encode("cp1252"), "b": "猫の耳".encode("cp932"), "c": "猫".encode("utf-16"),
             "d": "猫".encode("utf-8-sig"), "e": "猫".encode()}  # fmt: skip
    make(folder, **texts)
    work = build(Captions, {"folder": folder, "to_utf8": True})
    assert work.foreseen(work.opened())["count"] == 4
    assert after(folder, to_utf8=True) == {"a": "été", "b": "猫の耳", "c": "猫", "d": "猫", "e": "猫"}
    Journal(folder).undo()
    assert {path.stem: path.read_bytes() for path in folder.glob("*.txt")} == texts


def test_one_picture_and_the_filter(folder):
    make(folder, a="cat", b="dog", c=None, d=None)
    assert after(folder, set="a bird", names=["c.png"]) == {"a": "cat", "b": "dog", "c": "a bird"}
    assert after(folder, add="pet", only="cat OR dog")["c"] == "a bird"
    assert after(folder, clear=True)["a"] == ""
    assert not (folder / "d.txt").exists()


def test_pictures_that_share_a_caption_change_it_once(folder):
    make(folder, a="cat")
    Image.new("RGB", (8, 8)).save(folder / "a.jpg")
    assert after(folder, prepend="my") == {"a": "my cat"}


def test_what_cannot_be_read_is_named_and_nothing_is_done(folder):
    make(folder, a="cat", b=b"\0\0\0\1\2\0")
    with pytest.raises(Mistake, match=r"b\.txt: expected .* text"):
        after(folder, add="pet")
    assert (folder / "a.txt").read_text(encoding="utf-8") == "cat"
    assert after(folder, set="new", names=["b.png"])["b"] == "new"


def test_a_caption_that_may_only_be_read_is_said_before(folder):
    make(folder, a="cat", b="dog")
    (folder / "b.txt").chmod(0o444)
    for dry in (True, False):
        with pytest.raises(Mistake, match=r"b\.txt: may only be read"):
            after(folder, add="pet", dry_run=dry)
    assert (folder / "a.txt").read_text(encoding="utf-8") == "cat"
    assert after(folder, add="pet", names=["a.png"])["a"] == "cat, pet"


def test_names_and_tags_are_the_same_however_accents_are_written(folder):
    """macOS writes e and ´ where others write é."""
    apart, whole = "e\u0301te\u0301", "\u00e9t\u00e9"
    make(folder, **{apart: f"cat, {apart}"})
    (folder.parent / "meta.json").write_text(json.dumps({whole: "dog"}), encoding="utf-8")
    assert after(folder, remove=whole, only=f"{whole} name:{whole} text:{whole}") == {apart: "cat"}
    build(Import, {"folder": folder, "source": folder.parent / "meta.json", "existing": "replace"}).run()
    assert (folder / f"{apart}.txt").read_text(encoding="utf-8") == "dog"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "expected something to do"),
        ({"regex": "["}, "expected a regular expression"),
        ({"regex": "a", "regex_with": r"\1"}, "expected a regular expression"),
        ({"regex_with": "a"}, "expected a regex beside it"),
        ({"replace": "a, b => c"}, "replace = a: expected old => new"),
        ({"traits": "hair", "strategy": "keep"}, "expected a trigger_word"),
        ({"set": "a", "clear": True}, "expected false beside set"),
    ],
)
def test_what_cannot_work_is_refused_before(folder, values, said):
    make(folder, a="cat")
    with pytest.raises(Mistake, match=re.escape(said)):
        build(Captions, {"folder": folder, **values})


def test_the_command_says_what_it_would_do(folder, capsys):
    make(folder, a="cat, hat", b="dog")
    words = ["captions", str(folder), "--remove", "hat, cat", "--add", "red bow", "--dry_run"]
    assert command(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 captions of 2 would be changed", "  a.png: cat, hat -> red bow", "  b.png: dog -> dog, red bow",
    ]  # fmt: skip
    assert (folder / "a.txt").read_text(encoding="utf-8") == "cat, hat"
    command(words[:-1])
    command(["undo", str(folder)])
    assert (folder / "b.txt").read_text(encoding="utf-8") == "dog"


def test_ends_of_lines_are_no_change(folder):
    """Windows' stay where a tag is changed, and a caption without that tag is left as it is."""
    make(folder, a=b"a, b\r\nc, d\r\n", b="e\u2028f, g", c=b"a\rb")
    report = build(Captions, {"folder": folder, "remove": "zzz"}).run()
    assert report.facts["changed"] == 0
    assert after(folder, remove="d, g") == {"a": "a, b\r\nc", "b": "e\u2028f", "c": "a\rb"}


@pytest.mark.parametrize("pattern", ["a{99999999999}", "(" * 3000 + ")" * 3000])
def test_patterns_that_none_can_make(folder, pattern):
    make(folder, a="a")
    with pytest.raises(Mistake, match="expected a regular expression"):
        build(Captions, {"folder": folder, "regex": pattern})


def test_an_interrupt_keeps_what_a_slow_work_has_done(folder, monkeypatch):
    """Ctrl-C after an hour of it: the picture under way is finished, no other begun."""
    make(folder, a="a", b="b")

    class Slow(Captions):
        keeps = True

        def edit(self, *given):
            for touched in super().edit(*given):
                signal.raise_signal(signal.SIGINT)
                yield touched

    monkeypatch.setitem(WORKS, "slow", Slow)
    before = signal.getsignal(signal.SIGINT)
    assert command(["slow", str(folder), "--add", "x"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    assert {path.stem: path.read_text() for path in folder.glob("*.txt")} == {"a": "a, x", "b": "b"}


@pytest.mark.parametrize(
    ("tag", "same", "other"),
    [("*hair", "long hair", "hair ribbon"), ("a?", "a?", "ab"), ("[x]*", "[x] y", "x"),
     (">_<", ">_<", ">__<"), ("a*b*c", "a1b2c", "a1c2b"),
     ("*a" * 20 + "b", "a" * 300 + "b", "a" * 3000)],
    ids=range(6),
)  # fmt: skip
def test_stars_stand_for_anything_and_take_no_time(tag, same, other):
    pattern = words.like(tag)
    assert pattern.fullmatch(words.plain(same))
    assert not pattern.fullmatch(words.plain(other))
