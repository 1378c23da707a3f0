"""Regularisation pictures in the stand-in of the WebUI: drawn by it, with the model that it has."""

from __future__ import annotations

import pytest
from PIL import Image

from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost
from lora_train.knobs import build
from lora_train.prompts import Prompt
from lora_train.workshop.regularise import Regularise

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin.runs import same, traces  # noqa: E402
from tests.hosts.standin.world import world  # noqa: E402


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui")) as made:
        yield made


def test_they_are_drawn_by_the_webui_and_leave_no_trace(webui, tmp_path):
    folder = tmp_path / "2_sks tulip"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    values = {"folder": folder, "class_prompt": "a tulip", "num_class_images": 2, "resolution": 64,
              "class_infer_steps": 2, "class_sampler": "euler_a", "class_guidance_scale": 5.0,
              "class_seed": 5}  # fmt: skip
    before = traces(webui)
    report = build(Regularise, values).within(WebuiHost())
    same(before, traces(webui))
    assert report.facts["balance"]["shown"] == 1
    prompt = Prompt(
        "a tulip", width=64, height=64, seed=6, sample_steps=2, sample_sampler="euler_a", scale=5.0
    )
    with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
        expected = lent.sample(prompt).convert("RGB").tobytes()
    second = max((tmp_path / "reg" / "1_sks tulip").glob("*.png"))
    with Image.open(second) as found:
        assert found.convert("RGB").tobytes() == expected
    assert second.with_suffix(".txt").read_text(encoding="utf-8").strip() == "a tulip"
