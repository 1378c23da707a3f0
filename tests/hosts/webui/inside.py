"""What every host has to do, asked of the real WebUI; these run in its process (see test_webui.py)."""

import contextlib
import json
import pathlib
import shutil
import threading

import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

from lora_train import names
from lora_train.adapters import FAMILIES
from lora_train.errors import Mistake
from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost
from lora_train.job import assemble
from lora_train.run.control import Control
from lora_train.run.session import run
from lora_train.train.events import Watcher
from tests.hosts.contract import Contract


def state(model: torch.nn.Module) -> tuple:
    """All that a run has to leave as it was."""
    modules = list(model.modules())
    return (
        {name: (value.dtype, value.device, value.clone()) for name, value in model.state_dict().items()},
        [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training, sorted(vars(m))) for m in modules],
        [p.requires_grad for p in model.parameters()],
        torch.get_rng_state(),
    )


def differing(before: tuple, after: tuple) -> list[str]:
    """Names of what is not as it was."""
    weights, others = before[0], after[0]
    assert weights.keys() == others.keys()
    pairs = {name: (weights[name], others[name]) for name in weights}
    found = [name for name, (a, b) in pairs.items() if a[:2] != b[:2] or not torch.equal(a[2], b[2])]
    found += [
        f"module {i}: {a} {b}" for i, (a, b) in enumerate(zip(before[1], after[1], strict=True)) if a != b
    ]
    found += ["requires_grad"] * (before[2] != after[2])
    return found + ["random numbers"] * (not torch.equal(before[3], after[3]))


@pytest.fixture
def model():
    from modules import shared

    return shared.sd_model


def arch() -> str:
    from modules import shared

    return next(arch for arch in names.ARCHS if getattr(shared.sd_model, f"is_{arch}"))


class TestContract(Contract):
    @pytest.fixture
    def lent(self):
        self.arch = arch()
        with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
            yield lent


@pytest.fixture
def train(model, tmp_path, dataset):
    """train(…): a short run on the loaded model -> (file, host)."""

    def train(*, watchers=(), control=None, host=None, **others):
        values = {
            "data.train_data_dir": dataset, "data.resolution": 64, "training.max_train_steps": 4,
            "training.seed": 1, "network.conv_dim": 2, "output.output_dir": tmp_path,
            "lr.learning_rate": 0.01, **{k.replace("__", "."): v for k, v in others.items()},
        }  # fmt: skip
        host = host or WebuiHost()
        made = run(*assemble(values), host, watchers=watchers, control=control or Control())
        return made.file, host

    return train


