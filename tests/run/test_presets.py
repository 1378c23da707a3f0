"""Presets: every combination is a job, the reasons are there, and people's own come and go."""

import itertools

import pytest

from lora_train.errors import Mistake
from lora_train.job import assemble, declared
from lora_train.run.presets import BUILTIN, FAMILIES, GOALS, Presets, preset, reasons
from lora_train.run.recipes import NEEDS

MEMORY = (None, 4096, 8192, 12288, 24576, 81920)
SAID = {  # by the person
    "slider": {"objective.target": "a face", "objective.positive": "old", "objective.negative": "young"},
    "edit": {"objective.target": "a hat"},
}
EVERY = list(itertools.product(NEEDS, FAMILIES, MEMORY, BUILTIN))


@pytest.mark.parametrize(("goal", "family", "megabytes", "name"), EVERY)
def test_every_preset_is_a_job(goal, family, megabytes, name):
    for pictures, dtype in itertools.product((None, 1, 20, 5000), (None, "fp32", "bf16")):
        of = {"name": name, "dtype": dtype}
        values = preset(goal, family, megabytes, pictures, **of)
        assemble({**values, **SAID.get(goal, {})})  # strictly: no setting of a kind that is not chosen
        why = reasons(goal, family, megabytes, pictures, **of)
        assert why.keys() == values.keys()
        assert all(not text[0].islower() and text.endswith(".") for text in why.values()), why


def test_every_goal_has_a_preset():
    assert [goal["id"] for goal in GOALS] == list(NEEDS)
    known = {setting.path for setting in declared()}
    assert all(path in known for goal in GOALS for path in goal["aside"])
    with pytest.raises(Mistake, match="goal = cat: expected character, style, concept, slider or edit"):
        preset("cat")
    with pytest.raises(Mistake, match="family = sd3: expected sd1, sd2 or sdxl"):
        preset("style", "sd3")


def test_more_pictures_train_longer_within_bounds():
    steps = [preset("character", "sd1", None, n)["training.max_train_steps"] for n in (1, 10, 20, 1000)]
    assert steps == [800, 1000, 2000, 2000]


def test_little_memory_is_answered_with_checkpointing_and_one_picture():
    small, large = preset("style", "sdxl", 8192), preset("style", "sdxl", 40_000)
    assert small["place.gradient_checkpointing"]
    assert not large["place.gradient_checkpointing"]
    assert (small["data.batch_size"], large["data.batch_size"]) == (1, 2)
    assert preset("style", "sd1", None)["training.mixed_precision"] == "no"


def test_presets_of_ones_own_come_and_go(tmp_path):
    kept = Presets(tmp_path / "presets")
    assert [row["name"] for row in kept.list()] == list(BUILTIN)
    kept.write("Mein Stil ü", {"network.dim": 32, "data.train_data_dir": "/home/anna", "lr.kind": "linear"})
    assert kept.read("Mein Stil ü") == {"network.dim": 32, "lr.kind": "linear"}, "folders are not passed on"
    assert kept.list()[-1] == {"name": "Mein Stil ü", "builtin": False, "text": ""}
    kept.remove("Mein Stil ü")
    assert len(kept.list()) == len(BUILTIN)
    with pytest.raises(Mistake, match="no such preset; there are Fast, Balanced, Thorough"):
        kept.read("Mein Stil ü")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\\b", " a", "a.", "a\nb", "x" * 200])
def test_a_name_that_is_no_file_is_refused(tmp_path, name):
    with pytest.raises(Mistake, match="expected a name for a file"):
        Presets(tmp_path).write(name, {})
    assert not list(tmp_path.iterdir())


def test_the_built_in_ones_stay(tmp_path):
    for act in (lambda p: p.write("Fast", {}), lambda p: p.remove("Fast")):
        with pytest.raises(Mistake, match="built in"):
            act(Presets(tmp_path))
    with pytest.raises(Mistake, match="network.dimm: no such setting"):
        Presets(tmp_path).write("a", {"network.dimm": 4})


def test_the_header_of_a_host_chooses(tmp_path):
    header = {"family": "sdxl", "device": "cuda:0", "total_megabytes": 8192, "dtype": "fp16"}
    shown = Presets(tmp_path).offered("Balanced", "character", None, header, 20)
    assert shown["values"]["training.mixed_precision"] == "fp16"
    assert shown["values"]["network.train_unet_only"] is True
    assert shown["values"].keys() == shown["reasons"].keys()
    on_cpu = {"family": "sd1", "device": "cpu", "total_megabytes": 64_000, "dtype": "fp32"}
    assert Presets(tmp_path).offered("Fast", None, None, on_cpu)["values"]["data.batch_size"] == 1
    assert (
        Presets(tmp_path).offered("Fast", None, "sd3", {"family": "sd3"})["values"]["data.resolution"]
        == "512"
    )
