"""Whole runs: what they write, how they stop, how they go on."""

import contextlib
import json
import random
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.job import assemble, written
from lora_train.run.store import State
from lora_train.train.events import Watcher
from tests.tiny import Tiny, TinyHost

LIVELY = {  # everything that is drawn while training
    "network__conv_dim": 2, "network__dropout": 0.2, "network__rank_dropout": 0.2,
    "network__module_dropout": 0.1,
    "data__shuffle_caption": True, "data__caption_dropout_rate": 0.2, "data__caption_tag_dropout_rate": 0.2,
    "data__flip_aug": True, "objective__noise_offset": 0.1, "training__gradient_accumulation_steps": 2,
    "lr__kind": "cosine", "lr__lr_warmup_steps": 2,
}  # fmt: skip


def lines(outcome) -> list[dict]:
    """The metrics, without what is of time and memory."""
    path = outcome.file.parent / "x-run" / "metrics.jsonl"
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "megabytes")} for line in found]


def same(a, b) -> bool:
    one, two = load_file(a.file), load_file(b.file)
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def apart(a, b) -> float:
    one, two = load_file(a.file), load_file(b.file)
    return max((one[k].float() - two[k].float()).abs().max().item() for k in one)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7])  # an epoch is 3 steps here: within, at its end, after it
def test_a_resumed_run_is_the_run_that_never_stopped(trained, tmp_path, step):
    whole = trained("a", output__save_every_n_steps=1, output__save_state=True, **LIVELY)
    state = tmp_path / "a" / f"x-step{step:08d}-state"
    on = trained("b", place__resume=state, **LIVELY)
    assert same(whole, on)
    assert lines(whole)[step:] == lines(on)


def test_a_run_resumed_in_its_own_folder_leaves_one_log_of_all_steps(trained, tmp_path):
    whole = trained("a", **LIVELY)
    stopped = trained("b", stop=4, **LIVELY)
    assert stopped.progress.stopped
    assert stopped.file.name == "x-step00000004.safetensors"
    with (tmp_path / "b" / "x-run" / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 5, "loss": 1}\n{"ste')  # as a killed process leaves it
    on = trained("b", place__resume=stopped.state, **LIVELY)
    assert same(whole, on)
    assert lines(whole) == lines(on)


def test_equal_jobs_give_equal_files(trained):
    assert same(trained("a", **LIVELY), trained("b", **LIVELY))
    assert not same(trained("a", **LIVELY), trained("c", **{**LIVELY, "training__seed": 6}))


@pytest.mark.parametrize("option", ["shuffle_caption", "caption_dropout_rate", "flip_aug", "caption_prefix"])
def test_what_may_be_set_for_data_changes_the_result(trained, option):
    value = {"caption_dropout_rate": 0.9, "caption_prefix": "my"}.get(option, True)
    assert not same(trained("a"), trained("b", **{f"data__{option}": value}))


@pytest.mark.parametrize(
    "values",
    [
        {"network__dropout": 0.5}, {"network__conv_dim": 2}, {"objective__noise_offset": 0.5},
        {"objective__min_snr_gamma": 1.0}, {"objective__max_timestep": 100},
        {"training__max_grad_norm": 0.001},
        {"model__v_parameterization": True}, {"lr__unet_lr": 0.5}, {"lr__text_encoder_lr": 0.5},
        {"optimizer__weight_decay": 5.0}, {"optimizer__betas": "0.5,0.5"},
        {"network__scale_weight_norms": 0.001},
        {"network__block_weights": "OUTALL"}, {"lr__kind": "linear"}, {"training__mixed_precision": "bf16"},
        {"training__gradient_accumulation_steps": 2}, {"network__train_unet_only": True},
    ],
)  # fmt: skip
def test_an_option_acts(trained, values):
    before, after = trained("a"), trained("b", **values)
    assert load_file(before.file).keys() != load_file(after.file).keys() or not same(before, after)


def test_a_batch_of_four_is_four_of_one_accumulated(trained):
    values = {"data__flip_aug": True, "data__shuffle_caption": True, "lr__learning_rate": 1e-3}
    one = trained("a", data__batch_size=6, **values)
    six = trained("b", training__gradient_accumulation_steps=6, **values)
    assert apart(one, six) < 2e-6  # Adam makes a step of 1e-3 of every rounding
    assert [a["loss"] for a in lines(one)] == pytest.approx([b["loss"] for b in lines(six)], abs=1e-6)


def test_recomputed_activations_give_the_same_file(trained):
    assert same(trained("a", **LIVELY), trained("b", place__gradient_checkpointing=True, **LIVELY))


def test_cached_latents_are_the_same_in_memory_and_on_disk_and_made_once(trained, tmp_path):
    calls = []

    class Counting(Tiny):
        def encode_images(self, pixels, draws=None):
            calls.append(len(pixels))
            return super().encode_images(pixels, draws)

    class Host(TinyHost):
        def borrow(self, model, *, device, precision, waiting=None):
            return contextlib.nullcontext(Counting())

    memory = trained("a", host=Host())
    assert sum(calls) == 3
    disk = trained("b", host=Host(), place__cache_latents_to_disk=True)
    again = trained("b", host=Host(), place__cache_latents_to_disk=True)
    assert sum(calls) == 6
    assert same(memory, disk)
    assert same(memory, again)


def test_a_network_is_continued(trained):
    first = trained("a", network__dim=3)
    on = trained(
        "b", network__dim=3, network__weights=first.file, training__max_train_steps=1, lr__learning_rate=1e-9
    )
    assert apart(first, on) < 1e-6
    with pytest.raises(Mistake, match="dim_from_weights"):
        trained("c", network__dim=4, network__weights=first.file)
    sized = trained("d", network__dim=4, network__weights=first.file, network__dim_from_weights=True)
    assert {k: v.shape for k, v in load_file(sized.file).items()} == {
        k: v.shape for k, v in load_file(first.file).items()
    }


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"output__save_every_n_steps": 3}, ["x-step00000003", "x-step00000006", "x"]),
        ({"output__save_every_n_epochs": 1, "training__max_train_epochs": 3}, ["x-000001", "x-000002", "x"]),
        ({"output__save_every_n_steps": 2, "output__save_last_n_steps": 2}, ["x-step00000006", "x"]),
        (
            {"output__save_every_n_steps": 2, "output__save_last_n_steps": 4},
            ["x-step00000004", "x-step00000006", "x"],
        ),
    ],
)
def test_files_have_the_names_that_sd_scripts_gives_them(trained, tmp_path, values, names):
    trained("a", **values)
    assert sorted(p.stem for p in (tmp_path / "a").glob("*.safetensors")) == sorted(names)


