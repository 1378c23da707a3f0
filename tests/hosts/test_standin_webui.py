"""The stand-in for the WebUI: what its host does beyond what every host does."""

import pytest
import torch
from safetensors.torch import load_file, save_file

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from lora_train.errors import Mistake  # noqa: E402
from lora_train.host import Model, Origin  # noqa: E402
from lora_train.hosts.webui import loan  # noqa: E402
from lora_train.hosts.webui.host import WebuiHost  # noqa: E402
from lora_train.hosts.webui.proof import Proof  # noqa: E402
from lora_train.job import assemble  # noqa: E402
from tests.hosts.standin import runs  # noqa: E402
from tests.hosts.standin.runs import At, learns, untouched  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402

pictures, train = runs.pictures, runs.train


def test_a_changed_bit_of_any_weight_is_seen():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2).half())
    proof = Proof(model)
    assert proof.changed(model) == []
    model[1].weight.data.view(torch.int16)[0, 0] ^= 1
    assert proof.changed(model) == ["1.weight"]


def test_a_card_with_broken_half_precision_trains_in_float32(tmp_path, train, monkeypatch):
    """GTX 16xx: the WebUI's own casting at each use has no backward pass."""
    with world(tmp_path / "webui", half=True) as webui:
        monkeypatch.setattr(loan, "broken_half", lambda: True)
        weight, seen = webui.model.model.diffusion_model.out[2].weight, []
        with untouched(webui):
            learned = load_file(train(watchers=[At(1, lambda: seen.append(weight.dtype))]))
        assert seen == [torch.float32]
        assert weight.dtype == torch.bfloat16
        assert learns(learned)


def test_prompts_are_learned_in_float32_where_float16_is_all_a_card_has(tmp_path):
    with world(tmp_path / "webui", half=True) as webui:
        for part in (webui.model.model, webui.model.cond_stage_model):
            part.half()
        for name in ("dtype", "dtype_unet", "dtype_inference"):
            setattr(webui.devices, name, torch.float16)
        weight = webui.model.model.diffusion_model.out[2].weight
        with untouched(webui), WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
            seen = lent.denoise(torch.ones(1, 4, 8, 8), torch.tensor([500]), lent.encode(["a cat"]))
            assert {p.dtype for p in (weight, seen)} == {torch.float32}
        assert weight.dtype is torch.float16


@pytest.mark.parametrize("ends", [None, True])
def test_the_last_step_is_noise_where_it_is_asked_for(tmp_path, ends):
    with world(tmp_path / "webui"):
        model = Model(zero_terminal_snr=ends)
        with WebuiHost().borrow(model, device="auto", precision="no") as lent:
            assert lent.schedule.last_is_noise == lent.origin.last_is_noise == bool(ends)


def test_what_a_file_says_of_itself_is_heard(tmp_path):
    with world(tmp_path / "webui") as webui:
        tensors = load_file(webui.model.sd_checkpoint_info.filename)
        words = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
        save_file({**tensors, **words}, webui.model.sd_checkpoint_info.filename)
        with pytest.raises(Mistake, match=r"its entry v_pred the loaded model predicts v.*\.yaml"):
            borrowed(Model())
        assert not borrowed(Model(v_parameterization=False)).last_is_noise
        webui.model.parameterization = "v"
        assert borrowed(Model()).last_is_noise
        assert not borrowed(Model(zero_terminal_snr=False)).last_is_noise


def test_a_model_that_was_not_loaded_is_looked_at_as_well(tmp_path):
    with world(tmp_path / "webui") as webui:
        other, first = webui.checkpoint("other"), webui.model.sd_checkpoint_info.filename
        with pytest.raises(Mistake, match="v_parameterization = true: the loaded model predicts noise"):
            borrowed(Model(other, v_parameterization=True))
        assert webui.model.sd_checkpoint_info.filename == first


def borrowed(model: Model) -> Origin:
    with WebuiHost().borrow(model, device="auto", precision="no") as lent:
        return lent.origin


def test_what_a_card_of_another_kind_cannot_do_is_refused(tmp_path, pictures):
    with world(tmp_path / "webui"):
        job, output, place = assemble(
            {
                "data.train_data_dir": pictures, "training.mixed_precision": "fp16", "place.device": "cuda",
                "model.clip_skip": 12, "model.v_parameterization": True, "lr.text_encoder_lr2": 1e-5,
                "model.zero_terminal_snr": True, "objective.min_snr_gamma": 5,
            }
        )  # fmt: skip
        said = "\n".join(WebuiHost().refusals(job, output, place))
    for path in ("training.mixed_precision = fp16", "place.device = cuda",
                 "model.v_parameterization = true", "lr.text_encoder_lr2 = 1e-05",
                 "objective.min_snr_gamma: "):  # fmt: skip
        assert path in said
