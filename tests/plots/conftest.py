"""Sheets on a light host."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from lora_train.adapters.file import save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.job import assemble
from lora_train.knobs import build
from lora_train.plots.cells import Grid, drawn_up
from lora_train.plots.drawing import Drawing
from lora_train.plots.plan import Plan
from lora_train.plots.results import Results, finished
from tests.tiny import Tiny, TinyHost

SIZE = {"width": 64, "height": 64}


@dataclasses.dataclass
class Drawn:
    """A sheet that was drawn."""

    folder: pathlib.Path
    grid: Grid
    results: Results
    record: dict
    prompts: list  # that the model was asked for

    def picture(self, **values) -> bytes:
        """Of the one cell with these values."""
        (cell,) = [c for c in self.record["cells"] if values.items() <= c["values"].items()]
        with Image.open(self.folder / cell["picture"]) as image:
            return image.tobytes()


class Counting(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.prompts: list = []

    def sample(self, prompt: object) -> Image.Image:
        self.prompts.append(prompt)
        return super().sample(prompt)


class Host(TinyHost):
    """Lends one model, so that what it was asked for can be seen."""

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        self.lent = Counting()

    def borrow(self, model, *, device, precision, waiting=lambda: None):
        waiting()
        return contextlib.nullcontext(self.lent)


@pytest.fixture
def files(tmp_path) -> pathlib.Path:
    """A folder with two LoRAs on both parts, one and two."""
    folder, lent = tmp_path / "loras", Tiny()
    folder.mkdir()
    for seed, name in enumerate(("one", "two")):
        network = Network(Lora(dim=2), lent.layers())
        generator = torch.Generator().manual_seed(seed)
        for param in network.parameters():
            param.data.normal_(0, 0.3, generator=generator)
        save(network, folder / f"{name}.safetensors", metadata={}, dtype=torch.float32)
    return folder


@pytest.fixture
def plotted(tmp_path, files):
    """plotted("a", **values): draw a sheet into the folder a."""

    def plotted(
        folder: str, *, job=None, host=None, control=None, told=lambda course: None, watchers=(), **values
    ) -> Drawn:
        usual = {"network_weights": files / "one.safetensors", "prompt": "a cat", **SIZE}
        plan = build(Plan, {**usual, **values, "outdir": tmp_path / folder})
        grid, host = drawn_up(plan, job), host or Host(tmp_path)
        model, _, place = assemble({})
        drawing = Drawing(grid, model, place, host, control=control, told=told, watchers=watchers)
        drawing.make()
        results = finished(drawing)
        results.write()
        record = json.loads((tmp_path / folder / "sheet.json").read_text(encoding="utf-8"))
        return Drawn(tmp_path / folder, grid, results, record, host.lent.prompts)

    return plotted


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    """Four pictures with captions."""
    folder = tmp_path / "pictures" / "1_things"
    folder.mkdir(parents=True)
    for name in "abcd":
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"a {name}", encoding="utf-8")
    return folder.parent
