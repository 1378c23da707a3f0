"""The tab Training in the real WebUI, as a person uses it: SD_WEBUI_DIR=… pytest -m webui."""

import base64
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from PIL import Image, ImageChops

ROOT = pathlib.Path(__file__).parents[3]
WEBUI = pathlib.Path(os.environ.get("SD_WEBUI_DIR", ""))
FLAGS = [
    "--skip-prepare-environment", "--skip-torch-cuda-test", "--no-half", "--use-cpu", "all",
    "--disable-nan-check", "--no-download-sd-model", "--api",
]  # fmt: skip
OURS = "/lora_train/v1"
STEPS = 12
LONG = 60_000  # milliseconds
SCREENS = os.environ.get("SCREENS")  # a folder: pictures of the stages are put there
WORDS = (
    "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
)

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not WEBUI.joinpath("webui.py").is_file(), reason="SD_WEBUI_DIR is not a WebUI's folder"
    ),
]


def python() -> str:
    """The WebUI's own: SD_WEBUI_PYTHON, or that of its venv."""
    own = WEBUI / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    return os.environ.get("SD_WEBUI_PYTHON", str(own))


class Running:
    """A WebUI that answers."""

    def __init__(self, data: pathlib.Path, *flags: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data, self.url, self.log = data, f"http://127.0.0.1:{self.port}", data / "log.txt"
        command = [python(), "launch.py", *FLAGS, "--port", str(self.port), "--data-dir", str(data), *flags]
        environ = {
            **os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
            "SD_WEBUI_RESTARTING": "1",  # opens no browser
        }  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=WEBUI, env=environ, stdout=self.log.open("w"), stderr=subprocess.STDOUT
        )

    def __enter__(self):
        self.answered()
        return self

    def answered(self, starts=1):
        """Once it has started so many times; asked any sooner, v1.10.1 may end (its own middleware)."""
        for _ in range(240):
            time.sleep(0.5)
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            if self.log.read_text(errors="replace").count("Startup time:") < starts:
                continue
            with contextlib.suppress(OSError):
                if "error" in self.ask("GET", f"{OURS}/none", wanted=(401, 404)):
                    return
        raise AssertionError(self.log.read_text()[-3000:])

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(30)

    def ask(self, method, path, body=None, *, wanted=(200,), login=None, timeout=120):
        """What a route answers, once its status is the wanted one."""
        headers = {"Content-Type": "application/json"}
        if login:
            headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as e:
            status, text = e.code, e.read()
        found = json.loads(text)
        assert status in wanted, (status, found, self.log.read_text()[-3000:])
        return found

    def demo(self, steps=STEPS, **more):
        """The demo in place; a short job on it."""
        values = self.ask("POST", f"{OURS}/demo")["values"]
        return {
            **values, "training.max_train_steps": steps, "output.sample_every_n_steps": None,
            "output.sample_at_first": False, "output.output_name": "ink", **more,
        }  # fmt: skip

    def train(self, values, *, until=("done",), seconds=240):
        found = self.ask("POST", f"{OURS}/queue", {"values": values, "start": True})
        return self.wait(found["id"], until, seconds)

    def wait(self, id, until, seconds=240):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            entry = next((e for e in self.ask("GET", f"{OURS}/queue") if e["id"] == id), None)
            if entry and entry["state"] in until:
                return entry
            assert entry is None or entry["state"] != "failed", entry
            time.sleep(0.3)
        raise AssertionError((entry, self.log.read_text()[-3000:]))

    def sheet(self, name, what):
        """Of a run, drawn to its end."""
        sheet = self.ask("POST", f"{OURS}/runs/{name}/sheet", {"what": what})
        for _ in range(240):
            if sheet["state"] != "drawing":
                break
            time.sleep(0.5)
            sheet = self.ask("GET", f"{OURS}/status")["sheet"]
        return sheet

    def drawn(self, prompt, **more):
        return self.all_drawn(prompt, **more)[0]

    def all_drawn(self, prompt, **more):
        asked = {
            "prompt": prompt, "seed": 3, "steps": 6, "width": 64, "height": 64, "cfg_scale": 5,
            "sampler_name": "Euler", "scheduler": "Automatic", **more,
        }  # fmt: skip
        found = self.ask("POST", "/sdapi/v1/txt2img", asked)
        read = (Image.open(io.BytesIO(base64.b64decode(image))) for image in found["images"])
        return [image.convert("RGB") for image in read]

    def plotted(self, prompt, values):
        """The WebUI's own X/Y/Z plot over words of the prompt -> the sheet, and the picture of each."""
        scripts = self.ask("GET", "/sdapi/v1/script-info")
        plot = next(s for s in scripts if s["name"] == "x/y/z plot" and not s["is_img2img"])
        axis = plot["args"][0]["choices"].index("Prompt S/R")
        nothing = [0, "", []]
        rest = [True, True, False, False, False, False, False, 0, False]  # legend, single pictures, …
        words = [axis, ", ".join(values), [], *nothing, *nothing, *rest]
        return self.all_drawn(prompt, script_name="x/y/z plot", script_args=words)


def home(folder: pathlib.Path) -> pathlib.Path:
    """A data folder with the extension in it, as after an install from the Extensions tab."""
    (folder / "models" / "Stable-diffusion").mkdir(parents=True)
    (folder / "extensions").mkdir()
    (folder / "extensions" / "sd-webui-lora-train").symlink_to(ROOT)
    return folder


