"""Tags are counted as a plain loop counts them, and slips of the pen are found in a list."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.workshop.journal import Journal
from lora_train.workshop.spelling import Known, Spelling, distance
from lora_train.workshop.tags import Tags

COMPLETION = """1girl,0,6000000,"girl,sole female"
long_hair,0,4000000,
looking_at_viewer,0,3000000,"looking_at_camera"
blue_eyes,0,1700000,
blue_dress,0,200000,
hatsune_miku,4,100000,
"""
SELECTED = "tag_id,name,category,count\n1,long_hair,0,400\n2,blue_eyes,0,100\n"


def make(folder, **captions):
    folder.mkdir(exist_ok=True)
    for name, text in captions.items():
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")


def counted(folder, **values):
    return build(Tags, {"folder": folder, **values}).run()


def test_counts_are_those_of_a_plain_loop(tmp_path):
    rng = random.Random(3)
    captions = {f"p{i}": [*dict.fromkeys(rng.choices("abcdefgh", range(1, 9), k=5))] for i in range(40)}
    make(tmp_path, **{name: ", ".join(tags) for name, tags in captions.items()}, rare="zz, a")
    captions["rare"] = ["zz", "a"]
    facts = counted(tmp_path, beside="a", everywhere=0.5).facts
    sets, every = [*map(set, captions.values())], sorted({t for tags in captions.values() for t in tags})
    counts = {tag: sum(tag in one for one in sets) for tag in every}
    assert dict(map(tuple, facts["tags"])) == counts
    assert facts["tags"] == sorted(facts["tags"], key=lambda row: (-row[1], row[0]))
    assert facts["unique"] == {"zz": "rare.png"}
    both = {(a, b): sum({a, b} <= one for one in sets) for a, b in itertools.combinations(every, 2)}
    found = {tuple(sorted(row["tags"])): row for row in facts["pairs"]}
    assert {pair: row["captions"] for pair, row in found.items()} == {p: n for p, n in both.items() if n > 1}
    assert all(
        row["share"]
        == pytest.approx(sum({*pair} <= one for one in sets) / sum(bool({*pair} & one) for one in sets))
        for pair, row in found.items()
    )
    for row in facts["beside"]:
        together = sum({"a", row["tag"]} <= one for one in sets)
        chance = counts["a"] / len(sets) * counts[row["tag"]] / len(sets)
        assert (row["captions"], row["times"]) == (together, pytest.approx(together / len(sets) / chance))
    assert {row["tag"] for row in facts["absorb"]} == {tag for tag in every if counts[tag] >= 0.5 * len(sets)}


def test_what_a_trigger_word_takes_up(tmp_path, capsys):
    make(
        tmp_path,
        a="okara, blue_eyes, hat",
        b="okara, Blue eyes, coat",
        c="okara, blue eyes, hat",
        d="blue eyes",
    )
    facts = counted(tmp_path, trigger_word="okara").facts
    assert [(row["tag"], row["share"]) for row in facts["absorb"]] == [("blue_eyes", 1.0)]
    assert facts["without_trigger"] == ["d.png"]
    command(["tags", str(tmp_path), "--trigger_word", "okara"])
    out = capsys.readouterr().out
    assert "     4  blue_eyes (100%)" in out
    assert "the trigger word comes to mean it" in out


def test_sentences_and_long_captions(tmp_path):
    transformers = pytest.importorskip("transformers")
    from lora_train.hosts.standalone.tokens import VOCABULARY

    long = ", ".join(f"a{i} thing" for i in range(40))
    make(tmp_path, a="A cat sits on the mat, red bow", b=long)
    facts = counted(tmp_path).facts
    assert facts["sentences"] == 1
    assert ["red bow", 1] in facts["tags"]
    assert not any("mat" in tag for tag, _ in facts["tags"])
    clip = transformers.CLIPTokenizer.from_pretrained(str(VOCABULARY))
    count = len(clip(long, add_special_tokens=False, verbose=False).input_ids)
    assert facts["tokens"]["over"] == [{"name": "b.png", "tokens": count}]


def levenshtein(one, other):
    """The plain recursion with swaps, for few letters."""
    if not one or not other:
        return len(one) + len(other)
    best = min(levenshtein(one[1:], other) + 1, levenshtein(one, other[1:]) + 1,
               levenshtein(one[1:], other[1:]) + (one[0] != other[0]))  # fmt: skip
    if one[1:2] == other[:1] and other[1:2] == one[:1]:
        best = min(best, levenshtein(one[2:], other[2:]) + 1)
    return best


def test_distance_is_that_of_the_recursion():
    rng = random.Random(0)
    for _ in range(150):
        one, other = ("".join(rng.choices("abc", k=rng.randrange(6))) for _ in range(2))
        truth = levenshtein(one, other)
        assert distance(one, other, 9) == truth
        assert distance(one, other, 2) == min(truth, 3)


@pytest.mark.parametrize(
    ("tag", "near"),
    [
        ("long hiar", "long hair"), ("lnog_hair", "long_hair"), ("hair long", "long hair"),
        ("sole female", "1girl"), ("looking at camera", "looking at viewer"),
        ("loking at veiwer", "looking at viewer"), ("blue eys", "blue eyes"), ("hat", None),
        ("red_dress", None), ("hatsune miko", "hatsune miku"),
    ],
)  # fmt: skip
def test_the_nearest_of_a_list(tmp_path, tag, near):
    path = tmp_path / "danbooru.csv"
    path.write_text(COMPLETION, encoding="utf-8")
    known = Known.read(path)
    assert known.nearest(tag) == near


def test_lists_of_each_kind(tmp_path):
    for name, text in (
        ("a.csv", COMPLETION),
        ("selected_tags.csv", SELECTED),
        ("a.txt", "long hair\nblue eyes\n"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        known = Known.read(tmp_path / name)
        assert known.has("Long_Hair")
        assert known.has("^_^")
        assert not known.has("long hiar")
        assert known.nearest("long hiar") == "long hair"
    assert Known.read(tmp_path / "selected_tags.csv").counts["long hair"] == 400
    (tmp_path / "empty.csv").write_text("\n", encoding="utf-8")
    with pytest.raises(Mistake, match="expected tags, one a line"):
        Known.read(tmp_path / "empty.csv")
    with pytest.raises(Mistake, match="cannot be read as a list of tags"):
        Known.read(tmp_path / "none.csv")


def test_a_large_list_is_quick(tmp_path):
    rng = random.Random(1)
    tags = {
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz_", k=rng.randrange(6, 20))): i for i in range(20000)
    }
    known, some = Known(tags, {}), rng.sample([*tags], 100)
    began = time.perf_counter()
    hits = sum(known.nearest(tag[:3] + tag[4:]) == tag for tag in some if len(tag.strip("_")) > 9)
    assert time.perf_counter() - began < 8
    assert hits >= 0.8 * sum(len(tag.strip("_")) > 9 for tag in some)


def test_slips_are_mended_and_the_trigger_word_is_not(tmp_path):
    (tmp_path / "list.csv").write_text(COMPLETION, encoding="utf-8")
    folder = tmp_path / "pictures"
    captions = {"a": "blue eyez, long hiar, long hair", "b": "blue eyez, girl", "c": "blue eyez, blue_eys",
                "d": "blue eyez, hat", "e": "A girl with long hiar sits here."}  # fmt: skip
    make(folder, **captions)
    work = build(Spelling, {"folder": folder, "tag_list": tmp_path / "list.csv", "spare": "blue eyez"})
    work.run()
    assert {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")} == {
        "a": "blue eyez, long hair", "b": "blue eyez, 1girl", "c": "blue eyez, blue_eyes", "d": captions["d"],
        "e": captions["e"]}  # fmt: skip
    Journal(folder).undo()
    assert (folder / "c.txt").read_text(encoding="utf-8") == captions["c"]
    build(Spelling, {"folder": folder, "tag_list": tmp_path / "list.csv"}).run()
    assert "blue eyez" in (folder / "a.txt").read_text(encoding="utf-8")  # too frequent for a slip
    facts = counted(folder, tag_list=tmp_path / "list.csv").facts
    assert {row["tag"]: row["nearest"] for row in facts["unknown"]} == {"blue eyez": "blue eyes"}
