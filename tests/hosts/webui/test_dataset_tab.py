"""The room Dataset in the real WebUI: its model, upscalers and inpainting at work. pytest -m webui."""

import base64
import io
import json
import pathlib
import shutil
import time
import urllib.parse
import urllib.request

import pytest
from PIL import Image, ImageChops, ImageDraw

from lora_train.ui import dataset
from tests.hosts.webui import test_tab
from tests.hosts.webui.test_tab import LONG, OURS, SCREENS, WEBUI, WORDS, Running, same

ROOT = test_tab.ROOT
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not WEBUI.joinpath("webui.py").is_file(), reason="SD_WEBUI_DIR is not a WebUI's folder"
    ),
]
# an extension that says what had been imported when the WebUI had started
PROBE = """
import json, pathlib, sys
from modules import paths, script_callbacks

def told(demo, app):
    pathlib.Path(paths.data_path, "imported.json").write_text(json.dumps(sorted(sys.modules)))

script_callbacks.on_app_started(told)
"""
HEAVY = {"onnxruntime", "onnx", "rembg", "mediapipe", "peft", "efficientnet_lite_pytorch"}  # not the WebUI's
STAR = "ink style, a star"
LARGER = {"resolution": "128", "min_bucket_reso": 64}


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    """One for all; with the demo checkpoint loaded."""
    home = test_tab.home(tmp_path_factory.mktemp("webui") / "data")
    probe = home / "extensions" / "probe" / "scripts" / "probe.py"
    probe.parent.mkdir(parents=True)
    probe.write_text(PROBE, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home.parent / "cache"))
        with Running(home, "--clip-models-path", str(home / "clip")) as webui:
            webui.demo()
            yield webui


@pytest.fixture
def folder(tmp_path):
    """Drawings of the demo, some with captions."""
    home = tmp_path / "2_duck é"
    home.mkdir()
    for i, path in enumerate(sorted((ROOT / "demo" / "subject" / "10_duck").glob("*.png"))[:4]):
        shutil.copy(path, home / f"{'abcd'[i]}.png")
    (home / "a.txt").write_bytes("duck, ink stylé\r\n".encode())
    (home / "b.txt").write_bytes(b"duck, hat")
    return home


def asked(webui, method, path, **body):
    return webui.ask(method, f"{OURS}/dataset/{path}", body if method == "POST" else None)


def ended(webui, state="done"):
    """What came of a work."""
    for _ in range(600):
        if (now := asked(webui, "GET", "now"))["state"] != "working":
            break
        time.sleep(0.1)
    assert now["state"] == state, (now, webui.log.read_text()[-3000:])
    return now


def used(webui, name, values, state="done"):
    asked(webui, "POST", f"works/{name}", values=values)
    return ended(webui, state)


def opened(path):
    with Image.open(path) as image:
        return image.convert("RGB")


def pixels(image):
    return image.size, image.tobytes()


def painted(size, box):
    """What is painted with the brush, as the page hands it in."""
    image, out = Image.new("L", size), io.BytesIO()
    ImageDraw.Draw(image).rectangle(box, fill=255)
    image.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def fetched(webui, **query):
    """What the page shows of a picture."""
    with urllib.request.urlopen(f"{webui.url}{OURS}/file?{urllib.parse.urlencode(query)}") as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def test_a_start_waits_for_nothing_of_it(webui):
    imported = json.loads((webui.data / "imported.json").read_text())
    assert "lora_train.hosts.webui.tab" in imported
    assert not [name for name in imported if name.startswith("lora_train.workshop")]
    assert not HEAVY & {*imported}


