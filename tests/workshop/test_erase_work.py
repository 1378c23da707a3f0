"""What is painted goes, what is not stays to the bit, and whatever fills the place is asked rightly."""

from __future__ import annotations

import base64
import contextlib
import io
import sys
import threading
import types

import numpy as np
import pytest
from PIL import Image

from lora_train.errors import Mistake
from lora_train.hosts.standalone.host import StandaloneHost
from lora_train.hosts.webui import inpainter
from lora_train.knobs import build
from lora_train.prompts import Prompt
from lora_train.workshop import painters
from lora_train.workshop.erase import Erase, boxes
from lora_train.workshop.journal import Journal


def picture(width=200, height=160):
    """Colours that go over into each other."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, (x + y) // 2], 2).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "bilder é 1"
    folder.mkdir()
    image = picture()
    image.paste((255, 0, 255), (90, 70, 110, 76))
    image.save(folder / "a.png")
    return folder


def address(size=(200, 160), box=(90, 70, 110, 76)):
    mask, file = Image.new("RGBA", size), io.BytesIO()
    mask.paste((255, 255, 255, 255), box)
    mask.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def erased(folder, **values):
    return build(Erase, {"folder": folder, "painted": address(), **values})


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def network(path, *, side, bright):
    """Fills holes with grey; takes and gives what LaMa's files do."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    h, real = onnx.helper, onnx.TensorProto.FLOAT
    value = 255.0 if bright else 1.0
    nodes = [
        h.make_node("Sub", ["one", "mask"], ["rest"]), h.make_node("Mul", ["image", "rest"], ["kept"]),
        h.make_node("Mul", ["mask", "grey"], ["new"]), h.make_node("Add", ["kept", "new"], ["sum"]),
        h.make_node("Mul", ["sum", "bright"], ["out"]),
    ]  # fmt: skip
    sizes = [1, None, side or "h", side or "w"]
    given = [h.make_tensor_value_info(name, real, [1, channels, *sizes[2:]])
             for name, channels in (("image", 3), ("mask", 1))]  # fmt: skip
    said = [h.make_tensor_value_info("out", real, [1, 3, *sizes[2:]])]
    constants = [h.make_tensor(name, real, [1], [number])
                 for name, number in (("one", 1.0), ("grey", 0.5), ("bright", value))]  # fmt: skip
    graph = h.make_graph(nodes, "g", given, said, constants)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_opencv_goes_on_with_what_is_around(folder):
    pytest.importorskip("cv2")
    before, old = (folder / "a.png").read_bytes(), pixels(folder / "a.png")
    report = erased(folder, by="opencv").run()
    found, was = pixels(folder / "a.png"), np.asarray(picture()).astype(int)
    assert np.abs(found - was).max() <= 10
    mask = np.zeros((160, 200), bool)
    mask[58:88, 78:122] = True  # as far as the softened edge reaches
    assert (found == old)[~mask].all()
    assert "by opencv" in report.facts["touched"][0]["what"]
    Journal(folder).undo()
    assert (folder / "a.png").read_bytes() == before


@pytest.mark.parametrize(("side", "bright"), [(512, True), (None, False)])
def test_lama_fills_what_is_painted(folder, tmp_path, side, bright):
    file = network(tmp_path / "lama_fp32.onnx", side=side, bright=bright)
    report = erased(folder, lama=file, grow=2, soften=0).within(StandaloneHost())
    found, was = pixels(folder / "a.png"), np.asarray(picture()).astype(int)
    assert (np.abs(found[70:76, 90:110] - 127) <= 1).all()
    assert (found[60:66] == was[60:66]).all()
    assert "by lama" in report.facts["touched"][0]["what"]


def test_nothing_of_it_stays_under_a_soft_edge(folder):
    seen = []

    class Host:
        def inpainter(self, prompt, strength):
            def paint(image, hole):
                seen.append((image.size, hole.getextrema(), prompt, strength))
                return Image.new("RGB", image.size, (0, 255, 0))

            return paint

    values = {"prompt": "a wall", "strength": 0.8, "seed": 3, "resolution": 256}
    erased(folder, by="webui", grow=0, soften=6, **values).within(Host())
    assert (pixels(folder / "a.png")[70:76, 90:110] == (0, 255, 0)).all()
    (size, extrema, prompt, strength) = seen[0]
    assert (size, extrema, strength) == ((256, 256), (0, 255), 0.8)
    assert (prompt.prompt, prompt.negative_prompt, prompt.seed) == ("a wall", "text, watermark", 3)


