import collections
import dataclasses
import math
import random

import pytest

from lora_train.data.captions import CaptionRules, Moment, read
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


@pytest.mark.parametrize(
    "on",
    [
        "shuffle_caption", "caption_dropout_rate", "caption_tag_dropout_rate", "enable_wildcard",
        "token_warmup_step", "caption_dropout_every_n_epochs",
    ],
)  # fmt: skip
def test_rules_that_change_captions_say_so(on):
    assert CaptionRules(**{on: True if on in ("shuffle_caption", "enable_wildcard") else 1}).random
    assert not CaptionRules(trigger_word="x", keep_tokens_separator="|||", caption_prefix="p").random


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
    assert "Save it again as UTF-8, or set caption_encoding = " in str(e.value)
    asked = str(e.value).rpartition(" = ")[2]
    assert read(path, asked) == read(path, "auto") == [text]


def test_what_is_no_text_is_not_read_as_any(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\x00\x01\x00\x00\xff\xd8")
    for encoding in ("utf-8", "auto", "shift_jis"):
        with pytest.raises(Mistake, match=r"a\.txt: expected"):
            read(path, encoding)


def outcomes(rules: CaptionRules, caption: str, count: int = 200, **when) -> set[str]:
    return {rules.apply(caption, rng(seed), Moment(**when)) for seed in range(count)}


def test_the_trigger_word_comes_first_unless_it_is_there():
    rules = CaptionRules(trigger_word="sks")
    assert rules.apply("a, b", rng()) == "sks, a, b"
    assert rules.apply("", rng()) == "sks"
    assert rules.apply("a, SKS dog", rng()) == "a, SKS dog"
    assert rules.apply("asks", rng()) == "sks, asks"
    assert rules.apply("a photo of [trigger], wet", rng()) == "a photo of sks, wet"
    assert CaptionRules().apply("[trigger], wet", rng()) == ", wet"


def test_the_trigger_word_is_never_shuffled_or_dropped():
    rules = CaptionRules(trigger_word="sks", shuffle_caption=True, caption_tag_dropout_rate=0.9)
    assert all(text.startswith("sks") for text in outcomes(rules, "a, b, sks, c"))


def test_keep_tokens_separator_fixes_both_ends_and_is_never_read():
    loose = CaptionRules(keep_tokens_separator="|||")
    assert loose.apply("a, b ||| c, d ||| e", rng()) == "a, b, c, d, e"
    mixed = dataclasses.replace(loose, shuffle_caption=True, caption_tag_dropout_rate=0.5)
    found = outcomes(mixed, "a, b ||| c, d, f ||| e")
    assert all(text.startswith("a, b") and text.endswith("e") and "|" not in text for text in found)
    assert len(found) == sum(math.perm(3, n) for n in range(4))
    keep = dataclasses.replace(mixed, keep_tokens=1)  # counts where the separator is not there
    assert all(text.startswith("a") for text in outcomes(keep, "a, b, c"))


def test_secondary_separator_keeps_a_group_together():
    rules = CaptionRules(shuffle_caption=True, secondary_separator=";;;")
    assert outcomes(rules, "a;;;b;;;c, d") == {"a,b,c, d", "d, a,b,c"}


def test_another_separator_of_tags():
    rules = CaptionRules(shuffle_caption=True, caption_separator=";")
    assert outcomes(rules, "a, b; c") == {"a, b, c", "c, a, b"}


def test_wildcards_choose_anew_each_time():
    rules = CaptionRules(enable_wildcard=True, caption_prefix="p")
    assert outcomes(rules, "a {x|y} {{z}}") == {"p a x {z}", "p a y {z}"}
    assert outcomes(rules, "one\ntwo") == {"p one", "p two"}
    assert CaptionRules().apply("one {x|y}\ntwo", rng()) == "one {x|y}"


@pytest.mark.parametrize("epoch", range(6))
def test_every_nth_epoch_has_empty_captions(epoch):
    rules = CaptionRules(caption_dropout_every_n_epochs=3)
    assert rules.apply(TAGS, rng(), Moment(epoch=epoch)) == ("" if epoch in (2, 5) else TAGS)


@pytest.mark.parametrize("over", [8, 0.5])
def test_tags_warm_up_one_after_another(over):
    rules = CaptionRules(token_warmup_step=over, token_warmup_min=2, keep_tokens=1)
    seen = [rules.apply("k, a, b, c, d, e, f", rng(), Moment(step=s, steps=16)) for s in range(10)]
    assert [text.count(",") for text in seen] == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert rules.apply("k, a", rng(), Moment(step=0, steps=16)) == "k, a"
