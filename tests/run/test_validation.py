"""Validation: what is held out, what is computed of it, and what follows."""

import json
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_train.adapters.file import network_of
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data import pictures as files
from lora_train.data.batches import Batches
from lora_train.data.cache import Fresh
from lora_train.data.folder import Data
from lora_train.data.memory import Memory
from lora_train.data.plan import plan
from lora_train.draws import drawn, key
from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.objectives.denoise import Denoise
from lora_train.run.check import check
from lora_train.run.validation import Validating
from lora_train.train.events import Progress, Watcher
from lora_train.train.learner import Learner
from lora_train.train.lr import Constant
from lora_train.train.optim import AdamW
from lora_train.train.parallel import Team
from lora_train.train.validation import Validation, timesteps
from tests.tiny import Tiny


@pytest.fixture
def make(tmp_path):
    def make(name: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64)).save(path)

    return make


@pytest.fixture
def pictures(tmp_path):
    """Six pictures with tags, once each, so that something is left when some are held out."""
    folder = tmp_path / "pictures" / "1_things"
    folder.mkdir(parents=True)
    for name in "abcdef":
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"thing {name}, red, {name} big", encoding="utf-8")
    return folder.parent


def lines(outcome) -> list[dict]:
    path = outcome.file.parent / "x-run" / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "megabytes")} for line in found]


def tried(outcome) -> dict[int, dict]:
    """Step -> the numbers of its validation."""
    return {line["step"]: line for line in lines(outcome) if "loss/validation/average" in line}


def same(a, b) -> bool:
    one, two = load_file(a.file), load_file(b.file)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


SPLIT = {"data__validation_split": 0.34, "validation__validate_every_n_steps": 2}


# ── which pictures ──────────────────────────────────────────────────────────────────────────────────────────


def held(make, tmp_path, count=10, **values):
    for i in range(count):
        make(f"p/{i:02d}.png")
    planned = plan(build(Data, {"resolution": 64, "train_data_dir": tmp_path / "p", **values}))
    out = [item.path.stem for source in planned.held for item in source.items]
    return [item.path.stem for item in planned.items], out


@pytest.mark.parametrize("seed", [0, 7, 1234])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_the_pictures_held_out_are_those_that_sd_scripts_holds_out(make, tmp_path, seed, share):
    names = [f"{i:02d}" for i in range(10)]
    random.seed(seed)  # as its split_train_val has it, read and not copied: shuffle, and take the end
    random.shuffle(names)
    learned, out = held(make, tmp_path, validation_split=share, validation_seed=seed)
    assert set(out) == set(names[len(names) - round(10 * share) :])
    assert sorted(learned + out) == sorted(names)


def test_a_split_holds_something_out_and_leaves_something(make, tmp_path):
    assert [len(part) for part in held(make, tmp_path, 2, validation_split=0.01)] == [1, 1]
    assert [len(part) for part in held(make, tmp_path, 2, validation_split=0.99)] == [1, 1]


def test_a_folder_may_be_for_validation_alone(make, tmp_path):
    make("p/a.png"), make("v/b.png"), make("v/c.png")
    folders = {
        "datasets.0.subsets.0.image_dir": tmp_path / "p", "datasets.0.subsets.1.image_dir": tmp_path / "v",
        "datasets.0.subsets.1.validation_split": 1, "resolution": 64,
    }  # fmt: skip
    planned = plan(build(Data, folders))
    assert [item.path.stem for item in planned.items] == ["a"]
    assert [item.path.stem for source in planned.held for item in source.items] == ["b", "c"]
    with pytest.raises(Mistake, match="no picture is left to learn from"):
        held(make, tmp_path, validation_split=1.0)


def test_regularisation_pictures_are_not_held_out(make, tmp_path):
    make("q/1_a/a.png"), make("q/1_a/b.png"), make("r/1_a/c.png"), make("r/1_a/d.png")
    planned = plan(
        build(Data, {"resolution": 64, "train_data_dir": tmp_path / "q", "reg_data_dir": tmp_path / "r",
                     "validation_split": 0.5}))  # fmt: skip
    assert {item.path.stem for item in planned.items} >= {"c", "d"}
    assert len(planned.items) == 3


# ── when ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "steps"),
    [({}, [4, 8, 10]), ({"validate_every_n_epochs": 2}, [8, 10]),
     ({"validate_every_n_steps": 3}, [3, 6, 9, 10]),
     ({"validate_every_n_steps": 5, "validate_every_n_epochs": 1}, [4, 5, 8, 10])],
)  # fmt: skip
def test_it_is_due_by_steps_or_epochs_and_at_the_end(values, steps):
    settings = build(Validation, values)
    assert [s for s in range(1, 11) if settings.due(Progress(10, 4, step=s))] == steps


