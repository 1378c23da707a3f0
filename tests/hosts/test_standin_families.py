"""The stand-in for the WebUI with small SD 2.x and SDXL models loaded: what every host has to do, and that a
run trains all parts and leaves no trace."""

import pathlib
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_train import names
from lora_train.host import Cond, Model
from lora_train.hosts.webui.host import WebuiHost
from lora_train.run.control import Control
from tests.hosts import tiny_loras
from tests.hosts.contract import Contract, T, latents

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin import runs  # noqa: E402
from tests.hosts.standin.runs import At, learns, same, untouched  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402

CAT, REAL = "a cat", pathlib.Path(__file__).parent / "standin" / "real"
DRAWN = " --w 64 --h 64 --s 4 --d 5 --l 7 --ss euler"
pictures, train = runs.pictures, runs.train


@pytest.fixture(scope="module", params=["sd2", "sdxl"])
def webui(request, tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui"), family=request.param) as made:
        for name in ("tiny", f"tiny_{request.param}"):
            tiny_loras.write(made.loras / f"{name}.safetensors", request.param)
        yield made


@pytest.fixture
def lent(webui):
    with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
        yield lent


class TestContract(Contract):
    @pytest.fixture
    def lent(self, webui):
        self.arch = webui.family
        with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
            yield lent


class TestTheStandIn:
    @pytest.mark.parametrize("drawn", ["plain", "long", "lora"])
    def test_it_draws_as_the_webui_does(self, webui, drawn):
        """v1.10.1, 4 steps, seed 5; by its infotext one sees what was asked for. On one is a file with every
        layer that kohya's have, for the UNet and all text encoders."""
        real = Image.open(REAL / webui.family / f"{drawn}.png")
        prompt, told = real.info["parameters"].rsplit("\n", 1)
        if f"Model hash: {webui.model.sd_checkpoint_info.shorthash}" not in told:
            pytest.skip("the demo checkpoint is another than the one whose autoencoder drew it")
        ours = webui.picture(prompt, sampler_name=told.split("Sampler: ")[1].split(",")[0])
        assert abs(np.asarray(ours).astype(int) - np.asarray(real).astype(int)).max() <= 1

    def test_a_small_checkpoint_is_not_a_blank(self, webui):
        drawn = [webui.picture(CAT), webui.picture("a dog"), webui.picture(CAT, seed=6)]
        assert len({picture.tobytes() for picture in drawn}) == 3
        assert min(np.asarray(picture).std() for picture in drawn) > 10

    def test_a_file_that_lacks_one_of_an_attentions_layers_leaves_it_alone(self, webui):
        """OpenCLIP holds queries, keys and values in one tensor: all four or none, as in v1.10.1."""
        lead = "lora_te2" if webui.family == "sdxl" else "lora_te"
        only = f"{lead}_text_model_encoder_layers_0_self_attn"
        whole = load_file(tiny_loras.write(webui.loras / "whole.safetensors", webui.family, only=only))
        save_file({k: v for k, v in whole.items() if "_v_proj" not in k}, webui.loras / "lacking.safetensors")
        bare, lacking, full = (
            webui.picture(CAT + lora) for lora in ("", "<lora:lacking:1>", "<lora:whole:1>")
        )
        assert lacking.tobytes() == bare.tobytes() != full.tobytes()


def test_layers_are_called_as_in_kohyas_files(webui, lent):
    """But for those that the conds do not come through, which are left alone."""
    found = {names.file_key(x.part, x.path, webui.family): x.shape for x in lent.layers()}
    known = tiny_loras.layers(webui.family)
    assert {key: found[key] for key in known if key in found} == {
        k: v for k, v in known.items() if k in found
    }
    last = {"sd2": f"lora_te_text_model_encoder_layers_{tiny_loras.tiny.LAYERS - 1}_",
            "sdxl": "lora_te1_text_model_encoder_layers_1_"}[webui.family]  # fmt: skip
    lacking = [key for key in known if key not in found]
    assert len(lacking) == 6
    assert all(key.startswith(last) for key in lacking)


def test_it_is_known_for_what_it_is(webui, lent):
    assert lent.origin.arch == webui.family
    assert lent.schedule.prediction == {"sd2": "v", "sdxl": "epsilon"}[webui.family]


def test_conds_are_those_that_the_webui_draws_with(webui, lent):
    read = webui.prompt_parser.SdConditioning([CAT], width=64, height=64)
    with torch.no_grad():
        ours, theirs = lent.encode([CAT]), webui.model.get_learned_conditioning(read)
        wanted = theirs if webui.family == "sdxl" else {"crossattn": theirs, "vector": None}
        torch.testing.assert_close(ours.context, wanted["crossattn"], rtol=1e-4, atol=1e-5)
        x, apply = latents(0, 1), webui.model.apply_model
        torch.testing.assert_close(
            lent.denoise(x, T[:1], ours), apply(x, T[:1].float(), theirs), rtol=1e-3, atol=1e-4
        )


def test_long_captions_are_read_as_the_webui_reads_them(webui):
    """In chunks of 75 tokens, filled up to as many as there may be."""
    long = ", ".join(["a red house by the sea"] * 15)
    with (
        WebuiHost().borrow(Model(max_token_length=150), device="auto", precision="no") as lent,
        torch.no_grad(),
    ):
        ours, theirs = lent.encode([long, CAT]).context, webui.model.get_learned_conditioning([long, CAT])
        theirs = theirs["crossattn"] if webui.family == "sdxl" else theirs
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lent.encode([CAT]).context, ours[1:], rtol=1e-4, atol=1e-5)
        assert ours.shape[1] == 154


