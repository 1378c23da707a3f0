"""Stand-ins for WebUIs that were started with other flags: a run trains, and leaves no trace."""

import contextlib
import copy
import pathlib

import pytest
import torch
from safetensors.torch import load_file

from lora_train.errors import Mistake
from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin import runs  # noqa: E402
from tests.hosts.standin.runs import learns, untouched  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402

CAT = "a cat"
pictures, train = runs.pictures, runs.train


class TestOtherWebuis:
    """Started with other flags."""

    @pytest.mark.parametrize("flags", ["half", "medvram", "half medvram", "fp8"])
    def test_trains_and_leaves_no_trace(self, tmp_path, train, flags):
        if "fp8" in flags and not runs.casts_float8():
            pytest.skip("this torch does not multiply weights of float8 in autocast")
        with world(tmp_path / "webui", **dict.fromkeys(flags.split(), True)) as webui:
            before = webui.picture(CAT)
            with untouched(webui):
                learned = load_file(train())
            assert all(t.isfinite().all() for t in learned.values())
            assert learns(learned)
            assert webui.picture(CAT).tobytes() == before.tobytes()

    def test_lowvram_trains_or_says_which_flag_to_take_away(self, tmp_path, train):
        with world(tmp_path / "webui", lowvram=True) as webui, untouched(webui):
            with contextlib.suppress(Mistake) as said:
                train()
            assert said is None or "--lowvram" in str(said)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_autoencoder_runs_in_float32_where_it_is_asked_for(tmp_path, dtype):
    pixels, ids = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3)), set()
    with world(tmp_path / "webui", half=True) as webui:
        from modules import shared

        vae = shared.sd_model.first_stage_model.to(dtype)
        with untouched(webui):
            for wide in (True, False):
                with WebuiHost().borrow(Model(no_half_vae=wide), device="auto", precision="bf16") as lent:
                    if wide:
                        found = lent.encode_images(pixels)
                    ids.add(lent.vae_id)
            assert {p.dtype for p in vae.parameters()} == {dtype}
        exact = copy.deepcopy(vae).float().encode(pixels).mean * lent.loaded.scale_factor
    assert torch.equal(found, exact)
    assert len(ids) == 2  # so no latents of the one are taken for those of the other


def test_a_run_ends_as_a_checkpoint_among_the_others(tmp_path, train):
    with world(tmp_path / "webui") as webui:
        from modules import sd_models

        before, source = webui.picture(CAT), pathlib.Path(webui.model.sd_checkpoint_info.filename)
        with untouched(webui):
            train(output__save_checkpoint=True)
        made = [info for info in sd_models.checkpoints_list.values() if "thing-checkpoint" in info.title]
        assert len(made) == 1
        whole = pathlib.Path(made[0].filename)
        assert whole == webui.checkpoints / "thing-checkpoint.safetensors"
        assert whole.with_suffix(".yaml").read_bytes() == source.with_suffix(".yaml").read_bytes()
        assert load_file(whole).keys() == load_file(source).keys()
        assert webui.picture(CAT).tobytes() == before.tobytes()
        with pytest.raises(Mistake, match=r"output.save_checkpoint: .* is in place already"):
            train(output__save_checkpoint=True)
