import collections
import random

import pytest

from lora_train.data.captions import CaptionRules, read
from lora_train.errors import Mistake

TAGS = "a cat, b, c, d, e"


def rng(seed=0):
    return random.Random(seed)


def test_without_rules_a_caption_is_left_as_it_is():
    assert CaptionRules().apply("a  cat,b , c", rng()) == "a  cat,b , c"
    assert not CaptionRules(caption_prefix="x", keep_tokens=3).random


def test_prefix_and_suffix_have_a_blank_between():
    both = CaptionRules(caption_prefix="sks,", caption_suffix="photo")
    assert both.apply("a cat", rng()) == "sks, a cat photo"
    assert CaptionRules(caption_prefix="sks").apply("", rng()) == "sks"


def test_shuffling_keeps_the_first_tags_and_loses_none():
    rules, r = CaptionRules(shuffle_caption=True, keep_tokens=2), rng()
    texts = {rules.apply(TAGS, r) for _ in range(200)}
    assert len(texts) == 6  # the orders of three tags
    assert {t[: len("a cat, b, ")] for t in texts} == {"a cat, b, "}
    assert {tuple(sorted(t.split(", "))) for t in texts} == {("a cat", "b", "c", "d", "e")}


def test_the_prefix_counts_among_the_kept_tags():
    rules = CaptionRules(caption_prefix="sks,", shuffle_caption=True, keep_tokens=1)
    assert all(rules.apply("b, c", rng(s)).startswith("sks, ") for s in range(20))


def test_every_order_is_as_likely():
    rules, r = CaptionRules(shuffle_caption=True), rng()
    counts = collections.Counter(rules.apply("a, b, c", r) for _ in range(6000))
    assert len(counts) == 6
    assert all(850 < n < 1150 for n in counts.values())  # 1000 +- 5 sigma


def test_tags_are_dropped_one_by_one_at_their_rate():
    rules, r = CaptionRules(caption_tag_dropout_rate=0.25, keep_tokens=1), rng()
    texts = [rules.apply(TAGS, r) for _ in range(4000)]
    assert all(t.startswith("a cat") for t in texts)
    left = sum(t.count(",") for t in texts) / 4000 / 4
    assert abs(left - 0.75) < 0.02
    assert {t for t in texts if t.count(",") == 4} == {TAGS}  # dropping alone does not shuffle


def test_all_tags_can_be_dropped():
    assert CaptionRules(caption_tag_dropout_rate=1).apply(TAGS, rng()) == ""


def test_whole_captions_are_dropped_with_prefix_and_kept_tags():
    rules, r = CaptionRules(caption_prefix="sks", caption_dropout_rate=0.1, keep_tokens=1), rng()
    texts = collections.Counter(rules.apply(TAGS, r) for _ in range(5000))
    assert set(texts) == {"", f"sks {TAGS}"}
    assert 400 < texts[""] < 600


def test_empty_tags_are_not_tags():
    assert CaptionRules(caption_tag_dropout_rate=1, keep_tokens=2).apply(" a ,, b, c,", rng()) == "a, b"


@pytest.mark.parametrize("on", ["shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate"])
def test_rules_that_draw_say_so(on):
    assert CaptionRules(**{on: True if on == "shuffle_caption" else 0.5}).random


def test_equal_draws_make_equal_captions():
    rules = CaptionRules(shuffle_caption=True, caption_tag_dropout_rate=0.3, caption_dropout_rate=0.3)
    assert [rules.apply(TAGS, rng(s)) for s in range(20)] == [rules.apply(TAGS, rng(s)) for s in range(20)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_read_with_and_without_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_text("  日本語, кот, café \r\n\r\n second\n", encoding=encoding, newline="")
    assert read(path) == ["日本語, кот, café", "second"]


def test_an_empty_file_has_no_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(b" \n\n")
    assert read(tmp_path / "a.txt") == []


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("a cat", "utf-16", "UTF-16"), ("a cat", "utf-16-le", "UTF-16"),
        ("美少女, 猫", "shift_jis", "Shift-JIS"), ("ねこ", "shift_jis", "Shift-JIS"),
        ("café, élan, naïve", "cp1252", "Windows-1252"), ("größe", "cp1252", "Windows-1252"),
        ("a “quoted” word", "cp1252", "Windows-1252"),
    ],
)  # fmt: skip
def test_another_encoding_is_refused_with_the_file_and_a_guess(tmp_path, text, encoding, named):
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(Mistake) as e:
        read(path)
    assert str(e.value).startswith(f"{path}: expected UTF-8 text; it looks like")
    assert named in str(e.value)
    assert str(e.value).endswith("Save it again as UTF-8")
