"""Erase: what is learned of prompts, and runs that have no pictures."""

from __future__ import annotations

import contextlib
import dataclasses
import logging

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from lora_train.adapters import FAMILIES
from lora_train.adapters.file import network_of
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.data.batches import Batch
from lora_train.data.folder import Data
from lora_train.errors import Mistake
from lora_train.host import Cond
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.noise import Schedule
from lora_train.objectives.erase import Erase
from lora_train.objectives.slider import Slider
from lora_train.run.control import Control
from lora_train.run.planner import look, measure
from lora_train.run.session import run
from lora_train.run.states import settled
from tests.run.conftest import At
from tests.test_laws import stirred
from tests.tiny import Tiny, TinyHost

WORDS = {"target": "a cat", "max_denoising_steps": 5}


def erase(**values) -> Erase:
    return build(Erase, {**WORDS, **values})


def begun(lent: Tiny, **values):
    """A run of it, on adapters that add something."""
    torch.manual_seed(0)
    network = stirred(Network(Lora(), lent.layers()), 0.05)
    return network, erase(**values).begin(lent, network)


def batch(count: int, text: str = "a cat", first: int = 0) -> Batch:
    ordinals = list(range(first, first + count))
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * count)
    return Batch(
        torch.zeros(count, 4, 8, 8), [text] * count, None, ordinals, ["prompt 1"] * count, sizes=sizes
    )


def rngs(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + i) for i in range(first, first + count)]


def losses(lent, network, course, of, draws):
    with network.attached(), course.during(of):
        return course.losses(lent, of, draws)


@torch.no_grad()
def by_hand(lent: Tiny, network: Network, values: dict, rng: torch.Generator) -> float:
    """One sample's loss, in the words of the paper; steps 4, 3, … of five, 200 apart."""
    a = lent.schedule.alphas_cumprod.double()
    done, x = 4 - int(torch.randint(800, (), generator=rng)) // 200, torch.randn(1, 4, 8, 8, generator=rng)

    def says(text: str, x, t: int):
        return lent.denoise(x, torch.tensor([t]), lent.encode([text])).double()

    with network.attached():
        network.eval()
        for i in range(done):
            t, to = 200 * (4 - i), 200 * (3 - i)
            empty, cat = says("", x, t), says("a cat", x, t)
            guess = empty + 3 * (cat - empty)
            if lent.schedule.prediction == "v":
                x0 = a[t].sqrt() * x - (1 - a[t]).sqrt() * guess
                guess = (x - a[t].sqrt() * x0) / (1 - a[t]).sqrt()
            else:
                x0 = (x - (1 - a[t]).sqrt() * guess) / a[t].sqrt()
            x = (a[to].sqrt() * x0 + (1 - a[to]).sqrt() * guess).float()
        network.train()
        now = says("a cat", x, to)
    neutral, plus, minus = (says(text, x, to) for text in (values.get("neutral", ""), "a cat", ""))
    sign = {"erase": -1, "enhance": 1}[values.get("action", "erase")]
    goal = neutral + sign * values.get("guidance_scale", 1) * (plus - minus)
    return (now - goal).square().mean().item()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(
    "values", [{}, {"action": "enhance", "guidance_scale": 2.5}, {"neutral": "an animal"}]
)
def test_the_loss_is_that_of_two_passes_by_hand(prediction, values):
    lent = Tiny(prediction)
    network, course = begun(lent, **values)
    found = losses(lent, network, course, batch(3), rngs(3))
    expected = [by_hand(lent, network, values, rng) for rng in rngs(3)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_samples_loss_does_not_depend_on_its_batch():
    lent = Tiny()
    network, course = begun(lent, anchors="a dog | a house")
    together = losses(lent, network, course, batch(4), rngs(4))
    assert (together.shape, together.dtype) == ((4,), torch.float32)
    for i in range(4):
        alone = losses(lent, network, course, batch(1, first=i), rngs(1, i))
        torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-7)


