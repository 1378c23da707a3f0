"""The job: made of any words or refused in words, and written down without loss."""

import dataclasses
import datetime
import pathlib

import pytest

from lora_train.errors import Mistake
from lora_train.job import Job, Output, Place, assemble, declared, written

PATHS = [s.path.replace(".N.", ".0.") for s in declared()]
ODD = [
    None, "", " ", "x", "none", "1", "-1", "1e400", "nan", "0.5", "9" * 5000, "a\nb", "\0", "~nobody/x",
    "1,2", ",", True, False, 0, 1, -1, 10**400, 0.5, float("nan"), float("inf"), [], [1], ["a", "b"], [[1]],
    [None], {}, {"a": 1}, (), b"x", pathlib.Path("x"), datetime.date(2020, 1, 1), object(),
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_any_value_is_taken_or_refused_in_one_line_about_it(path):
    for value in ODD:
        try:
            made = assemble({path: value})
        except Mistake as e:
            lines = str(e).splitlines()
            assert lines
            assert all(line.startswith(path) or ": expected" in line for line in lines), (value, lines)
            assert all(len(line) < 1000 for line in lines)
        else:
            assert assemble(written(*made)) == made
            hash(made)


def test_every_setting_stands_in_job_output_or_place():
    rooms = {s.path.partition(".")[0] for s in declared()}
    assert rooms == {field.name for field in dataclasses.fields(Job)} | {"output", "place"}
    assert len(declared()) == len({s.path for s in declared()})


def test_every_default_is_a_value_its_setting_takes():
    for s in declared():
        if s.name != "kind":
            assert s.parse(s.default) == s.default
            assert type(s.parse(s.default)) is type(s.default)


def test_complaints_of_all_three_are_told_at_once_under_their_own_paths():
    with pytest.raises(Mistake) as caught:
        assemble({"network.dim": 0, "output.save_precision": "x", "place.device": "x", "outptu.name": 1})
    assert [line.partition(" ")[0] for line in str(caught.value).splitlines()] == [
        "network.dim", "outptu.name:", "output.save_precision", "place.device",
    ]  # fmt: skip


def test_equal_settings_are_equal_jobs_and_others_are_not():
    one, two, other = ({"lr.learning_rate": rate} for rate in (1, "1.0", 2))
    assert assemble(one) == assemble(two)
    assert hash(assemble(one)[0]) == hash(assemble(two)[0])
    assert assemble(one) != assemble(other)


@pytest.mark.parametrize("name", ["a", "müller 1.5", ".hidden", "a.safetensors"])
def test_a_file_name_is_taken(name):
    assert assemble({"output.output_name": name})[1].output_name == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", " ", "a/b", "a\\b", "a:b", "a|b", "a*", "a?", 'a"b', "a\nb", "a\0"]
)
def test_what_is_no_file_name_anywhere_is_refused(name):
    with pytest.raises(Mistake, match=r"^output\.output_name = .*: expected a file name"):
        assemble({"output.output_name": name})


def test_samples_need_no_prompts_but_trackers_a_folder():
    assert assemble({"output.sample_every_n_steps": 1})[1].sample_prompts is None
    with pytest.raises(Mistake, match="^output.log_with = tensorboard: expected a logging_dir"):
        assemble({"output.log_with": "tensorboard"})


def test_defaults_alone_make_the_three():
    job, output, place = assemble({})
    assert (type(job), output, place) == (Job, Output(), Place())
