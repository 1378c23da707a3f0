"""Two people at one real WebUI, and what they do while a run goes on: SD_WEBUI_DIR=… pytest -m webui."""

import collections
import pathlib
import random
import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hosts.webui import test_tab
from tests.hosts.webui.test_tab import LONG, OURS, WEBUI, WORDS, Running, same

data = test_tab.data
CLICKS = 50
QUIET = ("done", "stopped", "failed", "unfinished")

pytestmark = [
    pytest.mark.webui,
    pytest.mark.skipif(
        not WEBUI.joinpath("webui.py").is_file(), reason="SD_WEBUI_DIR is not a WebUI's folder"
    ),
]

PRESS = """(text) => {
    const seen = [...document.querySelectorAll("#lora_train button")].find(
        (b) => b.textContent.trim() === text && b.offsetParent !== null && !b.disabled);
    if (seen) seen.click();
    return Boolean(seen);
}"""
NAME = """(name) => {
    const form = document.querySelector("#lora_train .lt-next");
    if (form && !form.open) form.querySelector("summary").click();  // it folds while a run is on
    const field = document.querySelector('#lora_train [data-path="output.output_name"] input');
    if (!field) return false;
    field.value = name;
    for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, { bubbles: true }));
    return true;
}"""


class Visitor:
    """A browser of its own at the tab Training."""

    def __init__(self, browser, url, number):
        self.page = browser.new_context(viewport={"width": 1300, "height": 1000}).new_page()
        self.url, self.number, self.faults, self.jobs = url, number, [], 0
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))

    def opened(self):
        self.page.goto(self.url)
        self.page.wait_for_selector("#txt2img_prompt textarea", timeout=LONG)
        self.page.get_by_role("button", name="Training", exact=True).first.click()
        self.page.wait_for_selector("#lora_train .lt-next", timeout=LONG)

    def press(self, what):
        """Whether there was such a button."""
        if what == "reload":
            self.opened()
            return True
        if what == "Start training":
            self.jobs += 1
            self.page.evaluate(NAME, f"job{self.number}x{self.jobs}")
            self.page.wait_for_timeout(1200)  # until the server has looked at the new name
        pressed = self.page.evaluate(PRESS, what)
        if what == "Stop" and pressed:
            self.page.wait_for_timeout(100)
            self.page.evaluate(PRESS, "Yes, stop")
        return pressed


WISHES = {
    "Start training": 5, "Pause": 4, "Continue": 4, "Stop & save": 2, "Stop": 2, "Save now": 1,
    "Sample now": 1, "reload": 2,
}  # fmt: skip


@pytest.fixture
def chromium():
    sync = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium here")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=WORDS.split())
        yield browser
        browser.close()


def running(webui):
    entries = webui.ask("GET", f"{OURS}/queue", timeout=20)
    on = [e for e in entries if e["state"] in ("running", "paused")]
    assert len(on) <= 1, on
    return on


def test_fifty_clicks_from_two_browsers_leave_a_webui_that_works(data, chromium):
    rng, pressed = random.Random(4), collections.Counter()
    with Running(data) as webui:
        webui.demo()
        plain, told = webui.drawn("star, ink style"), webui.log.stat().st_size
        visitors = [Visitor(chromium, webui.url, number) for number in (1, 2)]
        for visitor in visitors:
            visitor.opened()
            visitor.page.locator("#lora_train").get_by_role("button", name="Fill in the demo").click()
            visitor.page.wait_for_timeout(3000)  # until the draft is kept
        while pressed.total() < CLICKS:
            visitor = rng.choice(visitors)
            what = rng.choices([*WISHES], WISHES.values())[0]
            if visitor.press(what):
                pressed[what] += 1
            running(webui)
            time.sleep(rng.uniform(0, 0.5))
        assert min(pressed[what] for what in ("Start training", "Pause", "Continue", "reload")) > 0, pressed
        end(webui)
        entries = webui.ask("GET", f"{OURS}/queue")
        assert not [e for e in entries if e["state"] == "failed"], entries
        assert webui.ask("GET", f"{OURS}/status")["run"]["state"] in QUIET
        assert same(webui.drawn("star, ink style"), plain)
        for visitor in visitors:
            visitor.opened()
            assert visitor.page.evaluate("fetch('/lora_train/v1/status').then((r) => r.ok)")
            assert visitor.faults == []
        done = webui.train({**webui.demo(10), "output.output_name": "last"})
        assert done["state"] == "done"
        said = webui.log.read_bytes()[told:].decode(errors="replace")
        assert "Traceback" not in said, said[-3000:]