def test_sdxl_is_told_the_sizes_of_a_picture(webui, lent):
    if webui.family != "sdxl":
        pytest.skip("only SDXL is told")
    with torch.no_grad():
        cond, x = lent.encode([CAT]), latents(0, 1)
        whole, cropped = (
            cond.of(torch.tensor([s])) for s in ([64.0, 64, 0, 0, 64, 64], [512.0, 64, 9, 0, 64, 64])
        )
        plain = lent.denoise(x, T[:1], cond)
        assert torch.equal(plain, lent.denoise(x, T[:1], whole))
        assert not torch.equal(plain, lent.denoise(x, T[:1], cropped))
        other = Cond(cond.context, lent.encode(["a dog"]).vector)
        assert not torch.equal(plain, lent.denoise(x, T[:1], other))


def parts(file: dict[str, torch.Tensor]) -> set[str]:
    return {name.split("_text_model")[0] for name in file if "_text_model" in name}


def numbers(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.fixture
def plain(webui, train) -> dict[str, torch.Tensor]:
    """What a run learns where nothing is in its way."""
    if webui.family not in PLAIN:
        PLAIN[webui.family] = load_file(train("plain"))
    return PLAIN[webui.family]


PLAIN: dict[str, dict[str, torch.Tensor]] = {}  # by family


class TestRuns:
    def test_all_parts_learn_and_nothing_else_changes(self, webui, train):
        before = webui.picture(CAT)
        with untouched(webui):
            file = train(network__conv_dim=2)
        learned = load_file(file)
        with safe_open(file, "pt") as held:
            base = held.metadata()["ss_base_model_version"]
        assert base == {"sd2": "sd_v2_v", "sdxl": "sdxl_base_v1-0"}[webui.family]
        assert parts(learned) == set(tiny_loras.TEXTS[webui.family])
        assert learns(learned)
        assert webui.picture(CAT).tobytes() == before.tobytes()

    def test_in_bf16_with_activations_computed_again(self, webui, train):
        with untouched(webui):
            learned = load_file(train(training__mixed_precision="bf16", place__gradient_checkpointing=True))
        assert parts(learned) == set(tiny_loras.TEXTS[webui.family])
        assert learns(learned)

    def test_after_an_error(self, webui, train):
        with untouched(webui), pytest.raises(RuntimeError, match="on purpose"):
            train(watchers=[At(2, runs.failing)])

    def test_the_file_is_what_the_webui_then_draws_with(self, webui, train, tmp_path):
        """The sample with the live adapter is the picture with the saved file, to 1/255; also with another in
        the prompt."""
        prompts, asked = tmp_path / "prompts.txt", (CAT, f"{CAT}<lora:tiny:0.5>")
        (tmp_path / "out").mkdir()  # where prompts of samples look for files
        tiny_loras.write(tmp_path / "out" / "tiny.safetensors", webui.family)
        prompts.write_text("\n".join(text + DRAWN for text in asked), encoding="utf-8")
        with untouched(webui):
            file = train("drawn", output__sample_prompts=prompts, output__sample_every_n_steps=3)
        webui.loras.joinpath("drawn.safetensors").write_bytes(file.read_bytes())
        drawn = sorted((tmp_path / "out" / "sample").glob("*.png"))
        for text, path in zip(asked, drawn, strict=True):
            bare, loaded = (numbers(webui.picture(text + lora)) for lora in ("", "<lora:drawn:1>"))
            assert abs(loaded - numbers(Image.open(path))).max() <= 1
            assert abs(loaded - bare).max() > 1
        assert webui.picture(f"{CAT}<lora:drawn:0>").tobytes() == webui.picture(CAT).tobytes()

    def test_a_lora_that_a_setting_adds_to_every_prompt_is_in_samples_and_not_in_the_run(
        self, webui, train, plain, tmp_path
    ):
        """In the settings of the WebUI: "Add network to prompt"."""
        prompts = tmp_path / "prompts.txt"
        prompts.write_text(CAT + DRAWN, encoding="utf-8")
        webui.picture(f"{CAT}<lora:tiny:1>")  # the first one makes the WebUI keep copies of all weights
        webui.picture(CAT)
        webui.shared.opts.data["sd_lora"] = "tiny"
        try:
            with untouched(webui):
                file = train("set", output__sample_prompts=prompts, output__sample_every_n_steps=3)
        finally:
            webui.shared.opts.data.pop("sd_lora")
        same(plain, load_file(file))
        live = numbers(Image.open(next((tmp_path / "out" / "sample").glob("*.png"))))
        webui.loras.joinpath("set.safetensors").write_bytes(file.read_bytes())
        assert abs(numbers(webui.picture(f"{CAT}<lora:set:1><lora:tiny:1>")) - live).max() <= 1

    def test_a_file_of_kohyas_goes_on(self, webui, train):
        """It has a layer of a text encoder that no caption comes through."""
        begun = webui.loras / "tiny.safetensors"
        learned = load_file(train(network__weights=begun, training__max_train_steps=1))
        had, has = ({key.partition(".")[0] for key in tensors} for tensors in (load_file(begun), learned))
        assert len(had - has) == 6
        assert learns(learned)

    def test_a_lora_of_the_last_prompt_is_taken_off_and_worn_again(self, webui, train, plain):
        own = f"{CAT}<lora:tiny_{webui.family}:1>"
        bare, with_it = webui.picture(CAT), webui.picture(own)
        with untouched(webui):
            again = train("again")
        same(plain, load_file(again))
        assert webui.picture(own).tobytes() == with_it.tobytes() != bare.tobytes()
        assert webui.picture(CAT).tobytes() == bare.tobytes()

    def test_a_pause_gives_the_model_back_and_the_file_is_the_same(self, webui, train, plain):
        before, control, got = webui.picture(CAT), Control(), []

        def meanwhile():
            got.append(webui.picture(CAT))
            control.go_on()

        thread = threading.Thread(target=meanwhile, daemon=True)
        late = threading.Timer(60, control.stop)  # a pause that keeps the model would never end

        def pause():
            late.start()
            control.pause()
            thread.start()

        with untouched(webui):
            again = train("again", watchers=[At(2, pause)], control=control)
            late.cancel()
            thread.join(60)
        same(plain, load_file(again))
        assert got[0].tobytes() == before.tobytes()


def test_a_job_on_a_model_of_another_family_and_the_persons_own_again(webui, train):
    own, before = webui.model.sd_checkpoint_info.filename, webui.picture(CAT)
    other, seen = webui.checkpoint("other", family="sd1"), []
    watch = [At(1, lambda: seen.append(webui.model.is_sd1))]
    learned = load_file(train(model__pretrained_model_name_or_path=other, watchers=watch))
    assert seen == [True]
    assert parts(learned) == {"lora_te"}
    assert any(name.startswith("lora_unet_down_blocks_") for name in learned)
    assert webui.model.sd_checkpoint_info.filename == own
    assert webui.picture(CAT).tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("family", "flags"), [("sd2", "half medvram"), ("sdxl", "half medvram"), ("sdxl", "fp8")]
)
def test_with_other_flags_too(tmp_path, train, family, flags):
    if "fp8" in flags and not runs.casts_float8():
        pytest.skip("this torch does not multiply weights of float8 in autocast")
    with world(tmp_path / "webui", family=family, **dict.fromkeys(flags.split(), True)) as webui:
        before = webui.picture(CAT)
        with untouched(webui):
            learned = load_file(train())
        assert learns(learned)
        assert webui.picture(CAT).tobytes() == before.tobytes()
