"""Sheets in the stand-in of the WebUI: all pictures come from it, with infotexts that draw them again."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from lora_train.adapters.file import save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.plots.cells import drawn_up
from lora_train.plots.drawing import Drawing
from lora_train.plots.plan import Plan
from lora_train.plots.results import finished
from lora_train.prompts import Prompt

for name in ("ldm", "einops", "transformers"):
    pytest.importorskip(name, reason=f"the WebUI's own model classes need {name}")

from tests.hosts.standin.world import world  # noqa: E402


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui")) as made:
        yield made


def test_a_sheet_is_drawn_by_the_webui_and_says_how(webui, tmp_path):
    prompt = Prompt(
        "a tulip", width=64, height=64, seed=5, sample_steps=2, sample_sampler="euler_a", scale=5.0
    )
    file = tmp_path / "one.safetensors"
    with WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
        network = Network(Lora(dim=2), lent.layers())
        generator = torch.Generator().manual_seed(0)
        for param in network.parameters():
            param.data.normal_(0, 0.1, generator=generator)
        save(network, file, metadata={}, dtype=torch.float32)
        bare = lent.sample(prompt).convert("RGB").tobytes()
    values = {
        "network_weights": file, "x": "strength: 0, 0.5", "prompt": "a tulip", "width": 64, "height": 64,
        "steps": 2, "cfg": 5, "seed": 5, "sampler": "euler_a", "outdir": tmp_path / "sheet",
    }  # fmt: skip
    job, _, place = assemble({"training.mixed_precision": "no"})
    drawing = Drawing(drawn_up(build(Plan, values)), job, place, WebuiHost())
    drawing.make()
    finished(drawing).write()
    cells = json.loads((tmp_path / "sheet" / "sheet.json").read_text(encoding="utf-8"))["cells"]
    images = [Image.open(tmp_path / "sheet" / cell["picture"]) for cell in cells]
    assert images[0].tobytes() == bare != images[1].tobytes()
    assert cells[0]["infotext"].startswith("a tulip\n")
    assert cells[1]["infotext"].startswith("a tulip<lora:one:0.5>\n")
    assert "Sampler: Euler a" in cells[1]["infotext"]
