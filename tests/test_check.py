"""The pre-flight check: it finds all that was planted, and nothing that was not."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import sys

import pytest

from lora_train.cli import main
from lora_train.data.health import REMARKS as SEEN
from lora_train.data.scan import FATAL, REMARKS
from tests.planted import Garden, garden

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "check.md"
COUNTS = importlib.util.find_spec("transformers") is not None  # tokens
DEMO = pathlib.Path(__file__).parents[1] / "demo" / "checkpoint" / "demo.safetensors"
SETTINGS = ("--resolution", "64", "--enable_bucket", "--min_bucket_reso", "32", "--max_bucket_reso", "128",
            "--bucket_reso_steps", "16", "--seed", "1", "--output_name", "x")  # fmt: skip


@pytest.fixture(autouse=True)
def _any_model(monkeypatch):
    """Checkpoints are what other tests are about."""
    monkeypatch.setattr("lora_train.checking._models", lambda job: None)


@pytest.fixture
def check(tmp_path, capsys):
    """check(words) -> (exit status, report, text)."""

    def check(*words: object):
        file = tmp_path / "report.json"
        given = ["--pretrained_model_name_or_path", "model.safetensors", "--output_dir", tmp_path / "output"]
        status = main(["check", *map(str, (*given, *SETTINGS, *words)), "--json", str(file)])
        return status, json.loads(file.read_text(encoding="utf-8")), capsys.readouterr().out

    return check


def found(report) -> set[tuple[str, frozenset[str]]]:
    return {(f["kind"], frozenset(f["paths"])) for f in report["findings"]}


def test_every_planted_problem_is_found_and_no_other(tmp_path, check):
    planted = garden(tmp_path)
    expected = {entry for entry in planted.found if COUNTS or entry[0] != "over"}
    words = [
        "--train_data_dir",
        tmp_path / "pictures",
        "--reg_data_dir",
        tmp_path / "class",
        "--trigger_word",
        "sks",
    ]
    status, report, text = check(*words, "--all")
    assert found(report) == expected
    assert status == 2
    assert not report["ready"]
    for _, paths in expected:
        assert all(path.removesuffix(".png") in text for path in paths)  # of captions the .txt is named
    assert planted.count == 1000
    unreadable = [entry for entry in expected if entry[0] in ("picture", "caption")]
    assert len(report["pictures"]) == 1000 - len(unreadable)
    assert len(report["complaints"]) == len(unreadable)
    assert not (tmp_path / "output").exists()


class Words:
    """Tokens that are words."""

    def count(self, text: str) -> int:
        return len(text.split())

    def cut(self, text: str, limit: int) -> tuple[str, str]:
        words = text.split()
        return " ".join(words[:limit]), " ".join(words[limit:])


@pytest.fixture
def garden_of(tmp_path):
    """garden_of("10_x/a.png", size): a picture that looks like no other, with a caption unless None."""
    g = Garden(tmp_path, 3)

    def make(name: str, size=(64, 64), caption: str | bytes | None = "a dog"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        g.image(size).save(path)
        if caption is not None:
            g.say(path, caption)
        return path

    return make


def kinds(report) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    for f in report["findings"]:
        names.setdefault(f["kind"], []).extend(path.rpartition("/")[2] for path in f["paths"])
    return names


def test_a_folder_without_a_fault_can_begin(garden_of, tmp_path, check):
    garden_of("p/2_x/a.png"), garden_of("p/2_x/b.png")
    before = sorted(tmp_path.rglob("*"))
    status, report, text = check("--train_data_dir", tmp_path / "p", "--max_train_epochs", 3)
    assert status == 0
    assert report["ready"]
    assert report["findings"] == report["complaints"] == []
    assert "A run can begin." in text
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "report.json"])


def test_what_is_left_out_and_read_anyway_is_named(garden_of, tmp_path, check):
    garden_of("p/a.png")
    garden_of("p/b.png", caption="猫が好き".encode("cp932"))
    garden_of("p/c.png").write_bytes(b"")
    words = ("--train_data_dir", tmp_path / "p", "--skip_unreadable", "--caption_encoding", "auto")
    status, report, text = check(*words)
    assert status == 0
    assert kinds(report) == {"left": ["c.png"], "encoding": ["b.txt"]}
    assert "Shift-JIS" in text
    assert "an empty file" in text


def test_all_that_is_wrong_is_said_at_once(garden_of, tmp_path, check, capsys):
    garden_of("p/a.png").write_bytes(b"")
    (tmp_path / "prompts.txt").write_text("a dog --x 3\na cat --w none", encoding="utf-8")
    (tmp_path / "output").write_text("no folder", encoding="utf-8")
    words = ("--network_dim", 0, "--train_batch_size", "many", "--train_data_dir", tmp_path / "p",
             "--sample_prompts", tmp_path / "prompts.txt", "--color_aug", "--cache_latents")  # fmt: skip
    status, report, text = check(*words)
    assert status == 2
    for part in ("network.dim = 0", "data.batch_size = many", "a.png", "line 1", "line 2", "color_aug",
                 "output.output_dir"):  # fmt: skip
        assert [c for c in report["complaints"] if part in c], part
        assert part in text


def test_it_complains_of_what_a_run_would(garden_of, tmp_path, check, capsys):
    """Of each alone, for a run stops at the first of several kinds."""
    garden_of("good/a.png")
    garden_of("bad/a.png").write_bytes(b"")
    (tmp_path / "none").mkdir()
    cases = (("bad",), ("none",), ("gone",), ("good", "--random_crop", "--cache_latents"),
             ("good", "--mixed_precision", "fp16", "--device", "cpu"),
             ("good", "--resume", tmp_path / "none"))  # fmt: skip
    for folder, *words in cases:
        given = ["--train_data_dir", tmp_path / folder, *words]
        status, report, _ = check(*given)
        usual = ["--pretrained_model_name_or_path", DEMO, "--output_dir", tmp_path / "output"]
        assert main(["train", *map(str, (*usual, *SETTINGS, *given))]) == status == 2
        assert capsys.readouterr().err.rstrip("\n") == "\n".join(report["complaints"])


@pytest.mark.parametrize("words", [("--no_such_option", "1"), ("--network_module", "somebody.elses")])
def test_words_that_are_refused_are_refused_as_before_a_run(words, check):
    status, report, text = check("--train_data_dir", "x", *words)
    assert status == 2
    assert words[0].lstrip("-") in report["complaints"][0]
    assert report["complaints"][0] in text


def test_every_picture_has_its_size_bucket_and_crop(garden_of, tmp_path, check):
    garden_of("p/a.png", (200, 100))
    garden_of("p/b.png", (48, 48))
    _, report, text = check("--train_data_dir", tmp_path / "p", "--all")
    wide, small = report["pictures"]
    assert (wide["size"], wide["bucket"], wide["resized"]) == ([200, 100], [80, 48], [96, 48])
    assert (wide["crop"], wide["scale"]) == ([8, 0, 88, 48], 0.48)
    assert wide["cut"] == pytest.approx(1 - 80 / 96, abs=1e-4)
    assert (small["scale"], small["cut"]) == (pytest.approx(64 / 48, abs=1e-4), 0)
    assert "200x100 -> 96x48 -> 80x48, 0.48 times (17%, crop (8, 0, 88, 48))" in text
    assert [(b["size"], b["pictures"]) for b in report["buckets"]] == [([64, 64], 1), ([80, 48], 1)]


def test_too_small_unused_and_unnamed_pictures_are_found(garden_of, tmp_path, check):
    garden_of("p/a.png"), garden_of("p/b.png"), garden_of("p/tiny.png", (8, 8))
    for name in "cdef":
        garden_of(f"r/1_x/{name}.png")
    words = ("--train_data_dir", tmp_path / "p", "--bucket_no_upscale")
    _, report, _ = check(*words, "--reg_data_dir", tmp_path / "r")
    assert kinds(report) == {"small": ["tiny.png"], "unused": ["e.png", "f.png"]}
    (tmp_path / "m.json").write_text('{"a": {"tags": "x"}}', encoding="utf-8")
    _, report, _ = check("--train_data_dir", tmp_path / "p", "--in_json", tmp_path / "m.json")
    assert kinds(report) == {"unnamed": ["b.png", "tiny.png"]}


def test_steps_files_samples_and_latents_are_counted(garden_of, tmp_path, check):
    for name in "abc":
        garden_of(f"p/5_x/{name}.png")
    garden_of("p/5_x/d.png", (128, 64))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog", encoding="utf-8")
    words = ("--train_data_dir", tmp_path / "p", "--train_batch_size", 4, "--max_train_epochs", 3)
    outputs = ("--save_every_n_epochs", 1, "--sample_every_n_steps", 4, "--sample_at_first", "--flip_aug",
               "--sample_prompts", prompts)  # fmt: skip
    _, report, text = check(*words, *outputs)
    # 15 samples of one bucket are 4 batches, 5 of the other 2
    assert [(b["samples"], b["batches"]) for b in report["buckets"]] == [(15, 4), (5, 2)]
    steps = report["steps"]
    assert [steps[of] for of in ("pictures", "samples", "batches", "an_epoch", "in_all")] == [4, 20, 6, 6, 18]
    assert report["saves"] == [6, 12, 18]
    assert report["draws"] == [0, 4, 8, 12, 16]
    assert report["buckets"][1]["size"] == [80, 48]
    points = 3 * 8 * 8 + 10 * 6
    assert report["latents"] == {"count": 8, "megabytes": round(2 * points * 16 / 2**20, 2), "kept": "memory"}
    assert "files saved: 3, after steps 6, 12, 18" in text
    _, report, _ = check(*words, "--save_every_n_epochs", 2, "--save_every_n_steps", 5)
    assert report["saves"] == [12, 18]  # epochs win over steps
    _, report, _ = check(*words, "--save_every_n_steps", 5)
    assert report["saves"] == [5, 10, 15, 18]


def test_captions_and_prompts_are_shown_where_they_are_cut(garden_of, tmp_path, check, monkeypatch):
    monkeypatch.setattr("lora_train.checking._tokens", lambda: (lambda weighted: Words(), []))
    garden_of("p/a.png", caption="w " * 74 + "last beyond it")
    garden_of("p/b.png", caption="w " * 74 + "last")
    garden_of("p/c.png", caption="{" + "w " * 90 + "|x} or [a]")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a dog\n" + "w " * 75 + "more --w 64", encoding="utf-8")
    words = ("--train_data_dir", tmp_path / "p", "--sample_prompts", prompts, "--enable_wildcard")
    _, report, text = check(*words)
    assert kinds(report) == {"over": ["a.png", "c.png"]}
    first = report["findings"][0]
    assert (first["tokens"], first["lost"]) == (77, "beyond it")
    assert "w last | beyond it" in text
    assert [(p["tokens"], p.get("lost")) for p in report["prompts"]] == [(2, None), (76, "more")]
    assert "prompt 2, 76 tokens" in text
    _, report, _ = check(*words, "--max_token_length", 150)
    assert report["findings"] == []


def test_the_most_frequent_tags_are_counted_by_picture(garden_of, tmp_path, check):
    garden_of("p/a.png", caption="dog, grass, dog")
    garden_of("p/b.png", caption="dog, sky")
    _, report, text = check("--train_data_dir", tmp_path / "p")
    assert report["tags"] == [["dog", 2], ["grass", 1], ["sky", 1]]
    assert "dog (2), grass (1), sky (1)" in text


def test_a_long_list_says_how_many_are_not_shown(garden_of, tmp_path, check):
    for i in range(9):
        garden_of(f"p/{i}.png", (32, 32))
    _, _, text = check("--train_data_dir", tmp_path / "p")
    assert "pictures are enlarged more than 1.5 times (9):" in text
    assert "and 4 more" in text
    _, _, text = check("--train_data_dir", tmp_path / "p", "--all")
    assert text.count("32x32 in 64x64: 2 times") == 9


def test_the_same_pictures_at_two_sizes_are_no_duplicates(garden_of, tmp_path, check):
    garden_of("p/a.png")
    folder = tmp_path / "p"
    words = []
    for n, size in enumerate((64, 96)):
        words += [f"--data.datasets.{n}.resolution", size, f"--data.datasets.{n}.subsets.0.image_dir", folder]
    status, report, _ = check(*words, "--network_dim", 4)
    assert status == 0
    assert [p["bucket"] for p in report["pictures"]] == [[64, 64], [96, 96]]
    assert report["findings"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_name_that_is_no_text_is_written_down(garden_of, tmp_path, check):
    path = garden_of("p/a.png", (32, 32))
    path.rename(path.with_name(os.fsdecode(b"caf\xe9.png")))
    path.with_suffix(".txt").rename(path.with_name(os.fsdecode(b"caf\xe9.txt")))
    _, report, text = check("--train_data_dir", tmp_path / "p")
    assert report["pictures"][0]["path"].endswith(os.fsdecode(b"caf\xe9.png"))
    assert "caf\\udce9.png" in text


def test_help_names_the_options_of_train_and_its_own(capsys):
    assert main(["check", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json FILE" in text
    assert "--train_data_dir" in text


def test_the_page_says_what_a_report_holds(garden_of, tmp_path, check):
    garden_of("p/a.png")
    _, report, _ = check("--train_data_dir", tmp_path / "p")
    page = PAGE.read_text(encoding="utf-8")
    kinds = [*SEEN, *REMARKS, *FATAL]
    assert not [name for name in (*report, *report["steps"], *kinds) if f"`{name}`" not in page]


@pytest.mark.skipif(not COUNTS, reason="tokens are told by transformers")
def test_what_is_no_token_in_captions_and_prompts_is_not_counted(garden_of, tmp_path, check):
    """Brackets where captions have emphasis, and the names of LoRAs."""
    garden_of("p/a.png", caption="(dog:1.2) " * 40)
    garden_of("p/b.png", caption="dog BREAK cat")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("(dog:1.2) " * 40 + "<lora:x:0.5>", encoding="utf-8")
    words = ("--train_data_dir", tmp_path / "p", "--sample_prompts", prompts)
    _, report, _ = check(*words)
    assert kinds(report) == {"over": ["a.png"]}
    assert report["prompts"][0]["tokens"] == 40
    _, report, _ = check(*words, "--weighted_captions")
    assert kinds(report) == {"over": ["b.png"]}


def test_a_bad_model_file_is_complained_of(garden_of, tmp_path, check, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    garden_of("p/a.png")
    status, report, _ = check("--train_data_dir", tmp_path / "p")
    assert status == 2
    assert "model.safetensors" in report["complaints"][0]


def test_a_folder_inside_another_may_be_one_to_learn_from(garden_of, tmp_path, check):
    garden_of("p/a.png"), garden_of("p/more/deep/b.png"), garden_of("p/else/c.png")
    words = []
    for n, folder in enumerate(("p", "p/more/deep")):
        words += [f"--data.datasets.0.subsets.{n}.image_dir", tmp_path / folder]
    status, report, _ = check(*words)
    assert status == 0
    assert kinds(report) == {"inner": ["else"]}


def test_a_lora_to_go_on_from_is_looked_at(garden_of, tmp_path, check):
    garden_of("p/a.png")
    status, report, _ = check(
        "--train_data_dir", tmp_path / "p", "--network_weights", tmp_path / "no.safetensors"
    )
    assert status == 2
    assert "no.safetensors" in report["complaints"][0]


def test_a_dataset_without_a_folder_is_complained_of(garden_of, tmp_path, check):
    garden_of("p/a.png")
    words = (
        "--data.datasets.0.subsets.0.image_dir",
        tmp_path / "p",
        "--data.datasets.1.subsets.0.num_repeats",
        2,
    )
    status, report, _ = check(*words)
    assert status == 2
    assert report["complaints"][0].startswith("data.datasets.1.subsets.0.image_dir: expected the folder")
    assert [f["paths"] for f in report["findings"]] == [[]]
