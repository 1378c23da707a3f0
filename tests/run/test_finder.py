"""The finder of learning rates: an exponential sweep over the real job, which leaves only its table."""

import json

import pytest

from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.run.control import Control
from lora_train.run.finder import Found, Sweep, find
from lora_train.train.events import Progress
from tests.run.test_adapters_in_a_run import Lender
from tests.tiny import Tiny, TinyHost


def job(pictures, folder, **more):
    return assemble({
        "model.pretrained_model_name_or_path": "tiny.safetensors", "data.train_data_dir": pictures,
        "data.resolution": 64, "training.seed": 5, "lr.kind": "cosine", "lr.lr_warmup_steps": 3,
        "lr.unet_lr": 0.5, "output.output_dir": folder, "output.output_name": "x",
        "output.save_every_n_steps": 1, "output.save_state": True,
        **{path.replace("__", "."): value for path, value in more.items()},
    })  # fmt: skip


def test_it_sweeps_every_rate_in_equal_steps_of_its_logarithm(pictures, tmp_path):
    host = TinyHost(tmp_path / "home")
    before = Tiny().parts["unet"].state_dict()
    found, file = find(*job(pictures, tmp_path / "out"), host, Sweep(1e-5, 1e-2, 25))
    rates = [rate for rate, _, _ in found.points]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[-1] == pytest.approx(1e-2)
    assert [b / a for a, b in zip(rates, rates[1:], strict=False)] == pytest.approx([1000 ** (1 / 24)] * 24)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["x-find-lr.json", "x-find-lr.png"]
    told = json.loads(file.read_text())
    assert [point["rate"] for point in told["points"]] == rates
    assert all((Tiny().parts["unet"].state_dict()[k] == v).all() for k, v in before.items())


def test_the_rates_are_those_that_the_steps_were_made_with(pictures, tmp_path):
    class Rates(Found):
        def measured(self, progress: Progress) -> None:
            super().measured(progress)
            assert list(progress.rates.values()) == pytest.approx([self.points[-1][0]] * len(progress.rates))

    seen = Rates(Sweep(1e-5, 1e-3, 20), Control())
    find(*job(pictures, tmp_path / "out"), TinyHost(tmp_path), Sweep(1e-5, 1e-3, 20), watchers=[seen])
    assert len(seen.points) == 20


def test_what_it_makes_ready_is_of_use_later(pictures, tmp_path):
    """Pictures of the class are kept where the run will look for them, and latents are made once."""
    seen = []

    class Counted(Tiny):
        def encode_images(self, pixels, draws=None):
            seen.append(len(pixels))
            return super().encode_images(pixels, draws)

    more = {"data__class_prompt": "a thing", "data__num_class_images": 2, "training__initial_step": 30}
    find(*job(pictures, tmp_path / "out", **more), Lender(Counted()), Sweep(1e-5, 1e-3, 20))
    assert len([*(tmp_path / "out" / "x-run" / "class").glob("*.png")]) == 2
    assert sum(seen) == 5


def valley(sweep: Sweep, best: float) -> Found:
    """Losses that are lowest at a rate, and then grow."""
    found = Found(sweep, Control())
    for step in range(1, sweep.steps + 1):
        rate = sweep.low * sweep.factor ** (step - 1)
        progress = Progress(
            sweep.steps, sweep.steps, step=step, loss=1 - rate / best if rate < best else rate / best
        )
        found.measured(progress)
        if found.control.stopping:
            break
    return found


def test_the_suggestion_lies_below_the_valley_and_the_sweep_ends_behind_it():
    found = valley(Sweep(1e-6, 1.0, 600), 1e-3)
    assert 1e-5 < found.suggested() < 1e-3
    assert found.control.stopping
    assert found.points[-1][0] < 1.0


def test_where_no_rate_lowers_the_loss_none_is_suggested():
    found = Found(Sweep(), Control())
    for step in range(1, 60):
        found.measured(Progress(60, 60, step=step, loss=1.0 + step))
    assert found.suggested() is None


def test_what_cannot_be_swept_is_refused(pictures, tmp_path):
    with pytest.raises(Mistake, match="finds a rate by itself"):
        find(*job(pictures, tmp_path, optimizer__kind="prodigy"), TinyHost(tmp_path), Sweep())
    with pytest.raises(Mistake, match="expected a low rate and a high one"):
        Sweep(1e-3, 1e-4)
    with pytest.raises(Mistake, match="find_steps = 3"):
        Sweep(steps=3)
