"""What the owner of a machine has chosen is held to, and the webhook is told of an end."""

import http.server
import json
import threading
import time

import pytest

from lora_train.errors import Mistake
from lora_train.run import hook
from lora_train.run.desk import Desk
from lora_train.run.rules import Rules
from tests.tiny import TinyHost


@pytest.fixture
def desk(tmp_path):
    """desk(jobs=2) -> a desk under these rules."""
    made = []

    def desk(**chosen):
        host = TinyHost(tmp_path)
        made.append(Desk(host, host.folders, lambda: Rules.read(chosen)))
        return made[-1]

    yield desk
    for one in made:
        one.close()


@pytest.fixture
def values(pictures):
    def values(name="okara", steps=4):
        return {
            "data.train_data_dir": str(pictures), "data.resolution": 64, "training.max_train_steps": steps,
            "training.seed": 5, "output.output_name": name, "output.save_every_n_steps": None,
        }  # fmt: skip

    return values


@pytest.fixture
def address():
    """(an address, what it was told); it answers with `answers`."""

    class Told(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append((dict(self.headers), json.loads(body)))
            self.send_response(answers[0])
            if answers[0] == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_):
            pass

    told, answers = [], [200]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook/secret", told, answers
    server.shutdown()
    server.server_close()


def until(done, seconds=60.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def ended(desk):
    until(lambda: desk.line.thread is None and desk.line.live.state != "running")


# ── the webhook ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_webhook_is_told_of_the_end(desk, values, address):
    to, told, _ = address
    here = desk(webhook=to)
    here.add(values(), start=True)
    until(lambda: told)
    headers, body = told[0]
    assert headers["User-Agent"] == "lora-train"  # Discord refuses that of Python
    assert (body["name"], body["state"], body["step"], body["steps"]) == ("okara", "done", 4, 4)
    assert (body["file"], body["error"]) == ("okara.safetensors", None)
    assert body["content"].startswith("okara is finished: 4 steps in 0:00:0")
    assert body["text"] == body["content"]


def test_a_failed_run_tells_why(desk, values, address):
    to, told, _ = address
    here = desk(webhook=to)
    id = here.add(values())["id"]
    here.folders.loras.mkdir(exist_ok=True)
    (here.folders.loras / "okara.safetensors").write_bytes(b"")
    here.act(id, "start")
    until(lambda: told)
    assert told[0][1]["state"] == "failed"
    assert "not overwritten" in told[0][1]["content"]


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_an_address_that_answers_otherwise_is_said_and_fails_nothing(desk, values, address, answer):
    to, told, answers = address
    answers[0] = answer
    here = desk(webhook=to)
    here.add(values(), start=True)
    ended(here)
    until(lambda: any(str(answer) in line["text"] for line in here.line.live.view()["log"]))
    assert here.line.live.state == "done"
    assert len(told) == 1  # it is not followed elsewhere
    assert "secret" not in json.dumps(here.line.live.view()["log"])


@pytest.mark.parametrize("to", ["ftp://x/secret", "file:///etc/passwd", "secret", "http://", "http://[x"])
def test_what_is_no_address_is_said_and_not_repeated(to):
    with pytest.raises(Mistake, match="expected an address that begins with http") as e:
        hook.address(to)
    assert "secret" not in str(e.value)
    lost = []
    hook.tell(to, {"name": "a", "state": "done", "steps": 1, "step": 1}, lost.append).join(10)
    assert "expected an address" in lost[0]


def test_nobody_is_told_unasked():
    assert hook.tell(" ", {}) is None


def test_a_name_calls_nobody():
    sent = hook.said({"name": "<!channel> @everyone", "state": "done", "steps": 1, "step": 1})
    assert sent["allowed_mentions"] == {"parse": []}
    assert sent["text"].startswith("&lt;!channel&gt;")


# ── limits ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_more_jobs_than_allowed_wait(desk, values):
    here = desk(jobs=1)
    id = here.add(values())["id"]
    with pytest.raises(Mistake, match="as many jobs as are allowed here: 1"):
        here.add(values("other"))
    with pytest.raises(Mistake, match="allowed here"):
        here.act(id, "duplicate")
    assert len(here.queue()) == 1
    here.act(id, "start")  # it is among those already
    ended(here)
    here.add(values("other"))


def test_a_run_that_would_be_too_long_is_refused_beside_its_field(desk, values):
    here = desk(steps=3)
    found = here.look(values())["complaints"]
    assert [c["path"] for c in found] == ["training.max_train_steps"]
    assert "has 4 steps, and no more than 3 are allowed here" in found[0]["text"]
    with pytest.raises(Mistake, match="no more than 3"):
        here.add(values())
    assert not here.look(values(steps=3))["complaints"]


def test_a_run_that_is_known_to_take_too_long_is_refused():
    plan = {"steps": 10, "disk": {"path": "x", "megabytes": 0.0, "free_megabytes": 9e9}}
    said = list(Rules(minutes=30).complaints(plan, {"seconds": 3600}))
    assert "about 60 minutes, and no more than 30" in said[0][1]
    assert not list(Rules(minutes=30).complaints(plan, None))


def test_a_disk_keeps_what_is_to_stay_free(desk, values):
    found = desk(gigabytes=1e9).look(values())["complaints"]
    assert [c["path"] for c in found] == ["output.output_dir"]
    assert "GB have to stay free here" in found[0]["text"]


def test_a_run_is_stopped_and_saved_when_its_time_is_over(desk, values):
    here = desk(minutes=1e-4)
    here.add(values(steps=5000), start=True)
    here.add(values("next"))
    ended(here)
    first, second = here.queue()
    assert (first["state"], second["state"]) == ("stopped", "stopped")  # those that wait follow
    assert first["file"]
    assert first["step"] < 5000


def test_a_settings_page_may_hold_anything():
    assert Rules.read({"jobs": "x", "steps": -3, "minutes": None, "preset": " ", "webhook": None}) == Rules()


def test_a_new_page_begins_with_the_chosen_preset(desk):
    assert [row["name"] for row in desk(preset="Fast").presets() if row["first"]] == ["Fast"]
    assert [row["name"] for row in desk().presets() if row["first"]] == ["Balanced"]
