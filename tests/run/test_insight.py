"""What a run's records tell is what the objective gave, and what numpy makes of it by hand."""

import json

import numpy as np
import pytest
import torch

from lora_train.adapters import FAMILIES
from lora_train.adapters.network import Network
from lora_train.errors import Mistake
from lora_train.host import Folders
from lora_train.run import insight as told
from lora_train.run.desk import Desk
from lora_train.run.insight import compare, insight
from lora_train.run.losses import RECORD, pictures, read
from lora_train.run.runs import at
from lora_train.run.store import RunStore
from lora_train.train.events import Watcher
from tests.test_erase import erased  # noqa: F401 (a fixture)
from tests.tiny import Tiny, TinyHost
from tests.train.test_numbers import Asked

LIVELY = {"training__max_train_steps": 8, "training__gradient_accumulation_steps": 2, "data__flip_aug": True}


def samples(rows) -> np.ndarray:
    return np.array(rows, RECORD)


def records(outcome):
    return RunStore(outcome.file.parent, "x").records


def run_at(outcome):
    return at(records(outcome))


class Heard(Watcher):
    def __init__(self):
        self.told = []

    def measured(self, progress):
        self.told += [(progress.step, *sample) for sample in progress.samples]


# ── what is recorded ──


def test_what_is_recorded_is_what_the_objective_gave(trained, monkeypatch):
    from lora_train.objectives.denoise import Denoising

    given, before = [], Denoising.losses_at

    def losses_at(self, lent, latents, noise, timesteps, cond, **more):
        losses = before(self, lent, latents, noise, timesteps, cond, **more)
        given.extend(zip(timesteps.tolist(), losses.tolist(), strict=True))
        return losses

    monkeypatch.setattr(Denoising, "losses_at", losses_at)
    done = trained("a", objective__min_snr_gamma=5.0, data__batch_size=2, **LIVELY)
    found = read(records(done))
    assert [(r["timestep"], r["loss"]) for r in found] == [(t, np.float32(loss)) for t, loss in given]
    named = pictures(records(done))
    assert {row["name"] for row in named} == {"2_things/a.png", "2_things/b.png", "2_things/c.png"}
    assert {row["caption"] for row in named} == {"cat, red, big", "dog, blue, old, wet", "sun, hot"}


@pytest.mark.parametrize("more", [{}, {"objective__timestep_shift": 2.0},
    {"objective__fixed_timesteps_in_batch": True, "data__batch_size": 2}])  # fmt: skip
def test_timesteps_that_are_drawn_once_more_are_those_of_the_losses(trained, monkeypatch, more):
    from lora_train.objectives.denoise import Denoising

    given, before = [], Denoising.draws
    monkeypatch.setattr(Denoising, "draws", lambda *words: given.append(before(*words)) or given[-1])
    done = trained("a", **LIVELY, **more)
    assert read(records(done))["timestep"].tolist() == [t for drawn in given for t in drawn[0].tolist()]


def test_each_steps_mean_is_the_loss_of_the_metrics(trained):
    done = trained("a", **LIVELY)
    lines = [json.loads(line) for line in (records(done) / "metrics.jsonl").read_text().splitlines()]
    found = read(records(done))
    for line in lines:
        here = found["loss"][found["step"] == line["step"]]
        assert here.mean() == pytest.approx(line["loss"], rel=1e-5)


def test_a_sample_is_recorded_before_its_weight(trained, tmp_path, pictures):
    (pictures / "1_rest").mkdir()
    (pictures / "2_things" / "c.png").rename(pictures / "1_rest" / "c.png")
    values = {"data__reg_data_dir": tmp_path / "reg"}
    (tmp_path / "reg").mkdir()
    (pictures / "1_rest").rename(tmp_path / "reg" / "1_rest")
    heard = [Heard(), Heard()]
    for name, watcher, weight in zip("ab", heard, (1.0, 0.25), strict=True):
        trained(name, watchers=[watcher], data__prior_loss_weight=weight, training__max_train_steps=1,
                training__gradient_accumulation_steps=4, **values)  # fmt: skip
    assert heard[0].told
    assert heard[0].told == heard[1].told


