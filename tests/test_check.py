"""The pre-flight check: it finds all that was planted, and nothing that was not."""

from __future__ import annotations

import importlib.util
import json

import pytest

from lora_train.cli import main
from tests.planted import garden

NEEDS = {"over": "lora_train.hosts.standalone.tokens", "near": "lora_train.data.likeness"}
BLIND = [kind for kind, module in NEEDS.items() if importlib.util.find_spec(module) is None]
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
    expected = {entry for entry in planted.found if entry[0] not in BLIND}
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
