"""Pairs of pictures: ADDifT, the difference of two passes, and sliders of pictures."""

from __future__ import annotations

import contextlib
import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data.batches import Batch, Batches
from lora_train.data.cache import Fresh, Sample
from lora_train.data.folder import Data
from lora_train.data.looks import Look
from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.noise import Schedule
from lora_train.objectives.addift import Addift
from lora_train.objectives.denoise import Denoise
from lora_train.objectives.pairslider import PairSlider
from lora_train.run.control import Control, Ended
from lora_train.run.planner import look, measure
from lora_train.run.session import run
from lora_train.train.events import Watcher
from tests.run.conftest import At
from tests.test_laws import stirred
from tests.tiny import Tiny, TinyHost

KINDS = ("addift", "difference", "pair_slider")


@pytest.fixture
def pair(tmp_path) -> tuple[pathlib.Path, pathlib.Path]:
    """A picture, and the same with a white corner."""
    pixels = np.random.default_rng(3).integers(0, 200, (64, 64, 3), np.uint8)
    (tmp_path / "p").mkdir()
    first, second = tmp_path / "p" / "cat.png", tmp_path / "p" / "cat_hat.png"
    Image.fromarray(pixels).save(first)
    pixels[:16, :32] = 255
    Image.fromarray(pixels).save(second)
    (tmp_path / "p" / "cat.txt").write_text("a cat", encoding="utf-8")
    (tmp_path / "p" / "cat_hat.txt").write_text("a cat with a hat", encoding="utf-8")
    return first, second


def planned_of(objective, **data):
    return objective.survey(build(Data, {"resolution": 64, **data}))


def batches_of(objective, lent, **data) -> list[Batch]:
    planned, findings = planned_of(objective, **data)
    assert not [f.text for f in findings if f.fatal]
    every = Batches(planned, Fresh(lent.encode_images, 5), seed=5)
    return [batch for group in every.steps(0) for batch in group.batches]


def rng(seed: int = 100) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of(pair) -> dict[str, object]:
    return {"original_image": pair[0], "target_image": pair[1]}


def x0(schedule: Schedule, x_t: torch.Tensor, guess: torch.Tensor, t: int) -> torch.Tensor:
    a = schedule.alphas_cumprod[t].double()
    if schedule.prediction == "v":
        return a.sqrt() * x_t - (1 - a).sqrt() * guess
    return (x_t - (1 - a).sqrt() * guess) / a.sqrt()


# ── what is learned ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_addift_moves_what_the_model_sees_by_what_the_pictures_differ_in(pair, prediction):
    """In the picture that a prediction stands for, for both: that of the twin, moved to the other picture."""
    lent = Tiny(prediction)
    torch.manual_seed(0)
    network = stirred(Network(Lora(), lent.layers()), 0.05)
    settings = build(Addift, {**of(pair), "timestep_walk": False, "min_timestep": 300, "max_timestep": 600})
    course = settings.begin(lent, network)
    both = batches_of(settings, lent)
    assert {float(b.strengths[0]) for b in both} == {0.25, -0.25}
    for b in both:
        draws = rng()
        t, noise = int(torch.randint(300, 600, (), generator=draws)), torch.randn(1, 4, 8, 8, generator=draws)
        with network.attached(), course.during(b):
            found = course.losses(lent, b, [rng()])
            own = lent.schedule.noisy(b.latents, noise, torch.tensor([t]))
            now = lent.denoise(own, torch.tensor([t]), lent.encode(b.captions)).double()
        assert network.strength == 1
        other = lent.schedule.noisy(b.twins.latents, noise, torch.tensor([t]))
        base = lent.denoise(other, torch.tensor([t]), lent.encode(b.twins.captions)).double()
        wanted = x0(lent.schedule, other.double(), base, t) + (b.latents - b.twins.latents).double()
        a = lent.schedule.alphas_cumprod[t].double()
        scale = (1 - a) if prediction == "v" else (1 - a) / a  # of an error in the prediction, in x_0
        error = (x0(lent.schedule, own.double(), now, t) - wanted).square().mean() / scale
        assert found.item() == pytest.approx(error.item(), rel=1e-3)