@pytest.fixture
def data(tmp_path):
    return home(tmp_path / "data")


def same(a, b, most=0):
    return max(high for _, high in ImageChops.difference(a, b).getextrema()) <= most


def test_from_an_empty_webui_to_a_picture_with_the_new_lora(data):
    with Running(data) as webui:
        values = webui.demo()
        header = webui.ask("GET", f"{OURS}/model")
        assert header["loaded"]
        assert header["family"] == "sd1"
        plain = webui.drawn("star, ink style")
        entry = webui.train(values)
        assert pathlib.Path(entry["file"]) == data / "models" / "Lora" / "ink.safetensors"
        assert "ink" in [lora["name"] for lora in webui.ask("GET", "/sdapi/v1/loras")]
        status = webui.ask("GET", f"{OURS}/status")
        assert status["run"]["unchanged"] is True
        assert same(webui.drawn("star, ink style"), plain)
        assert same(webui.drawn("star, ink style <lora:ink:0>"), plain)
        assert not same(webui.drawn("star, ink style <lora:ink:1>"), plain)
        sheet, *cells = webui.plotted("star, ink style <lora:ink:0>", ["ink:0", "ink:0.5", "ink:1"])
        assert sheet.width >= 3 * 64
        assert same(cells[0], plain)
        assert same(cells[2], webui.drawn("star, ink style <lora:ink:1>"))
        assert not any(same(cells[1], other) for other in (cells[0], cells[2]))
        sheet = webui.sheet("ink", "strengths")
        assert sheet["state"] == "done", sheet
        page = Image.open(data / "lora_train" / "runs" / "ink" / "ink-run" / "strengths.png")
        assert page.width > 6 * 64
        assert same(webui.drawn("star, ink style"), plain)
        refused = webui.ask("POST", f"{OURS}/queue", {"values": values, "start": True}, wanted=(422,))
        assert "ink" in refused["error"]


def test_login_and_api_auth_hold_for_our_routes(data):
    with Running(data, "--gradio-auth", "me:pw", "--api-auth", "ann:secret") as webui:
        for login, status in ((None, 401), ("ann:wrong", 401), ("me:pw", 401), ("ann:secret", 404)):
            webui.ask("GET", f"{OURS}/none", login=login, wanted=(status,))


def test_to_other_machines_only_allowed_folders_are_open(data, tmp_path):
    with Running(data, "--listen", "--gradio-allowed-path", str(tmp_path / "mine")) as webui:
        (tmp_path / "mine").mkdir()
        values = {"data.train_data_dir": str(tmp_path)}
        answer = webui.ask("POST", f"{OURS}/look", {"values": values}, wanted=(422,))
        assert "expected a path below" in answer["error"]
        webui.ask("GET", f"{OURS}/folders?path={tmp_path / 'mine'}")
        webui.ask("GET", f"{OURS}/folders?path={tmp_path}", wanted=(422,))
        webui.ask("GET", f"{OURS}/file?path={WEBUI / 'screenshot.png'}", wanted=(422,))


def test_in_a_browser_from_the_demo_over_a_reload_of_the_ui_to_generate(data, tmp_path):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with Running(data) as webui, sync.sync_playwright() as play:
        page = play.chromium.launch(executable_path=chromium, args=WORDS.split()).new_page()
        page.set_viewport_size({"width": 1440, "height": 1100})
        ours = page.locator("#lora_train")

        def opened():
            page.goto(webui.url)
            page.wait_for_selector("#txt2img_prompt textarea")
            page.get_by_role("button", name="Training", exact=True).first.click()

        def pictured(name):
            if SCREENS:
                page.screenshot(path=pathlib.Path(SCREENS) / f"{name}.png", full_page=True)

        opened()
        ours.get_by_role("button", name="Fill in the demo").click()
        steps = ours.get_by_role("textbox", name="or steps")
        sync.expect(steps).to_have_value("300", timeout=LONG)
        steps.fill("60")
        start = ours.get_by_role("button", name="Start training")
        sync.expect(start).to_be_enabled(timeout=LONG)
        pictured("webui-form")
        start.click()
        sync.expect(ours.get_by_role("button", name="Pause")).to_be_visible(timeout=LONG)
        some = re.compile(r"step [1-9]\d of")
        sync.expect(ours.locator(".lt-state")).to_contain_text(some, timeout=2 * LONG)
        pictured("webui-running")
        page.click("#footer a:has-text('Reload UI')")
        webui.answered(starts=2)
        opened()
        sync.expect(ours.get_by_text("ink · done").first).to_be_visible(timeout=3 * LONG)
        sync.expect(ours.get_by_text("model unchanged").first).to_be_visible(timeout=LONG)
        pictured("webui-done")
        ours.get_by_role("button", name="Try in txt2img").click()
        assert page.input_value("#txt2img_prompt textarea") == "ink style, <lora:ink:1>"
        for name, value in (("width", 64), ("height", 64), ("steps", 6)):
            page.fill(f"#txt2img_{name} input[type=number]", str(value))
            page.keyboard.press("Tab")
        page.click("#txt2img_generate")
        page.wait_for_selector("#txt2img_gallery img", timeout=LONG)
        page.click("#txt2img_send_to_lora_train")
        sync.expect(page.get_by_text("with its prompt").first).to_be_visible(timeout=LONG)
        pictured("webui-generated")
        sent = data / "lora_train" / "pictures" / "sent"
        assert [p.read_text() for p in sent.glob("*.txt")] == ["ink style"]
