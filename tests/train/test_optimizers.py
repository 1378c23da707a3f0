"""Every optimizer: that of its library, resumed to the bit, and what it is given and refused."""

import importlib
import json
import types

import pytest
import torch

from lora_train.errors import Mistake
from lora_train.job import assemble
from lora_train.knobs import build, flat
from lora_train.run.refusals import rates, refusals
from lora_train.run.store import optimizer_state, restore_optimizer
from lora_train.train.learner import Learner
from lora_train.train.optim import OPTIMIZERS, named

MORE = {"custom": {"optimizer_class": "NAdam"}}
CPU = [kind for kind in OPTIMIZERS if "ademamix8" not in kind]  # bitsandbytes' own need a CUDA device


def component(kind: str, **values):
    return build(OPTIMIZERS[kind], {**MORE.get(kind, {}), **values})


def groups() -> list[dict]:
    """As adapters are: a matrix, a convolution, and a number for each output."""
    rng = torch.Generator().manual_seed(3)
    shapes = [(4, 3), (5, 4), (4, 3, 3, 3), (6,)]
    drawn = [torch.nn.Parameter(torch.randn(shape, generator=rng)) for shape in shapes]
    return [
        {"params": drawn[:2], "name": "te1", "lr": 1.0, "base_lr": 1.0},
        {"params": drawn[2:], "name": "unet", "lr": 1.0, "base_lr": 1.0},
    ]


