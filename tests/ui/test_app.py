"""The window of its own: the page with our element and scripts, and the routes behind it."""

import threading
import time
import types

import pytest

from lora_train.errors import Mistake
from lora_train.ui import demo

pytest.importorskip("gradio", minversion="6")  # inside the WebUI it is older, and there is no window
pytest.importorskip("httpx")

import httpx

from lora_train import app
from lora_train.run.rules import Rules
from lora_train.ui.api import PREFIX


class Desk:
    def status(self, after):
        return {"run": None, "queue": [], "now": time.time()}

    def close(self, seconds=30.0):
        self.closed = True


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """opened(login=…) -> (window, url)."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    windows = []

    def opened(**more):
        folders = types.SimpleNamespace(
            loras=tmp_path / "loras", desk=tmp_path / "desk", models=(), pictures=()
        )
        window = app.Window(None, folders, **more)
        window.__dict__["_desk"] = Desk()
        windows.append(window)
        return window, window.__enter__()

    yield opened
    for window in windows:
        window.__exit__()
        assert window._desk.closed  # so that a run which is on keeps its state


def test_the_page_has_our_element_and_scripts_and_the_routes_answer(opened, tmp_path, monkeypatch):
    scripts = [tmp_path / name for name in ("0_first.js", "lora_train.js")]
    style = tmp_path / "style.css"
    for file in (*scripts, style):
        file.write_text(f"/* {file.name} */")
    monkeypatch.setattr(app, "assets", lambda: (scripts, style))
    _, url = opened()
    text = httpx.get(url).text
    sources = [f"{PREFIX}/assets/{script.name}" for script in scripts]
    assert all(source in text for source in sources)
    assert text.index(sources[0]) < text.index(sources[1])
    assert httpx.get(url.rstrip("/") + sources[0]).text == "/* 0_first.js */"
    assert httpx.get(f"{url}{PREFIX[1:]}/assets/..%2Fcli.py").status_code == 404
    config = httpx.get(f"{url}config").json()
    assert any("lora_train" in str(part.get("props", {}).get("value")) for part in config["components"])
    assert httpx.get(f"{url}{PREFIX[1:]}/status").json()["queue"] == []


def test_with_a_login_the_routes_ask_for_it(opened):
    _, url = opened(login=("ann", "secret"))
    asked = f"{url}{PREFIX[1:]}/status"
    assert httpx.get(asked).status_code == 401
    with httpx.Client() as client:
        client.post(f"{url}login", data={"username": "ann", "password": "wrong"})
        assert client.get(asked).status_code == 401
        client.post(f"{url}login", data={"username": "ann", "password": "secret"})
        assert client.get(asked).status_code == 200


def test_an_open_stream_does_not_keep_the_server(opened):
    window, url = opened()
    got = threading.Event()

    def listen():
        with httpx.stream("GET", f"{url}{PREFIX[1:]}/events", headers={"Accept-Encoding": "gzip, br"}) as s:
            for line in s.iter_lines():
                if line.startswith("data:"):
                    got.set()

    listener = threading.Thread(target=listen)
    listener.start()
    assert got.wait(10)
    window.page.close(verbose=False)
    listener.join(5)
    assert not listener.is_alive()


@pytest.mark.parametrize(
    "words",
    [["--port", "0"], ["--port", "x"], ["--auth", "ann"], ["--listen"], ["--prot", "1"],
     ["--webhook", "ftp://x"], ["--max_jobs", "many"], ["--preset", "none"]],
)  # fmt: skip
def test_words_that_cannot_be_are_a_sentence(words, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(app, "assets", lambda: ([tmp_path], tmp_path))
    with pytest.raises(Mistake, match="expected|no such"):
        app.window(words)


def test_the_owners_rules_come_from_flags(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    words = (
        "--preset Fast --webhook https://x/y --max_jobs 3 --max_steps 900 --max_minutes 1.5 --min_free_gb 2"
    )
    made, _ = app.window(words.split())
    assert made.rules == Rules("Fast", "https://x/y", 3, 900, 1.5, 2.0)
    assert app.window([])[0].rules == Rules()


def test_the_windows_own_model_is_named_with_its_family(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    header = app.window([])[0].host.header()
    assert (header["name"], header["family"], header["loaded"]) == ("demo.safetensors", "sd1", True)
    lost = app.window(["--pretrained_model_name_or_path", str(tmp_path / "none.safetensors")])[
        0
    ].host.header()
    assert (lost["loaded"], lost["trainable"]) == (False, False)
    assert "no such file" in lost["reason"]


def test_the_demo_is_put_in_place_once(tmp_path):
    values = demo.values(tmp_path, tmp_path / "x.safetensors")
    pictures = tmp_path / "demo" / "10_ink style"
    before = {p: p.stat().st_mtime_ns for p in pictures.iterdir()}
    assert len([p for p in before if p.suffix == ".png"]) == 28
    assert demo.values(tmp_path, tmp_path / "x.safetensors") == values
    assert before == {p: p.stat().st_mtime_ns for p in pictures.iterdir()}


def test_the_demo_has_no_setting_that_is_not_there(tmp_path):
    from lora_train.job import assemble

    job, output, _ = assemble(demo.values(tmp_path, demo.CHECKPOINT / "demo.safetensors"))
    assert job.training.max_train_steps == demo.STEPS
    assert output.sample_prompts.is_file()
