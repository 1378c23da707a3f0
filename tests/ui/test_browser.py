"""The window, its page, the desk and a run, as a person meets them: in Chromium, on a tiny model."""

import shutil

import pytest

pytest.importorskip("gradio", minversion="6")  # inside the WebUI it is older, and there is no window
pytest.importorskip("playwright.sync_api")

from playwright.sync_api import expect, sync_playwright

from lora_train import app
from tests.tiny import TinyHost

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
WORDS = (
    "--no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
)
LONG = 60_000  # milliseconds


@pytest.fixture
def browser():
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=WORDS.split())
        yield opened
        opened.close()


@pytest.fixture
def url(tmp_path):
    host = TinyHost(tmp_path)
    with app.Window(host, host.folders) as url:
        yield url


def opened(browser, url):
    """A page of a person's own, with the form there; (page, our element in it)."""
    page = browser.new_context(viewport={"width": 1440, "height": 1000}).new_page()
    page.goto(url)
    return page, page.locator("#lora_train")


def test_from_the_demo_to_a_file_while_another_browser_watches(browser, url, tmp_path):
    page, ours = opened(browser, url)
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    expect(ours.get_by_role("button", name="Start training")).to_be_disabled(timeout=LONG)
    ours.get_by_role("button", name="Fill in the demo").click()
    steps = ours.get_by_role("textbox", name="or steps")
    expect(steps).to_have_value("300", timeout=LONG)
    steps.fill("40")
    start = ours.get_by_role("button", name="Start training")
    expect(start).to_be_enabled(timeout=LONG)
    start.click()
    _, theirs = opened(browser, url)
    for view in (ours, theirs):
        expect(view.get_by_text("ink is finished").or_(view.get_by_text("ink · done")).first).to_be_visible(
            timeout=LONG
        )
    assert (tmp_path / "loras" / "ink.safetensors").is_file()
    page.reload()
    expect(ours.get_by_text("ink · done").first).to_be_visible(timeout=LONG)
    expect(ours.locator(".lt-samples img").first).to_be_visible(timeout=LONG)
    assert not faults


def test_a_path_that_is_none_is_said_beside_its_field(browser, url):
    _, ours = opened(browser, url)
    field = ours.get_by_role("textbox", name="Pictures")
    field.fill('"C:\\no such folder"')
    expect(ours.get_by_text("no such folder").first).to_be_visible(timeout=LONG)
    expect(ours.get_by_role("button", name="Start training")).to_be_disabled()