def made(kind: str, **values) -> torch.optim.Optimizer:
    one = component(kind, **values).on("cpu")
    if said := one.unready():
        pytest.skip(said[0])
    every = groups()
    rate = one.RATE or 1e-2
    for group in every:
        group["lr"] = group["base_lr"] = rate
    optimizer = one.make(every)
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def weights(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def stepped(optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """The way to what is 1 everywhere, with noise that only depends on the step."""
    for step in range(first, last):
        rng = torch.Generator().manual_seed(step)
        for p in weights(optimizer):
            p.grad = (p.detach() - 1) + 0.1 * torch.randn(p.shape, generator=rng)
        optimizer.step()


@pytest.mark.parametrize("kind", CPU)
def test_it_goes_on_from_its_state_to_the_bit(kind):
    whole = made(kind)
    stepped(whole, 0, 9)
    first = made(kind)
    stepped(first, 0, 4)
    tensors, plain = optimizer_state(first)
    kept = {name: value.clone() for name, value in tensors.items()}
    then = made(kind)
    for p, before in zip(weights(then), weights(first), strict=True):
        p.data.copy_(before)
    restore_optimizer(then, kept, json.loads(json.dumps(plain)))
    stepped(then, 4, 9)
    for p, q in zip(weights(whole), weights(then), strict=True):
        assert torch.equal(p, q)
    assert any(not torch.equal(p, q) for p, q in zip(weights(whole), weights(made(kind)), strict=True))


LIBRARIES = {  # kind: class, arguments that its people give
    "adamw": ("torch.optim.AdamW", {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}),
    "sgdnesterov": ("torch.optim.SGD", {"lr": 1e-2, "momentum": 0.9, "nesterov": True}),
    "lion": ("lion_pytorch.Lion", {"lr": 3e-5, "weight_decay": 0.05}),
    "prodigy": ("prodigyopt.Prodigy", {"lr": 1.0, "decouple": True, "weight_decay": 0.01, "d_coef": 2.0,
                "use_bias_correction": True, "safeguard_warmup": True, "betas": (0.9, 0.99)}),
    "dadaptadam": ("dadaptation.DAdaptAdam", {"lr": 1.0, "decouple": True, "weight_decay": 0.01}),
    "dadaptlion": ("dadaptation.DAdaptLion", {"lr": 1.0, "weight_decay": 0.01}),
    "adafactor": ("transformers.optimization.Adafactor", {"lr": None, "relative_step": True}),
    "came": ("came_pytorch.CAME.CAME", {"lr": 2e-4}),
    "adamwschedulefree": ("schedulefree.AdamWScheduleFree", {"lr": 3e-4}),
    "prodigyplusschedulefree": ("prodigyplus.ProdigyPlusScheduleFree", {"lr": 1.0}),
}  # fmt: skip


@pytest.mark.parametrize("kind", LIBRARIES)
def test_it_makes_its_librarys_steps(kind):
    optimizer = made(kind)
    path, arguments = LIBRARIES[kind]
    module, _, name = path.rpartition(".")
    theirs = vars(importlib.import_module(module))[name](
        [{"params": g["params"]} for g in groups()], **arguments
    )
    if hasattr(theirs, "train"):
        theirs.train()
    for one in (optimizer, theirs):
        stepped(one, 0, 5)
    for p, q in zip(weights(optimizer), weights(theirs), strict=True):
        assert torch.equal(p, q)


def test_adafactor_with_a_rate_is_that_of_the_presets():
    optimizer = made("adafactor", relative_step=False)
    assert {g["scale_parameter"] for g in optimizer.param_groups} == {False}
    assert {g["lr"] for g in optimizer.param_groups} == {1e-4}
    stepped(optimizer, 0, 3)
    with pytest.raises(Mistake, match="warmup_init = true"):
        component("adafactor", relative_step=False, warmup_init=True)


def test_muon_gives_what_is_no_matrix_to_adamw():
    optimizer = made("muon")
    assert [(g["use_muon"], p.ndim) for g in optimizer.param_groups for p in g["params"]] == [
        (True, 2), (True, 2), (True, 4), (False, 1)]  # fmt: skip


def learner(optimizer) -> Learner:
    return Learner(None, None, optimizer, None, types.SimpleNamespace(step=5))


@pytest.mark.parametrize("kind", [k for k in OPTIMIZERS if k.endswith("schedulefree")])
def test_what_is_shown_is_the_average_and_training_goes_on_to_the_bit(kind):
    whole, looked = made(kind), made(kind)
    stepped(whole, 0, 14)
    stepped(looked, 0, 11)
    before = [p.clone() for p in weights(looked)]
    with learner(looked).shown():
        assert any(not torch.equal(p, q) for p, q in zip(weights(looked), before, strict=True))
        z, y = looked.state[weights(looked)[0]]["z"], before[0]
        beta = looked.param_groups[0].get("betas", (looked.param_groups[0].get("momentum"),))[0]
        # y = (1 - beta) z + beta x, arXiv:2405.15682, equation 6
        assert torch.allclose(weights(looked)[0], (y - (1 - beta) * z) / beta, atol=1e-6)
    stepped(looked, 11, 14)
    for p, q in zip(weights(whole), weights(looked), strict=True):
        assert torch.equal(p, q)


def test_what_is_not_schedule_free_is_shown_as_it_is():
    one = learner(made("adamw"))
    before = [p.clone() for p in weights(one.optimizer)]
    with one.shown():
        assert all(torch.equal(p, q) for p, q in zip(weights(one.optimizer), before, strict=True))


def test_the_rate_that_prodigy_finds_is_told():
    optimizer = made("prodigy")
    stepped(optimizer, 0, 5)
    told = learner(optimizer).rates()
    assert told["unet"] == 1.0
    assert told["d*lr/unet"] == told["d*lr/te1"] == float(optimizer.param_groups[0]["d"]) > 0
    assert learner(made("adafactor")).rates() == {"te1": 1e-2, "unet": 1e-2}


# ── what is used in another's place ─────────────────────────────────────────────────────────────────────────

SAME = {"adamw8bit": "adamw", "pagedadamw": "adamw", "pagedadamw8bit": "adamw", "pagedadamw32bit": "adamw",
        "lion8bit": "lion", "pagedlion8bit": "lion", "sgdnesterov8bit": "sgdnesterov"}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_without_a_card_the_one_with_the_same_steps_is_used_and_one_line_says_so(kind):
    used, said = component(kind, weight_decay=0.3).on("cpu"), component(kind).instead("cpu")
    assert used == component(SAME[kind], weight_decay=0.3)
    assert used.RATE == component(kind).RATE
    assert said.startswith(
        f"optimizer.kind = {kind}: {type(used).__name__} makes the same steps in its place"
    )
    assert "\n" not in said


def test_arguments_that_only_bitsandbytes_has_are_left_out_and_named():
    one = component("adamw8bit", optimizer_args=["min_8bit_size=1024", "amsgrad=True"])
    assert one.on("cpu") == component("adamw", optimizer_args=["amsgrad=True"])
    assert one.instead("cpu").endswith("without min_8bit_size, which only bitsandbytes has")


# ── what is refused ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "adamw", "betas": "0.9"}, "betas = 0.9: expected two numbers, such as 0.9,0.999"),
        ({"kind": "came", "betas": "0.9,0.99"}, "betas = 0.9, 0.99: expected three numbers"),
        ({"kind": "adamw", "optimizer_args": ["eps=1"]}, "optimizer_args = eps: it is a setting of its own"),
        ({"kind": "adamw", "optimizer_args": ["lr=1"]}, "optimizer_args = lr: rates are set in"),
        ({"kind": "custom"}, "optimizer_class: expected a class, such as"),
        ({"kind": "adamw", "d_coef": 2}, "d_coef belongs to prodigy"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, said):
    with pytest.raises(Mistake) as caught:
        assemble({f"optimizer.{name}": value for name, value in values.items()})
    assert str(caught.value).startswith(f"optimizer.{said}")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"optimizer.kind": "custom", "optimizer.optimizer_class": "nowhere.Best", "lr.learning_rate": 1},
         "optimizer.optimizer_class = nowhere.Best: needs the package nowhere; pip install nowhere"),
        ({"optimizer.kind": "custom", "optimizer.optimizer_class": "os.path.join", "lr.learning_rate": 1},
         "optimizer.optimizer_class = os.path.join: expected the class of an optimizer"),
        ({"optimizer.kind": "custom", "optimizer.optimizer_class": "NAdam"}, "lr.learning_rate: expected a"),
        ({"optimizer.optimizer_args": ["amsgard=True"]}, "optimizer.optimizer_args = amsgard: AdamW has"),
        ({"lr.kind": "adafactor"}, "lr.kind = adafactor: is what Adafactor chooses by itself"),
        ({"optimizer.kind": "adafactor", "network.loraplus_lr_ratio": 16},
         "network.loraplus_lr_ratio: Adafactor chooses the rate, one for all"),
        ({"optimizer.kind": "adafactor", "network.down_lr_weight": "sine"},
         "network.down_lr_weight: Adafactor chooses the rate, one for all"),
        ({"optimizer.kind": "adafactor", "embedding.token_string": "zwx",
          "embedding.train_text_encoder_ti_frac": 0.5},
         "embedding.train_text_encoder_ti_frac: Adafactor chooses the rate, one for all"),
    ],
)  # fmt: skip
def test_what_cannot_be_had_is_refused_before_a_run(values, said):
    job, output, place = assemble({**values, "place.device": "cpu"})
    assert any(line.startswith(said) for line in refusals(job, output, place))