def test_cached_conds_change_nothing():
    lent = Tiny()
    network, course = begun(lent)
    of = dataclasses.replace(batch(2), conds=lent.encode(["a cat"] * 2))
    network_unet = Network(Lora(train_unet_only=True), lent.layers())
    course.network = stirred(network_unet)
    live = losses(lent, network_unet, course, batch(2), rngs(2))
    torch.testing.assert_close(losses(lent, network_unet, course, of, rngs(2)), live)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_step_is_that_of_ddim(prediction):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        prediction_type=prediction)  # fmt: skip
    theirs.set_timesteps(50)
    ours = Schedule.scaled_linear(prediction="v" if prediction != "epsilon" else "epsilon")
    x, guess = torch.randn(2, 1, 4, 8, 8)
    for t in (980, 500, 20):
        expected = theirs.step(guess, t, x).prev_sample
        found = ours.step(x, guess, torch.tensor([t]), torch.tensor([t - 20]))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_instant_learns_from_noise_alone_what_the_model_says_of_other_words():
    lent = Tiny()
    network, course = begun(lent, instant=True, action="replace", positive="a dog")
    found = losses(lent, network, course, batch(2), rngs(2))
    for i, rng in enumerate(rngs(2)):
        t, noise = torch.randint(0, 1000, (1,), generator=rng), torch.randn(1, 4, 8, 8, generator=rng)
        with network.attached():
            now = lent.denoise(noise, t, lent.encode(["a cat"]))
        goal = lent.denoise(noise, t, lent.encode(["a dog"]))
        assert found[i].item() == pytest.approx((now - goal).square().mean().item(), rel=1e-4)


def test_anchors_cost_what_they_move():
    lent = Tiny()
    network, course = begun(lent)
    _, held = begun(lent, anchors="a dog", anchor_strength=2.0)
    with_one = losses(lent, network, course, batch(1), rngs(1))
    held.network = network
    drawn = held.drawn(lent, batch(1), rngs(1))
    t = held.at(lent, drawn.steps)
    with torch.no_grad(), network.attached():
        x = held.partial(lent, held.lines["prompt 1"], drawn, lent.encode(["a cat"]), True)
        moved = lent.denoise(x, t, lent.encode(["a dog"])) - _off(lent, network, x, t)
    found = losses(lent, network, held, batch(1), rngs(1))
    assert (found - with_one).item() == pytest.approx(2 * moved.square().mean().item(), rel=1e-3)


def _off(lent, network, x, t):
    with network.off():
        return lent.denoise(x, t, lent.encode(["a dog"]))


def test_sdxl_is_told_sizes_every_time():
    class Wide(Tiny):
        def encode(self, captions, *, weighted=None) -> Cond:
            return Cond(super().encode(captions).context, torch.ones(len(captions), 3))

        def denoise(self, x_t, t, cond):
            assert cond.sizes.shape == (len(x_t), 6)
            assert cond.vector.shape == (len(x_t), 3)
            seen.append(cond.sizes)
            return super().denoise(x_t, t, cond)

    seen: list[torch.Tensor] = []
    lent = Wide()
    network, course = begun(lent, anchors="a dog", dynamic_crops=True)
    losses(lent, network, course, batch(3), rngs(3))
    sizes = seen[-1]
    assert (sizes[:, 4:] == 64).all()
    assert ((sizes[:, :2] >= 64) & (sizes[:, :2] <= 192)).all()
    assert (sizes[:, 2:4] + 64 <= sizes[:, :2]).all()
    assert len(sizes.unique(dim=0)) == 3


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def erased(tmp_path):
    """erased("a", **values): a small run into the folder a; values by path, dots as two underscores."""

    def erased(folder: str, *, stop=None, host=None, **values):
        usual = {
            "model.pretrained_model_name_or_path": "tiny.safetensors", "data.resolution": 64,
            "training.max_train_steps": 6, "training.seed": 5, "lr.learning_rate": 0.01,
            "output.output_dir": tmp_path / folder, "output.output_name": "x",
            "output.save_precision": "float",
            "objective.kind": "erase", "objective.target": "a cat", "objective.max_denoising_steps": 4,
        }  # fmt: skip
        control = Control()
        watchers = [] if stop is None else [At(stop, control.stop)]
        asked = {path.replace("__", "."): value for path, value in values.items()}
        job = assemble({**usual, **asked})
        return run(*job, host or TinyHost(tmp_path), control=control, watchers=watchers)

    return erased