@pytest.mark.parametrize("step", [1, 4])
def test_a_resumed_run_has_the_records_of_the_run_that_never_stopped(trained, step):
    whole = trained("a", **LIVELY)
    stopped = trained("b", stop=step, **LIVELY)
    with (records(stopped) / "losses.bin").open("ab") as file:
        file.write(samples([(step + 1, 0, 5, 1.0)]).tobytes() + b"torn")
    other = records(stopped) / "losses-1.bin"  # of a second process, which is not there any more
    other.write_bytes(samples([(step + 1, 0, 5, 1.0)]).tobytes())
    on = trained("b", place__resume=stopped.state, **LIVELY)
    assert np.array_equal(read(records(whole)), read(records(on)))
    assert pictures(records(whole)) == pictures(records(on))
    assert insight(run_at(whole)) == insight(run_at(on)) | {"name": "x"}


def test_a_run_that_starts_anew_forgets_what_was_there(trained):
    done = trained("a", **LIVELY)
    before = read(records(done))
    (records(done) / "losses-1.bin").write_bytes(before.tobytes())
    done.file.unlink()
    assert np.array_equal(read(records(trained("a", **LIVELY))), before)


def test_several_processes_records_are_one(tmp_path):
    (tmp_path / "losses.bin").write_bytes(samples([(1, 0, 9, 0.5), (2, 1, 8, 0.25)]).tobytes())
    (tmp_path / "losses-1.bin").write_bytes(samples([(1, 2, 7, 0.75)]).tobytes() + b"12")
    assert read(tmp_path).tolist() == [(1, 0, 9, 0.5), (1, 2, 7, 0.75), (2, 1, 8, 0.25)]