def test_every_route_answers(webui, folder):
    where = {"folder": str(folder)}
    bodies = {
        "item": {"name": "a.png", "values": {}}, "items": {"count": 2},
        "works/{name}/look": {"values": where}, "works/{name}": {"values": where},
    }  # fmt: skip
    names = [work["name"] for work in asked(webui, "GET", "works")]
    for method, path, _ in dataset.ANSWERS:
        path = path.removeprefix("/dataset/")
        body = {"where": where, **bodies.get(path, {})}
        found = asked(webui, method, path.replace("{name}", "check"), **body)
        if path == "works/{name}":
            found = ended(webui)
            assert found["facts"]
        assert "error" not in (found or {}) or found["error"] is None, path
    assert {"regularise", "upscale", "erase", "interrogate"} <= {*names}
    for name in names:  # without a folder each says what it expects, and with one what it would do
        said = asked(webui, "POST", f"works/{name}/look", values={})
        assert any(line.startswith("folder") for line in said["complaints"]), name
        asked(webui, "POST", f"works/{name}/look", values=where)
    assert max(fetched(webui, path=folder / "a.png", width=32).size) == 32
    assert same(fetched(webui, path=folder / "a.png"), opened(folder / "a.png"))


def test_a_caption_is_written_and_undone_in_a_browser(webui, folder):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    before, errors = (folder / "a.txt").read_bytes(), []
    with sync.sync_playwright() as play:
        page = play.chromium.launch(executable_path=chromium, args=WORDS.split()).new_page()
        page.set_viewport_size({"width": 1440, "height": 1100})
        page.set_default_timeout(LONG)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(webui.url)
        page.wait_for_selector("#txt2img_prompt textarea")
        page.get_by_role("button", name="Training", exact=True).first.click()
        page.locator("#lt_tab_dataset").click()
        page.locator("#lt_dataset_folder").fill(str(folder))
        page.locator("#lt_dataset_folder").press("Enter")
        for name in "abcd":
            frame = page.locator(".lt-frame", has_text=f"{name}.png")
            frame.locator("img[src]").evaluate("image => image.decode()")
        page.locator(".lt-frame", has_text="a.png").first.click()
        page.wait_for_selector(".lt-inspected h3:text-is('a.png')")
        page.wait_for_selector("text=of 75 tokens")
        page.get_by_label("Add tags").fill("wooden")
        page.keyboard.press("Enter")
        page.wait_for_selector(".lt-model-reads:text-is('duck, ink stylé, wooden')")
        assert (folder / "a.txt").read_text(encoding="utf-8").strip() == "duck, ink stylé, wooden"
        page.locator(".lt-gallery").focus()
        page.keyboard.press("Control+z")
        page.wait_for_selector(".lt-model-reads:text-is('duck, ink stylé')")
        assert (folder / "a.txt").read_bytes() == before
        page.locator('.lt-works [data-work="regularise"]').click()
        form = page.locator(".lt-work-form")
        given = {"class_prompt": "ink style, a bird", "resolution": "64", "num_class_images": "3"}
        for path, value in given.items():
            form.locator(f'[data-path="{path}"] input').fill(value)
        form.get_by_role("button", name="Draw 3").click()
        page.wait_for_selector("text=3 pictures of the class make as many: each is shown 2.67 times.")
        shots = page.locator(".lt-works .lt-shots img")
        assert [shots.nth(i).evaluate("image => image.decode().then(() => image.alt)") for i in range(3)] == [
            "ink style, a bird"] * 3  # fmt: skip
        assert len([*(folder.parent / "reg" / "1_duck é").glob("*.png")]) == 3
        if SCREENS:
            page.locator('[data-side="report"]').click()
            page.locator(".lt-side-panel:visible .lt-main").click()
            page.wait_for_selector(".lt-kind")
            page.wait_for_timeout(3000)
            page.evaluate(
                "([id, text]) => { document.getElementById(id).value = text }",
                ["lt_dataset_folder", "D:\\lora\\2_duck é"],
            )
            page.evaluate(
                "at => document.querySelectorAll('.lt-coming .lt-hint').forEach(e => { e.textContent = at })",
                "D:\\lora\\reg\\1_duck é",
            )
            page.evaluate("scrollTo(0, 0)")
            image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            image.quantize(128).save(pathlib.Path(SCREENS) / "webui-dataset.png", optimize=True)
    assert not errors