def same(a, b) -> bool:
    one, two = load_file(a.file), load_file(b.file)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


LIVELY = {"network__dropout": 0.2, "network__module_dropout": 0.1, "objective__anchors": "a dog|a house",
          "objective__prompts__0__target": "a cat", "objective__prompts__1__target": "a tree",
          "objective__prompts__1__multiplier": -0.5, "data__batch_size": 2,
          "training__gradient_accumulation_steps": 2}  # fmt: skip


def test_a_resumed_run_is_the_run_that_never_stopped(erased):
    whole = erased("a", **LIVELY)
    stopped = erased("b", stop=3, output__save_state=True, **LIVELY)
    assert same(whole, erased("b", place__resume=stopped.state, **LIVELY))


def test_recomputed_activations_give_the_same_file(erased):
    """At the strength that each prompt is learned at, in the backward pass too."""
    short = {**LIVELY, "training__max_train_steps": 3}
    assert same(erased("a", **short), erased("b", place__gradient_checkpointing=True, **short))


def test_a_batch_of_two_is_two_of_one_accumulated(erased):
    two = erased("a", data__batch_size=2, objective__instant=True, lr__learning_rate=1e-3)
    told = {"training__gradient_accumulation_steps": 2, "lr__learning_rate": 1e-3}
    ones = erased("b", objective__instant=True, **told)
    one, other = load_file(two.file), load_file(ones.file)
    assert max((one[k] - other[k]).abs().max() for k in one) < 1e-4


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_learns_from_prompts(erased, kind):
    done = erased("a", network__kind=kind, objective__instant=True, training__max_train_steps=3)
    assert any(bool(v.abs().sum()) for v in load_file(done.file).values())


def test_what_is_erased_is_drawn_as_the_goal_says(erased):
    """The adapter's prediction comes nearer to the goal, and what is anchored stays."""
    told = {"objective__instant": True, "training__max_train_steps": 30, "data__batch_size": 4,
            "network__train_unet_only": True, "objective__anchors": "zzz"}  # fmt: skip
    done = erased("a", **told)
    lent = Tiny()
    network, x, t = (
        network_of(load_file(done.file), lent.layers()),
        torch.randn(8, 4, 8, 8),
        torch.full((8,), 500),
    )

    def says(text: str):
        with torch.no_grad():
            return lent.denoise(x, t, lent.encode([text] * 8))

    goal, before, kept = 2 * says("") - says("a cat"), says("a cat"), says("zzz")
    with network.attached():
        after, stays = says("a cat"), says("zzz")
    assert (after - goal).norm() < 0.5 * (before - goal).norm()
    assert (stays - kept).norm() < (after - before).norm()


def test_the_job_inside_a_file_repeats_it(erased, tmp_path):
    import json

    prompts = tmp_path / "prompts.toml"
    prompts.write_text('[[prompts]]\ntarget = "a cat"\nresolution = [64, 128]\n', encoding="utf-8")
    first = erased("a", objective__prompts_file=prompts)
    with safe_open(first.file, "pt") as file:
        texts = file.metadata()
    assert "prompts.toml" not in json.dumps(texts)
    assert texts["ss_leco_prompt_count"] == "1"
    inside = {path.replace(".", "__"): value for path, value in json.loads(texts["lora_train_job"]).items()}
    assert inside["objective__prompts__0__resolution"] == "128,64"
    assert same(first, erased("b", **inside))


