"""Plans of sheets: what they come to, and what is wrong with them, before anything is drawn."""

from __future__ import annotations

import pathlib

import pytest

from lora_train.blocks import BLOCKS, BlockWeights
from lora_train.errors import Mistake
from lora_train.knobs import build
from lora_train.plots.cells import drawn_up, stems
from lora_train.plots.plan import Plan, with_files
from lora_train.plots.shot import infotext, tagged
from lora_train.prompts import Prompt


@pytest.fixture
def grid(files):
    """grid(**values) of the folder's two files, or of `network_weights`."""

    def grid(*, job=None, **values):
        return drawn_up(build(Plan, {"network_weights": files, "prompt": "a cat", **values}), job)

    return grid


def sides(grid) -> dict[str, list]:
    return {side.name: [*side.values] for side in grid.sides if side.name}


def test_sides_that_are_left_empty_take_what_there_is_several_of(grid, files):
    several = {"strength": [0.0, 0.5, 0.75, 1.0], "file": ["one", "two"], "prompt": ["a cat", "a dog"]}
    assert sides(grid(prompt="a cat\na dog --d 7")) == several
    one = files / "one.safetensors"
    assert sides(grid(network_weights=one, x="cfg: 3, 5", seeds=3)) == {"cfg": [3.0, 5.0], "seed": [1, 2, 3]}


def test_seeds_go_on_from_the_prompts_own(grid):
    assert sides(grid(y="file: one", prompt="a cat --d 42", seeds=3))["seed"] == [42, 43, 44]


def test_prompts_of_a_file_have_the_plans_size_and_steps_too(grid, tmp_path):
    (tmp_path / "p.txt").write_text("a dog\na cat --w 96 --l 3", encoding="utf-8")
    own = {"width": 64, "height": 128, "steps": 5, "cfg": 2.0, "seed": 4, "sampler": "euler_a"}
    dog, cat = grid(prompt=None, from_file=tmp_path / "p.txt", y="file: one", **own).prompts
    assert dog == Prompt("a dog", "", 64, 128, 4, 5, 2.0, "euler_a")
    assert cat == Prompt("a cat", "", 96, 128, 4, 5, 3.0, "euler_a")


def test_a_link_to_nothing_is_no_file(grid, files, tmp_path):
    (files / "three.safetensors").symlink_to(tmp_path / "gone.safetensors")
    assert [file.stem for file in grid().files] == ["one", "two"]


def test_values_go_into_their_cell(grid):
    found = grid(
        x="te_strength: 0.5", y="file: two", z="sampler: k_euler_a", seed=9, prompt="a cat --n bad --s 5"
    )
    shot = found.shot((0, 0, 0))
    assert (shot.te, shot.unet, shot.file.stem) == (0.5, 1.0, "two")
    p = shot.prompt
    assert (p.sample_sampler, p.seed, p.sample_steps, p.negative_prompt, p.width) == (
        "euler_a",
        9,
        5,
        "bad",
        512,
    )


def test_at_strength_0_there_is_no_file(grid):
    found = grid(x="strength: 0, 1", y="file: none, one, two")
    shots = {place: found.shot(place) for place in found.places()}
    bare = {shot for place, shot in shots.items() if place[0] == 0 or place[1] == 0}
    assert len(bare) == 1
    assert not bare.pop().on
    assert len(set(shots.values())) == 3
    assert found.sides[1].labels[0] == "without"


@pytest.mark.parametrize(
    ("value", "others", "strength"),
    [("IN04", 0.0, None), ("in05-OUT05", 0.0, 0.5), ("NOT M00", 1.0, 0.25), ("BASE IN04", 0.5, 2.0)],
)
def test_single_blocks(grid, value, others, strength):
    axes = {"x": f"block_id: {value}"} | ({} if strength is None else {"y": f"block_strength: {strength}"})
    weights = grid(**axes, others=others, z="file: one").shot((0, 0, 0)).blocks
    first, *rest = value.upper().split()
    words = rest if first == "NOT" else [first, *rest]
    named = set()
    for word in words:
        begin, _, end = word.partition("-")
        named |= set(BLOCKS[BLOCKS.index(begin) : BLOCKS.index(end or begin) + 1])
    these = set(BLOCKS) - named if first == "NOT" else named
    wanted = tuple((1.0 if strength is None else strength) if b in these else others for b in BLOCKS)
    assert weights == BlockWeights(wanted)


def test_presets_of_a_person_and_values_that_are_drawn(grid, files):
    (files / "lbwpresets.txt").write_text("MINE:" + ",".join(["0.25"] * 17), encoding="utf-8")
    found = grid(x="block_weights: mine, OUTALL", y="file: one")
    assert set(found.shot((0, 0, 0)).blocks.values) == {0.25, 0.0}
    assert found.shot((1, 0, 0)).blocks == BlockWeights.parse("OUTALL")
    drawn = grid(x="block_weights: " + ",".join("R" * 12), y="seed: 1-2:1", z="file: one")
    one, again, other = (drawn.shot((0, y, 0)).blocks for y in (0, 0, 1))
    assert one == again != other