def test_the_timesteps_are_those_of_sd_scripts():
    for low, high in ((0, 1000), (100, 900), (0, 500), (37, 1000)):
        assert timesteps(low, high) == np.linspace(low, high, 6, dtype=int)[1:-1].tolist()
    assert timesteps(0, 1000) == [200, 400, 600, 800]


# ── what is computed ────────────────────────────────────────────────────────────────────────────────────────


def test_training_is_the_same_to_the_bit_with_and_without(trained):
    """The same pictures are held out, and tried at every step or only at the end."""
    lively = {
        "network__dropout": 0.2, "network__module_dropout": 0.2, "data__shuffle_caption": True,
        "data__flip_aug": True, "data__caption_dropout_rate": 0.2, "data__validation_split": 0.34,
    }  # fmt: skip
    often = trained("a", validation__validate_every_n_steps=1, **lively)
    once = trained("b", validation__validate_every_n_steps=1000, **lively)
    assert same(often, once)
    assert [line for line in lines(often) if "loss" in line] == [
        line for line in lines(once) if "loss" in line
    ]
    assert len(tried(often)) == 8
    assert [*tried(once)] == [8]


def test_what_is_found_is_the_loss_of_the_saved_file_at_fixed_noise(trained, pictures):
    """Computed anew from the file, with another formula for the noised latents."""
    outcome = trained("a", network__dropout=0.5, objective__min_timestep=100, data__batch_size=2, **SPLIT)
    numbers, lent = tried(outcome)[8], Tiny()
    data = build(Data, {"resolution": 64, "train_data_dir": pictures, "validation_split": 0.34})
    out = [item for source in plan(data).held for item in source.items]
    assert len(out) == 2
    network = network_of(load_file(outcome.file), lent.layers())
    found = {t: [] for t in (280, 460, 640, 820)}
    for t, item in ((t, item) for t in found for item in out):
        rng = torch.Generator().manual_seed(key("latents", files.digest(item.path), False))
        x0 = lent.encode_images(files.load(item)[None], [rng])
        noise = torch.randn(x0.shape[1:], generator=drawn("validation", item.name, t))[None]
        a = lent.schedule.alphas_cumprod[t].item()
        noisy = math.sqrt(a) * x0 + math.sqrt(1 - a) * noise
        with network.merged(), torch.no_grad():
            guess = lent.denoise(noisy, torch.tensor([t]), lent.encode([item.caption]))
        found[t].append((guess - noise).square().mean().item())
    for t, losses in found.items():
        assert numbers[f"loss/validation/{t}"] == pytest.approx(np.mean(losses), rel=1e-5)
    mean = np.mean([*found.values()])
    assert numbers["loss/validation/average"] == pytest.approx(mean, rel=1e-5)
    (last,) = (line for line in lines(outcome) if line["step"] == 8 and "loss" in line)
    assert numbers["loss/validation/divergence"] == pytest.approx(mean - last["average"], abs=1e-6)


def test_masks_and_weights_count_as_in_training(trained, pictures, tmp_path):
    (tmp_path / "m").mkdir()
    for name in "abcdef":
        Image.new("L", (64, 64)).save(tmp_path / "m" / f"{name}.png")
    masked = {"data__conditioning_data_dir": tmp_path / "m", "objective__masked_loss": True}
    black = tried(trained("a", **masked, **SPLIT))
    assert {line["loss/validation/average"] for line in black.values()} == {0.0}
    plain = tried(trained("b", lr__learning_rate=1e-12, **SPLIT))[8]
    weighed = tried(trained("c", lr__learning_rate=1e-12, objective__min_snr_gamma=1.0, **SPLIT))[8]
    snr = Tiny().schedule.snr(torch.tensor([200, 400, 600, 800]))
    for t, r in zip((200, 400, 600, 800), snr.tolist(), strict=True):
        expected = plain[f"loss/validation/{t}"] * min(r, 1.0) / r
        assert weighed[f"loss/validation/{t}"] == pytest.approx(expected, rel=1e-5)


def test_a_few_batches_may_be_enough(trained):
    whole = tried(trained("a", **SPLIT))[8]
    some = tried(trained("b", validation__max_validation_steps=1, **SPLIT))[8]
    assert whole["loss/validation/400"] != some["loss/validation/400"]


@pytest.mark.parametrize("values", [{"network__train_unet_only": True}, {"place__cache_latents": False}])
def test_a_resumed_run_finds_what_the_run_that_never_stopped_finds(trained, values):
    values = {**SPLIT, "data__shuffle_caption": True, **values}
    whole = trained("a", **values)
    stopped = trained("b", stop=4, **values)
    on = trained("b", place__resume=stopped.state, **values)
    assert same(whole, on)
    assert lines(whole) == lines(on)


def test_watchers_are_told(trained):
    class Told(Watcher):
        def __init__(self):
            self.found = []

        def validated(self, progress, numbers):
            self.found.append((progress.step, numbers["loss/validation/average"]))

    told = Told()
    outcome = trained("a", watchers=[told], **SPLIT)
    expected = [(step, line["loss/validation/average"]) for step, line in tried(outcome).items()]
    assert told.found == expected
    assert [step for step, _ in expected] == [2, 4, 6, 8]