def test_steps_states_and_samples_go_on_as_usual(erased, tmp_path):
    erased("a", output__save_every_n_steps=2, output__save_state=True, output__sample_every_n_steps=3)
    files = sorted(p.name for p in (tmp_path / "a").glob("x*"))
    assert {"x-step00000002.safetensors", "x-step00000004.safetensors", "x-state", "x.safetensors"} <= set(
        files
    )
    assert len(list((tmp_path / "a" / "sample").iterdir())) == 2  # the target, twice
    assert len((tmp_path / "a" / "x-run" / "metrics.jsonl").read_text().splitlines()) == 6


# ── what is said of it ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"training__max_train_epochs": 2}, "max_train_epochs = 2: .* no epochs; set training.max"),
        ({"output__save_every_n_epochs": 2}, "save_every_n_epochs = 2: .* set output.save_every_n_steps"),
        ({"data__train_data_dir": "pictures"}, "data.train_data_dir = pictures: .* from prompts; leave it"),
        ({"objective__target": ""}, "objective.target: expected the prompt to change"),
        ({"objective__action": "enhance"}, "guidance_scale = 1: expected more than 1 to enhance"),
        ({"objective__action": "remove"}, "objective.action = remove: expected erase, enhance or replace"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_the_reason(erased, values, said):
    with pytest.raises(Mistake, match=said):
        erased("a", **values)


def test_float16_is_too_coarse_and_that_is_said(caplog):
    values = {"objective.kind": "erase", "objective.target": "a", "training.mixed_precision": "fp16"}
    with caplog.at_level(logging.WARNING):
        job = settled(assemble(values)[0], None)
    assert job.training.mixed_precision == "no"
    assert "erase learns from small differences, which float16 loses; full precision is used" in caplog.text
    plain = settled(assemble({"training.mixed_precision": "fp16"})[0], None)
    assert plain.training.mixed_precision == "fp16"


TOML = """
guidance_scale = 2.0
[[prompts]]
target = "van gogh"
neutral = "a painting"
resolution = [512, 768]
dynamic_resolution = true
[[prompts]]
target = "monet"
action = "enhance"
weight = 0.5
multiplier = -1.0
batch_size = 3
"""
YAML = """
- target: "van gogh"
  guidance_scale: 2.0
  neutral: "a painting"
  resolution: 512
- target: monet
  guidance_scale: 2.0
  action: enhance
  batch_size: 3
  positive:
"""


def test_files_of_prompts_are_read(tmp_path):
    (tmp_path / "a.toml").write_text(TOML, encoding="utf-8")
    found = erase(target="", prompts_file=tmp_path / "a.toml").settled()
    assert found.prompts_file is None
    first, second = found.lines()
    assert (first.target, first.neutral, first.positive, first.scale) == (
        "van gogh",
        "a painting",
        "van gogh",
        -2,
    )
    assert str(first.resolution) == "768,512"
    assert (second.scale, second.weight, second.strength, second.batch_size) == (2, 0.5, -1, 3)
    planned, _ = found.survey(build(Data, {"resolution": "512,509"}))
    assert planned.sources[1].shares[0].bucket == (512, 504)
    sizes = {share.bucket for share in planned.sources[0].shares}
    assert len(sizes) == 7 * 5  # 384 to 768 by 256 to 512
    assert (768, 512) in sizes
    assert (384, 256) in sizes
    pytest.importorskip("yaml")
    (tmp_path / "a.yaml").write_text(YAML, encoding="utf-8")
    first, second = erase(target="", prompts_file=tmp_path / "a.yaml").settled().lines()
    assert (first.scale, first.neutral, second.scale, second.positive) == (-2, "a painting", 2, "monet")
    (tmp_path / "a.txt").write_text("a cat\n\na dog\n", encoding="utf-8")
    lines = erase(target="", guidance_scale=3, prompts_file=tmp_path / "a.txt").settled().lines()
    assert [(line.target, line.scale) for line in lines] == [("a cat", -3), ("a dog", -3)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[prompts]]\ntagret = "a"\n', "prompts.0.tagret: no such setting; did you mean prompts.0.target"),
        ('[[prompts]]\ntarget = "a"\naction = "kill"\n', "prompts.0.action = kill: expected erase"),
        (
            '[[targets]]\ntarget_class = "a"\npositive = "b"\n',
            "has rows for a slider; set objective.kind = slider",
        ),
        ("prompts = 3\n", "expected prompts, each with a target"),
        ("", "expected the prompt to change"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_place(tmp_path, text, said):
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    with contextlib.suppress(FileNotFoundError), pytest.raises(Mistake, match=said):
        erase(target="", prompts_file=tmp_path / "a.toml").survey(Data())
    with pytest.raises(Mistake, match="expected a .toml, .yaml or .txt file"):
        erase(prompts_file=tmp_path / "a.json").settled()


# ── sliders ─────────────────────────────────────────────────────────────────────────────────────────────────

SLIDER = {"target": "a person", "positive": "an old person", "negative": "a young person", "instant": True}


@pytest.mark.parametrize("even", [False, True])
def test_a_slider_learns_one_end_at_its_strength_and_the_other_below_zero(even):
    lent = Tiny()
    torch.manual_seed(0)
    network = stirred(Network(Lora(), lent.layers()), 0.05)
    course = build(Slider, {**SLIDER, "guidance_strength": 2.0, "match_neutral": even}).begin(lent, network)
    assert list(course.lines) == ["prompt 1 +", "prompt 1 -"]
    for name, sign in (("prompt 1 +", 1.0), ("prompt 1 -", -1.0)):
        of = dataclasses.replace(batch(2, "a person"), names=[name] * 2)
        found = losses(lent, network, course, of, rngs(2))
        assert network.strength == 1
        for i, rng in enumerate(rngs(2)):
            t, x = torch.randint(1000, (1,), generator=rng), torch.randn(1, 4, 8, 8, generator=rng)
            neutral, old, young = (
                lent.denoise(x, t, lent.encode([text]))
                for text in ("a person", "an old person", "a young person")
            )
            goal = neutral + sign * 2 * (old - young)
            if even:
                goal = (goal - goal.mean()) / goal.std() * neutral.std() + neutral.mean()
            network.strength = sign
            with network.attached():
                now = lent.denoise(x, t, lent.encode(["a person"]))
            network.strength = 1.0
            assert found[i].item() == pytest.approx((now - goal).square().mean().item(), rel=1e-3)


def test_a_slider_moves_both_ways(erased):
    told = {f"objective__{name}": value for name, value in SLIDER.items()}
    done = erased("a", objective__kind="slider", training__max_train_steps=30, data__batch_size=4,
                  network__train_unet_only=True, objective__match_neutral=False, **told)  # fmt: skip
    lent = Tiny()
    network, x, t = (
        network_of(load_file(done.file), lent.layers()),
        torch.randn(8, 4, 8, 8),
        torch.full((8,), 500),
    )

    @torch.no_grad()
    def says(text: str):
        return lent.denoise(x, t, lent.encode([text] * 8))

    way = (says("an old person") - says("a young person")).flatten()
    plain, places = says("a person"), []
    for strength in (-2, -1, 0, 1, 2):
        network.strength = float(strength)
        with network.attached():
            places.append(float((says("a person") - plain).flatten() @ way / way.norm() ** 2))
    assert places == sorted(places)
    assert places[3] > 0.5
    assert places[1] < -0.5


def test_a_slider_is_resumed_and_recomputed_to_the_bit(erased):
    told = {f"objective__{name}": value for name, value in SLIDER.items()}
    told |= {"objective__kind": "slider", "training__gradient_accumulation_steps": 2}
    whole = erased("a", **told)
    stopped = erased("b", stop=3, output__save_state=True, **told)
    assert same(whole, erased("b", place__resume=stopped.state, **told))
    assert same(whole, erased("c", place__gradient_checkpointing=True, **told))


TARGETS = """
guidance_scale = 1.5
resolution = 1024
neutrals = ["", "photo of a person"]
[[targets]]
target_class = "person"
positive = "smiling person"
negative = "expressionless person"
[[targets]]
target_class = ""
positive = "high detail"
neutral = "photo"
multiplier = 0.5
"""


def test_files_of_sliders_are_read(tmp_path):
    (tmp_path / "a.toml").write_text(TARGETS, encoding="utf-8")
    lines = build(Slider, {"prompts_file": tmp_path / "a.toml"}).settled().lines()
    assert [(line.target, line.neutral, line.strength, line.scale) for line in lines[:4]] == [
        ("person", " ", 1, 1.5), ("person", " ", -1, -1.5),
        ("person", "photo of a person", 1, 1.5), ("person", "photo of a person", -1, -1.5),
    ]  # fmt: skip
    assert {line.strength for line in lines[4:]} == {0.5, -0.5}
    assert str(lines[0].resolution) == "1024"
    with pytest.raises(Mistake, match="set objective.kind = slider"):
        erase(prompts_file=tmp_path / "a.toml").settled()


def test_a_slider_without_two_ends_is_refused():
    with pytest.raises(Mistake, match="negative: expected another prompt than positive"):
        build(Slider, {"target": "a person"})


# ── precision, steps and weights ────────────────────────────────────────────────────────────────────────────


def test_the_gradient_comes_through_in_half_precision(erased):
    """torch keeps what it made of weights in half precision, and under no_grad that has no gradient."""
    done = erased("a", training__mixed_precision="bf16")
    assert any(bool(v.abs().sum()) for k, v in load_file(done.file).items() if "lora_up" in k and "unet" in k)


def test_steps_are_drawn_from_the_range_and_weighed():
    lent = Tiny()
    _, course = begun(lent, max_denoising_steps=10, min_timestep=300, max_timestep=500)
    drawn = {course.timesteps(lent, batch(1), rngs(1, i))[0] for i in range(60)}
    assert drawn == {300, 400}
    network, plain = begun(lent, instant=True)
    _, heavy = begun(lent, instant=True, min_snr_gamma=1.0)
    heavy.network = network
    t = plain.timesteps(lent, batch(2), rngs(2))
    ratio = losses(lent, network, heavy, batch(2), rngs(2)) / losses(lent, network, plain, batch(2), rngs(2))
    snr = lent.schedule.snr(torch.tensor(t))
    torch.testing.assert_close(ratio.detach(), snr.clamp(max=1) / snr)
    with pytest.raises(Mistake, match="min_timestep = 990: expected less than 900, where the first of 10"):
        erase(max_denoising_steps=10, min_timestep=990)


def test_the_planner_counts_prompts_and_measures_a_step(tmp_path):
    values = {"model.pretrained_model_name_or_path": "tiny.safetensors", "data.resolution": 64,
              "objective.kind": "erase", "objective.target": "a cat", "objective.max_denoising_steps": 3,
              "training.max_train_steps": 20, "output.output_dir": str(tmp_path)}  # fmt: skip
    found = look(values, TinyHost(tmp_path))
    assert not found["complaints"]
    plan = found["plan"]
    assert plan["text"] == "1 prompt in batches of 1 sample -> 20 steps"
    assert (plan["steps"], plan["pictures"], plan["images"]) == (20, 0, 20)
    assert found["disabled"]["data.flip_aug"] == "what is learned are prompts, not pictures"
    assert measure(values, TinyHost(tmp_path))["seconds_per_step"] > 0


def test_a_start_without_signal_is_refused_where_noise_is_predicted():
    last, shorter = Erase(target="a", max_denoising_steps=1000), Erase(target="a", max_denoising_steps=999)
    [said] = last.refusals("epsilon", True)
    assert said.startswith("max_denoising_steps = 1000: the first step would begin where no signal is left")
    assert not shorter.refusals("epsilon", True)
    assert not last.refusals("v", True)
    assert not last.refusals("epsilon", False)
