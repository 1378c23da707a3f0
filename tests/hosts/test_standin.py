"""The stand-in for the WebUI: what every host has to do, and that a run leaves no trace however it ends."""

import json
import pathlib
import threading

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.host import Model
from lora_train.hosts.webui import held
from lora_train.hosts.webui.host import WebuiHost
from lora_train.hosts.webui.neutral import set_options
from lora_train.job import assemble
from lora_train.run.control import Control
from tests.hosts.contract import Contract

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin import runs  # noqa: E402
from tests.hosts.standin.runs import At, failing, learns, same, untouched  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402

CAT, REAL = "a cat", pathlib.Path(__file__).parent / "standin" / "real"
pictures, train = runs.pictures, runs.train


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui")) as made:
        yield made


class TestContract(Contract):
    @pytest.fixture
    def lent(self, webui):
        with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
            yield lent


@pytest.mark.parametrize("drawn", sorted(REAL.glob("*.png")), ids=lambda path: path.stem)
def test_it_draws_as_the_webui_does(webui, drawn):
    """v1.10.1, 4 steps, seed 5; by its infotext one sees what was asked for."""
    real = Image.open(drawn)
    prompt, told = real.info["parameters"].rsplit("\n", 1)
    if f"Model hash: {webui.model.sd_checkpoint_info.shorthash}" not in told:
        pytest.skip("the demo checkpoint is another than the one that drew it")
    ours = webui.picture(prompt, sampler_name=told.split("Sampler: ")[1].split(",")[0])
    assert abs(np.asarray(ours).astype(int) - np.asarray(real).astype(int)).max() <= 1


class TestNoTrace:
    def test_after_the_end(self, webui, train):
        with untouched(webui):
            learned = load_file(train(network__conv_dim=2))
        assert any(name.startswith("lora_te_") for name in learned)
        assert learns(learned)

    def test_with_activations_computed_again(self, webui, train):
        with untouched(webui):
            train(place__gradient_checkpointing=True)

    @pytest.mark.parametrize("save", [True, False])
    def test_after_a_stop(self, webui, train, tmp_path, save):
        control = Control()
        with untouched(webui):
            train(watchers=[At(1, lambda: control.stop(save=save))], control=control)
        assert bool([*(tmp_path / "out").glob("*.safetensors")]) == save

    def test_after_an_error(self, webui, train):
        with untouched(webui), pytest.raises(RuntimeError, match="on purpose"):
            train(watchers=[At(2, failing)])

    def test_after_an_error_before_the_first_step(self, webui, train, monkeypatch):
        monkeypatch.setattr(webui.model.first_stage_model, "encode", lambda x: failing())
        with untouched(webui), pytest.raises(RuntimeError, match="on purpose"):
            train()

    def test_after_numbers_that_are_not_finite(self, webui, train):
        out = webui.model.model.diffusion_model.out
        handle = out.register_forward_hook(lambda _m, _x, y: y * float("nan"))
        try:
            with untouched(webui), pytest.raises(Mistake, match="finite|NaN"):
                train(training__max_train_steps=30)
        finally:
            handle.remove()

    def test_after_samples(self, webui, train, tmp_path):
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a cat --w 64 --h 64 --s 2 --d 1", encoding="utf-8")
        with untouched(webui):
            train(output__sample_prompts=prompts, output__sample_every_n_steps=1)

    def test_the_next_pictures_are_as_before(self, webui, train):
        before = webui.picture(CAT)
        train("next")
        assert webui.picture(CAT).tobytes() == before.tobytes()
        assert webui.picture(CAT, seed=6).tobytes() != before.tobytes()