def end(webui):
    """Nothing waits and nothing runs."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for entry in webui.ask("GET", f"{OURS}/queue"):
            if entry["state"] == "waiting":
                webui.ask("POST", f"{OURS}/queue/{entry['id']}/remove", {}, wanted=(200, 404, 422))
        if not running(webui):
            return
        webui.ask("POST", f"{OURS}/run/stop", {"save": False}, wanted=(200, 404, 409, 422))
        time.sleep(0.5)
    raise AssertionError(webui.log.read_text()[-3000:])


def test_a_stop_ends_the_wait_for_a_long_generation_at_once(data):
    with Running(data) as webui:
        values, got = webui.demo(), []
        plain = webui.drawn("star", steps=8)
        long = threading.Thread(target=lambda: got.append(webui.drawn("star", steps=150, width=512)))
        long.start()
        time.sleep(1)
        id = webui.ask("POST", f"{OURS}/queue", {"values": values, "start": True})["id"]
        time.sleep(2)
        assert webui.ask("GET", f"{OURS}/status")["run"]["note"] == "waiting for the model"
        began = time.monotonic()
        webui.ask("POST", f"{OURS}/run/stop", {"save": True})
        webui.wait(id, ("stopped",), seconds=10)
        assert time.monotonic() - began < 5
        assert not got, "the generation was over too soon to tell"
        long.join(120)
        assert same(webui.drawn("star", steps=8), plain)
        assert webui.train({**values, "output.output_name": "after"})["state"] == "done"


class TestChoicesDuringARun:
    """Of a checkpoint, and of a setting that changes what captions become."""

    def another(self, webui):
        """(title of the demo, title of one that draws otherwise)."""
        own = webui.ask("GET", "/sdapi/v1/sd-models")[0]
        path = pathlib.Path(own["filename"])
        tensors = load_file(path)
        tensors["model.diffusion_model.out.2.weight"] *= 0.5
        save_file(tensors, path.with_name("other.safetensors"))
        shutil.copy(path.with_suffix(".yaml"), path.with_name("other.yaml"))
        webui.ask("POST", "/sdapi/v1/refresh-checkpoints")
        found = [m["title"] for m in webui.ask("GET", "/sdapi/v1/sd-models")]
        return own["title"], next(title for title in found if "other" in title)

    def begun(self, webui, values, name):
        id = webui.ask("POST", f"{OURS}/queue", {"values": {**values, "output.output_name": name},
                                                 "start": True})["id"]  # fmt: skip
        until = time.monotonic() + 120
        while (webui.ask("GET", f"{OURS}/status")["run"] or {}).get("step", 0) < 2:
            assert time.monotonic() < until
            time.sleep(0.1)
        return id

    @staticmethod
    def chosen(webui):
        return stem(webui.ask("GET", "/sdapi/v1/options")["sd_model_checkpoint"])

    def test_the_file_is_the_same_and_the_choice_is_the_persons(self, data):
        with Running(data) as webui:
            values = webui.demo(24, **{"training.seed": 1, "output.sample_every_n_steps": 8})
            demo, other = self.another(webui)
            plain = webui.train({**values, "output.output_name": "plain"})["file"]
            first = webui.drawn("star, ink style")

            def choose(**options):
                began = time.monotonic()
                webui.ask("POST", "/sdapi/v1/options", options, wanted=(200, 500))
                return time.monotonic() - began

            id = self.begun(webui, values, "during")
            assert choose(sd_model_checkpoint=other) < 20, "the choice waits for the run"
            assert self.chosen(webui) == stem(demo), "refused, and not shown as made"
            choose(CLIP_stop_at_last_layers=2)
            during = webui.wait(id, ("done",))["file"]
            assert webui.ask("GET", "/sdapi/v1/options")["CLIP_stop_at_last_layers"] == 2
            choose(CLIP_stop_at_last_layers=1)
            assert same(webui.drawn("star, ink style"), first)

            id = self.begun(webui, values, "paused")
            webui.ask("POST", f"{OURS}/run/pause", {})
            until = time.monotonic() + 60
            while webui.ask("GET", f"{OURS}/status")["run"]["note"]:  # pausing after this step
                assert time.monotonic() < until
                time.sleep(0.2)
            choose(sd_model_checkpoint=other)
            assert self.chosen(webui) == stem(other)
            assert not same(webui.drawn("star, ink style"), first)
            webui.ask("POST", f"{OURS}/run/go_on", {})
            paused = webui.wait(id, ("done",))["file"]
            assert self.chosen(webui) == stem(other)
            assert not same(webui.drawn("star, ink style"), first)
            choose(sd_model_checkpoint=demo)
            assert same(webui.drawn("star, ink style"), first)
            for file in (during, paused):
                equal(plain, file)


def stem(title):
    """Without the hash, which a checkpoint has once it was loaded."""
    return title.partition(" [")[0]


def equal(a, b):
    one, two = load_file(a), load_file(b)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one), (a, b)
