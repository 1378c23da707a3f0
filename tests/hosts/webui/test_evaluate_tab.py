"""The room Evaluate in the real WebUI: from a run to a sheet, and of a cell to txt2img. pytest -m webui."""

import io
import pathlib
import shutil
import urllib.request

import pytest
from PIL import Image

from tests.hosts.webui import test_tab
from tests.hosts.webui.test_tab import LONG, OURS, SCREENS, WEBUI, WORDS, Running, same

data = test_tab.data
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not WEBUI.joinpath("webui.py").is_file(), reason="SD_WEBUI_DIR is not a WebUI's folder"
    ),
]


def fetched(address: str) -> Image.Image:
    with urllib.request.urlopen(address) as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def test_a_cell_of_a_sheet_is_drawn_again_in_txt2img(data):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    with Running(data) as webui, sync.sync_playwright() as play:
        webui.train(webui.demo())
        page = play.chromium.launch(executable_path=chromium, args=WORDS.split()).new_page()
        page.set_viewport_size({"width": 1440, "height": 1100})
        page.set_default_timeout(LONG)
        page.goto(webui.url)
        page.wait_for_selector("#txt2img_prompt textarea")
        page.get_by_role("button", name="Training", exact=True).first.click()
        ours = page.locator("#lora_train")
        ours.locator("summary", has_text="Earlier runs").click()
        ours.locator(".lt-runs").get_by_role("button", name="Evaluate").first.click()
        page.fill("#lt_sheet_prompt", "ink style, a star --s 6 --w 64 --h 64 --d 7")
        page.get_by_label("Across (X): values").fill("0, 0.8, 1.2")
        ours.locator(".lt-numbers", has_text="3 cells").wait_for()
        ours.get_by_role("button", name="Draw the sheet").click()
        ours.locator(".lt-sheet .lt-told", has_text="Suggested").wait_for(timeout=4 * LONG)
        assert ours.locator(".lt-sheet .lt-shot").count() == 3
        if SCREENS:
            page.screenshot(path=pathlib.Path(SCREENS) / "webui-evaluate.png", full_page=True)
        (sheet,) = webui.ask("GET", f"{OURS}/sheets")
        cells = webui.ask("GET", f"{OURS}/sheets/{sheet['name']}")["cells"]
        ours.locator(".lt-sheet .lt-shot").nth(1).click()
        if SCREENS:
            page.wait_for_timeout(500)
            page.screenshot(path=pathlib.Path(SCREENS) / "webui-evaluate-cell.png")
        ours.get_by_role("button", name="Send to txt2img").click()
        page.wait_for_function("document.querySelector('#txt2img_seed input').value === '7'")
        assert page.input_value("#txt2img_prompt textarea") == "ink style, a star<lora:ink:0.8>"
        page.click("#txt2img_generate")
        page.wait_for_selector("#txt2img_gallery img")
        source = page.locator("#txt2img_gallery img").first.get_attribute("src")
        drawn = fetched(source if source.startswith("http") else f"{webui.url}/{source.lstrip('/')}")
        assert same(drawn, fetched(f"{webui.url}{cells[1]['url']}"), 1)