def test_a_package_that_is_missing_is_named_for_pip(monkeypatch):
    monkeypatch.setattr("lora_train.train.optimizer.missing", lambda path: True)
    job, _, place = assemble({"optimizer.kind": "prodigyplusschedulefree"})
    assert rates(job, place) == [
        "optimizer.kind = prodigyplusschedulefree: needs the package prodigy-plus-schedule-free; pip install "
        "prodigy-plus-schedule-free"
    ]


def test_optimizers_of_one_rate_take_no_two():
    job, _, place = assemble({"optimizer.kind": "prodigy", "lr.text_encoder_lr": 0.5})
    if any("pip install" in line for line in rates(job, place)):
        pytest.skip("prodigyopt is not installed")
    assert rates(job, place) == [
        "optimizer.kind = prodigy: takes one learning rate for all parameters; got unet 1, te1 0.5"
    ]
    job, _, place = assemble({"optimizer.kind": "prodigy"})
    assert rates(job, place) == []


def test_optimizers_of_one_rate_take_no_rates_by_block_either():
    job, _, place = assemble({"optimizer.kind": "dadaptadam", "network.loraplus_lr_ratio": 16})
    assert (
        "network.loraplus_lr_ratio: dadaptadam takes one learning rate for all parameters; leave it out"
        in rates(job, place)
    )


def test_choosing_prodigy_sets_its_rate_and_arguments_unless_a_person_did():
    job = assemble({"optimizer.kind": "prodigy", "optimizer.d_coef": 1})[0].usual()
    assert (job.lr.learning_rate, job.optimizer.d_coef, job.optimizer.decouple) == (1.0, 1.0, True)
    assert job.usual() == job
    assert assemble({"optimizer.kind": "prodigy", "lr.learning_rate": 0.5})[0].usual().lr.learning_rate == 0.5


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_is_written_down_is_read_again(kind):
    one = component(kind, optimizer_args=["growth=1", "name=a,b", "c=(1, 2)"] if kind == "custom" else [])
    assert build(OPTIMIZERS[kind], json.loads(json.dumps(flat(one)))) == one
    assert one.filled().filled() == one.filled()


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("AdamW8bit", "adamw8bit", None), ("came_pytorch.CAME", "came", None),
        ("bitsandbytes.optim.AdamW8bit", "adamw8bit", None), ("NAdam", "custom", "NAdam"),
        ("prodigyopt.prodigy.Prodigy", "prodigy", None), ("torch.optim.SGD", "custom", "torch.optim.SGD"),
        ("a.b.C", "custom", "a.b.C"),
    ],
)  # fmt: skip
def test_the_names_that_people_have_for_them(text, kind, path):
    assert named(text) == {"optimizer.kind": kind, **({"optimizer.optimizer_class": path} if path else {})}
