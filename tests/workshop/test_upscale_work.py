"""What training would enlarge is enlarged beforehand, by Lanczos or by what the WebUI has."""

from __future__ import annotations

import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image

from lora_train.data.buckets import Buckets
from lora_train.errors import Mistake
from lora_train.hosts.webui import upscalers
from lora_train.knobs import build
from lora_train.preparing import command
from lora_train.workshop.journal import Journal
from lora_train.workshop.upscale import Upscale
from tests.workshop.folders import content

NOISE = np.random.default_rng(7).integers(0, 256, (60, 90, 4), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my pictures é"
    folder.mkdir()
    Image.fromarray(NOISE[..., :3].copy()).resize((300, 200)).save(folder / "small.jpg", quality=95)
    Image.fromarray(NOISE).resize((400, 500)).save(folder / "clear.png")
    Image.new("RGB", (700, 600)).save(folder / "large.png")
    Image.new("RGB", (60, 40)).save(folder / "tiny.png")
    return folder


def test_small_pictures_grow_to_what_training_needs_and_no_others(folder):
    Image.new("L", (300, 200), 255).save(folder / "small-masklabel.png")
    before = content(folder)
    facts = build(Upscale, {"folder": folder}).run().facts
    assert sorted(t["name"] for t in facts["touched"]) == ["clear.png", "small.jpg"]
    assert [t["name"] for t in facts["left"]] == ["tiny.png"]
    buckets = Buckets(enable_bucket=True)
    for name in ("clear.png", "small.jpg"):
        size = Image.open(folder / name).size
        assert buckets.fit(size).resized == size
    assert Image.open(folder / "small-masklabel.png").size == Image.open(folder / "small.jpg").size
    assert (folder / "large.png").read_bytes() == before["large.png"]
    assert Image.open(folder / "clear.png").mode == "RGBA"
    assert build(Upscale, {"folder": folder}).run().facts["changed"] == 0
    Journal(folder).undo()
    assert content(folder) == before


def test_it_is_foreseen_by_heads_alone(folder):
    work = build(Upscale, {"folder": folder})
    (folder / "small.jpg").write_bytes((folder / "small.jpg").read_bytes()[:2000])
    found = work.foreseen(work.opened())
    assert (found["of"], found["count"]) == (4, 2)
    assert {e["what"].split(" to ")[0] for e in found["examples"]} == {"300x200", "400x500"}


@pytest.fixture
def webui(tmp_path, monkeypatch):
    """As much of `modules` as is asked, as the WebUI (v1.10.1) has it."""
    lock, calls = threading.Lock(), []

    class Scaler:
        model_name, model_path = "ESRGAN_4x", str(tmp_path / "models" / "ESRGAN")
        model_download_path, model_url = model_path, "https://example.org/ESRGAN.pth"

        def upscale(self, image, scale, path=None):
            assert lock.locked()
            calls.append(path)
            size = int(image.width * scale // 8 * 8), int(image.height * scale // 8 * 8)
            if path == "broken.pth":
                return image.resize(size, Image.Resampling.LANCZOS)
            return image.resize(size, Image.Resampling.NEAREST)

    def data(name, path):
        return types.SimpleNamespace(name=name, data_path=path, scaler=Scaler())

    every = [data("None", None), data("Lanczos", None), data("Remacri", "a.pth"),
             data("Broken", "broken.pth"), data("ESRGAN_4x", "https://example.org/ESRGAN.pth")]  # fmt: skip
    parts = {
        "call_queue": types.SimpleNamespace(queue_lock=lock),
        "shared": types.SimpleNamespace(sd_upscalers=every),
        "images": types.SimpleNamespace(LANCZOS=Image.Resampling.LANCZOS),
    }  # fmt: skip
    monkeypatch.setitem(sys.modules, "modules", types.SimpleNamespace(**parts))
    for name, part in parts.items():
        monkeypatch.setitem(sys.modules, f"modules.{name}", part)
    return types.SimpleNamespace(calls=calls, models=tmp_path / "models" / "ESRGAN")


class Host:
    upscaler = staticmethod(upscalers.found)


def test_the_webuis_upscalers_are_used_in_its_turn(webui, folder):
    before = content(folder)
    work = build(Upscale, {"folder": folder, "upscaler": "remacri"})
    assert work.within(Host()).facts["changed"] == 2
    assert webui.calls == ["a.pth", "a.pth"]
    own, to = Image.fromarray(NOISE).resize((400, 500)), Image.open(folder / "clear.png").size
    rough = tuple(int(side * max(to[0] / 400, to[1] / 500) // 8 * 8) for side in own.size)
    truth = own.resize(rough, Image.Resampling.NEAREST).getchannel("R").resize(to, Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(folder / "clear.png").getchannel("R")), np.asarray(truth))
    opacity = own.getchannel("A").resize(to, Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(Image.open(folder / "clear.png").getchannel("A")), np.asarray(opacity))
    Journal(folder).undo()
    assert content(folder) == before


@pytest.mark.parametrize(
    ("name", "word"),
    [("nothing", "there is Lanczos, Remacri"), ("ESRGAN_4x", "put ESRGAN.pth from https"),
     ("Broken", "could not be used")],
)  # fmt: skip
def test_what_the_webui_lacks_is_said_before_anything_is_changed(webui, folder, name, word):
    before = content(folder)
    if name == "Broken":  # each picture is left, with the reason
        facts = build(Upscale, {"folder": folder, "upscaler": name}).within(Host()).facts
        assert facts["changed"] == 0
        assert word in facts["left"][0]["what"]
    else:
        with pytest.raises(Mistake, match=word):
            build(Upscale, {"folder": folder, "upscaler": name}).within(Host())
    assert content(folder) == before


def test_what_the_webui_would_fetch_is_used_where_it_is_there_or_that_is_wished(webui):
    assert upscalers.found("ESRGAN_4x", download=True)
    webui.models.mkdir(parents=True)
    (webui.models / "ESRGAN_4x.pth").touch()
    assert upscalers.found("ESRGAN_4x", download=False)


def test_outside_the_webui_it_is_said(folder):
    with pytest.raises(Mistake, match="inside it alone"):
        command(["upscale", str(folder), "--upscaler", "R-ESRGAN 4x+"])