def test_states_are_kept_as_long_as_asked(trained, tmp_path):
    values = {
        "output__save_every_n_steps": 2,
        "output__save_last_n_steps_state": 2,
        "output__save_state": True,
    }
    trained("a", **values)
    assert sorted(p.name for p in (tmp_path / "a").glob("*-state")) == ["x-state", "x-step00000006-state"]
    assert len(list((tmp_path / "a").glob("*.safetensors"))) == 4


def test_samples_are_drawn_when_asked_and_change_nothing_else(trained, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --d 1\na dog --w 64 --h 64\n", encoding="utf-8")
    plain = trained("a", **LIVELY)
    drawn = trained(
        "b",
        output__sample_prompts=prompts,
        output__sample_every_n_steps=4,
        output__sample_at_first=True,
        **LIVELY,
    )
    assert same(plain, drawn)
    names = sorted(p.name for p in (tmp_path / "b" / "sample").iterdir())
    assert [n[:11] for n in names] == [
        "x_000000_00",
        "x_000000_01",
        "x_000004_00",
        "x_000004_01",
        "x_000008_00",
        "x_000008_01",
    ]
    assert names[0].endswith("_1.png")


def test_the_job_inside_a_file_repeats_it_and_names_no_folder(trained, tmp_path):
    from safetensors import safe_open

    first = trained("a", **LIVELY)
    with safe_open(first.file, "pt") as file:
        texts = file.metadata()
    assert str(tmp_path) not in json.dumps(texts)
    inside = {path.replace(".", "__"): value for path, value in json.loads(texts["lora_train_job"]).items()}
    assert same(first, trained("b", **inside))


def test_a_state_holds_all_its_settings(trained):
    done = trained("a", output__save_state_on_train_end=True, **LIVELY)
    values = State.read(done.state).plain["values"]
    assert written(*assemble(values)) == values


def test_a_state_goes_on_only_with_its_own_settings_but_for_longer(trained):
    done = trained("a", output__save_state_on_train_end=True)
    with pytest.raises(Mistake, match=r"network.dim = 5: the state was saved with 4"):
        trained("b", place__resume=done.state, network__dim=5)
    longer = trained("c", place__resume=done.state, training__max_train_steps=10)
    assert same(longer, trained("d", training__max_train_steps=10))


def test_a_state_does_not_go_on_with_other_pictures(trained, pictures):
    done = trained("a", output__save_state_on_train_end=True)
    (pictures / "2_things" / "a.png").unlink()
    with pytest.raises(Mistake, match="4"):
        trained("b", place__resume=done.state, training__max_train_steps=10)


def test_fp16_is_refused_on_a_cpu(trained, tmp_path):
    with pytest.raises(Mistake, match="bf16"):
        trained("a", training__mixed_precision="fp16", place__device="cpu")
    assert not (tmp_path / "a").exists()


def test_an_error_in_the_run_leaves_the_model_as_it_was(trained):
    class Upset(Watcher):
        def stepped(self, progress):
            raise RuntimeError("full")

    lent = Tiny()
    before = {name: value.clone() for name, value in lent.parts["unet"].state_dict().items()}
    dicts = [sorted(vars(m)) for net in lent.parts.values() for m in net.modules()]

    class Host(TinyHost):
        def borrow(self, model, *, device, precision, waiting=None):
            return contextlib.nullcontext(lent)

    with pytest.raises(RuntimeError, match="full"):
        trained("a", host=Host(), watchers=[Upset()], place__gradient_checkpointing=True)
    assert all(torch.equal(value, before[name]) for name, value in lent.parts["unet"].state_dict().items())
    assert dicts == [sorted(vars(m)) for net in lent.parts.values() for m in net.modules()]
    assert not any(m._forward_hooks for net in lent.parts.values() for m in net.modules())


KILLED = """
import json, sys, torch
torch.set_num_threads(1)
from lora_train.job import assemble
from lora_train.run.session import run
from lora_train.train.events import Watcher
from tests.tiny import TinyHost

class Tell(Watcher):
    def stepped(self, progress):
        print(progress.step, flush=True)

run(*assemble(json.loads(sys.argv[1])), TinyHost(), watchers=[Tell()])
"""


def test_killed_at_twenty_moments_nothing_is_half_written_and_it_goes_on(trained, tmp_path, pictures):
    """Each process goes on from the last state, and is killed in the midst of a step, or of what is written
    after it: a file, a state and a sample each, and latents at its start."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --s 2 --d 1\n", encoding="utf-8")
    values = {
        "model.pretrained_model_name_or_path": "tiny.safetensors", "data.train_data_dir": str(pictures),
        "data.resolution": 64, "training.max_train_steps": 4000, "training.seed": 5,
        "lr.learning_rate": 0.001, "output.output_dir": str(tmp_path / "k"), "output.output_name": "x",
        "output.save_precision": "float",
        "output.save_every_n_steps": 1, "output.save_last_n_steps": 3, "output.save_state": True,
        "data.flip_aug": True, "network.dropout": 0.1,
        "place.cache_latents_to_disk": True, "output.sample_prompts": str(prompts),
        "output.sample_every_n_steps": 1,
    }  # fmt: skip
    dice, folder, last = random.Random(1), tmp_path / "k", 0
    for _ in range(20):
        if last:
            values["place.resume"] = str(folder / f"x-step{last:08d}-state")
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, json.dumps(values)], stdout=subprocess.PIPE, text=True
        )
        told, seen = [], dice.randint(2, 4)
        for line in child.stdout:
            told.append((int(line), time.monotonic()))
            if len(told) == seen:
                break
        pace = told[-1][1] - told[-2][1]
        time.sleep(dice.random() * pace)
        child.kill()
        child.wait()
        for file in [*folder.glob("*.safetensors"), *folder.glob("latents/**/*.safetensors")]:
            load_file(file)
        for file in folder.glob("sample/*.png"):
            Image.open(file).load()
        states = [State.read(file.parent) for file in folder.glob("*-state/state.safetensors")]
        reached = max(state.plain["progress"]["step"] for state in states)
        assert reached >= last + 1
        last = reached

    same_settings = {
        k.replace(".", "__"): v for k, v in values.items() if not k.startswith(("output", "place"))
    }
    same_settings["training__max_train_steps"] = last + 2
    on = trained("k", place__resume=folder / f"x-step{last:08d}-state", **same_settings)
    never = trained("n", **same_settings)
    assert same(on, never)
    assert lines(on) == lines(never)


def test_a_state_from_before_a_setting_was_there_goes_on_with_its_default(trained):
    stopped = trained("a", stop=2)
    state = State.read(stopped.state)
    for path in ("data.trigger_word", "data.keep_tokens", "data.rotate_aug"):
        del state.plain["job"][path]
    state.write(stopped.state)
    assert trained("a", place__resume=stopped.state).progress.step == 8
    with pytest.raises(Mistake, match=r"data\.keep_tokens = 2: the state was saved with 0"):
        trained("a", place__resume=stopped.state, data__keep_tokens=2)