def test_what_a_block_adds_is_the_norm_of_its_layers_deltas(trained, monkeypatch):
    from lora_train.run.session import Session

    kept, before = [], Session.attached
    monkeypatch.setattr(Session, "attached", lambda self: kept.append(self) or before(self))
    done = trained("a", **LIVELY)
    network, found = kept[0].network, by_block(done)
    assert found["steps"] == [1, 8]
    for row in found["rows"]:
        leads = {"IN": "unet.input_blocks.", "OUT": "unet.output_blocks.", "M0": "unet.middle_block"}
        name = row["name"]
        lead = leads[name[:-2]] + str(int(name[-2:])) if name[:-2] in leads else leads.get(name[:-1], name)
        keys = [key for key in network.adapters if key.startswith(f"{lead}.")]
        squares = sum(network.delta(key).double().square().sum().item() for key in keys)
        assert keys
        assert row["values"][-1] == pytest.approx(squares**0.5, rel=1e-4)
    names = [row["name"] for row in found["rows"]]
    assert names == ["te1", "IN01", "IN04", "M00", "OUT08", "OUT11"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_looking_at_blocks_does_not_wait_for_a_card(kind):
    network = Network(FAMILIES[kind](), Tiny().layers())
    with Asked() as asked:
        found = network.regions()
    assert asked.found == []
    assert {"block/te1", "block/IN01", "block/M00"} <= set(found)
    assert float(torch.stack([*found.values()]).square().sum()) == pytest.approx(
        float(network.norms().square().sum()), rel=1e-5)  # fmt: skip


def by_block(done):
    return told.by_block(records(done))


# ── what is made of it ──


def test_bins_and_quartiles_are_numpys():
    rng = np.random.default_rng(0)
    found = samples([(i // 4 + 1, i % 7, rng.integers(1000), rng.random()) for i in range(400)])
    rows = told.by_timestep(found)
    assert [row["from"] for row in rows] == list(range(0, 1000, 50))
    for row in rows:
        here = found[(found["timestep"] >= row["from"]) & (found["timestep"] < row["to"])]
        losses = here["loss"].astype(float)
        assert row["count"] == len(here)
        assert row["mean"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        assert [row[k] for k in ("low", "median", "high")] == pytest.approx(
            np.quantile(losses, [0.25, 0.5, 0.75]), rel=1e-4)  # fmt: skip
        early = losses[here["step"] <= 50]
        assert row["early"] == pytest.approx(early.mean(), rel=1e-4)
        assert row["late"] == pytest.approx(losses[here["step"] > 50].mean(), rel=1e-4)


@pytest.mark.parametrize(("count", "bins"), [(1, 1), (8, 1), (40, 5), (10_000, 20)])
def test_few_samples_make_few_bins(count, bins):
    found = samples([(i, 0, 200 + i % 100, 1.0) for i in range(count)])
    rows = told.by_timestep(found, 200, 300)
    assert (len(rows), rows[0]["from"], rows[-1]["to"]) == (bins, 200, 300)
    assert sum(row["count"] for row in rows) == count


def test_a_picture_is_held_against_what_is_usual_at_its_timesteps(tmp_path):
    """Two pictures that are alike, one by chance at steps where the loss is high; and one that is wrong."""
    rng, rows = np.random.default_rng(1), []
    for step in range(6000):
        picture = step % 20
        t = int(rng.integers(0, 500) if picture == 0 else rng.integers(1000))
        usual = 1.0 if t < 500 else 0.1
        rows.append((step, picture, t, usual * (1.5 if picture == 2 else 1.0) * rng.normal(1, 0.05)))
    named = [{"file": f"{n}.png", "name": n, "caption": n} for n in "abcdefghijklmnopqrst"]
    found = told.by_picture(samples(rows), named, {}, None)
    assert (found["how"], [row["name"] for row in found["rows"]][0]) == ("times", "c")
    by_name = {row["name"]: row for row in found["rows"]}
    assert by_name["a"]["loss"] > by_name["c"]["loss"] * 1.05  # what it is without that
    assert by_name["a"]["against"] == pytest.approx(by_name["b"]["against"], abs=0.02)
    assert by_name["c"]["against"] / by_name["b"]["against"] == pytest.approx(1.5, abs=0.02)

    table = samples(rows)
    means = {k: table["loss"][table["timestep"] // 50 == k].astype(float).mean() for k in range(20)}
    against = np.array([r["loss"] / means[r["timestep"] // 50] for r in table])
    for part in np.split(against, 20):
        part /= part.mean()  # in place
    mine = against[table["picture"] == 1]
    assert by_name["b"]["against"] == pytest.approx(np.mean(mine), rel=1e-4)
    assert by_name["b"]["error"] == pytest.approx(np.std(mine, ddof=1) / len(mine) ** 0.5, rel=1e-3)


def test_a_loss_that_falls_with_time_says_nothing_of_a_picture():
    """The first picture is only there in the first half, when all losses are twice as high."""
    rng = np.random.default_rng(3)
    rows = [
        (i, 0 if i % 5 == 0 and i < 2000 else 1 + i % 9, 10 + i % 900, (1 + (i < 2000)) * rng.normal(1, 0.05))
        for i in range(4000)
    ]
    found, how = told.relative(samples(rows))
    of = np.array([row[1] for row in rows])
    assert how == "times"
    assert [found[of == k].mean() for k in (0, 3)] == pytest.approx([1, 1], abs=0.01)


def test_losses_below_zero_are_held_against_the_usual_by_difference():
    found, how = told.relative(samples([(i, 0, 10, v) for i, v in enumerate([-1.0, -3.0])]))
    assert (how, found.tolist()) == ("more", [1.0, -1.0])


def test_many_pictures_are_shown_from_both_ends_and_fit(tmp_path, trained):
    done = trained("a", **LIVELY)
    folder, rng = records(done), np.random.default_rng(2)
    named = [{"file": f"/{'長' * 60}/{i}.png", "name": f"{i}.png", "caption": "説明" * 500, "is_reg": False}
             for i in range(3000)]  # fmt: skip
    (folder / "pictures.json").write_text(json.dumps(named))
    rows = [(i // 3, i % 3000, rng.integers(1000), 1 + i % 3000 / 3000) for i in range(9000)]
    (folder / "losses.bin").write_bytes(samples(rows).tobytes())
    norms = {f"block/OUT{b:02d}": 1 / 3 for b in range(27)}
    long = [json.dumps({"step": i, "loss": 0.1, "average": 0.1, **norms}) for i in range(1, 2001)]
    (folder / "metrics.jsonl").write_text("\n".join(long) + "\n")
    found = insight(run_at(done))
    assert len(json.dumps(found, ensure_ascii=False).encode()) < 200_000
    shown = found["pictures"]["rows"]
    assert found["pictures"]["total"] == 3000 > len(shown) > 60
    assert [row["place"] for row in shown] == sorted(row["place"] for row in shown)
    assert (shown[0]["place"], shown[-1]["place"]) == (1, 3000)
    assert len(found["blocks"]["steps"]) <= 100
    both = compare([run_at(done)] * 4)
    assert len(json.dumps(both).encode()) < 200_000


# ── what is said in place of nothing ──


def test_an_old_run_and_one_that_begins_say_why_there_is_nothing(trained):
    done = trained("a", **LIVELY)
    (records(done) / "losses.bin").unlink()
    found = insight(run_at(done))
    assert "first steps" in found["timesteps"]["said"]
    (records(done) / "pictures.json").unlink()
    found = insight(run_at(done))
    assert found["timesteps"] == {"said": told.OLDER, "rows": []}
    assert found["pictures"]["said"] == told.OLDER
    (records(done) / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
    assert by_block(done)["said"] == told.UNLOOKED


def test_an_objective_of_words_says_that_it_has_no_pictures(trained):
    done = trained("a", **LIVELY)
    run = run_at(done)
    run.values["objective.kind"] = "erase"
    found = insight(run)
    assert "learns from words" in found["pictures"]["said"]
    assert found["timesteps"]["rows"]


def test_prompts_have_losses_by_timestep_as_well(erased):  # noqa: F811
    done = erased("a")
    samples, found = read(records(done)), insight(run_at(done))
    assert set(samples["timestep"]) <= set(range(1000))
    assert len(set(samples["timestep"])) > 1
    assert found["timesteps"]["rows"]
    assert found["pictures"]["said"].startswith("erase learns from words")
    assert found["blocks"]["rows"]


def test_a_loss_that_is_not_finite_is_in_no_mean(tmp_path):
    found = told.finite(samples([(1, 0, 3, float("nan")), (2, 0, 3, 1.0), (3, 0, 3, float("inf"))]))
    assert found["step"].tolist() == [2]


def test_runs_side_by_side_say_what_is_different(trained):
    one, two = trained("a", **LIVELY), trained("b", network__dim=2, **LIVELY)
    found = compare([run_at(one), run_at(two)])
    assert [(row["path"], len(row["values"])) for row in found["differ"]] == [("network.dim", 2)]
    assert found["differ"][0]["values"][1] == 2
    older = run_at(one)
    del older.values["training.l1_penalty"]
    older.values["network.alpha"] = 3.0
    assert [row["path"] for row in compare([older, run_at(one)])["differ"]] == ["network.alpha"]
    lines = [json.loads(line) for line in (records(two) / "metrics.jsonl").read_text().splitlines()]
    assert found["runs"][1]["average"] == pytest.approx(lines[-1]["average"], rel=1e-4)
    assert [p[0] for p in found["runs"][1]["points"]] == [line["step"] for line in lines]


def test_the_desk_tells_of_runs_by_name(trained, tmp_path):
    folders = Folders(loras=tmp_path / "a", desk=tmp_path / "desk")
    for name in "xy":
        trained("a", output__output_name=name, output__run_dir=tmp_path / "desk" / "runs" / name)
    desk = Desk(TinyHost(tmp_path), folders)
    assert desk.insight("x")["samples"] == 8
    assert [run["name"] for run in desk.compare(["y", "x"])["runs"]] == ["y", "x"]
    assert desk.compare(["y", "x"])["differ"] == []
    with pytest.raises(LookupError, match="no such run"):
        desk.insight("z")
    for names in (["x"], ["x"] * 7):
        with pytest.raises(Mistake, match="expected two to 6 runs"):
            desk.compare(names)


def test_recording_changes_nothing_of_the_run(trained, monkeypatch):
    from safetensors.torch import load_file

    from lora_train.run.losses import Losses
    from lora_train.train import loop

    one = trained("a", **LIVELY)
    monkeypatch.setattr(Losses, "measured", lambda *words: None)
    monkeypatch.setattr(loop, "looked", lambda step, steps: False)
    two = trained("b", **LIVELY)
    a, b = load_file(one.file), load_file(two.file)
    assert all(torch.equal(a[k], b[k]) for k in a)