def test_the_way_back_may_be_of_noise_alone_or_left_out(pair):
    lent = Tiny()
    network = Network(Lora(), lent.layers())
    settings = build(Addift, {**of(pair), "diff_alt_ratio": -2, "timestep_walk": False})
    course, (back,) = (
        settings.begin(lent, network),
        [b for b in batches_of(settings, lent) if float(b.strengths[0]) < 0],
    )
    assert float(back.strengths[0]) == -0.5
    draws = rng()
    t, noise = torch.randint(0, 1000, (1,), generator=draws), torch.randn(1, 4, 8, 8, generator=draws)
    now = lent.denoise(noise, t, lent.encode(back.captions))
    goal = lent.denoise(noise, t, lent.encode(back.twins.captions))
    with network.attached(), course.during(back):
        found = course.losses(lent, back, [rng()])
    assert found.item() == pytest.approx((now - goal).square().mean().item(), rel=1e-4)
    assert len(batches_of(build(Addift, {**of(pair), "diff_alt_ratio": 0}), lent)) == 1


def test_a_mask_shows_where_the_pictures_differ(pair):
    lent = Tiny()
    settings = build(Addift, {**of(pair), "diff_use_diff_mask": True})
    planned, _ = planned_of(settings)
    latents = settings.seen(Fresh(lent.encode_images, 5))
    (batch, _) = [b for g in Batches(planned, latents, seed=5).steps(0) for b in g.batches]
    expected = torch.zeros(1, 1, 8, 8)
    expected[..., :2, :4] = 1
    assert torch.equal(batch.masks, expected)
    course = settings.begin(lent, Network(Lora(), lent.layers()))
    t, noise = course.drawn(lent, batch, [rng()])
    pictures = [batch.latents, batch.twins.latents]
    one = course.losses_at(lent, batch, pictures, noise, t, masks=batch.masks)
    rest = course.losses_at(lent, batch, pictures, noise, t, masks=1 - batch.masks)
    whole = course.losses_at(lent, batch, pictures, noise, t)
    torch.testing.assert_close(one + rest, whole)
    assert one > 0


def test_masks_of_looks_that_do_not_come_again_are_not_kept(pair):
    settings = build(Addift, {**of(pair), "diff_use_diff_mask": True})
    planned, _ = planned_of(settings)
    latents, looks = settings.seen(Fresh(Tiny().encode_images, 5)), (Look(), Look(flip=True), Look(angle=3.0))
    found = [latents.masks([Sample(planned.items[0], look, 0)]) for look in looks]
    assert torch.equal(found[1], found[0].flip(-1))
    assert len(latents.kept) == 2


def test_steps_walk_through_the_range_in_tenths(pair):
    lent = Tiny()
    settings = build(Addift, {**of(pair), "min_timestep": 500})
    course = settings.begin(lent, None)
    (batch, *_) = batches_of(settings, lent)
    for ordinal in range(25):
        batch.ordinals = [ordinal]
        (t,) = course.timesteps(lent, batch, [rng(ordinal)])
        assert 500 + 50 * (ordinal % 10) <= t < 550 + 50 * (ordinal % 10)


def test_a_slider_of_pictures_denoises_each_at_its_strength(pair):
    lent = Tiny()
    torch.manual_seed(0)
    network = stirred(Network(Lora(), lent.layers()), 0.05)
    settings = build(PairSlider, {**of(pair), "pair_scale": 0.7})
    course, plain = settings.begin(lent, network), Denoise().begin(lent, network)
    seen = {float(b.strengths[0]): b for b in batches_of(settings, lent)}
    assert {round(s, 4): b.captions for s, b in seen.items()} == {0.7: ["a cat with a hat"], -0.7: ["a cat"]}
    for strength, b in seen.items():
        with network.attached():
            with course.during(b):
                found = course.losses(lent, b, [rng()])
            network.strength = strength
            expected = plain.losses(lent, b, [rng()])
            network.strength = 1.0
        torch.testing.assert_close(found, expected)


# ── what belongs together ───────────────────────────────────────────────────────────────────────────────────


def test_pairs_are_found_by_their_suffix_and_keep_their_captions(pair):
    lent = Tiny()
    settings = build(Addift, {"pair_suffix": "_hat"})
    both = batches_of(settings, lent, train_data_dir=pair[0].parent, flip_aug=True)
    told = {(b.captions[0], b.twins.captions[0], float(b.strengths[0])) for b in both}
    assert told == {("a cat with a hat", "a cat", 0.25), ("a cat", "a cat with a hat", -0.25)}
    turned = build(Addift, {"pair_suffix": "_hat", "diff_revert_original_target": True})
    told = {
        (b.captions[0], float(b.strengths[0]))
        for b in batches_of(turned, lent, train_data_dir=pair[0].parent)
    }
    assert told == {("a cat with a hat", -0.25), ("a cat", 0.25)}