def test_pictures_of_the_class_are_drawn_by_the_loaded_model_and_only_what_lacks(webui, folder):
    before, header = webui.drawn(STAR), webui.ask("GET", f"{OURS}/model")
    history = (webui.data / "params.txt").read_bytes()
    values = {
        "folder": str(folder), "class_prompt": "ink style, a bird", "num_class_images": 3, "class_seed": 20,
        "class_infer_steps": 6, "class_guidance_scale": 5, "class_sampler": "euler", "resolution": "64",
        "min_bucket_reso": 64,
    }  # fmt: skip
    look = asked(webui, "POST", "works/regularise/look", values=values)
    assert (look["count"], look["balance"]["lacking"], look["balance"]["samples"]) == (3, 3, 8)
    report = used(webui, "regularise", values)
    drawn = [pathlib.Path(file) for file in report["files"]]
    assert {path.parent for path in drawn} == {folder.parent / "reg" / "1_duck é"}
    assert report["facts"]["balance"]["class"] == 3
    assert (webui.data / "params.txt").read_bytes() == history  # what a person drew last is still that
    for number, path in enumerate(drawn):
        assert same(opened(path), webui.drawn("ink style, a bird", seed=20 + number))
        assert path.with_suffix(".txt").read_text(encoding="utf-8").strip() == "ink style, a bird"
    kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in drawn}
    drawn[1].unlink()
    assert used(webui, "regularise", values)["files"] == [str(drawn[1])]
    assert drawn[1].read_bytes() == kept[drawn[1]][0]
    assert [path.stat().st_mtime_ns == kept[path][1] for path in drawn] == [True, False, True]
    assert used(webui, "regularise", values)["files"] == []
    assert same(webui.drawn(STAR), before)
    after = webui.ask("GET", f"{OURS}/model")
    assert after["unchanged"] is True
    assert {**after, "unchanged": None, "memory": None} == {**header, "unchanged": None, "memory": None}


def test_an_interrupt_leaves_no_half_picture_among_them(webui, folder):
    values = {
        "folder": str(folder), "class_prompt": STAR, "num_class_images": 1, "class_seed": 3,
        "class_infer_steps": 40, "class_guidance_scale": 5, "class_sampler": "euler", "resolution": "64",
        "min_bucket_reso": 64,
    }  # fmt: skip
    asked(webui, "POST", "works/regularise", values=values)
    for _ in range(400):
        state = webui.ask("GET", "/sdapi/v1/progress?skip_current_image=true")["state"]
        if state["sampling_steps"] == 40 and 2 < state["sampling_step"] < 35:
            break
        time.sleep(0.02)
    webui.ask("POST", "/sdapi/v1/interrupt", {})
    (drawn,) = ended(webui)["files"]
    assert same(opened(drawn), webui.drawn(STAR, steps=40))


@pytest.mark.parametrize("name", ["Nearest", "Lanczos"])
def test_small_pictures_grow_by_the_webuis_upscalers(webui, folder, name):
    values = {"folder": str(folder), "names": ["a.png"], **LARGER, "upscaler": name}
    file, image = folder / "a.png", opened(folder / "a.png")
    before = file.read_bytes()
    assert asked(webui, "POST", "works/upscale/look", values=values)["count"] == 1
    assert used(webui, "upscale", values)["facts"]["changed"] == 1
    how = {"Nearest": Image.Resampling.NEAREST, "Lanczos": Image.Resampling.LANCZOS}[name]
    assert pixels(opened(file)) == pixels(image.resize((128, 128), how))
    asked(webui, "POST", "undo", where={"folder": str(folder)})
    assert file.read_bytes() == before
    asked(webui, "POST", "redo", where={"folder": str(folder)})
    assert opened(file).size == (128, 128)


def test_an_upscaler_that_is_not_there_is_said(webui, folder):
    values = {"folder": str(folder), **LARGER}
    said = used(webui, "upscale", {**values, "upscaler": "R-ESRGAN 4x+"}, "failed")["error"]
    assert "RealESRGAN_x4plus.pth" in said
    assert str(webui.data / "models" / "RealESRGAN") in said
    assert "Nearest" in used(webui, "upscale", {**values, "upscaler": "none like it"}, "failed")["error"]
    assert opened(folder / "a.png").size == (64, 64)