def test_the_file_is_what_the_webui_then_draws_with(webui, train, tmp_path):
    """The sample with the live adapter is the picture with the saved file, to 1/255."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat --w 64 --h 64 --s 4 --d 5 --l 7 --ss euler", encoding="utf-8")
    file = train("drawn", output__sample_prompts=prompts, output__sample_every_n_steps=3)
    live = np.asarray(Image.open(next((tmp_path / "out" / "sample").glob("*.png")))).astype(int)
    webui.loras.joinpath("drawn.safetensors").write_bytes(file.read_bytes())
    bare, loaded = (np.asarray(webui.picture(text)).astype(int) for text in (CAT, f"{CAT}<lora:drawn:1>"))
    assert abs(loaded - live).max() <= 1
    assert abs(loaded - bare).max() > 1
    assert (np.asarray(webui.picture(f"{CAT}<lora:drawn:0>")) == bare).all()
    assert (np.asarray(webui.picture(CAT)) == bare).all()


def test_a_saved_file_gets_its_card_among_the_webuis_own(webui, train, tmp_path):
    file = webui.loras / "carded.safetensors"
    said = {"data.train_data_dir": tmp_path, "data.trigger_word": "zwx", "output.output_dir": tmp_path}
    job, output, _ = assemble(said)
    assert "copy it there" in WebuiHost().announce(tmp_path / file.name, job, output)[0]
    file.write_bytes(train("carded", lr__learning_rate=0.1).read_bytes())
    file.with_suffix(".json").write_text('{"notes": "mine"}', encoding="utf-8")
    assert WebuiHost().announce(file, job, output) == []
    card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert (card["activation text"], card["sd version"], card["notes"]) == ("zwx", "SD1", "mine")
    file.unlink()


class TestWhatASampleLeaves:
    """A run goes on with the bare model after it, whatever is drawn on the way."""

    @pytest.fixture
    def other(self, webui, train):
        """A LoRA that learned much, beside the one that is trained."""
        file = train("much", lr__learning_rate=0.1)
        webui.loras.joinpath("other.safetensors").write_bytes(file.read_bytes())
        webui.picture(f"{CAT} <lora:other:1>")  # the extension keeps a copy of each weight from now on
        webui.picture(CAT)
        yield "other"
        webui.loras.joinpath("other.safetensors").unlink()

    @staticmethod
    def drawn(webui, tmp_path, prompt):
        prompts = tmp_path / "prompts.txt"
        prompts.write_text(f"{prompt} --w 64 --h 64 --s 4 --d 5 --l 7 --ss euler", encoding="utf-8")
        weights = {k: v.clone() for k, v in webui.model.state_dict().items()}
        bare = At(2, lambda: same(weights, dict(webui.model.state_dict())))
        return {"output__sample_prompts": prompts, "output__sample_every_n_steps": 1, "watchers": [bare],
                "output__output_dir": webui.loras}  # fmt: skip

    def test_a_lora_that_its_prompt_names(self, webui, train, tmp_path, other):
        plain = load_file(train("plain"))
        with untouched(webui):
            file = train("named", **self.drawn(webui, tmp_path, f"{CAT} <lora:{other}:0.7>"))
        same(plain, load_file(file))
        live = np.asarray(Image.open(max(webui.loras.glob("sample/named_*.png")))).astype(int)
        both = np.asarray(webui.picture(f"{CAT} <lora:{other}:0.7><lora:named:1>")).astype(int)
        only = np.asarray(webui.picture(f"{CAT} <lora:named:1>")).astype(int)
        assert abs(live - both).max() <= 1
        assert abs(live - only).max() > 1

    @pytest.mark.parametrize("setting", ["sd_lora", "sd_hypernetwork", "tiling"])
    def test_what_a_setting_puts_on_the_model_for_every_prompt(self, webui, train, tmp_path, other, setting):
        """In the settings of the WebUI: "Add network to prompt" and the like."""
        plain = load_file(train("plain"))
        webui.shared.opts.data[setting] = True if setting == "tiling" else other
        hypernetworks = []
        look = At(2, lambda: hypernetworks.extend(webui.shared.loaded_hypernetworks))
        try:
            how = self.drawn(webui, tmp_path, CAT)
            how["watchers"].append(look)
            with untouched(webui):
                file = train(f"by_{setting}", **how)
        finally:
            webui.shared.opts.data.pop(setting)
        same(plain, load_file(file))
        assert hypernetworks == []

    def test_a_hypernetwork_that_its_prompt_names_is_refused(self, webui, train, tmp_path):
        with untouched(webui), pytest.raises(Mistake, match="hypernetworks are not in this version"):
            train(**self.drawn(webui, tmp_path, f"{CAT} <hypernet:some:1>"))

    def test_settings_that_a_person_changes_meanwhile(self, webui, train, tmp_path):
        """They hold afterwards, and are no part of what is learned."""
        plain = load_file(train("plain"))
        opts = webui.shared.opts
        changed = {"CLIP_stop_at_last_layers": 2, "emphasis": "Ignore", "tiling": True}
        before = dict(opts.data)
        try:
            how = self.drawn(webui, tmp_path, CAT)
            how["watchers"] = [At(1, lambda: opts.data.update(changed))]
            file = train("changed", **how)
            assert {name: opts.data[name] for name in changed} == changed
        finally:
            opts.data.clear()
            opts.data.update(before)
        same(plain, load_file(file))


def test_a_setting_that_a_person_changes_while_we_have_it_otherwise_is_theirs(webui):
    opts = webui.shared.opts
    with set_options({"CLIP_stop_at_last_layers": 3, "emphasis": "None"}):
        opts.data["CLIP_stop_at_last_layers"] = 2
    assert opts.data.pop("CLIP_stop_at_last_layers") == 2
    assert "emphasis" not in opts.data


class TestWhatIsOnTheModel:
    """Each was left by a generation, or chosen, before the start."""

    def test_a_lora_of_the_last_prompt_is_no_part_of_what_is_learned(self, webui, train):
        plain = train("plain")
        webui.loras.joinpath("before.safetensors").write_bytes(plain.read_bytes())
        bare, with_it = webui.picture(CAT), webui.picture(f"{CAT}<lora:before:1>")
        assert with_it.tobytes() != bare.tobytes()
        again = train("again")
        same(load_file(plain), load_file(again))
        assert webui.picture(f"{CAT}<lora:before:1>").tobytes() == with_it.tobytes()
        assert webui.picture(CAT).tobytes() == bare.tobytes()

    def test_tiling_and_clip_skip_and_another_schedule(self, webui, train):
        plain = train("plain")
        webui.picture(CAT, tiling=True)
        webui.shared.opts.data.update(CLIP_stop_at_last_layers=2, emphasis="Ignore")
        webui.shared.opts.data["sd_noise_schedule"] = "Zero Terminal SNR"
        webui.picture("a dog", tiling=True)
        try:
            with untouched(webui):
                again = train("again")
            same(load_file(plain), load_file(again))
        finally:
            for name in ("CLIP_stop_at_last_layers", "emphasis", "sd_noise_schedule"):
                del webui.shared.opts.data[name]
            webui.picture(CAT)

    @pytest.mark.parametrize("attention", ["None", "sdp", "sub-quadratic", "xformers"])
    def test_an_attention_of_its_own(self, webui, train, attention):
        """The last has no backward pass; it is chosen again after the run."""
        webui.sd_hijack.model_hijack.apply_optimizations(attention)
        try:
            with untouched(webui):
                learned = load_file(train())
            assert learns(learned)
        finally:
            webui.sd_hijack.model_hijack.apply_optimizations()

    def test_another_unet(self, webui, train):
        class Other:
            label = model_name = "other"

            def create_unet(self):
                return self

            def forward(self, x, *_, **__):
                raise AssertionError("trained through another UNet")

        webui.sd_unet.unet_options.append(Other())
        webui.sd_unet.apply_unet()
        try:
            with untouched(webui):
                train()
        finally:
            webui.sd_unet.unet_options.clear()
            webui.sd_unet.apply_unet("None")


class TestOthersMeanwhile:
    def test_txt2img_waits_and_gets_the_bare_model(self, webui, train):
        before, got = webui.picture(CAT), []
        thread = threading.Thread(target=lambda: got.append(webui.picture(CAT)))
        with untouched(webui):
            train(watchers=[At(1, thread.start), At(3, lambda: got.append("trained"))])
            thread.join(60)
        assert got[0] == "trained"
        assert got[1].tobytes() == before.tobytes()

    def test_another_checkpoint_chosen_meanwhile_is_refused(self, webui, train, monkeypatch):
        """At once: the page would show it as chosen for as long as the run takes."""
        said = []
        gradio = pytest.importorskip("gradio", reason="what the WebUI says it with")
        monkeypatch.setattr(gradio, "Warning", said.append)
        monkeypatch.setattr(held, "SECONDS", 0)
        first = webui.model.sd_checkpoint_info.title
        webui.checkpoint("other", scale=0.5)
        title, answers = webui.sd_models.get_closet_checkpoint_match("other").title, []
        plain = train("plain")
        with untouched(webui):
            again = train("again", watchers=[At(1, lambda: answers.append(webui.switch(title)))])
            assert answers == [False]
            assert webui.shared.opts.sd_model_checkpoint == first
        same(load_file(plain), load_file(again))
        assert [text for text in said if "in training on the loaded model" in text] == said != []
        try:
            assert webui.switch(title)
            assert webui.model.sd_checkpoint_info.title == title
        finally:
            webui.switch(first)

    def test_a_picture_with_another_checkpoint_comes_after_the_run(self, webui, train, tmp_path):
        """As one that is asked for through the API: it waits for the lock, and holds nothing up."""
        first, other = webui.model.sd_checkpoint_info.title, webui.checkpoint("other", scale=0.5)
        title = webui.sd_models.get_closet_checkpoint_match("other").title
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("a cat --w 64 --h 64 --s 2 --d 1", encoding="utf-8")
        how = {"output__sample_prompts": prompts, "output__sample_every_n_steps": 1}

        def other_one():
            webui.shared.opts.set("sd_model_checkpoint", title, run_callbacks=False)
            webui.load_chosen()

        def drawn(name):
            return [np.asarray(Image.open(path)).tobytes()
                    for path in sorted((tmp_path / "out" / "sample").glob(f"{name}*.png"))]  # fmt: skip

        plain, thread = train("plain", **how), threading.Thread(target=other_one)
        try:
            again = train("again", watchers=[At(1, thread.start)], **how)
            same(load_file(plain), load_file(again))
            thread.join(60)
            assert webui.model.sd_checkpoint_info.filename == str(other)
            assert drawn("again") == drawn("plain") != []
        finally:
            webui.switch(first)

    def test_a_pause_gives_the_model_back_and_the_file_is_the_same(self, webui, train):
        longer = {"training__max_train_steps": 5}
        before, plain, control, got = webui.picture(CAT), train("plain", **longer), Control(), []

        def meanwhile():
            got.append(webui.picture(CAT))
            control.go_on()

        thread = threading.Thread(target=meanwhile, daemon=True)
        late = threading.Timer(30, control.stop)  # a pause that keeps the model would never end

        def pause():
            late.start()
            control.pause()
            thread.start()

        watchers = [At(2, pause), At(5, lambda: got.append("ended"))]
        with untouched(webui):
            again = train("again", watchers=watchers, control=control, **longer)
            late.cancel()
            thread.join(60)
        same(load_file(plain), load_file(again))
        assert got[0].tobytes() == before.tobytes()
        assert got[1] == "ended"