def test_presets_of_a_person_where_no_axis_has_block_weights(grid, files, tmp_path):
    mine = ",".join(["0.25"] * 17)
    (files / "lbwpresets.txt").write_text(f"MINE:{mine}", encoding="utf-8")
    (tmp_path / "lbwpresets.txt").write_text("FAR:" + ",".join("R" * 12), encoding="utf-8")
    assert grid(x="cfg: 3", block_weights="mine").shot((0, 0, 0)).blocks == BlockWeights.parse(mine)
    assert grid(x="cfg: 3").shot((0, 0, 0)).blocks == BlockWeights()
    assert grid(x="cfg: 3", block_weights="mine", lora_dir=tmp_path).shot((0, 0, 0)).blocks.values[0] == 0.25
    plan = build(Plan, {"network_weights": files, "prompt": "a", "x": "seed: 1, 2", "block_weights": "far"})
    drawn = drawn_up(plan, shelves=[tmp_path])
    one, again, other = (drawn.shot((x, 0, 0)).blocks for x in (0, 0, 1))
    assert one == again != other
    with pytest.raises(Mistake, match="block_weights = far: .*expected 12, 17, 20 or 26 values"):
        drawn_up(plan)


def test_analyzing_turns_each_block_down_alone(grid, files):
    found = grid(network_weights=files / "one.safetensors", analyze="17ALL", x="block_strength: 0, 0.5")
    assert [len(side.values) for side in found.sides] == [2, 17, 1]
    shot = found.shot((1, 2, 0))
    block = found.sides[1].values[2]
    assert shot.blocks.values[BLOCKS.index(block)] == 0.5
    assert sum(shot.blocks.values) == len(BLOCKS) - 0.5
    assert found.whole((1, 2, 0)).blocks == BlockWeights()
    with pytest.raises(Mistake, match="y = cfg: 1: expected nothing but block_strength beside analyze"):
        grid(analyze="17ALL", y="cfg: 1")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"x": "strength: 0, a"}, "strength = 'a': expected numbers"),
        ({"x": "strength: 101"}, "strength = 101: expected -100 to 100"),
        ({"x": "steps: 1.5"}, "steps = 1.5: expected a whole number"),
        ({"x": "sampler: eulr"}, "sampler = eulr: no such sampler"),
        ({"x": "block_id: IN99"}, "block_id = IN99: expected a block's id"),
        ({"x": "block_weights: 1,2"}, "block_weights = 1,2: expected 12, 17, 20 or 26 values"),
        ({"x": "strenght"}, "strenght: no such axis; did you mean strength?"),
        ({"x": "network.dim: 4"}, "network.dim: expected the settings of the run that is varied"),
        ({"x": "start"}, "start: expected its values"),
        ({"y": "file: three"}, "file = three: expected one of network_weights"),
        ({"x": "cfg", "y": "cfg: 1"}, "y = cfg: 1: expected another axis than x has"),
        ({"x": "cfg", "y": "seed", "z": "steps"}, "file: expected one, for all three sides have an axis"),
        ({"x": "block_strength: 1"}, "block_strength: expected an axis block_id beside it"),
        ({"prompt": "a <lora:x:y:z>", "y": "file: one"}, "<lora:x:y:z>"),
        ({"prompt": ""}, "prompt: expected --prompt or --from_file"),
        ({"network_weights": ()}, "network_weights: expected a LoRA file"),
        ({"x": "seed: 1-900:1", "y": "cfg: 1-9:0.1", "z": "file"}, "expected at most 2000 pictures"),
        ({"prompt": "a --d 2\nb --d 3", "y": "file: one", "seeds": 2}, "one seed; theirs are 2, 3"),
        ({"x": "block_id", "y": "file", "block_weights": "OUTALL"}, "block_weights: expected none beside"),
    ],
)
def test_wrong_values_are_refused(grid, values, said):
    with pytest.raises(Mistake) as e:
        grid(**values)
    assert said in str(e.value)


def test_everything_that_is_wrong_is_said_at_once(grid):
    with pytest.raises(Mistake) as e:
        grid(x="strength: a", y="cfg: b", z="nothing")
    assert len(str(e.value).splitlines()) == 4  # the files have no side either


