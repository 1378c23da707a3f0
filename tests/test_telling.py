"""`lora-train insight`: tables, JSON and a picture of a run's records, and what is said without them."""

import json

import numpy as np
import pytest
from PIL import Image

from lora_train import cli
from lora_train.errors import Mistake
from lora_train.plots.chart import Line, chart, strips, ticks
from lora_train.telling import found
from tests.run.conftest import pictures, trained  # noqa: F401 (fixtures)


def test_a_run_is_told_of_in_tables_and_a_picture(trained, tmp_path, capsys):  # noqa: F811
    done = trained("a")
    assert cli.main(["insight", str(tmp_path / "a"), "--output", str(tmp_path / "a.png")]) == 0
    said = capsys.readouterr().out
    assert "x · step 8 · 8 samples" in said
    assert all(name in said for name in ("2_things/a.png", "2_things/b.png", "sun, hot", "IN04", "te1"))
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.std() > 10

    assert cli.main(["insight", str(done.file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["compare"] is None
    assert told["runs"][0]["samples"] == 8


def test_a_file_is_told_of_by_its_own_run_alone(tmp_path):
    for name in ("cat", "cat-2"):
        (tmp_path / f"{name}-run").mkdir()
        (tmp_path / f"{name}-run" / "job.json").write_text('{"schema": 1, "values": {}}')
    for saved in ("cat", "cat-000003", "cat-step00000010", "cat-best"):
        assert found(tmp_path / f"{saved}.safetensors").store.name == "cat"
    assert found(tmp_path / "cat-2.safetensors").store.name == "cat-2"
    for other in ("cats", "category-000003"):
        with pytest.raises(Mistake, match="expected a folder NAME-run"):
            found(tmp_path / f"{other}.safetensors")


def test_several_runs_are_told_of_side_by_side(trained, tmp_path, capsys):  # noqa: F811
    trained("a")
    trained("b", network__dim=2)
    folders = [str(tmp_path / name / "x-run") for name in "ab"]
    assert cli.main(["insight", *folders, "--output", str(tmp_path / "both.png")]) == 0
    assert "network.dim: 4 | 2" in capsys.readouterr().out
    assert Image.open(tmp_path / "both.png").height > 500


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "RUN_FOLDER: expected the folder of a run's records"),
        (["nowhere"], "RUN_FOLDER = nowhere: expected a folder NAME-run with a job.json in it"),
        (["nowhere/x.safetensors"], "RUN_FOLDER = nowhere/x.safetensors: expected a folder NAME-run"),
        (["a", "--jsn"], "--jsn"),
    ],
)
def test_what_is_no_run_is_said(words, text, capsys):
    assert cli.main(["insight", *words]) == 2
    assert text in capsys.readouterr().err


def test_of_two_runs_in_a_folder_one_is_to_be_named(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}-run").mkdir()
        (tmp_path / f"{name}-run" / "job.json").write_text('{"schema": 1, "values": {}}')
    assert cli.main(["insight", str(tmp_path)]) == 2
    assert "it has a-run, b-run, name one of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("span", "found"),
    [
        ((0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1.0]), ((0, 0.03), [0, 0.01, 0.02, 0.03]),
        ((-3, 7), [-2, 0, 2, 4, 6]), ((5, 5), [5]),
    ],
)  # fmt: skip
def test_ticks_are_round(span, found):
    assert ticks(*span) == pytest.approx(found)


def test_a_line_is_drawn_where_its_points_are():
    image = chart([Line("x", [(0, 0), (10, 1)])], title="t", across="x", size=(400, 300))
    pixels = np.asarray(image).astype(int)
    drawn = np.argwhere(np.abs(pixels - (217, 115, 13)).sum(2) < 30)
    top, bottom = drawn[drawn[:, 0].argmin()], drawn[drawn[:, 1].argmin()]
    assert top[1] > 350  # the highest point is at the right
    assert bottom[1] < 70
    assert chart([], title="t", across="x").size == (760, 330)


def test_a_higher_number_is_darker():
    image = strips([("a", [0.0, None, 2.0]), ("b", [1.0, 1.0, 1.0])], title="t").convert("L")
    first, last, half = (image.getpixel(at) for at in ((90, 42), (660, 42), (300, 60)))
    assert first > half > last
