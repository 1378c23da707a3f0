"""The room Tools in the real WebUI: its lists have what tools write. SD_WEBUI_DIR=… pytest -m webui."""

import pathlib
import shutil

import pytest

from tests.hosts.webui import test_tab
from tests.hosts.webui.test_tab import LONG, OURS, SCREENS, WEBUI, WORDS, Running, same

data = test_tab.data
pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not WEBUI.joinpath("webui.py").is_file(), reason="SD_WEBUI_DIR is not a WebUI's folder"
    ),
]


def used(webui, name, values):
    """What came of a tool."""
    webui.ask("POST", f"{OURS}/tools/{name}", {"values": values})
    for _ in range(600):
        if (now := webui.ask("GET", f"{OURS}/tools/now"))["state"] != "working":
            break
    assert now["state"] == "done", now
    return now


def test_what_tools_write_is_in_the_lists_at_once(data):
    sync = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with Running(data) as webui:
        entry = webui.train(webui.demo())
        trained = pathlib.Path(entry["file"])
        files = webui.ask("GET", f"{OURS}/tools/files")
        assert str(trained) in [row["path"] for row in files["lora"]]
        checkpoint = webui.ask("GET", f"{OURS}/model")["path"]
        assert checkpoint in [row["path"] for row in files["checkpoint"]]
        half = trained.with_name("half.safetensors")
        now = used(webui, "convert", {"model": str(trained), "save_to": str(half), "strength": 0.5})
        assert now["notes"] == []
        assert "half" in [lora["name"] for lora in webui.ask("GET", "/sdapi/v1/loras")]
        assert same(webui.drawn("star <lora:half:1>"), webui.drawn("star <lora:ink:0.5>"), 1)
        merged = pathlib.Path(checkpoint).with_name("merged.safetensors")
        used(webui, "merge", {"sd_model": checkpoint, "models": [str(trained)], "save_to": str(merged)})
        assert str(merged) in [model["filename"] for model in webui.ask("GET", "/sdapi/v1/sd-models")]
        if chromium is None:
            pytest.skip("there is no Chromium here")
        with sync.sync_playwright() as play:
            page = play.chromium.launch(executable_path=chromium, args=WORDS.split()).new_page()
            page.set_viewport_size({"width": 1440, "height": 1100})
            page.goto(webui.url)
            page.wait_for_selector("#txt2img_prompt textarea", timeout=LONG)
            page.get_by_role("button", name="Training", exact=True).first.click()
            ours = page.locator("#lora_train")
            ours.locator("summary", has_text="Earlier runs").click(timeout=LONG)
            ours.locator(".lt-runs").get_by_role("button", name="Inspect").first.click()
            page.wait_for_selector("#lora_train .lt-outcome .lt-facts", timeout=LONG)
            assert ours.locator(".lt-outcome .lt-courses li").count() > 5
            if SCREENS:
                page.screenshot(path=pathlib.Path(SCREENS) / "webui-tools.png", full_page=True)