# ── what follows of it ──────────────────────────────────────────────────────────────────────────────────────


def test_the_best_file_is_that_of_the_lowest_loss(trained, tmp_path):
    values = {**SPLIT, "lr__learning_rate": 0.05, "output__save_every_n_steps": 2}
    outcome = trained("a", **values)
    found = {step: line["loss/validation/average"] for step, line in tried(outcome).items()}
    step = min(found, key=found.get)
    best = load_file(tmp_path / "a" / "x-best.safetensors")
    there = outcome.file if step == 8 else tmp_path / "a" / f"x-step{step:08d}.safetensors"
    expected = load_file(there)
    assert all(torch.equal(best[k], expected[k]) for k in expected)
    trained("b", validation__save_best=False, **values)
    assert not (tmp_path / "b" / "x-best.safetensors").exists()


def test_a_run_ends_when_nothing_gets_better(trained, tmp_path):
    """With a rate that spoils everything: the first validation stays the best."""
    values = {
        "data__validation_split": 0.34, "validation__validate_every_n_steps": 1, "lr__learning_rate": 0.5,
        "validation__early_stopping_patience": 2, "training__max_train_steps": 40,
        "training__max_grad_norm": 0,
    }  # fmt: skip
    outcome = trained("a", **values)
    found = [line["loss/validation/average"] for line in tried(outcome).values()]
    best = int(np.argmin(found))
    assert len(found) < 40
    assert outcome.progress.step == len(found) == best + 1 + 2
    assert not outcome.progress.stopped
    assert outcome.file.name == "x.safetensors"  # it has come to its end
    stopped = trained("b", stop=best + 2, **values)  # patience is counted on in a resumed run
    on = trained("b", place__resume=stopped.state, **values)
    assert same(outcome, on)
    assert lines(outcome) == lines(on)


def test_what_counts_as_lower_can_be_asked_for():
    settings, progress = Validation(early_stopping_patience=2, early_stopping_threshold=0.1), Progress(9, 3)
    heard = [settings.heard(progress, loss) for loss in (1.0, 0.95, 0.85, math.nan, 0.84)]
    assert heard == [True, False, True, False, False]
    assert (progress.best, progress.stale, progress.enough) == (0.85, 2, True)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"validation__early_stopping_patience": 3}, "validation.early_stopping_patience = 3: expected pict"),
        ({"validation__early_stopping_threshold": 0.1}, "validation.early_stopping_threshold: expected none"),
        ({"data__validation_split": 1.5}, "data.validation_split = 1.5: expected 0 to 1"),
    ],
)
def test_what_cannot_be_is_refused(trained, values, text):
    with pytest.raises(Mistake) as caught:
        trained("a", **values)
    assert str(caught.value).startswith(text)


def test_the_check_tells_what_is_held_out_and_when_it_is_tried(pictures, tmp_path):
    values = {
        "model.pretrained_model_name_or_path": "x", "data.train_data_dir": pictures, "data.resolution": 64,
        "data.validation_split": 0.5, "training.max_train_epochs": 4, "data.batch_size": 2,
        "validation.validate_every_n_epochs": 3, "output.output_dir": tmp_path,
    }  # fmt: skip
    report = check(*assemble(values), memory=Memory())
    assert report["validation"] == {"pictures": 3, "batches": 2, "after": [6, 8]}
    assert report["folders"][0]["pictures"] == 6
    assert report["folders"][0]["captions"]["read"] == 6
    assert report["steps"]["pictures"] == 3


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_processes_share_the_work_and_find_the_same(pictures, order):
    """Two, played one after the other: each does its part and hears the other's."""
    lent, done = Tiny(), {}
    planned = plan(
        build(Data, {"resolution": 64, "train_data_dir": pictures, "validation_split": 0.5, "batch_size": 2})
    )
    network = Network(Lora(), lent.layers())
    learner = Learner.new(
        network, Denoise().begin(lent, network), optimizer=AdamW(), lr=Constant(learning_rate=1e-3),
        progress=Progress(8, 4))  # fmt: skip
    batches = Batches(planned, Fresh(lent.encode_images, 0), seed=0)

    class Part(Team):
        def __init__(self, rank):
            self.rank, self.world = rank, 2

        def all(self, mine):
            done[self.rank] = mine
            return [done.get(0, {0: [0.0] * 4}), done.get(1, {1: [0.0] * 4})]

    def losses(crew):
        watcher = Validating(Validation(), learner, lent, batches, "no", crew, best=lambda p: None)
        with network.attached():
            return watcher.losses(learner.progress)

    whole = losses(Team())
    assert [losses(Part(rank)) for rank in order][1] == whole
    assert [len(part) for part in done.values()] == [1, 1]
