"""A sheet of the demo checkpoint, drawn by the host that stands alone."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the standalone host needs it")

from lora_train.adapters.file import save
from lora_train.adapters.lora import Lora
from lora_train.adapters.network import Network
from lora_train.cli import main
from lora_train.host import Model
from lora_train.hosts.standalone.host import StandaloneHost
from lora_train.prompts import Prompt
from lora_train.run.draw import Wardrobe

CHECKPOINT = pathlib.Path(__file__).resolve().parents[2] / "demo" / "checkpoint" / "demo.safetensors"
TULIP = Prompt("tulip", width=64, height=64, seed=1, sample_steps=4, scale=3.0)


@pytest.mark.skipif(not CHECKPOINT.is_file(), reason="the demo checkpoint is not there")
def test_a_sheet_has_the_pictures_that_prompts_have(tmp_path):
    """Those of <lora:one:TE:UNET:lbw=…:start=…>, to the bit."""
    host, model = StandaloneHost(), Model(CHECKPOINT)
    file, out = tmp_path / "one.safetensors", tmp_path / "sheet"
    tags = {
        "": ["strength: 0"], "<lora:one:0.5:2>": ["te_strength: 0.5", "unet_strength: 2"],
        "<lora:one:1:lbw=OUTALL>": ["block_weights: OUTALL"], "<lora:one:1:start=3>": ["start: 3"],
        "<lora:one:1:0>": ["start: 99"],
    }  # fmt: skip
    with host.borrow(model, device="cpu", precision="no") as lent:
        network = Network(Lora(dim=2), lent.layers())
        generator = torch.Generator().manual_seed(0)
        for param in network.parameters():
            param.data.normal_(0, 0.1, generator=generator)
        save(network, file, metadata={}, dtype=torch.float32)
        wardrobe = Wardrobe(lent, [tmp_path])
        wanted = {tag: wardrobe.sample(dataclasses.replace(TULIP, prompt=f"tulip{tag}")) for tag in tags}
    pictures = {tag: image.convert("RGB").tobytes() for tag, image in wanted.items()}
    assert len(set(pictures.values())) == len(tags)
    for tag, axes in tags.items():
        words = [word for side, axis in zip(("--x", "--y"), axes, strict=False) for word in (side, axis)]
        assert main([
            "plot", "--pretrained_model_name_or_path", str(CHECKPOINT), "--device", "cpu",
            "--outdir", str(out),
            "--network_weights", str(file), "--prompt", "tulip --w 64 --h 64 --d 1 --s 4 --l 3", *words,
        ]) == 0  # fmt: skip
        (cell,) = json.loads((out / "sheet.json").read_text(encoding="utf-8"))["cells"]
        with Image.open(out / cell["picture"]) as image:
            assert image.tobytes() == pictures[tag], tag