def test_a_twin_is_seen_as_its_picture_is(pair):
    lent = Tiny()
    Image.open(pair[0]).save(pair[1])
    settings = build(Addift, {"pair_suffix": "_hat"})
    planned, _ = planned_of(settings, train_data_dir=pair[0].parent, flip_aug=True, num_repeats=8)

    class Plain(Fresh):
        def finish(self, fetched, samples):
            return self.encode(fetched, None)

    every = Batches(planned, Plain(lent.encode_images, 5), seed=5)
    seen = [b for g in every.steps(0) for b in g.batches]
    assert len({tuple(b.latents.flatten().tolist()) for b in seen}) == 2  # as it is, and mirrored
    assert all(torch.equal(b.latents, b.twins.latents) for b in seen)


def test_prompts_of_a_single_pair_are_those_given(pair):
    lent = Tiny()
    (b, *_) = batches_of(build(Addift, {**of(pair), "original_prompt": "a pet"}), lent)
    assert {*b.captions, *b.twins.captions} == {"a pet"}
    both = batches_of(build(Addift, {**of(pair), "original_prompt": "a", "target_prompt": "b"}), lent)
    assert {(*b.captions, float(b.strengths[0])) for b in both} == {("a", -0.25), ("b", 0.25)}


def test_what_is_no_pair_is_said(pair, tmp_path):
    def said(settings, **data) -> str:
        return "\n".join(f.text for f in planned_of(settings, **data)[1] if f.fatal)

    suffix = build(Addift, {"pair_suffix": "_hat"})
    Image.new("RGB", (64, 64)).save(pair[0].parent / "dog.png")
    assert "dog.png: expected dog_hat beside it" in said(suffix, train_data_dir=pair[0].parent)
    (pair[0].parent / "dog.png").unlink()
    Image.new("RGB", (64, 72)).save(pair[1])
    assert "of one size with cat.png; they have 64x64 and 64x72" in said(
        suffix, train_data_dir=pair[0].parent
    )
    assert "of one size with cat.png" in said(build(Addift, of(pair)))
    assert "gone.png: no such picture" in said(
        build(Addift, {**of(pair), "target_image": tmp_path / "gone.png"})
    )
    for values in ({}, {**of(pair), "pair_suffix": "_x"}):
        with pytest.raises(Mistake, match="expected the two pictures of a pair; or objective.pair_suffix"):
            planned_of(build(Addift, values))
    with pytest.raises(Mistake, match="expected both of a pair"):
        planned_of(build(Addift, {"original_image": pair[0]}))


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def paired(tmp_path, pair):
    """paired("a", **values): a small run into the folder a; values by path, dots as two underscores."""

    def paired(folder: str, *, stop=None, host=None, watchers=(), control=None, **values):
        usual = {
            "model.pretrained_model_name_or_path": "tiny.safetensors", "data.resolution": 64,
            "training.max_train_steps": 6, "training.seed": 5, "lr.learning_rate": 0.01,
            "output.output_dir": tmp_path / folder, "output.output_name": "x",
            "output.save_precision": "float", "objective.kind": "addift",
            "objective.original_image": pair[0], "objective.target_image": pair[1],
        }  # fmt: skip
        control = control or Control()
        watchers = [*watchers] if stop is None else [*watchers, At(stop, control.stop)]
        asked = {path.replace("__", "."): value for path, value in values.items()}
        if asked.get("objective.kind") == "difference":
            usual["objective.copier_steps"] = 4
        job = assemble({**usual, **asked})
        return run(*job, host or TinyHost(tmp_path), control=control, watchers=watchers)

    return paired


def same(a, b) -> bool:
    one, two = load_file(a.file), load_file(b.file)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_pairs_are_resumed_and_recomputed_to_the_bit(paired, kind):
    told = {"objective__kind": kind, "network__dropout": 0.2, "training__gradient_accumulation_steps": 2}
    whole = paired("a", **told)
    stopped = paired("b", stop=3, output__save_state=True, **told)
    assert same(whole, paired("b", place__resume=stopped.state, **told))
    assert same(whole, paired("c", place__gradient_checkpointing=True, **told))
    assert any(bool(v.abs().sum()) for k, v in load_file(whole.file).items() if "lora_up" in k)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_from_a_pair(paired, family):
    done = paired("a", network__kind=family, training__max_train_steps=2)
    assert any(bool(v.abs().sum()) for v in load_file(done.file).values())