def test_a_setting_of_a_training_is_an_axis(grid, pictures, tmp_path):
    job = {
        "model.pretrained_model_name_or_path": "m", "data.train_data_dir": str(pictures),
        "output.output_name": "mine", "network.alpha": 2.0,
    }  # fmt: skip
    found = grid(
        job=job, network_weights=(), x="network_dim: 4, 8", y="lr.kind: constant, cosine", z="strength: 1"
    )
    assert sides(found)["network.dim"] == [4, 8]
    assert len(found.runs) == 4
    shot = found.shot((1, 0, 0))
    values = found.runs[shot.file].settings
    assert (values["network.dim"], values["lr.kind"], values["network.alpha"]) == (8, "constant", 2.0)
    assert values["output.output_name"] == shot.file.stem
    assert values["training.seed"] == 1
    for wrong in ("network.dim: 0", "lr.kind: cosin", "output.output_dir: a", "data.train_data_dir: a"):
        with pytest.raises(Mistake, match=wrong.partition(":")[0]):
            grid(job=job, network_weights=(), x=wrong)
    for wrong in ("", ": one", ": epoch 0", ": epoch 1.5", ": epoch"):
        with pytest.raises(Mistake, match="which of each run's files: epoch 1, 2, last"):
            grid(job=job, x="network_dim: 4", y=f"file{wrong}")


def test_epochs_of_a_sweeps_runs(grid, pictures):
    job = {
        "model.pretrained_model_name_or_path": "m", "data.train_data_dir": str(pictures),
        "data.resolution": 64, "training.max_train_epochs": 4,
    }  # fmt: skip
    asked = {"job": job, "network_weights": (), "x": "lr.learning_rate: 0.1, 0.2"}
    found = grid(**asked, y="epoch: none, epoch 2, 4, LAST")
    assert sides(found)["file"] == ["none", "epoch 2", "epoch 4", "last"]
    without, second, fourth, last = (found.shot((1, y, 0)) for y in range(4))
    assert not without.on
    assert second.file.stem == f"{last.file.stem}-000002"
    assert fourth == last  # what a run ends with
    assert found.runs[last.file].settings["output.save_every_n_epochs"] == 2
    alone = grid(**asked, y="strength: 1")
    assert alone.shot((1, 0, 0)).file == last.file  # the same run, which saves less
    with pytest.raises(
        Mistake, match="file = epoch 5: expected an epoch that the run comes to; it ends after 16"
    ):
        grid(**asked, y="epoch: 1-5:2")


def test_files_of_one_name_are_told_apart():
    assert stems([pathlib.Path("a/x.s"), pathlib.Path("b/x.s"), pathlib.Path("b/y.s")]) == ["a/x", "b/x", "y"]


def test_the_files_of_a_run_and_of_paths(files):
    every = [files / "one.safetensors", files / "two.safetensors"]
    plan = with_files(build(Plan, {"x": "file: run okara"}), {"okara": every}.get)
    assert plan.network_weights == tuple(every)
    plan = with_files(build(Plan, {"x": f"file: {every[1]}"}), {}.get)
    assert plan.network_weights == (every[1],)
    assert with_files(build(Plan, {"x": f"file: {every[1]}"}), None).network_weights == ()


def test_files_with_commas_in_their_names(grid, files):
    one = (files / "one.safetensors").rename(files / "ink, wash.safetensors")
    both = [one, files / "two.safetensors"]
    assert sides(grid(y='file: none, "ink, wash", two'))["file"] == ["none", "ink, wash", "two"]
    plan = with_files(build(Plan, {"x": f'file: "{one}", two'}), {}.get)
    assert plan.network_weights == (one,)
    plan = with_files(build(Plan, {"x": "file: run okara", "prompt": "a cat"}), {"okara": both}.get)
    assert sides(drawn_up(plan))["file"] == ["ink, wash", "two"]
    assert grid(network_weights=f'"{both[0]}", {both[1]}').files == tuple(both)


def test_a_comma_in_a_files_name_on_the_command_line(files, monkeypatch):
    from lora_train.plotting import _one

    monkeypatch.chdir(files)
    (files / "one.safetensors").rename("ink, wash.safetensors")
    assert _one(["ink, wash.safetensors"]) == ["ink, wash.safetensors"]
    assert _one(["one.safetensors,two.safetensors"]) == "one.safetensors,two.safetensors"  # a list


def test_the_infotext_has_a_tag_that_says_the_same(grid):
    found = grid(x="te_strength: 0.5", y="block_weights: OUTALL", z="file: one")
    text = infotext(found.shot((0, 0, 0)))
    assert text.startswith("a cat<lora:one:0.5:1:lbw=1,")
    assert infotext(grid(x="strength: 0", y="file: one").shot((0, 0, 0))) == "a cat"
    found = grid(x="stop: 3", y="start: 1", z="file: one")
    assert tagged(found.shot((0, 0, 0))) == "a cat<lora:one:1:1:start=1:stop=3>"