def test_a_painted_place_is_filled_by_the_loaded_model_and_the_rest_stays(webui, folder):
    before, own = webui.drawn(STAR), (folder / "c.png").read_bytes()
    history = (webui.data / "params.txt").read_bytes()
    image, box = opened(folder / "c.png"), (24, 24, 39, 39)
    values = {
        "folder": str(folder), "names": ["c.png"], "painted": painted(image.size, box), "by": "webui",
        "resolution": 64, "steps": 6, "prompt": "ink style", "grow": 0, "soften": 0,
    }  # fmt: skip
    report = used(webui, "erase", values)
    assert "by webui" in report["facts"]["touched"][0]["what"]
    made = opened(folder / "c.png")
    left, top, right, bottom = ImageChops.difference(made, image).getbbox()
    assert left >= 24
    assert top >= 24
    assert max(right, bottom) <= 40
    again = {**values, "seed": 1}
    asked(webui, "POST", "undo", where={"folder": str(folder)})
    assert (folder / "c.png").read_bytes() == own
    used(webui, "erase", again)
    assert (webui.data / "params.txt").read_bytes() == history
    assert not same(opened(folder / "c.png"), made)  # it is drawn, and by the seed
    assert same(webui.drawn(STAR), before)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("clip", ["BLIP", "model_base_caption_capfilt_large.pth", "ViT-L-14.pt", "artists.txt"]),
        ("deepdanbooru", ["torch_deepdanbooru", "model-resnet_custom_v3.pt"]),
    ],
)
def test_an_interrogator_that_is_not_there_says_what_is_to_be_put_where(webui, folder, name, files):
    said = used(webui, "interrogate", {"folder": str(folder), "interrogator": name}, "failed")["error"]
    assert all(file in said for file in [*files, "set download", str(webui.data)])
    assert not (folder / "c.txt").exists()


def test_to_other_machines_only_allowed_folders_are_a_dataset(folder, tmp_path):
    """Theirs may be changed; nothing beside them is read, and nothing made."""
    home = test_tab.home(tmp_path / "data")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    before = {path.name: path.read_bytes() for path in other.iterdir()}
    (folder / "out.png").symlink_to(other / "a.png")
    with Running(home, "--listen", "--gradio-allowed-path", str(folder)) as webui:
        mine, theirs = {"folder": str(folder)}, {"folder": str(other)}

        def refused(path, **body):
            method = "POST" if body else "GET"
            said = webui.ask(method, f"{OURS}/{path}", body or None, wanted=(422,))["error"]
            assert "expected" in said, said

        assert asked(webui, "POST", "open", where=mine)["pictures"] == 4
        assert fetched(webui, path=folder / "a.png", width=32).width == 32
        captions = {**mine, "names": ["a.png"], "set": "a duck"}
        used(webui, "captions", captions)
        assert (folder / "a.txt").read_text(encoding="utf-8").strip() == "a duck"
        asked(webui, "POST", "undo", where=mine)
        for path in ("open", "items", "names", "tags", "history", "undo", "redo"):
            refused(f"dataset/{path}", where=theirs)
        refused("dataset/item", where=theirs, name="a.png", values={})
        refused("dataset/works/captions", values={**captions, **theirs})
        used(webui, "captions", {**captions, "names": ["../other/a.png"]}, "failed")
        refused("dataset/works/regularise", values={**mine, "class_prompt": "x", "num_class_images": 1})
        refused("dataset/works/erase", values={**mine, "painted": str(other / "a.png")})
        refused("dataset/works/export", values={**mine, "save_to": str(other / "meta.json")})
        for path in (other / "a.png", folder / "out.png"):
            refused(f"file?{urllib.parse.urlencode({'width': 32, 'path': path})}")
        linked = {**mine, "follow_links": True}
        refused("dataset/item", where=linked, name="out.png")
        refused("dataset/works/captions", values={**linked, "names": ["out.png"], "set": "x"})
        assert "lora_train" not in {path.name for path in folder.iterdir()}
    assert {path.name: path.read_bytes() for path in other.iterdir()} == before
    assert not (tmp_path / "reg").exists()
