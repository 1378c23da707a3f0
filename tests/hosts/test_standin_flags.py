"""Stand-ins for WebUIs that were started with other flags: a run trains, and leaves no trace."""

import contextlib

import pytest
from safetensors.torch import load_file

from lora_train.errors import Mistake

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