def test_the_copier_is_learned_kept_and_can_be_given(paired, tmp_path):
    told = {"objective__kind": "difference"}
    first = paired("a", **told)
    copier = tmp_path / "a" / "x-run" / "x-copier.safetensors"
    kept = load_file(copier)
    assert any(bool(v.abs().sum()) for k, v in kept.items() if "lora_up" in k)
    assert {v.shape[0] for k, v in kept.items() if "lora_down" in k} == {16}
    given = paired("b", objective__copier=copier, **told)
    assert same(first, given)
    assert not (tmp_path / "b" / "x-run" / "x-copier.safetensors").exists()
    nothing = tmp_path / "nothing.safetensors"
    save_file({k: torch.zeros_like(v) if "lora_up" in k else v for k, v in kept.items()}, nothing)
    plain = paired("c", objective__copier=nothing, **told)
    assert not same(first, plain)
    with safe_open(first.file, "pt") as file:
        assert "copier.safetensors" not in json.dumps(file.metadata())


def test_a_stop_while_the_copier_learns_is_a_stop(paired, tmp_path):
    class Stop(Watcher):
        def preparing(self, what, done, of):
            if what == "learning the original pictures" and done == 2:
                stopping.stop()

    stopping = Control()
    values = {"objective.kind": "difference", "objective.copier_steps": 50}
    usual = {
        "model.pretrained_model_name_or_path": "tiny.safetensors", "data.resolution": 64, "training.seed": 5,
        "objective.original_image": tmp_path / "p" / "cat.png", "training.max_train_steps": 6,
        "objective.target_image": tmp_path / "p" / "cat_hat.png", "output.output_dir": tmp_path / "a",
    }  # fmt: skip
    with pytest.raises(Ended):
        run(*assemble({**usual, **values}), TinyHost(tmp_path), control=stopping, watchers=[Stop()])
    assert not [*(tmp_path / "a").rglob("*.safetensors")]


def test_a_pause_while_the_copier_learns_gives_the_model_back_as_it_was(paired, tmp_path):
    class Resting(Tiny):
        def given_back(self, waiting=lambda: None):
            assert not any(layer.module._forward_hooks for layer in self.layers())
            control.go_on()
            return super().given_back(waiting)

    class Host(TinyHost):
        def borrow(self, model, *, device, precision, waiting=None):
            return contextlib.nullcontext(lent)

    class Pause(Watcher):
        def preparing(self, what, done, of):
            if what == "learning the original pictures" and done == 2:
                control.pause()

    control, lent = Control(), Resting()
    told = {"objective__kind": "difference", "training__max_train_steps": 2}
    whole = paired("a", **told)
    again = paired("b", host=Host(tmp_path), watchers=[Pause()], control=control, **told)
    assert same(whole, again)
    assert lent.pauses == 1


def test_samples_of_a_difference_are_drawn_without_the_copier(paired, tmp_path):
    seen = []

    class Watching(Tiny):
        def sample(self, prompt):
            hooks = [m for net in self.parts.values() for m in net.modules() if len(m._forward_hooks) > 1]
            seen.append(len(hooks))
            return super().sample(prompt)

    class Host(TinyHost):
        def borrow(self, model, *, device, precision, waiting=None):
            return contextlib.nullcontext(Watching())

    paired("a", host=Host(tmp_path), objective__kind="difference", output__sample_every_n_steps=3)
    assert seen
    assert not any(seen)


def test_the_planner_and_refusals_know_pairs(tmp_path, pair):
    values = {
        "model.pretrained_model_name_or_path": "tiny.safetensors", "data.resolution": 64,
        "objective.kind": "addift", "objective.original_image": str(pair[0]),
        "objective.target_image": str(pair[1]), "output.output_dir": str(tmp_path),
    }  # fmt: skip
    found = look(values, TinyHost(tmp_path))
    assert not found["complaints"]
    assert found["plan"]["latents"]["count"] == 2
    for kind in KINDS:
        assert measure({**values, "objective.kind": kind}, TinyHost(tmp_path))["seconds_per_step"] > 0
    found = look({**values, "data.train_data_dir": str(pair[0].parent)}, TinyHost(tmp_path))
    assert "learns from files of its own; leave it empty" in found["complaints"][0]["text"]
    found = look({**values, "objective.target_image": ""}, TinyHost(tmp_path))
    assert "expected both of a pair" in found["complaints"][0]["text"]