def test_what_is_beside_colours_stays(folder):
    """Transparency, a palette, a picture of grey."""
    pytest.importorskip("cv2")
    clear = picture().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((200, 160)))
    for image in (clear, picture().quantize(16), picture().convert("L")):
        image.save(folder / "a.png")
        before = image.convert("RGBA")
        erased(folder, by="opencv").run()
        with Image.open(folder / "a.png") as found:
            after = found.convert("RGBA")
        assert after.getchannel("A").tobytes() == before.getchannel("A").tobytes()
        assert (np.asarray(after)[:40] == np.asarray(before)[:40]).all()


def test_places_far_apart_are_filled_one_by_one():
    hole = np.zeros((1000, 1000), bool)
    hole[10:20, 10:20] = hole[500:510, 500:600] = hole[30:40, 100:120] = True
    assert boxes(hole) == [(0, 0, 184, 104), (400, 400, 700, 610)]
    dots = np.zeros((1000, 1000), bool)
    dots[::100, ::100] = True
    assert boxes(dots) == [(0, 0, 1000, 1000)]


def test_what_cannot_be_is_refused(folder, tmp_path):
    for values, says in (
        ({"painted": ""}, "painted: expected what was painted"),
        ({"by": "opencv", "lama": "x.onnx"}, "lama = x.onnx: expected by = lama"),
    ):
        with pytest.raises(Mistake, match=says):
            erased(folder, **values)
    with pytest.raises(Mistake, match="inside the WebUI alone"):
        erased(folder, by="webui").within(StandaloneHost())
    with pytest.raises(Mistake, match=r"lama = nowhere.onnx: no such file; get lama_fp32.onnx from"):
        erased(folder, lama="nowhere.onnx").run()
    with pytest.raises(Mistake, match="get lama_fp32.onnx from"):
        erased(folder, by="lama").run()
    assert painters.lama_file(None) is None
    pytest.importorskip("cv2")
    left = erased(folder, by="opencv", painted=address(box=(0, 0, 0, 0))).run().facts["left"]
    assert left[0]["what"] == "nothing is painted in it"


@pytest.fixture
def webui(monkeypatch):
    """As much of `modules` as is asked, as the WebUI (v1.10.1) has it."""
    lock, asked, settings = threading.Lock(), [], {"save_init_img": True}

    class State:
        job, interrupted, skipped = "", False, False

        def begin(self, job):
            self.job = job

        def end(self):
            self.job = ""

    class Img2Img:
        scheduler = None

        def __init__(self, **values):
            vars(self).update(values)

        def close(self):
            asked.append("closed")

    def process_images(p):
        assert lock.locked()
        assert not settings["save_init_img"]
        asked.append(p)
        images = [] if p.prompt == "stop" else [Image.new("RGB", (p.width, p.height), "red")]
        return types.SimpleNamespace(images=images)

    data = types.SimpleNamespace(sd_model=object(), lock=contextlib.nullcontext())
    made = {
        "shared": types.SimpleNamespace(
            state=State(), sd_model=data.sd_model, opts=types.SimpleNamespace(data=settings),
            cmd_opts=types.SimpleNamespace()),
        "call_queue": types.SimpleNamespace(queue_lock=lock),
        "sd_models": types.SimpleNamespace(model_data=data),
        "processing": types.SimpleNamespace(
            StableDiffusionProcessingImg2Img=Img2Img, process_images=process_images),
    }  # fmt: skip
    modules = types.ModuleType("modules")
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, f"modules.{name}", module)
        setattr(modules, name, module)
    monkeypatch.setitem(sys.modules, "modules", modules)
    return types.SimpleNamespace(lock=lock, asked=asked, data=data, settings=settings)


def test_the_webui_paints_in_its_turn(webui):
    prompt = Prompt("a wall", "text", seed=5, sample_steps=7, scale=3.0, sample_sampler="euler_a")
    image, hole = picture(64, 128), Image.new("L", (64, 128), 255)
    found = inpainter.found(prompt, 0.7)(image, hole)
    p, closed = webui.asked
    assert closed == "closed"
    assert found.getpixel((0, 0)) == (255, 0, 0)
    assert (p.init_images, p.mask, p.width, p.height, p.seed) == ([image], hole, 64, 128, 5)
    assert (p.prompt, p.negative_prompt, p.steps, p.cfg_scale) == ("a wall", "text", 7, 3.0)
    assert (p.sampler_name, p.scheduler, p.denoising_strength) == ("Euler a", "Automatic", 0.7)
    assert p.do_not_save_samples
    assert webui.settings == {"save_init_img": True}
    with pytest.raises(Mistake, match="interrupted"):
        inpainter.found(Prompt("stop"), 1.0)(image, hole)
    assert not webui.lock.locked()
    webui.data.sd_model = None
    with pytest.raises(Mistake, match="no model is loaded"):
        inpainter.found(prompt, 1.0)