class At(Watcher):
    """Does something after a step."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def stepped(self, progress):
        if progress.step == self.step:
            self.act()


def failing():
    raise RuntimeError("on purpose")


def picture(prompt="a cat", **others):
    """As a person gets it from txt2img."""
    from modules import call_queue, processing

    given = {"seed": 5, "steps": 3, "width": 64, "height": 64, "sampler_name": "Euler",
             "scheduler": "Automatic", "do_not_save_samples": True, "do_not_save_grid": True}  # fmt: skip
    p = processing.StableDiffusionProcessingTxt2Img(prompt=prompt, **{**given, **others})
    with call_queue.queue_lock, contextlib.closing(p):
        return processing.process_images(p).images[0]


@contextlib.contextmanager
def untouched(model):
    from modules import call_queue, sd_hijack, sd_unet, shared

    def others():
        free = call_queue.queue_lock.acquire(blocking=False)
        if free:
            call_queue.queue_lock.release()
        doing = shared.state.job, shared.state.job_count, shared.state.interrupted
        return (dict(shared.opts.data), doing, free, sd_hijack.current_optimizer,
                sd_unet.current_unet_option, sd_hijack.model_hijack.circular_enabled)  # fmt: skip

    before, rest = state(model), others()
    yield
    assert differing(before, state(model)) == []
    assert others() == rest


@pytest.mark.parametrize("how", ["to the end", "stopped", "failed", "checkpointed", "bf16"])
def test_a_run_leaves_the_model_and_the_options_as_they_were(model, train, how):
    control = Control()
    act = {"stopped": control.stop, "failed": failing}.get(how, lambda: None)
    fails = pytest.raises(RuntimeError, match="on purpose") if how == "failed" else contextlib.nullcontext()
    host, others = WebuiHost(), {"place__gradient_checkpointing": how == "checkpointed"}
    if how == "bf16":
        others["training__mixed_precision"] = "bf16"
    with untouched(model), fails:
        file, _ = train(watchers=[At(2, act)], control=control, host=host, **others)
        learned = load_file(file)
        for lead in names.ARCHS[arch()].texts.values():
            assert any(name.startswith(lead) for name in learned)
        assert any(t.abs().max() > 0 for name, t in learned.items() if name.endswith("lora_up.weight"))
    assert host.header()["unchanged"] is True


def test_it_draws_what_is_kept_of_it(model):
    """What the stand-in is held to."""
    kept = pathlib.Path(__file__).parents[1] / "standin" / "real"
    for path in sorted((kept if arch() == "sd1" else kept / arch()).glob("*.png")):
        real = Image.open(path)
        prompt, told = real.info["parameters"].rsplit("\n", 1)
        assert f"Model hash: {model.sd_checkpoint_info.shorthash}" in told
        sampler = told.split("Sampler: ")[1].split(",")[0]
        drawn = picture(prompt, sampler_name=sampler, steps=4, cfg_scale=7)
        assert max(high for _, high in ImageChops.difference(real, drawn).getextrema()) <= 1, path


def test_nan_ends_a_run_and_leaves_no_trace(model, train):
    handle = model.model.diffusion_model.out.register_forward_hook(lambda _m, _x, y: y * float("nan"))
    try:
        with untouched(model), pytest.raises(Mistake, match="finite|NaN"):
            train(training__max_train_steps=30)
    finally:
        handle.remove()


def attentions():
    from modules import sd_hijack

    return ["None", *(x.title() for x in sd_hijack.optimizers)]


@pytest.mark.parametrize("number", range(8))
def test_every_attention_trains_and_is_there_again(model, train, number):
    from modules import sd_hijack

    if number >= len(attentions()):
        pytest.skip("no more of them here")
    sd_hijack.model_hijack.apply_optimizations(attentions()[number])
    try:
        with untouched(model):
            train(network__conv_dim=None)
    finally:
        sd_hijack.model_hijack.apply_optimizations()


@pytest.mark.parametrize("left", ["hypertile", "tiling", "zero terminal schedule"])
def test_what_a_generation_left_is_no_part_of_what_is_learned(model, train, left):
    from modules import shared

    plain = load_file(train()[0])
    options = {"hypertile": {"hypertile_enable_unet": True, "hypertile_max_depth_unet": 3},
               "zero terminal schedule": {"sd_noise_schedule": "Zero Terminal SNR"}}  # fmt: skip
    before = dict(shared.opts.data)
    shared.opts.data.update(options.get(left, {}))
    try:
        picture(tiling=left == "tiling", width=128)
        with untouched(model):
            again = load_file(train()[0])
    finally:
        shared.opts.data.clear()
        shared.opts.data.update(before)
        picture()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_a_lora_of_the_last_prompt_is_taken_off_and_worn_again(model, train, tmp_path):
    from modules import shared

    bare = picture()
    plain = train()[0]
    pathlib.Path(shared.cmd_opts.lora_dir).mkdir(exist_ok=True)
    shutil.copy(plain, pathlib.Path(shared.cmd_opts.lora_dir, "before.safetensors"))
    learned = load_file(plain)
    with_it = picture("a cat <lora:before:1>")
    assert with_it.tobytes() != bare.tobytes()
    with untouched(model):
        again = load_file(train()[0])
    assert all(torch.equal(learned[name], again[name]) for name in learned)
    assert picture("a cat <lora:before:1>").tobytes() == with_it.tobytes()
    assert picture().tobytes() == bare.tobytes()


def test_a_pause_gives_the_model_back_and_changes_nothing(model, train):
    bare, plain = picture(), load_file(train()[0])
    control, got = Control(), []

    def meanwhile():
        got.append(picture())
        control.go_on()

    thread = threading.Thread(target=meanwhile, daemon=True)

    def pause():
        control.pause()
        thread.start()

    with untouched(model):
        again = load_file(train(watchers=[At(2, pause)], control=control)[0])
        thread.join(60)
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert got[0].tobytes() == bare.tobytes()


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_sample_is_the_picture_with_the_saved_file(model, train, tmp_path, kind):
    from modules import shared

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --s 3 --d 5 --l 7 --ss euler", encoding="utf-8")
    folder = pathlib.Path(shared.cmd_opts.lora_dir)
    made = assemble({
        "data.train_data_dir": tmp_path / "pictures", "data.resolution": 64, "training.max_train_steps": 4,
        "data.trigger_word": "cat", "output.output_dir": folder, "output.output_name": f"live-{kind}",
        "output.sample_prompts": prompts, "output.sample_every_n_steps": 4, "lr.learning_rate": 0.01,
        "output.save_precision": "float", "training.seed": 1, "network.kind": kind,
        "network.conv_dim": 2}, tolerant=True)  # fmt: skip
    host = WebuiHost()
    with untouched(model):
        file = run(*made, host).file
    live = Image.open(next((folder / "sample").glob(f"live-{kind}_*.png")))
    assert host.announce(file, made[0], made[1]) == []
    card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert (card["activation text"], card["sd version"]) == ("cat", arch().upper())
    assert file.with_suffix(".preview.png").is_file()
    later, bare = (picture(f"a cat{tag}", steps=3, cfg_scale=7) for tag in (f"<lora:live-{kind}:1>", ""))
    assert max(high for _, high in ImageChops.difference(live, later).getextrema()) <= 1
    assert ImageChops.difference(bare, later).getbbox()


def test_a_learned_word_is_in_the_picture_with_the_saved_file(model, tmp_path, dataset):
    """The Lora extension reads the word out of the file, and a prompt that holds it is what was trained."""
    from modules import shared

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a zwx --w 64 --h 64 --s 3 --d 5 --l 7 --ss euler", encoding="utf-8")
    folder = pathlib.Path(shared.cmd_opts.lora_dir)
    made = assemble({
        "data.train_data_dir": dataset, "data.resolution": 64, "training.max_train_steps": 4,
        "data.trigger_word": "zwx", "output.output_dir": folder, "output.output_name": "live-word",
        "output.sample_prompts": prompts, "output.sample_every_n_steps": 4, "lr.learning_rate": 1e-6,
        "output.save_precision": "float", "training.seed": 1, "embedding.token_string": "zwx",
        "embedding.init_word": "dog", "embedding.num_vectors_per_token": 3,
        "embedding.embedding_learning_rate": 0.05})  # fmt: skip
    host = WebuiHost()
    with untouched(model):
        file = run(*made, host).file
    assert any(key.startswith("bundle_emb.zwx.") for key in load_file(file))
    live = Image.open(next((folder / "sample").glob("live-word_*.png")))
    assert host.announce(file, made[0], made[1]) == []
    later, bare = (picture(f"a zwx{tag}", steps=3, cfg_scale=7) for tag in ("<lora:live-word:1>", ""))
    assert max(high for _, high in ImageChops.difference(live, later).getextrema()) <= 1
    assert ImageChops.difference(bare, later).getbbox()


def test_a_file_saved_again_under_its_name_is_what_the_next_picture_has(model, train, tmp_path):
    from modules import shared

    folder = pathlib.Path(shared.cmd_opts.lora_dir)
    folder.mkdir(exist_ok=True)
    job = assemble({"data.train_data_dir": tmp_path, "output.output_dir": folder})[:2]
    first = train()[0].read_bytes()
    second = train(training__max_train_steps=8)[0].read_bytes()
    again, fresh = folder / "again.safetensors", folder / "fresh.safetensors"
    again.write_bytes(first)
    WebuiHost().announce(again, *job)
    before = picture("a cat <lora:again:1>")
    again.write_bytes(second)
    fresh.write_bytes(second)
    assert WebuiHost().announce(again, *job) == []
    after = picture("a cat <lora:again:1>")
    assert after.tobytes() != before.tobytes()
    assert after.tobytes() == picture("a cat <lora:fresh:1>").tobytes()


def test_a_file_that_does_nothing_or_belongs_elsewhere_is_told(model, tmp_path):
    from modules import shared

    folder = pathlib.Path(shared.cmd_opts.lora_dir)
    folder.mkdir(exist_ok=True)
    job = assemble({"data.train_data_dir": tmp_path, "output.output_dir": folder})[:2]
    rows = {f"lora_unet_{name}.{kind}.weight": torch.zeros(shape) for name in ("conv_out", "nowhere_at_all")
            for kind, shape in (("lora_up", (4, 1, 1, 1)), ("lora_down", (1, 32, 3, 3)))}  # fmt: skip
    save_file(rows, folder / "odd.safetensors")
    said = "\n".join(WebuiHost().announce(folder / "odd.safetensors", *job))
    assert "1 of 2 layers" in said
    assert "changes nothing" in said


def test_another_checkpoint_for_a_job_and_the_persons_own_again(model, train):
    from modules import sd_models, shared

    own = model.sd_checkpoint_info.filename
    bare, options = picture(), dict(shared.opts.data)
    other = next(i for i in sd_models.checkpoints_list.values() if pathlib.Path(i.filename).stem == "other")
    seen = []
    watch = [At(1, lambda: seen.append(shared.sd_model.sd_checkpoint_info.filename))]
    train(watchers=watch, model__pretrained_model_name_or_path=other.filename)
    assert seen == [other.filename]
    assert shared.sd_model.sd_checkpoint_info.filename == own
    assert dict(shared.opts.data) == options
    assert picture().tobytes() == bare.tobytes()


def test_a_checkpoint_that_is_not_there_is_refused(model, train, tmp_path):
    with untouched(model), pytest.raises(Mistake, match="no such file"):
        train(model__pretrained_model_name_or_path=tmp_path / "none.safetensors")


def test_an_interrupt_ends_the_sample_and_not_the_run(model, train, tmp_path):
    from modules import shared

    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --s 3 --d 5", encoding="utf-8")
    file, _ = train(watchers=[At(1, shared.state.interrupt)], output__sample_prompts=prompts,
                    output__sample_every_n_steps=2)  # fmt: skip
    assert len([*(tmp_path / "sample").glob("*.png")]) == 2
    assert file.is_file()


def test_lowvram_is_refused_by_its_name(model, train):
    from modules import shared

    if not shared.cmd_opts.lowvram:
        pytest.skip("for a WebUI with --lowvram")
    with untouched(model), pytest.raises(Mistake, match="--lowvram"):
        train()
    assert "--lowvram" in WebuiHost().header()["reason"]


def test_weights_kept_in_fp8_train(model, train):
    from modules import devices, sd_models, shared

    shared.opts.data["fp8_storage"] = "Enable"
    try:
        sd_models.reload_model_weights(forced_reload=True)
        assert devices.fp8
        host = WebuiHost()
        learned = load_file(train(host=host)[0])
        assert all(t.isfinite().all() for t in learned.values())
        assert host.header()["unchanged"] is True
    finally:
        shared.opts.data.pop("fp8_storage")
        sd_models.reload_model_weights(forced_reload=True)
