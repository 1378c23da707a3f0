"""The section LoRA by region in the real WebUI: SD_WEBUI_DIR=… pytest -m webui."""

import pathlib
import shutil

import pytest
from PIL import Image

from tests.hosts.webui import test_tab
from tests.hosts.webui.test_tab import LONG, SCREENS, WEBUI, WORDS, Running

data = test_tab.data
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not WEBUI.joinpath("webui.py").is_file(), reason="SD_WEBUI_DIR is not a WebUI's folder"
    ),
]
PROMPT = "a cat <lora:style:1><lora:eyes:1>"
INFOTEXT = (
    f'{PROMPT}\nSteps: 4, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 64x64, LoRA regions: "rows 2,1", '
    "LoRA regions of: eyes; style, LoRA by AND prompt: True"
)


def test_a_person_fills_it_in_or_pastes_an_infotext(data, tmp_path):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium here")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "map.png")
    with Running(data) as webui, sync.sync_playwright() as play:
        page = play.chromium.launch(executable_path=chromium, args=WORDS.split()).new_page()
        page.set_viewport_size({"width": 1440, "height": 1300})
        page.goto(webui.url)
        page.wait_for_selector("#txt2img_prompt textarea", timeout=LONG)
        section = page.locator("[id$='lora_train_regions']").first
        section.locator(".label-wrap").click(timeout=LONG)
        shares = section.get_by_label("Their shares")
        sync.expect(shares).to_have_value("1,1", timeout=LONG)
        section.get_by_label("colours").click()
        sync.expect(shares).to_be_hidden(timeout=LONG)
        section.locator("input[type=file]").set_input_files(tmp_path / "map.png")
        sync.expect(section.locator("img").first).to_be_visible(timeout=LONG)
        page.fill("#txt2img_prompt textarea", INFOTEXT)
        page.click("#paste")
        sync.expect(shares).to_have_value("2,1", timeout=LONG)
        sync.expect(section.get_by_label("rows")).to_be_checked()
        sync.expect(section.get_by_label("With AND")).to_be_checked()
        sync.expect(section.get_by_label("LoRAs of the regions")).to_have_value("eyes; style")
        if SCREENS:
            page.screenshot(path=pathlib.Path(SCREENS) / "webui-regions.png", full_page=True)
